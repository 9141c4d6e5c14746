"""Embeddings made of bumps along the domain."""

import dataclasses
import itertools
import numbers

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_int, check_number, float_tuple
from .._registry import register
from ._base import Embedding, as_float


def _check_increasing(name, values):
    if len(values) < 2 or any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError(f"{name} must be two or more increasing numbers, got {values!r}.")


@register("embedding")
@dataclasses.dataclass(frozen=True)
class GaussianRBF(Embedding):
    """phi_j(x) proportional to exp(-gamma (x - centers_j)^2) with sum 1, x between the centers.

    A partition of unity; `UnitNorm` around it gives the L2-normalised form.
    ValueError unless gamma > 0 and there are two or more increasing centers.

    >>> GaussianRBF((0.0, 1.0), gamma=2.0)([0.0, 0.5]).round(3).tolist()
    [[0.881..., 0.119...], [0.5, 0.5]]
    """

    centers: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    gamma: float = 8.0

    def __post_init__(self):
        object.__setattr__(self, "centers", float_tuple("centers", self.centers))
        _check_increasing("centers", self.centers)
        check_number("gamma", self.gamma, above=0)

    @property
    def phys_dim(self):
        return len(self.centers)

    @property
    def domain(self):
        return self.centers[0], self.centers[-1]

    @property
    def unit_weights(self):
        return np.ones(self.phys_dim)

    def __call__(self, x):
        x = as_float(x)
        distances = x[..., None] - jnp.asarray(self.centers, x.dtype)
        return jax.nn.softmax(-self.gamma * distances**2, axis=-1)


@register("embedding")
@dataclasses.dataclass(frozen=True)
class Hat(Embedding):
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
            object.__setattr__(self, "knots", float_tuple("knots", self.knots))
            _check_increasing("knots", self.knots)

    @property
    def _breakpoints(self):
        if isinstance(self.knots, tuple):
            return np.array(self.knots)
        return np.linspace(0.0, 1.0, self.knots)

    @property
    def phys_dim(self):
        return len(self._breakpoints)

    @property
    def domain(self):
        return float(self._breakpoints[0]), float(self._breakpoints[-1])

    @property
    def unit_weights(self):
        return np.ones(self.phys_dim)

    def __call__(self, x):
        x = as_float(x)
        knots = jnp.asarray(self._breakpoints, x.dtype)
        widths = jnp.diff(knots)
        # Share of each interval that lies left of x; a hat is a share less the next one.
        shares = jnp.clip((x[..., None] - knots[:-1]) / widths, 0, 1)
        end = jnp.zeros_like(x[..., None])
        return jnp.concatenate([end + 1, shares], -1) - jnp.concatenate([shares, end], -1)
