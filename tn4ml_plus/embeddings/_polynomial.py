"""Embeddings made of polynomials."""

import collections
import dataclasses
import functools
import itertools
import math
import operator

import jax.numpy as jnp
import numpy as np

from .._checks import check_int, check_number
from .._registry import register
from ._base import Embedding, as_float, basis_vector


@register("embedding")
@dataclasses.dataclass(frozen=True)
class LinearComplement(Embedding):
    """phi(x) = [x, 1 - x] (p = 2) or [1, x, 1 - x] (p = 3), x in [0, 1].

    A partition of unity; `UnitNorm` around it gives the L2-normalised form. ValueError for other p.

    >>> LinearComplement()(0.25).tolist(), LinearComplement(3)(0.25).tolist()
    ([0.25, 0.75], [1.0, 0.25, 0.75])
    """

    p: int = 2

    def __post_init__(self):
        check_int("p", self.p, 2)
        if self.p not in (2, 3):
            raise ValueError(f"p must be 2 for [x, 1-x] or 3 for [1, x, 1-x], got {self.p!r}.")

    @property
    def phys_dim(self):
        return self.p

    @property
    def unit_weights(self):
        return np.ones(2) if self.p == 2 else basis_vector(3)

    def __call__(self, x):
        x = as_float(x)
        return jnp.stack([jnp.ones_like(x), x, 1 - x][-self.p :], axis=-1)


@register("embedding")
@dataclasses.dataclass(frozen=True)
class Polynomial(Embedding):
    """Monomials of `n` consecutive features in [0, 1] up to `degree`, by degree, 1 first if biased.

    One site for each `n` features; products of different features only with
    `include_cross_terms`; a partition of unity with `include_bias`.
    ValueError unless degree >= 1 and n >= 1.

    >>> Polynomial()(0.5).tolist()
    [1.0, 0.5, 0.25]
    >>> Polynomial(n=2, include_cross_terms=True).embed([[0.5, 1.0]]).tolist()
    [[[1.0, 0.5, 1.0, 0.25, 0.5, 1.0]]]
    """

    degree: int = 2
    include_bias: bool = True
    n: int = 1
    include_cross_terms: bool = False

    def __post_init__(self):
        check_int("degree", self.degree, 1)
        check_int("n", self.n, 1)

    @property
    def _monomials(self):
        """One tuple of feature indices, with repetition, for each component."""
        monomials = itertools.chain.from_iterable(
            itertools.combinations_with_replacement(range(self.n), degree)
            for degree in range(0 if self.include_bias else 1, self.degree + 1)
        )
        return [m for m in monomials if self.include_cross_terms or len(set(m)) <= 1]

    @property
    def phys_dim(self):
        return len(self._monomials)

    @property
    def site_features(self):
        return self.n

    @property
    def unit_weights(self):
        return basis_vector(self.phys_dim) if self.include_bias else None

    def __call__(self, x):
        columns = jnp.moveaxis(self._site_inputs(x), -1, 0)
        one = jnp.ones_like(columns[0])
        parts = [
            functools.reduce(operator.mul, (columns[i] for i in monomial), one)
            for monomial in self._monomials
        ]
        return jnp.stack(parts, axis=-1)

    def gram(self):
        counts = map(collections.Counter, self._monomials)
        exponents = np.array([[count[i] for i in range(self.n)] for count in counts])
        return (1.0 / (exponents[:, None] + exponents + 1)).prod(axis=-1)


def _recurrence(degree, p0, p1, step):
    """Stack p_0..p_degree on a new last axis, p_{k+1} = step(k, p_k, p_{k-1})."""
    values = [p0, p1]
    for k in range(1, degree):
        values.append(step(k, values[-1], values[-2]))
    return jnp.stack(values, axis=-1)


@register("embedding")
@dataclasses.dataclass(frozen=True)
class Legendre(Embedding):
    """Legendre polynomials P_0..P_degree, x in [-1, 1]; `orthonormal` scales by sqrt((2k+1)/2).

    A partition of unity, since P_0 = 1; orthogonal with weight 1. ValueError unless degree >= 1.

    >>> Legendre()([0.5]).tolist()
    [[1.0, 0.5, -0.125]]
    """

    degree: int = 2
    orthonormal: bool = False

    domain = (-1.0, 1.0)

    def __post_init__(self):
        check_int("degree", self.degree, 1)

    @property
    def phys_dim(self):
        return self.degree + 1

    @property
    def _scale(self):
        k = np.arange(self.phys_dim)
        return np.sqrt(k + 0.5) if self.orthonormal else np.ones(self.phys_dim)

    @property
    def unit_weights(self):
        return basis_vector(self.phys_dim) / self._scale

    def __call__(self, x):
        x = as_float(x)
        phi = _recurrence(
            self.degree,
            jnp.ones_like(x),
            x,
            lambda k, p, q: ((2 * k + 1) * x * p - k * q) / (k + 1),
        )
        return phi * jnp.asarray(self._scale, x.dtype)

    def gram(self):
        return np.diag(self._scale**2 / (np.arange(self.phys_dim) + 0.5))


@register("embedding")
@dataclasses.dataclass(frozen=True)
class Laguerre(Embedding):
    """Laguerre functions exp(-x/2) L_k(x), k = 0..degree, x in [0, upper].

    The square root of their weight exp(-x) is included, so they are orthonormal on [0, inf); `gram`
    integrates over the finite domain. ValueError unless degree >= 1 and upper > 0.

    >>> Laguerre()([0.0]).tolist()
    [[1.0, 1.0, 1.0]]
    """

    degree: int = 2
    upper: float = 10.0

    def __post_init__(self):
        check_int("degree", self.degree, 1)
        check_number("upper", self.upper, above=0)

    @property
    def phys_dim(self):
        return self.degree + 1

    @property
    def domain(self):
        return 0.0, float(self.upper)

    def __call__(self, x):
        x = as_float(x)
        weight = jnp.exp(-x / 2)
        return _recurrence(
            self.degree,
            weight,
            weight * (1 - x),
            lambda k, p, q: ((2 * k + 1 - x) * p - k * q) / (k + 1),
        )


@register("embedding")
@dataclasses.dataclass(frozen=True)
class Hermite(Embedding):
    """Hermite functions exp(-x^2/2) H_k(x), k = 0..degree, x in [-half_width, half_width].

    The square root of their weight exp(-x^2) is included, so they are orthogonal on the real line
    (H_k are the physicists'); `orthonormal` divides by sqrt(2^k k! sqrt(pi)). `gram` integrates
    over the finite domain. ValueError unless degree >= 1 and half_width > 0.

    >>> Hermite()([0.0]).tolist()
    [[1.0, 0.0, -2.0]]
    """

    degree: int = 2
    half_width: float = 3.0
    orthonormal: bool = False

    def __post_init__(self):
        check_int("degree", self.degree, 1)
        check_number("half_width", self.half_width, above=0)

    @property
    def phys_dim(self):
        return self.degree + 1

    @property
    def domain(self):
        return -float(self.half_width), float(self.half_width)

    @property
    def _scale(self):
        if not self.orthonormal:
            return np.ones(self.phys_dim)
        norms = [2.0**k * math.factorial(k) * math.sqrt(math.pi) for k in range(self.phys_dim)]
        return 1 / np.sqrt(norms)

    def __call__(self, x):
        x = as_float(x)
        weight = jnp.exp(-(x**2) / 2)
        phi = _recurrence(
            self.degree, weight, weight * 2 * x, lambda k, p, q: 2 * x * p - 2 * k * q
        )
        return phi * jnp.asarray(self._scale, x.dtype)
