"""Embeddings of categories 0, 1, ..."""

import jax.numpy as jnp
import numpy as np

from .._checks import check_int, float_tuple
from .._registry import variant
from .._types import ArrayLike
from ._base import Embedding, Vectors, Weights, along, as_float


def _memberships(x, levels):
    """(..., levels) indicator of x = 0..levels-1, uniform where x is none of them."""
    x = x[..., None]
    indicator = x == along(np.arange(levels), x)
    known = indicator.any(axis=-1, keepdims=True)
    return jnp.where(known, indicator.astype(x.dtype), 1 / levels)


@variant("embedding")
class OneHot(Embedding):
    """Basis vector of the category x = 0..levels-1; the uniform vector 1/levels for anything else.

    A partition of unity; other numbers and NaN count as an unknown category.
    ValueError unless levels >= 2.

    >>> OneHot(2)([1, 7]).tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """

    levels: int = 2
    norm = 1.0
    discrete = True
    phys_dim = property(lambda self: self.levels)
    domain = property(lambda self: (0.0, float(self.levels - 1)))

    def __post_init__(self):
        check_int("levels", self.levels, 2)

    @property
    def unit_weights(self) -> Weights | None:
        return np.ones(self.levels)

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
        if not hasattr(self.states, "__iter__"):
            raise ValueError(f"states must be a sequence of vectors, got {self.states!r}.")
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
        memberships = _memberships(as_float(x), len(self.states))
        states = jnp.asarray(self.states, memberships.dtype)
        return jnp.matmul(memberships, states, precision="highest")
