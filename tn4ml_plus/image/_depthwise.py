"""Depthwise 3 x 3 convolutions of maps (channels, height, width, batch), in the fastest form."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

# Up to here a matrix of all pixels is faster than nine shifts, with its backward pass.
_BANDED_PIXELS = 196


def depthwise(x, weight):
    """Maps (n_out, height, width, batch) of x (n_in, ...): output o reads channel o % n_in.

    weight: (n_out, 3, 3), n_out a multiple of n_in; beyond the edges are zeros.
    """
    small = x.shape[1] * x.shape[2] <= _BANDED_PIXELS and jax.default_backend() == "cpu"
    return (banded if small else shifted)(x, weight)


def banded(x, weight):
    """The convolution as a matrix over pixels per channel, one batched product: for small maps."""
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
    """Indicator of the pixel (column) that an output (row) reads by each weight, (9, pixels^2)."""
    row, column = np.divmod(np.arange(height * width), width)
    reads = [
        (row[:, None] + i == row) & (column[:, None] + j == column)
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    return np.array(reads, np.float32).reshape(9, -1)


def shifted(x, weight):
    """The convolution as a sum of nine shifted maps: for large ones."""
    c, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    padded = jnp.concatenate([padded] * (len(weight) // c))
    return sum(
        padded[:, i : i + height, j : j + width] * weight[:, i, j, None, None, None]
        for i in range(3)
        for j in range(3)
    )
