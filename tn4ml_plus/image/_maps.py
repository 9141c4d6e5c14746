"""Linear maps and normalisations of feature maps, (channels, height, width, batch).

The batch comes last: every channel is then one contiguous run of numbers, what a pointwise map does
is a single matrix product, and what is done number by number runs along the batch.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._depthwise import depthwise


def constant(value, n=None):
    """Parameters that all start at a value."""
    # From NumPy, as the compilation of many small fills would take longer than many trainings.
    return jnp.asarray(np.full(() if n is None else n, value), float)


def kaiming_normal(key, shape, fan_in):
    """Weights of variance 2 / fan_in (He et al. 2015, eq. 10)."""

    def draw(data):
        numbers = np.random.default_rng(np.asarray(data).tolist()).normal(size=shape)
        return (numbers * np.sqrt(2 / fan_in)).astype(kind.dtype)

    kind, data = jax.ShapeDtypeStruct(shape, jnp.zeros(()).dtype), jax.random.key_data(key)
    traced = isinstance(data, jax.core.Tracer)
    return (
        jax.pure_callback(draw, kind, data, vmap_method="sequential")
        if traced
        else jnp.asarray(draw(data))
    )


def check_floating(x):
    """ValueError for whole numbers: maps set the precision that weights are rounded to."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"Images must be floating-point numbers, got {x.dtype}: convert and standardise them, "
            "such as (images - images.mean()) / images.std()."
        )


def per_channel(values, x):
    """Numbers (channels,) as they multiply maps x, in the precision of those."""
    return values.astype(x.dtype)[:, None, None, None]


def mixed(weight, bias, x):
    """weight (n_out, n_in) times the channels of maps x, plus bias."""
    flat = weight.astype(x.dtype) @ x.reshape(len(x), -1)
    return flat.reshape(-1, *x.shape[1:]) + per_channel(bias, x)


class Pointwise(eqx.Module):
    """A linear map of the channels, the same at every pixel."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self, n_in, n_out, key):
        self.weight = kaiming_normal(key, (n_out, n_in), n_in)
        self.bias = constant(0, n_out)

    def __call__(self, x):
        return mixed(self.weight, self.bias, x)


class Depthwise(eqx.Module):
    """A 3 x 3 convolution of each channel by itself, zeros beyond the edges.

    With a multiplier each channel gives several: output o reads channel o % n_in.
    """

    weight: jax.Array
    bias: jax.Array

    def __init__(self, n_in, multiplier, key):
        self.weight = kaiming_normal(key, (multiplier * n_in, 3, 3), 9)
        self.bias = constant(0, multiplier * n_in)

    def __call__(self, x):
        return depthwise(x, self.weight.astype(x.dtype)) + per_channel(self.bias, x)


class Patches(eqx.Module):
    """A convolution without overlap, kernel = stride = size; zeros fill the last patches."""

    weight: jax.Array
    bias: jax.Array
    size: int = eqx.field(static=True)

    def __init__(self, n_in, n_out, size, key):
        fan_in = n_in * size**2
        self.weight = kaiming_normal(key, (n_out, fan_in), fan_in)
        self.bias = constant(0, n_out)
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
        """By the running moments, or by those of the batch, which are then added to the list."""
        if moments is None:
            factor = self.scale * jax.lax.rsqrt(self.variance + self.EPSILON)
            return x * per_channel(factor, x) + per_channel(self.shift - self.mean * factor, x)
        y = wide(x)
        mean = _mean(y)
        centred = y - per_channel(mean, y)
        variance = _mean(centred**2)
        moments.append((mean, variance))
        factor = self.scale * jax.lax.rsqrt(variance + self.EPSILON)
        return (centred * per_channel(factor, y) + per_channel(self.shift, y)).astype(x.dtype)


def normed(norm, x, moments):
    """By a `BatchNorm`, or as it is where that was folded into the map before."""
    return x if norm is None else norm(x, moments)


def wide(x):
    """In single precision at least, which sums of many numbers need."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


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
        centred = y - y.mean(0)
        y = centred * jax.lax.rsqrt((centred**2).mean(0) + self.EPSILON)
        return (y * per_channel(self.scale, y) + per_channel(self.shift, y)).astype(x.dtype)
