"""Embeddings of places: bumps along the domain, categories 0, 1, ..., and given vectors."""

import abc
import itertools
import math
import numbers
import operator

import numpy as np

from .._arrays import namespace
from .._checks import check, check_int, check_number, float_tuple
from .._registry import variant
from .._types import ArrayLike
from ._base import Embedding, Gram, Vectors, Weights, along, as_float, product


class _Bumps(Embedding):
    """A partition of unity with one bump at each of the knots, whose ends are the domain."""

    _unity = slice(None)
    phys_dim = property(lambda self: len(self._knots))
    domain = property(lambda self: (float(self._knots[0]), float(self._knots[-1])))

    @property
    @abc.abstractmethod
    def _knots(self):
        """Places of the bumps."""

    def _set_knots(self, name):
        knots = float_tuple(name, getattr(self, name))
        if len(knots) < 2 or any(a >= b for a, b in itertools.pairwise(knots)):
            raise ValueError(f"{name} must be two or more increasing numbers, got {knots!r}.")
        object.__setattr__(self, name, knots)


@variant("embedding")
class GaussianRBF(_Bumps):
    """phi_j(x) proportional to exp(-gamma (x - centers_j)^2) with sum 1, x between the centers.

    A partition of unity; `UnitNorm` around it gives the L2-normalised form.

    >>> GaussianRBF((0.0, 1.0), gamma=2.0)([0.0, 0.5]).round(3).tolist()
    [[0.881..., 0.119...], [0.5, 0.5]]

    Parameters
    ----------
    centers : tuple of float, two or more, increasing; the first and the last are the domain
    gamma : float, inverse squared width, above 0
    """

    centers: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    gamma: float = 8.0

    def __post_init__(self):
        self._set_knots("centers")
        check_number("gamma", self.gamma, above=0)

    _knots = property(operator.attrgetter("centers"))

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)[..., None]
        logs = -self.gamma * (x - along(self.centers, x)) ** 2
        bumps = namespace(x).exp(logs - logs.max(axis=-1, keepdims=True))
        return bumps / bumps.sum(axis=-1, keepdims=True)


@variant("embedding")
class Hat(_Bumps):
    """Piecewise-linear phi_j that is 1 at knot j and 0 at the others, x between the knots.

    A partition of unity. An integer gives that many equally spaced knots on [0, 1].
    ValueError unless there are two or more increasing knots.

    >>> Hat(3)([0.25, 1.0]).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """

    knots: int | tuple[float, ...] = 5

    def __post_init__(self):
        if isinstance(self.knots, numbers.Number):
            check_int("knots", self.knots, 2)
        else:
            self._set_knots("knots")

    @property
    def _breakpoints(self):
        whole = not isinstance(self.knots, tuple)
        return np.linspace(0.0, 1.0, self.knots) if whole else np.array(self.knots)

    _knots = _breakpoints

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)[..., None]
        knots = along(self._knots, x)
        # Share of each interval that lies left of x; a hat is a share less the next one.
        xp = namespace(x)
        shares = xp.clip((x - knots[..., :-1]) / xp.diff(knots), 0, 1)
        end = xp.zeros_like(x)
        return xp.concatenate([end + 1, shares], -1) - xp.concatenate([shares, end], -1)


def _memberships(x, levels):
    """(..., levels) indicator of x = 0..levels-1, uniform where x is none of them."""
    x = x[..., None]
    indicator = x == along(np.arange(levels), x)
    known = indicator.any(axis=-1, keepdims=True)
    return namespace(x).where(known, indicator.astype(x.dtype), 1 / levels)


@variant("embedding")
class OneHot(Embedding):
    """Basis vector of the category x = 0..levels-1; the uniform vector 1/levels for anything else.

    A partition of unity; other numbers and NaN count as an unknown category.
    ValueError unless levels >= 1.

    >>> OneHot(2)([1, 7]).tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """

    levels: int = 2
    norm = 1.0
    discrete = True
    phys_dim = property(lambda self: self.levels)
    domain = property(lambda self: (0.0, float(self.levels - 1)))
    _least = (("levels", 1),)
    _unity = slice(None)

    def __call__(self, x: ArrayLike) -> Vectors:
        return _memberships(as_float(x), self.levels)


@variant("embedding")
class QuantumBasis(Embedding):
    """The given state of the category x = 0..len(states)-1; the mean state for anything else.

    states: two or more vectors of equal size, ValueError otherwise.

    >>> QuantumBasis(((1, 0), (0.6, 0.8)))([0, 1]).round(3).tolist()
    [[1.0, 0.0], [0.6..., 0.8...]]
    """

    states: tuple[tuple[float, ...], ...] = ((1.0, 0.0), (0.0, 1.0))
    discrete = True
    phys_dim = property(lambda self: len(self.states[0]))
    domain = property(lambda self: (0.0, float(len(self.states) - 1)))

    def __post_init__(self):
        check("states", self.states, hasattr(self.states, "__iter__"), "a sequence of vectors")
        states = tuple(float_tuple("each state", state) for state in self.states)
        if len(states) < 2 or len(set(map(len, states))) > 1 or not states[0]:
            raise ValueError(
                f"states must be two or more vectors of equal size, got sizes "
                f"{[len(state) for state in states]}."
            )
        object.__setattr__(self, "states", states)

    @property
    def norm(self) -> float | None:
        norms = np.linalg.norm(self.states, axis=1)
        return float(norms[0]) if np.allclose(norms, norms[0], rtol=1e-12, atol=0) else None

    @property
    def unit_weights(self) -> Weights | None:
        weights = np.linalg.lstsq(np.array(self.states), np.ones(len(self.states)))[0]
        return weights if np.allclose(self.states @ weights, 1, rtol=0, atol=1e-9) else None

    def __call__(self, x: ArrayLike) -> Vectors:
        return product(_memberships(as_float(x), len(self.states)), self.states)


@variant("embedding")
class Embedded(Embedding):
    """Input that is embedded already: `phys_dim` consecutive columns are the vector of one site.

    `embed` takes (batch, nsites phys_dim) or (batch, nsites, phys_dim). `gram` is the identity, the
    sum over an orthonormal basis. ValueError unless phys_dim >= 1 and the input fits it.

    >>> Embedded(2).embed([[1.0, 2.0, 3.0, 4.0]]).tolist()
    [[[1.0, 2.0], [3.0, 4.0]]]
    """

    phys_dim: int = 2
    domain = (-math.inf, math.inf)
    columnwise = False
    site_features = property(lambda self: self.phys_dim)
    _least = (("phys_dim", 1),)

    def __call__(self, x: ArrayLike) -> Vectors:
        return self._site_inputs(x)

    def embed(self, X: ArrayLike) -> Vectors:
        X = as_float(X)
        if X.ndim < 3:
            return super().embed(X)
        if X.shape[-1] != self.phys_dim:
            raise ValueError(
                f"X has vectors of size {X.shape[-1]}: use Embedded(phys_dim={X.shape[-1]})."
            )
        return X

    def gram(self) -> Gram:
        return np.eye(self.phys_dim)
