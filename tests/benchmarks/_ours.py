"""The one place where the step benchmark meets the library."""


def make_step(n, d, D, B, n_classes):
    """Build the training step that side_by_side.py times: ``(state, step)``.

    ``state, loss = step(state, x, y)`` with x (B, n) float32 in [0, 1] and y (B,) int32 labels does
    one trigonometric embedding (d = 2), forward, cross-entropy, backward and Adam step of a chain
    of n sites and bond D in float32, and leaves `loss` (a scalar) on the device.
    """
    raise ImportError("tn4ml_plus.training has no bare step yet: wire tests/benchmarks/_ours.py.")
