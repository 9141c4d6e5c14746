"""Linear maps and normalisations of feature maps, (channels, height, width, batch).

The batch comes last: every channel is then one contiguous run of numbers, a pointwise map is a
single matrix product, and elementwise work runs along the batch.
"""

from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import on_device
from .._compiled import bounded_cache

# Up to here a matrix of all pixels is faster than nine shifts, with its backward pass.
_BANDED_PIXELS = 196


def constant(value, n=None):
    """Parameters that start at one value."""
    return on_device(np.full(() if n is None else n, value), float)


def kaiming_normal(key, shape, fan_in):
    """Weights of variance 2 / fan_in (He et al. 2015, eq. 10)."""

    dtype = np.dtype(jnp.result_type(float))

    def draw(data):
        numbers = np.random.default_rng(np.asarray(data).tolist()).normal(size=shape)
        return (numbers * np.sqrt(2 / fan_in)).astype(dtype)

    data = jax.random.key_data(key)
    if isinstance(data, jax.core.Tracer):
        # As integers, since the thread that calls back may not allow double precision.
        words = (*shape, 2) if dtype.itemsize == 8 else shape
        kind = jax.ShapeDtypeStruct(words, np.uint32)
        draw_words = lambda data: draw(data).view(np.uint32).reshape(words)  # noqa: E731
        bits = jax.pure_callback(draw_words, kind, data, vmap_method="sequential")
        return jax.lax.bitcast_convert_type(bits, dtype)
    return on_device(draw(data))


def check_floating(x):
    """ValueError for integers: maps set the precision that weights are rounded to."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"Images must be floating-point numbers, got {x.dtype}: convert and standardise them, "
            "for example by (images - images.mean()) / images.std()."
        )


def per_channel(values, x):
    """Numbers (channels,) broadcast against maps x, in the precision of x."""
    return values.astype(x.dtype)[:, None, None, None]


def mixed(weight, bias, x):
    """weight (n_out, n_in) times the channels of maps x, plus bias."""
    flat = weight.astype(x.dtype) @ x.reshape(len(x), -1)
    return flat.reshape(-1, *x.shape[1:]) + per_channel(bias, x)


def depthwise(x, weight):
    """Depthwise 3 x 3 convolution in the fastest form: output o reads channel o % n_in of x.

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


@bounded_cache(64)
def _bands(height, width):
    """Indicator of the pixel (column) that an output (row) reads by each weight, (9, pixels^2)."""
    row, column = np.divmod(np.arange(height * width), width)
    reads = [
        (row[:, None] + i == row) & (column[:, None] + j == column)
        for i, j in product((-1, 0, 1), repeat=2)
    ]
    return np.array(reads, np.float32).reshape(9, -1)


def shifted(x, weight):
    """The convolution as a sum of nine shifted maps: for large ones."""
    c, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    padded = jnp.concatenate([padded] * (len(weight) // c))
    return sum(
        padded[:, i : i + height, j : j + width] * weight[:, i, j, None, None, None]
        for i, j in product(range(3), repeat=2)
    )


class LinearMap(eqx.Module):
    """Weights (n_out, ...), Kaiming normal at first, and biases (n_out,), zero at first."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self, shape, fan_in, key):
        self.weight, self.bias = kaiming_normal(key, shape, fan_in), constant(0, shape[0])


class Pointwise(LinearMap):
    """A linear map of the channels, the same at every pixel."""

    def __init__(self, n_in, n_out, key):
        super().__init__((n_out, n_in), n_in, key)

    def __call__(self, x):
        return mixed(self.weight, self.bias, x)


class Depthwise(LinearMap):
    """A 3 x 3 convolution of each channel by itself, zeros beyond the edges.

    With a multiplier each channel gives several: output o reads channel o % n_in.
    """

    def __init__(self, n_in, multiplier, key):
        super().__init__((multiplier * n_in, 3, 3), 9, key)

    def __call__(self, x):
        return depthwise(x, self.weight.astype(x.dtype)) + per_channel(self.bias, x)


class PatchMap(LinearMap):
    """A convolution without overlap, kernel = stride = size; zeros fill the last patches."""

    size: int = eqx.field(static=True)

    def __init__(self, n_in, n_out, size, key):
        super().__init__((n_out, n_in * size**2), n_in * size**2, key)
        self.size = size

    def __call__(self, x):
        k, (c, height, width, batch) = self.size, x.shape
        x = jnp.pad(x, ((0, 0), (0, -height % k), (0, -width % k), (0, 0)))
        rows, columns = x.shape[1] // k, x.shape[2] // k
        x = x.reshape(c, rows, k, columns, k, batch).transpose(0, 2, 4, 1, 3, 5)
        return mixed(self.weight, self.bias, x.reshape(c * k * k, rows, columns, batch))


class BatchNorm(eqx.Module):
    """Each channel at mean 0 and variance 1, then scaled and shifted (Ioffe and Szegedy 2015)."""

    scale: jax.Array
    shift: jax.Array
    mean: jax.Array
    variance: jax.Array

    EPSILON = 1e-5

    def __init__(self, n):
        self.scale, self.shift = constant(1, n), constant(0, n)
        self.mean, self.variance = constant(0, n), constant(1, n)

    def __call__(self, x, moments=None):
        """Normalise by the moments in place, or by the batch's, which are appended to the list."""
        if moments is None:
            factor = self.scale * jax.lax.rsqrt(self.variance + self.EPSILON)
            return x * per_channel(factor, x) + per_channel(self.shift - self.mean * factor, x)
        y = wide(x)
        mean = _mean(y)
        centred = y - per_channel(mean, y)
        variance = _mean(centred**2)
        moments.append((mean, variance))
        root = jax.lax.rsqrt(variance + self.EPSILON)
        dtype = np.promote_types(self.scale.dtype, root.dtype)
        factor = self.scale.astype(dtype) * root.astype(dtype)
        return (centred * per_channel(factor, y) + per_channel(self.shift, y)).astype(x.dtype)


def normed(norm, x, moments):
    """x normalised by a `BatchNorm`, unchanged where that was folded into the map before."""
    return x if norm is None else norm(x, moments)


def wide(x):
    """x in single precision at least, which sums of many numbers need."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def _mean(x):
    # Pixels first, along which rows of the batch are added as vectors.
    return x.sum((1, 2)).sum(-1) / x[0].size


class LayerNorm(eqx.Module):
    """The channels of every pixel at mean 0 and variance 1, then scaled and shifted."""

    scale: jax.Array
    shift: jax.Array

    EPSILON = 1e-6

    def __init__(self, n):
        self.scale, self.shift = constant(1, n), constant(0, n)

    def __call__(self, x):
        y = wide(x)
        centred = y - y.mean(0, keepdims=True)
        variance = (centred**2).mean(0, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.EPSILON)
        return (y * per_channel(self.scale, y) + per_channel(self.shift, y)).astype(x.dtype)
