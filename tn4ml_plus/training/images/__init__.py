"""Training of image models by gradients."""
