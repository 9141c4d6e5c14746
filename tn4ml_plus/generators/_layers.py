"""Layers with generated weights, in the place of equinox's own."""

import abc
import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from ._base import Generator, built, in_place_of, is_generator, made_by
from ._trees import ATTNGenerator


class GeneratedLayer(eqx.Module):
    """A layer whose weights are generated; `cached` gives the equinox layer that it stands for."""

    @abc.abstractmethod
    def cached(self):
        """The equinox layer with the weights as they are now."""

    @classmethod
    @abc.abstractmethod
    def of(cls, layer, make, key):
        """A layer in the place of an equinox one; make: of a weight and a key its generator."""


class Linear(GeneratedLayer):
    """y = x W + b with a generated W (in_features, out_features), which is never formed.

    Parameters
    ----------
    in_features, out_features : sizes of x and y, at least 1.
    use_bias : whether there is a b, which starts at zero.
    generator : class of the generator, or a partial of it with options.
    key : of the start.

    Called on one sample (in_features,) as equinox's layer is, so take `jax.vmap` for a batch.

    >>> import jax
    >>> layer = Linear(784, 1024, key=jax.random.key(0))
    >>> layer.weight.n_parameters, layer(jax.numpy.ones(784)).shape
    (296, (1024,))
    >>> layer.cached().weight.shape
    (1024, 784)
    """

    weight: Generator
    bias: jax.Array | None

    def __init__(self, in_features, out_features, use_bias=True, *, generator=ATTNGenerator, key):
        self.weight = made_by(generator, (in_features, out_features), key)
        self.bias = jnp.zeros(out_features, self.weight.dtype) if use_bias else None

    @classmethod
    def of(cls, layer, make, key):
        if "scalar" in (layer.in_features, layer.out_features):
            raise ValueError(
                'A Linear layer of a "scalar" has one row or column, which no generator makes '
                "smaller: leave it out of where."
            )
        return built(cls, weight=make(layer.weight.T, key), bias=layer.bias)

    def __call__(self, x, *, key=None):
        y = x @ self.weight
        return y if self.bias is None else y + self.bias

    def cached(self):
        n_in, n_out = self.weight.shape
        make = partial(eqx.nn.Linear, n_in, n_out, self.bias is not None)
        layer = eqx.filter_eval_shape(make, key=jax.random.key(0))
        return _with(layer, lambda m: (m.weight, m.bias), (self.weight().T, self.bias))


class Conv2d(GeneratedLayer):
    """A convolution with a generated kernel (out_channels, in_channels / groups, height, width).

    Takes what `equinox.nn.Conv2d` takes, and further

    generator : class of the generator, or a partial of it with options, such as
        ``partial(ATTNGenerator, tensorisation=ChannelsApart())``.

    >>> import jax
    >>> layer = Conv2d(64, 64, 3, padding=1, key=jax.random.key(0))
    >>> layer(jax.numpy.ones((64, 8, 8))).shape
    (64, 8, 8)
    """

    conv: eqx.nn.Conv2d

    def __init__(
        self, in_channels, out_channels, kernel_size, *args, generator=ATTNGenerator, key, **options
    ):
        conv = eqx.nn.Conv2d(in_channels, out_channels, kernel_size, *args, key=key, **options)
        rms = math.sqrt(2 / math.prod(conv.weight.shape[1:]))
        weight = in_place_of(conv.weight, key, generator=generator, rms=rms)
        self.conv = _with(conv, lambda m: m.weight, weight)

    @classmethod
    def of(cls, layer, make, key):
        return built(cls, conv=_with(layer, lambda m: m.weight, make(layer.weight, key)))

    def __call__(self, x, *, key=None):
        return self.cached()(x)

    def cached(self):
        return _with(self.conv, lambda m: m.weight, self.conv.weight())


class MultiheadAttention(GeneratedLayer):
    """Attention with W_Q, W_K and W_V generated jointly, as (W_Q | W_K | W_V), and W_O apart.

    Takes what `equinox.nn.MultiheadAttention` takes, with query, key and value of one size, and

    generator : class of both generators, or a partial of it with options.

    To generate all four apart, give their weights to `compress`.

    Source: arXiv 2606.00130, section 3 on attention.

    >>> import jax
    >>> layer = MultiheadAttention(4, 64, key=jax.random.key(0))
    >>> x = jax.numpy.ones((10, 64))
    >>> layer(x, x, x).shape
    (10, 64)
    """

    joint: Generator
    attention: eqx.nn.MultiheadAttention

    def __init__(self, num_heads, query_size, *args, generator=ATTNGenerator, key, **options):
        attention = eqx.nn.MultiheadAttention(num_heads, query_size, *args, key=key, **options)
        make = partial(in_place_of, generator=generator)
        self.joint, self.attention = self._parts(attention, make, key)

    @classmethod
    def of(cls, layer, make, key):
        joint, attention = cls._parts(layer, make, key)
        return built(cls, joint=joint, attention=attention)

    @staticmethod
    def _parts(attention, make, key):
        sizes = {attention.query_size, attention.key_size, attention.value_size}
        if len(sizes) > 1:
            raise ValueError(
                "W_Q, W_K and W_V are generated jointly, so query, key and value need one size, "
                f"got {attention.query_size}, {attention.key_size} and {attention.value_size}: "
                "give the four weights to compress instead."
            )
        joint, output = jax.random.split(key)
        weights = jnp.concatenate(_inputs(attention)).T
        joint = make(weights, joint)
        output = make(attention.output_proj.weight, output)
        absent = _with(attention, _inputs, (None, None, None))
        return joint, _with(absent, lambda m: m.output_proj.weight, output)

    def __call__(self, *args, **options):
        return self.cached()(*args, **options)

    def cached(self):
        attention = self.attention
        sizes = [attention.qk_size, attention.qk_size, attention.vo_size]
        ends = [attention.num_heads * sum(sizes[:i]) for i in (1, 2)]
        weights = tuple(jnp.split(self.joint().T, ends))
        attention = _with(attention, _inputs, weights)
        return _with(attention, lambda m: m.output_proj.weight, attention.output_proj.weight())


#: Generated layers by the equinox layers in whose place they stand.
LAYERS = {
    eqx.nn.Linear: Linear,
    eqx.nn.Conv2d: Conv2d,
    eqx.nn.MultiheadAttention: MultiheadAttention,
}


def _inputs(attention):
    return tuple(getattr(attention, f"{name}_proj").weight for name in ("query", "key", "value"))


def _with(layer, where, new):
    """A layer with other leaves, some of which may be absent or generators."""
    return eqx.tree_at(where, layer, new, is_leaf=lambda x: x is None or is_generator(x))
