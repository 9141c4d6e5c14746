"""Embeddings made of polynomials."""

import abc
import collections
import dataclasses
import itertools
import math

import numpy as np

from .._arrays import namespace
from .._checks import check, check_int, check_number
from .._registry import variant
from .._types import ArrayLike
from ._base import Embedding, Gram, Vectors, Weights, along, as_float


@variant("embedding")
class LinearComplement(Embedding):
    """phi(x) = [x, 1 - x] (p = 2) or [1, x, 1 - x] (p = 3), x in [0, 1].

    A partition of unity; `UnitNorm` around it gives the L2-normalised form. ValueError for other p.

    >>> LinearComplement()(0.25).tolist(), LinearComplement(3)(0.25).tolist()
    ([0.25, 0.75], [1.0, 0.25, 0.75])
    """

    p: int = 2
    phys_dim = property(lambda self: self.p)
    _unity = property(lambda self: slice(None) if self.p == 2 else 0)

    def __post_init__(self):
        check_int("p", self.p, 2)
        check("p", self.p, self.p in (2, 3), "2 for [x, 1-x] or 3 for [1, x, 1-x]")

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)
        xp = namespace(x)
        return xp.stack([xp.ones_like(x), x, 1 - x][-self.p :], axis=-1)


@variant("embedding")
class Polynomial(Embedding):
    """Monomials of `n` consecutive features in [0, 1] up to `degree`, by degree, 1 first if biased.

    A partition of unity with `include_bias`.

    >>> Polynomial()(0.5).tolist()
    [1.0, 0.5, 0.25]
    >>> Polynomial(n=2, include_cross_terms=True).embed([[0.5, 1.0]]).tolist()
    [[[1.0, 0.5, 1.0, 0.25, 0.5, 1.0]]]

    Parameters
    ----------
    degree : int, highest degree, at least 1
    include_bias : bool, whether the constant 1 is a component
    n : int, features per site, at least 1
    include_cross_terms : bool, whether products of different features are components
    """

    degree: int = 2
    include_bias: bool = True
    n: int = 1
    include_cross_terms: bool = False
    phys_dim = property(lambda self: len(self._monomials))
    site_features = property(lambda self: self.n)
    _least = (("degree", 1), ("n", 1))
    _unity = property(lambda self: 0 if self.include_bias else None)

    @property
    def _monomials(self):
        """One tuple of feature indices, with repetition, for each component."""
        degrees = range(0 if self.include_bias else 1, self.degree + 1)
        choices = itertools.combinations_with_replacement
        monomials = (m for degree in degrees for m in choices(range(self.n), degree))
        return [m for m in monomials if self.include_cross_terms or len(set(m)) <= 1]

    def __call__(self, x: ArrayLike) -> Vectors:
        x = self._site_inputs(x)
        xp = namespace(x)
        columns = xp.moveaxis(x, -1, 0)
        one = xp.ones_like(columns[0])
        parts = [math.prod((columns[i] for i in m), start=one) for m in self._monomials]
        return xp.stack(parts, axis=-1)

    def gram(self) -> Gram:
        counts = map(collections.Counter, self._monomials)
        exponents = np.array([[count[i] for i in range(self.n)] for count in counts])
        return (1.0 / (exponents[:, None] + exponents + 1)).prod(axis=-1)


@dataclasses.dataclass(frozen=True)
class _Recurrent(Embedding):
    """Functions p_0..p_degree made by a recurrence."""

    degree: int = 2
    phys_dim = property(lambda self: self.degree + 1)
    _least = (("degree", 1),)

    # Factors of the functions, (phys_dim,).
    _scale = property(lambda self: np.ones(self.phys_dim))

    @abc.abstractmethod
    def _first(self, x):
        """p_0 and p_1."""

    @abc.abstractmethod
    def _next(self, k, x, p, q):
        """p_{k+1} from p = p_k and q = p_{k-1}."""

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)
        values = [*self._first(x)]
        for k in range(1, self.degree):
            values.append(self._next(k, x, *values[:-3:-1]))
        phi = namespace(x).stack(values, axis=-1)
        return phi * along(self._scale, phi)


@variant("embedding")
class Legendre(_Recurrent):
    """Legendre polynomials P_0..P_degree, x in [-1, 1], orthogonal with weight 1.

    A partition of unity, since P_0 = 1.

    >>> Legendre()([0.5]).tolist()
    [[1.0, 0.5, -0.125]]

    Parameters
    ----------
    degree : int, at least 1
    orthonormal : bool, whether they are scaled by sqrt((2k + 1) / 2)
    """

    orthonormal: bool = False
    domain = (-1.0, 1.0)
    _unity = 0

    @property
    def _scale(self):
        return np.sqrt(np.arange(self.phys_dim) + 0.5) if self.orthonormal else super()._scale

    @property
    def unit_weights(self) -> Weights | None:
        return super().unit_weights / self._scale

    def _first(self, x):
        return namespace(x).ones_like(x), x

    def _next(self, k, x, p, q):
        return ((2 * k + 1) * x * p - k * q) / (k + 1)

    def gram(self) -> Gram:
        return np.diag(self._scale**2 / (np.arange(self.phys_dim) + 0.5))


@variant("embedding")
class Laguerre(_Recurrent):
    """Laguerre functions exp(-x/2) L_k(x), k = 0..degree, x in [0, upper].

    The square root of their weight exp(-x) is included, so they are orthonormal on [0, inf); `gram`
    integrates over the finite domain.

    >>> Laguerre()([0.0]).tolist()
    [[1.0, 1.0, 1.0]]

    Parameters
    ----------
    degree : int, at least 1
    upper : float, end of the domain, above 0
    """

    upper: float = 10.0
    domain = property(lambda self: (0.0, float(self.upper)))

    def __post_init__(self):
        super().__post_init__()
        check_number("upper", self.upper, above=0)

    def _first(self, x):
        weight = namespace(x).exp(-x / 2)
        return weight, weight * (1 - x)

    def _next(self, k, x, p, q):
        return ((2 * k + 1 - x) * p - k * q) / (k + 1)


@variant("embedding")
class Hermite(_Recurrent):
    """Hermite functions exp(-x^2/2) H_k(x), k = 0..degree, x in [-half_width, half_width].

    The square root of their weight exp(-x^2) is included, so they are orthogonal on the real line
    (H_k are the physicists'); `gram` integrates over the finite domain.

    >>> Hermite()([0.0]).tolist()
    [[1.0, 0.0, -2.0]]

    Parameters
    ----------
    degree : int, at least 1
    half_width : float, end of the domain, above 0
    orthonormal : bool, whether they are divided by sqrt(2^k k! sqrt(pi))
    """

    half_width: float = 3.0
    orthonormal: bool = False
    domain = property(lambda self: (-float(self.half_width), float(self.half_width)))

    def __post_init__(self):
        super().__post_init__()
        check_number("half_width", self.half_width, above=0)

    @property
    def _scale(self):
        if not self.orthonormal:
            return super()._scale
        norms = [2.0**k * math.factorial(k) * math.sqrt(math.pi) for k in range(self.phys_dim)]
        return 1 / np.sqrt(norms)

    def _first(self, x):
        weight = namespace(x).exp(-(x**2) / 2)
        return weight, weight * 2 * x

    def _next(self, k, x, p, q):
        return 2 * x * p - 2 * k * q
