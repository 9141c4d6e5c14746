"""What an initializer is, and the identity that all of them can add."""

import abc
import dataclasses
from functools import reduce

import jax
import numpy as np


def identity_core(weights, left, right):
    """weights[s] * eye(left, right) as an array (left, phys_dim, right)."""
    return np.asarray(weights)[None, :, None] * np.eye(left, right)[:, None, :]


def generators(key, count):
    """Independent NumPy generators, one a site, from a JAX key.

    Starting a network draws a few numbers for each of many shapes: NumPy needs no compilation.

    >>> import jax
    >>> first, second = generators(jax.random.key(0), 2)
    >>> first.normal() != second.normal()
    True
    """
    seed = np.random.SeedSequence(np.asarray(jax.random.key_data(key)).ravel().tolist())
    return [np.random.default_rng(child) for child in seed.spawn(count)]


class Initializer(abc.ABC):
    """Fills the cores of a network: called once a site, with that site's own generator.

    A core has the shape (left, phys_dim, right); `weights` (phys_dim,) are numbers w with
    w . phi(x) near 1 over the data, so that ``identity_core(weights, ...)`` hands its left state
    on unchanged. `fan` is the number of random steps that a state makes: nsites * bond_dim. `merge`
    fills a node of a tree instead.
    """

    add_identity: bool

    @abc.abstractmethod
    def noise(self, rng, shape, fan):
        """Random core of shape (left, phys_dim, right) from a NumPy generator."""

    def start(self, shape, weights):
        """Core without noise: the identity, or zeros where none is added; decay pulls toward it."""
        if self.add_identity:
            return identity_core(self.unit(weights), shape[0], shape[-1])
        return np.zeros(shape)

    def unit(self, weights):
        """What stands for "nothing known" at a site: `weights`, with w . phi near 1."""
        return np.asarray(weights, float)

    def merge_start(self, rng, constants, up):
        """Node of a tree without noise, affine in each child; zeros where no identity is added.

        constants: one vector a child that stands for "nothing known" there; all of them together
        become the first channel above. The other channels are random mixtures of the channels of
        one child, of about their size, added up over the children.
        """
        core = np.zeros((*map(len, constants), up))
        if self.add_identity:
            core[..., 0] = reduce(np.multiply.outer, constants)
            for j, constant in enumerate(constants):
                fan = len(constants) * len(constant)
                mixture = rng.normal(size=(len(constant), up - 1)) / np.sqrt(fan)
                others = [*constants[:j], *constants[j + 1 :], mixture]
                core[..., 1:] += np.moveaxis(reduce(np.multiply.outer, others), -2, j)
        return core

    def merge(self, rng, constants, up, fan):
        """Node of a tree, float64: one axis a child, and a last one of size `up`."""
        start = self.merge_start(rng, constants, up)
        noise = self.noise(rng, (up, len(constants[0]), start[0].size // up), fan)
        return start + np.moveaxis(noise.reshape(up, *start.shape[:-1]), 0, -1)

    def __call__(self, rng, shape, weights, fan):
        """Core of `shape` (left, phys_dim, right), float64."""
        return self.start(shape, weights) + self.noise(rng, shape, fan)


@dataclasses.dataclass(frozen=True)
class Noiseless(Initializer):
    """What another initializer starts from.

    >>> import numpy as np
    >>> from tn4ml_plus.initializers import Identity
    >>> Noiseless(Identity())(np.random.default_rng(0), (1, 2, 1), (1, 0), fan=2).ravel()
    array([1., 1.])
    """

    initializer: Initializer

    def start(self, shape, weights):
        """As the other initializer."""
        return self.initializer.start(shape, weights)

    def unit(self, weights):
        """As the other initializer."""
        return self.initializer.unit(weights)

    def merge_start(self, rng, constants, up):
        """As the other initializer."""
        return self.initializer.merge_start(rng, constants, up)

    def noise(self, rng, shape, fan):
        """Zeros."""
        del rng, fan
        return np.zeros(shape)
