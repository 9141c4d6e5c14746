"""Initializers, and the identity that all of them can add."""

import abc
import dataclasses
from collections.abc import Sequence
from functools import reduce
from operator import attrgetter

import jax
import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from .._checks import check_number
from .._registry import variant
from .._types import AnyArray, ArrayLike

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


def generators(key: jax.Array, count: int) -> list[Generator]:
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
    def noise(self, rng: Generator, shape: tuple[int, ...], fan: int) -> Core:
        """Random part of a core, see `__call__` for the parameters."""

    def start(self, shape: tuple[int, ...], weights: ArrayLike) -> Core:
        """Core without noise, the anchor of decay; see `__call__` for the parameters."""
        if self.add_identity:
            return identity_core(self.unit(weights), shape[0], shape[-1])
        return np.zeros(shape)

    def unit(self, weights: ArrayLike) -> Vector:
        """Vector for "nothing known" at a site: the weights, with w . phi near 1."""
        return np.asarray(weights, float)

    def spread(self, nsites: int) -> float:
        """Share of a sample's distance from the mean vector that estimators' starts see at a site.

        It is 1 where the identity passes states on. Where cores change them, the changes of all
        sites then add up to about a state's own size; without it they multiply, the states of any
        two samples are as good as independent, and nothing learned from one holds for another.
        """
        return 1.0 if self.add_identity else 1 / np.sqrt(nsites)

    def merge_start(self, rng: Generator, constants: Sequence[Vector], up: int) -> Node:
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

    def merge(self, rng: Generator, constants: Sequence[Vector], up: int, fan: int) -> Node:
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
        self, rng: Generator, shape: tuple[int, ...], weights: ArrayLike, fan: int
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

    # All but the noise is that of the other one.
    add_identity = property(attrgetter("initializer.add_identity"))
    start = property(attrgetter("initializer.start"))
    unit = property(attrgetter("initializer.unit"))
    spread = property(attrgetter("initializer.spread"))
    merge_start = property(attrgetter("initializer.merge_start"))

    def noise(self, rng: Generator, shape: tuple[int, ...], fan: int) -> Core:
        return np.zeros(shape)


@variant("initializer")
class RandomNormal(Initializer):
    """Independent normal entries.

    Without the identity an amplitude over many sites is far below every float, and differs from
    sample to sample; training relies on calibration (`tn4ml_plus.contraction.calibrate`) and on
    the start of an estimator, which brings samples together, see `spread`.

    >>> RandomNormal(std=0.5)(np.random.default_rng(0), (3, 2, 3), (0.5, 0.5), fan=30).shape
    (3, 2, 3)

    Parameters
    ----------
    std : float, standard deviation of the entries
    add_identity : bool, whether the identity is added to them
    """

    std: float = 1e-2
    add_identity: bool = False

    def __post_init__(self):
        check_number("std", self.std, at_least=0)

    def noise(self, rng: Generator, shape: tuple[int, ...], fan: int) -> Core:
        return self.std * rng.normal(size=shape)


@variant("initializer")
class LeastSquaresIdentity(Initializer):
    """Identity weighted by the least-squares solution of w . phi(x) = 1 over the data, plus noise.

    Exact for an embedding that is a partition of unity. With std=None the random part of a state
    grows to about its identity part.

    >>> core = LeastSquaresIdentity(std=0.0)(np.random.default_rng(0), (2, 2, 2), (1.0, 1.0), fan=8)
    >>> np.asarray(core)[:, 0]
    array([[1., 0.],
           [0., 1.]])

    Parameters
    ----------
    std : float, optional, standard deviation of the noise; None: sqrt(0.5 / (nsites * bond_dim))
    add_identity : bool, whether there is the identity beside the noise
    """

    std: float | None = 1e-2
    add_identity: bool = True

    def __post_init__(self):
        check_number("std", self.std, at_least=0, optional=True)

    def noise(self, rng: Generator, shape: tuple[int, ...], fan: int) -> Core:
        std = np.sqrt(0.5 / fan) if self.std is None else self.std
        return std * rng.normal(size=shape)


@variant("initializer")
class Identity(RandomNormal):
    """Identity on every component of the embedding, plus noise, as tn4ml's "bond" eye.

    It ignores the data: the state grows by sum_s phi_s per site, which estimators' starts damp, see
    `spread`. (`tn4ml_plus.generators.Identity` is an activation.)

    See `RandomNormal` for the parameters.

    >>> float(Identity(std=0.0)(np.random.default_rng(0), (2, 3, 2), (1.0, 0, 0), fan=8).sum())
    6.0
    """

    add_identity: bool = True

    def unit(self, weights: ArrayLike) -> Vector:
        return np.ones_like(weights, float)

    def spread(self, nsites: int) -> float:
        # The sum of a vector's components is not 1 for all samples.
        return 1 / np.sqrt(nsites)


def least_squares_weights(
    phi: Float[AnyArray, "batch nsites phys_dim"],
    ridge: float = 1e-3,
    sample_weight: ArrayLike | None = None,
) -> Float[np.ndarray, "nsites phys_dim"]:
    """Weights w (nsites, phys_dim) that make w_i . phi_i(x) nearest to 1 over the data.

    w_i = (E[phi phi^T] + ridge)^-1 E[phi], float64.

    >>> x = np.linspace(0, 1, 11)[:, None]
    >>> w = least_squares_weights(np.stack([x, 1 - x], -1), ridge=0)
    >>> bool(np.allclose(w, 1))
    True

    Parameters
    ----------
    phi : (n_samples, nsites, phys_dim), embedded samples
    ridge : float, relative to the mean diagonal; components that no sample excites get weight 0
    sample_weight : (n_samples,), optional, weights of the samples
    """
    phi = np.asarray(phi)
    weight = np.ones(len(phi)) if sample_weight is None else np.asarray(sample_weight, float)
    weight = (weight / weight.sum()).astype(phi.dtype)
    mean = np.einsum("b,bis->is", weight, phi).astype(float)
    by_site = phi.transpose(1, 2, 0)
    moment = (by_site @ (by_site * weight).transpose(0, 2, 1)).astype(float)
    diagonal = np.trace(moment, axis1=1, axis2=2) / phi.shape[-1]
    moment = moment + ridge * diagonal[:, None, None] * np.eye(phi.shape[-1])
    # Components that are padding have neither moment nor mean; a unit diagonal leaves them at 0.
    silent = np.arange(phi.shape[-1])
    moment[:, silent, silent] += np.where(moment[:, silent, silent] == 0, 1.0, 0.0)
    return np.linalg.solve(moment, mean[..., None])[..., 0]


@variant("initializer")
class GramSchmidt(Initializer):
    """Uniform entries on [0, 1), with orthonormalised rows of phys_dim * right entries.

    Where there are more rows than columns the columns are orthonormal instead.

    >>> core = GramSchmidt()(np.random.default_rng(0), (3, 2, 3), (0.5, 0.5), fan=30)
    >>> rows = core.reshape(3, 6)
    >>> bool(np.allclose(rows @ rows.T, np.eye(3), atol=1e-6))
    True
    """

    add_identity: bool = False

    def noise(self, rng: Generator, shape: tuple[int, ...], fan: int) -> Core:
        return _orthonormal(rng.uniform(size=shape))

    # As large as the identity.
    spread = Identity.spread


@variant("initializer")
class HaarUnitary(Initializer):
    """Haar-distributed isometries, left -> (phys_dim, right), or adjoint if left is larger.

    Mezzadri, Notices of the AMS 54 (2007) 592: QR of a normal matrix, signs fixed by R's diagonal.

    >>> HaarUnitary()(np.random.default_rng(0), (4, 2, 4), (0.5, 0.5), fan=40).shape
    (4, 2, 4)
    """

    add_identity: bool = False

    def noise(self, rng: Generator, shape: tuple[int, ...], fan: int) -> Core:
        return _orthonormal(rng.normal(size=shape))

    # As large as the identity.
    spread = Identity.spread


def _orthonormal(core):
    """Nearest row-by-row orthonormalisation of a core seen as a (left, phys_dim * right) matrix."""
    matrix = core.reshape(core.shape[0], -1)
    tall = matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix
    q, r = np.linalg.qr(tall)
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return (q.T if tall is not matrix else q).reshape(core.shape)
