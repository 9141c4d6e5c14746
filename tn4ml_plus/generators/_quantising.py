"""Integer cores: rounding inside of training, and the bytes that it saves."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from ._activations import Activation
from ._base import Generator, mapped, parameters

BITS = (4, 8)


class Quantised(Generator):
    """A generator whose cores are rounded to signed integers times one scale for each core.

    A latent tensor counts as a core, those of groups together as one.
    The forward pass sees the rounded cores and gradients pass the rounding as if it were not there
    (straight-through estimator), so training goes on as before: quantisation-aware. Numbers that
    learn inside of activations stay as they are. bits: 4 or 8.

    Source: Jacob et al. 2018, section 3; Bengio et al. 2013 for the gradient.

    >>> import jax
    >>> from tn4ml_plus.generators import ATTNGenerator
    >>> generator = ATTNGenerator((256, 256), key=jax.random.key(0))
    >>> small = Quantised(generator, 8)
    >>> small.n_parameters == generator.n_parameters, generator.n_bytes, small.n_bytes
    (True, 960, 324)
    """

    generator: Generator
    bits: int = eqx.field(static=True)

    def __init__(self, generator, bits=8):
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
            codes, scales = encode(array, self.bits)
            return array + jax.lax.stop_gradient(codes.astype(array.dtype) * scales - array)

        return _of_cores(straight_through, self.generator)

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
        """Bytes of the integers, of a scale for each core, and of the activations' numbers."""
        sizes = []

        def count(array):
            n_cores = math.prod(array.shape[:-2])
            sizes.append(-(-array.size * self.bits // 8) + n_cores * array.dtype.itemsize)
            return None

        kept = _of_cores(count, self.generator)
        return sum(sizes) + sum(p.size * p.dtype.itemsize for p in parameters(kept))


def encode(array, bits):
    """Integers (int8) and the scale of each core; cores are the last two axes of an array."""
    axes = tuple(range(max(0, array.ndim - 2), array.ndim))
    most = 2 ** (bits - 1) - 1
    largest = jnp.abs(array).max(axes, keepdims=True, initial=0)
    scales = jnp.where(largest > 0, largest, 1) / most
    codes = jnp.clip(jnp.round(array / scales), -most, most)
    return codes.astype(jnp.int8), scales


def _of_cores(function, generator):
    """A generator with a function applied to its cores, not to the numbers of activations."""

    def apply(leaf):
        return function(leaf) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(apply, generator, is_leaf=lambda x: isinstance(x, Activation))


def quantise(tree, bits=8):
    """Every generator of a pytree, such as a compressed model, as a `Quantised` one.

    bits: 4 or 8. Train on for a few steps to win back what rounding loses.
    """

    def quantised(generator):
        inner = generator.generator if isinstance(generator, Quantised) else generator
        return Quantised(inner, bits)

    return mapped(quantised, tree)
