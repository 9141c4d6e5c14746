"""What a generated weight is compared with: other ways to have few numbers, or none that learn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tn4ml_plus.generators import Generator
from tn4ml_plus.generators._changing import encode


class Frozen(Generator):
    """A generator that stays as it started, so that none of its numbers count."""

    generator: Generator
    n_parameters = n_bytes = 0

    @property
    def shape(self):
        return self.generator.shape

    def _fixed(self):
        return jax.lax.stop_gradient(self.generator)

    def __call__(self):
        return self._fixed()()

    def product(self, x):
        return self._fixed().product(x)

    def entries(self, index):
        return self._fixed().entries(index)

    def scaled(self, factor):
        return Frozen(self.generator.scaled(factor))


def frozen(generator):
    """A class of generators that stay as they start."""
    return lambda shape, key: Frozen(generator(shape, key=key))


class Free(Generator):
    """Every entry is a number of its own, He's at the start."""

    weight: jax.Array

    def __init__(self, shape, key):
        self.weight = jax.random.normal(key, shape)

    @property
    def shape(self):
        return self.weight.shape

    def __call__(self):
        return self.weight

    def entries(self, index):
        return self().reshape(-1)[index]

    def scaled(self, factor):
        return eqx.tree_at(lambda g: g.weight, self, factor * self.weight)


class Hashed(Generator):
    """Entries share numbers, each with a sign, by a fixed random hash (Chen et al. 2015)."""

    values: jax.Array
    place: jax.Array
    sign: jax.Array

    def __init__(self, shape, key, n_values):
        values, place, sign = jax.random.split(key, 3)
        self.values = jax.random.normal(values, (n_values,))
        self.place = jax.random.randint(place, shape, 0, n_values)
        self.sign = jax.random.bernoulli(sign, shape=shape)

    @property
    def shape(self):
        return self.place.shape

    def __call__(self):
        found = self.values[self.place]
        return jnp.where(self.sign, found, -found)

    def entries(self, index):
        return self().reshape(-1)[index]

    def scaled(self, factor):
        return eqx.tree_at(lambda g: g.values, self, factor * self.values)


class LowRank(Generator):
    """A product of two matrices."""

    left: jax.Array
    right: jax.Array

    def __init__(self, shape, key, rank):
        left, right = jax.random.split(key)
        self.left = jax.random.normal(left, (shape[0], rank))
        self.right = jax.random.normal(right, (rank, shape[1]))

    @property
    def shape(self):
        return len(self.left), self.right.shape[1]

    def __call__(self):
        return self.left @ self.right

    def product(self, x):
        return x @ self.left @ self.right

    def entries(self, index):
        return self().reshape(-1)[index]

    def scaled(self, factor):
        parts = [jnp.sqrt(factor) * part for part in (self.left, self.right)]
        return eqx.tree_at(lambda g: (g.left, g.right), self, parts)


class Pruned(Generator):
    """The largest entries of a trained weight, as integers of eight bits.

    A place takes two bytes: the distance from the entry before.
    """

    values: jax.Array
    place: jax.Array
    shape: tuple = eqx.field(static=True)

    def __init__(self, weight, n_values):
        flat = weight.reshape(-1)
        self.place = jnp.asarray(np.sort(np.argsort(-np.abs(np.asarray(flat)))[:n_values]))
        self.values = flat[self.place]
        self.shape = weight.shape

    def __call__(self):
        codes, scale = encode(self.values, 8)
        rounded = codes.astype(self.values.dtype) * scale
        values = self.values + jax.lax.stop_gradient(rounded - self.values)
        flat = jnp.zeros(self.shape[0] * self.shape[1], values.dtype)
        return flat.at[self.place].set(values).reshape(self.shape)

    def entries(self, index):
        return self().reshape(-1)[index]

    def scaled(self, factor):
        return eqx.tree_at(lambda g: g.values, self, factor * self.values)

    @property
    def n_bytes(self):
        return 3 * len(self.values)
