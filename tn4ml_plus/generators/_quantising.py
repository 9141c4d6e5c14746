"""Integer cores: rounding within training, and the bytes that it saves."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from ._activations import Activation
from ._base import Generator, mapped, parameters

BITS = (4, 8)


class Quantised(Generator):
    """A generator whose cores are rounded to signed integers times one scale for each core.

    A latent tensor counts as a core, those of groups together as one; activations are not rounded.
    Gradients pass the rounding as if it were not there (straight-through estimator), so training
    goes on. Source: Jacob et al. 2018, section 3; Bengio et al. 2013 for the gradient.

    >>> import jax
    >>> from tn4ml_plus.generators import ATTNGenerator
    >>> generator = ATTNGenerator((256, 256), key=jax.random.key(0))
    >>> small = Quantised(generator, 8)
    >>> small.n_parameters == generator.n_parameters, generator.n_bytes, small.n_bytes
    (True, 960, 324)

    Parameters
    ----------
    generator, bits : the generator, and 4 or 8
    """

    generator: Generator
    bits: int = eqx.field(static=True)

    def __init__(self, generator: Generator, bits: int = 8):
        if not isinstance(generator, Generator):
            raise ValueError(f"generator must be a Generator, got {type(generator).__name__}.")
        if not isinstance(bits, int) or bits not in BITS:
            raise ValueError(f"bits must be 4 or 8, got {bits!r}.")
        self.generator = generator
        self.bits = bits

    @property
    def shape(self):
        return self.generator.shape

    def rounded(self):
        """The generator that the forward pass sees."""

        def straight_through(array):
            if not eqx.is_inexact_array(array):
                return array
            codes, scales = encode(array, self.bits)
            return array + jax.lax.stop_gradient(codes.astype(array.dtype) * scales - array)

        return jax.tree.map(straight_through, self.generator, is_leaf=_is_activation)

    def __call__(self):
        return self.rounded()()

    def entries(self, index):
        return self.rounded().entries(index)

    def product(self, x):
        return self.rounded().product(x)

    def scaled(self, factor):
        return Quantised(self.generator.scaled(factor), self.bits)

    @property
    def n_bytes(self):
        """Bytes of the integers, of one scale per core, and of the activations' parameters."""
        leaves = jax.tree.leaves(self.generator, is_leaf=_is_activation)
        cores = [leaf for leaf in leaves if eqx.is_inexact_array(leaf)]
        kept = parameters([leaf for leaf in leaves if _is_activation(leaf)])
        integers = sum(-(-core.size * self.bits // 8) for core in cores)
        scales = sum(math.prod(core.shape[:-2]) * core.dtype.itemsize for core in cores)
        return integers + scales + sum(p.size * p.dtype.itemsize for p in kept)


def encode(array, bits):
    """Integers (int8) and the scale of each core; cores are the last two axes of an array."""
    axes = tuple(range(max(0, array.ndim - 2), array.ndim))
    most = 2 ** (bits - 1) - 1
    largest = jnp.abs(array).max(axes, keepdims=True, initial=0)
    scales = jnp.where(largest > 0, largest, 1) / most
    codes = jnp.clip(jnp.round(array / scales), -most, most)
    return codes.astype(jnp.int8), scales


def _is_activation(leaf):
    return isinstance(leaf, Activation)


def quantise(tree, bits: int = 8):
    """A pytree with a `Quantised` generator in place of each; train on to recover from rounding.

    Parameters
    ----------
    tree, bits : a compressed model, for example, and 4 or 8
    """
    inner = lambda g: g.generator if isinstance(g, Quantised) else g  # noqa: E731
    return mapped(lambda generator: Quantised(inner(generator), bits), tree)
