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
    """A layer with generated weights, in place of an equinox layer that `cached` returns."""

    def __call__(self, *args, **options):
        """Output of the layer; see `equinox.nn` for the parameters."""
        return self.cached()(*args, **options)

    @abc.abstractmethod
    def cached(self):
        """The equinox layer with the present weights."""

    @classmethod
    @abc.abstractmethod
    def of(cls, layer, make, key):
        """A generated layer in place of an equinox one.

        Parameters
        ----------
        layer, make, key : the equinox layer, and a function from a weight and a key to a generator
        """


class Linear(GeneratedLayer):
    """y = x W + b with a generated W (in_features, out_features), which is never formed.

    >>> import jax
    >>> layer = Linear(784, 1024, key=jax.random.key(0))
    >>> layer.weight.n_parameters, layer(jax.numpy.ones(784)).shape
    (296, (1024,))
    >>> layer.cached().weight.shape
    (1024, 784)

    Parameters
    ----------
    in_features, out_features : int, sizes of x and y, at least 1
    use_bias : bool, whether there is a b, which starts at zero
    generator, key : as in `compress`
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
                "smaller: exclude it from where."
            )
        return built(cls, weight=make(layer.weight.T, key), bias=layer.bias)

    def __call__(self, x, *, key=None):
        """Output for one sample; see `equinox.nn.Linear` for the parameters."""
        y = x @ self.weight
        return y if self.bias is None else y + self.bias

    def cached(self):
        n_in, n_out = self.weight.shape
        make = partial(eqx.nn.Linear, n_in, n_out, self.bias is not None)
        layer = eqx.filter_eval_shape(make, key=jax.random.key(0))
        return _with(layer, lambda m: (m.weight, m.bias), (self.weight().T, self.bias))


class Conv2d(GeneratedLayer):
    """A convolution with a generated kernel (out_channels, in_channels / groups, height, width).

    >>> import jax
    >>> layer = Conv2d(64, 64, 3, padding=1, key=jax.random.key(0))
    >>> layer(jax.numpy.ones((64, 8, 8))).shape
    (64, 8, 8)

    Parameters
    ----------
    in_channels, out_channels, kernel_size, *args : as in `equinox.nn.Conv2d`
    generator : as in `compress`, such as ``partial(ATTNGenerator, tensorisation=ChannelsApart())``
    key, **options : as in `equinox.nn.Conv2d`
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

    def cached(self):
        return _with(self.conv, lambda m: m.weight, self.conv.weight())


class MultiheadAttention(GeneratedLayer):
    """Attention with W_Q, W_K and W_V generated jointly, as (W_Q | W_K | W_V), and W_O separately.

    To generate all four separately, give their weights to `compress`. Source: arXiv 2606.00130,
    section 3 on attention.

    >>> import jax
    >>> layer = MultiheadAttention(4, 64, key=jax.random.key(0))
    >>> x = jax.numpy.ones((10, 64))
    >>> layer(x, x, x).shape
    (10, 64)

    Parameters
    ----------
    num_heads, query_size, *args : as in equinox; query, key and value must have one size
    generator, key, **options : as in `compress`, for both, and in equinox
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

    def cached(self):
        attention = self.attention
        sizes = [attention.qk_size, attention.qk_size, attention.vo_size]
        ends = [attention.num_heads * sum(sizes[:i]) for i in (1, 2)]
        weights = tuple(jnp.split(self.joint().T, ends))
        attention = _with(attention, _inputs, weights)
        return _with(attention, lambda m: m.output_proj.weight, attention.output_proj.weight())


#: Generated layers by the equinox layers of the same names, which they replace.
LAYERS = {getattr(eqx.nn, cls.__name__): cls for cls in (Linear, Conv2d, MultiheadAttention)}


def _inputs(attention):
    return tuple(getattr(attention, f"{name}_proj").weight for name in ("query", "key", "value"))


def _with(layer, where, new):
    """A layer with some leaves replaced; new ones may be absent or generators."""
    return eqx.tree_at(where, layer, new, is_leaf=lambda x: x is None or is_generator(x))
