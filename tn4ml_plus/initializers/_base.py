"""The base of initializers, and the identity that all of them can add."""

import abc
import dataclasses
from collections.abc import Sequence
from functools import reduce

import jax
import numpy as np
from jaxtyping import Float

from .._types import ArrayLike

Core = Float[np.ndarray, "left phys_dim right"]
Vector = Float[np.ndarray, "phys_dim"]
Node = Float[np.ndarray, "... {up}"]


def identity_core(weights: ArrayLike, left: int, right: int) -> Core:
    """Core (left, phys_dim, right) with entries weights[s] * eye(left, right).

    Parameters
    ----------
    weights : (phys_dim,), weight of the identity for each component of the embedding
    left, right : int, sizes of the bonds
    """
    return np.asarray(weights, float)[None, :, None] * np.eye(left, right)[:, None, :]


def generators(key: jax.Array, count: int) -> list[np.random.Generator]:
    """Independent NumPy random generators, one per site, from a JAX key.

    NumPy draws the few numbers in each of many shapes without compilation. (The room
    `tn4ml_plus.generators` is about another thing: networks that generate weights.)

    >>> first, second = generators(jax.random.key(0), 2)
    >>> first.normal() != second.normal()
    True

    Parameters
    ----------
    key, count : jax.Array and int, a JAX key and the number of generators
    """
    seed = np.random.SeedSequence(np.asarray(jax.random.key_data(key)).ravel().tolist())
    return [np.random.default_rng(child) for child in seed.spawn(count)]


class Initializer(abc.ABC):
    """Source of the initial cores of a network, called once per site with the site's own generator.

    `merge` makes a node of a tree instead of a core.
    """

    add_identity: bool

    @abc.abstractmethod
    def noise(self, rng: np.random.Generator, shape: tuple[int, ...], fan: int) -> Core:
        """Random part of a core, see `__call__` for the parameters."""

    def start(self, shape: tuple[int, ...], weights: ArrayLike) -> Core:
        """Core without noise, the anchor of decay; see `__call__` for the parameters."""
        if self.add_identity:
            return identity_core(self.unit(weights), shape[0], shape[-1])
        return np.zeros(shape)

    def unit(self, weights: ArrayLike) -> Vector:
        """Vector for "nothing known" at a site: the weights, with w . phi near 1."""
        return np.asarray(weights, float)

    def merge_start(self, rng: np.random.Generator, constants: Sequence[Vector], up: int) -> Node:
        """Node of a tree without noise, affine in each child; zeros where no identity is added.

        The constants together become the first channel above. The other channels are random
        mixtures of the channels of one child, of about their size, added up over the children.
        See `merge` for the parameters.
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

    def merge(
        self, rng: np.random.Generator, constants: Sequence[Vector], up: int, fan: int
    ) -> Node:
        """Node of a tree, float64, with one axis per child and a last one of size `up`.

        Parameters
        ----------
        rng : numpy.random.Generator, source of the random numbers
        constants : sequence of vectors, one per child, which stands for "nothing known" there
        up : int, size of the bond to the parent
        fan : int, as in `__call__`
        """
        start = self.merge_start(rng, constants, up)
        noise = self.noise(rng, (up, len(constants[0]), start[0].size // up), fan)
        return start + np.moveaxis(noise.reshape(up, *start.shape[:-1]), 0, -1)

    def __call__(
        self, rng: np.random.Generator, shape: tuple[int, ...], weights: ArrayLike, fan: int
    ) -> Core:
        """Core, float64.

        Parameters
        ----------
        rng : numpy.random.Generator, source of the random numbers
        shape : tuple of int, (left, phys_dim, right)
        weights : (phys_dim,), weights . phi(x) near 1; their `identity_core` passes states on
        fan : int, number of random steps that a state makes, nsites * bond_dim
        """
        return self.start(shape, weights) + self.noise(rng, shape, fan)


@dataclasses.dataclass(frozen=True)
class Noiseless(Initializer):
    """Another initializer without its noise.

    >>> from tn4ml_plus.initializers import Identity
    >>> Noiseless(Identity())(np.random.default_rng(0), (1, 2, 1), (1, 0), fan=2).ravel()
    array([1., 1.])
    """

    initializer: Initializer

    @property
    def add_identity(self) -> bool:
        return self.initializer.add_identity

    def start(self, shape: tuple[int, ...], weights: ArrayLike) -> Core:
        return self.initializer.start(shape, weights)

    def unit(self, weights: ArrayLike) -> Vector:
        return self.initializer.unit(weights)

    def merge_start(self, rng: np.random.Generator, constants: Sequence[Vector], up: int) -> Node:
        return self.initializer.merge_start(rng, constants, up)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...], fan: int) -> Core:
        del rng, fan
        return np.zeros(shape)
