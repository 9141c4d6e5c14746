"""Depthwise 3 x 3 convolutions of maps (channels, height, width, batch), in the fastest form."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

# Up to here a matrix of all pixels is faster than nine shifts, with its backward pass.
_BANDED_PIXELS = 196


def depthwise(x, weight):
    """Maps (n_out, height, width, batch): channel o of x, (n_in, ...), o % n_in, with weight[o].

    weight: (n_out, 3, 3), n_out a multiple of n_in; zeros are beyond the edges.
    """
    small = x.shape[1] * x.shape[2] <= _BANDED_PIXELS and jax.default_backend() == "cpu"
    return (banded if small else shifted)(x, weight)


def banded(x, weight):
    """As a matrix of all pixels a channel: one batched product, best for small maps."""
    c, height, width, batch = x.shape
    n_pixels = height * width
    bands = weight.reshape(-1, 9) @ jnp.asarray(_bands(height, width), weight.dtype)
    # Outputs that read the same channel are further rows of its matrix.
    bands = bands.reshape(-1, c, n_pixels, n_pixels).swapaxes(0, 1)
    y = bands.reshape(c, -1, n_pixels) @ x.reshape(c, n_pixels, batch)
    y = y.reshape(c, -1, n_pixels, batch).swapaxes(0, 1)
    return y.reshape(-1, height, width, batch)


@cache
def _bands(height, width):
    """Which pixel (column) each output pixel (row) reads by each weight, (9, pixels**2)."""
    row, column = np.divmod(np.arange(height * width), width)
    reads = [
        (row[:, None] + i == row) & (column[:, None] + j == column)
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    return np.array(reads, np.float32).reshape(9, -1)


def shifted(x, weight):
    """As a sum of nine shifted maps: best for large ones."""
    c, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    padded = jnp.concatenate([padded] * (len(weight) // c))
    return sum(
        padded[:, i : i + height, j : j + width] * weight[:, i, j, None, None, None]
        for i in range(3)
        for j in range(3)
    )


def convolved(x, weight):
    """As XLA's grouped convolution."""
    c = len(x)
    groups = weight.reshape(-1, c, 3, 3).swapaxes(0, 1).reshape(-1, 1, 3, 3)
    y = jax.lax.conv_general_dilated(
        x, groups, (1, 1), "SAME",
        dimension_numbers=("CHWN", "OIHW", "CHWN"), feature_group_count=c,
    )  # fmt: skip
    return y.reshape(c, -1, *x.shape[1:]).swapaxes(0, 1).reshape(-1, *x.shape[1:])
