"""Training by sweeps: effective problems of one bond in sequence, each for all samples."""
