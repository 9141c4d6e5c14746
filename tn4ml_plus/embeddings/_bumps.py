"""Embeddings made of bumps along the domain."""

import abc
import itertools
import numbers
import operator

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_int, check_number, float_tuple
from .._registry import variant
from .._types import ArrayLike
from ._base import Embedding, Vectors, Weights, along, as_float


class _Bumps(Embedding):
    """A partition of unity with one bump at each of the knots, whose ends are the domain."""

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

    @property
    def unit_weights(self) -> Weights | None:
        return np.ones(self.phys_dim)


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
        distances = x - along(self.centers, x)
        return jax.nn.softmax(-self.gamma * distances**2, axis=-1)


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
        shares = jnp.clip((x - knots[..., :-1]) / jnp.diff(knots), 0, 1)
        end = jnp.zeros_like(x)
        return jnp.concatenate([end + 1, shares], -1) - jnp.concatenate([shares, end], -1)
