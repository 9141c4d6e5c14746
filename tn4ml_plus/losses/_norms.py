"""Regularisers of a network's norm, and their weighted sums."""

import abc
import math
import numbers

import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._registry import variant
from .._types import ArrayLike

# Of one network, or element by element of many.
Value = Float[jax.Array, "..."]

# QuadraticNorm continues as its tangent beyond e^20: its value, gradient and the gradient's square
# (Adam's second moment) then stay in float32's range.
_LOG_LIMIT = 20.0
_LIMIT_SLOPE = 2 * math.expm1(_LOG_LIMIT) * math.exp(_LOG_LIMIT)


class Regularizer(abc.ABC):
    """A scalar function of log n, the natural log of the network's squared Frobenius norm n.

    Regularisers add and take weights: ``0.4 * ReluLogNorm() + LogNorm()`` is a `Penalty`.
    """

    @abc.abstractmethod
    def __call__(self, log_norm_squared: ArrayLike) -> Value:
        """Value of the regulariser, of the shape of the argument."""

    def __mul__(self, weight):
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
            return NotImplemented
        return Penalty(tuple((weight * w, r) for w, r in _terms(self)))

    __rmul__ = __mul__

    def __add__(self, other):
        if not isinstance(other, Regularizer):
            return NotImplemented
        return Penalty(_terms(self) + _terms(other))


def _terms(regularizer):
    return regularizer.terms if isinstance(regularizer, Penalty) else ((1.0, regularizer),)


@variant("regularizer")
class Penalty(Regularizer):
    """Weighted sum of regularisers: `terms` are pairs (weight >= 0, Regularizer).

    >>> Penalty(((0.5, LogNorm()), (2.0, ReluLogNorm())))(-2.0).tolist()
    2.0
    """

    terms: tuple[tuple[float, Regularizer], ...] = ()

    def __post_init__(self):
        terms = tuple((float(weight), regularizer) for weight, regularizer in self.terms)
        object.__setattr__(self, "terms", terms)
        for weight, regularizer in terms:
            if not isinstance(regularizer, Regularizer):
                raise TypeError(f"Expected a Regularizer, got {type(regularizer).__name__}.")
            if not 0 <= weight < math.inf:
                raise ValueError(f"The weight of {regularizer} must be finite and >= 0: {weight}.")

    def __call__(self, log_norm_squared: ArrayLike) -> Value:
        values = (weight * regularizer(log_norm_squared) for weight, regularizer in self.terms)
        return sum(values, start=jnp.zeros_like(log_norm_squared))


@variant("regularizer")
class LogNorm(Regularizer):
    """(log n)^2: pulls the norm to 1 from both sides.

    >>> LogNorm()(-3.0).tolist()
    9.0
    """

    def __call__(self, log_norm_squared: ArrayLike) -> Value:
        return jnp.square(log_norm_squared)


@variant("regularizer")
class ReluLogNorm(Regularizer):
    """max(0, log n): pulls norms above 1 down and leaves smaller ones free.

    >>> ReluLogNorm()(3.0).tolist(), ReluLogNorm()(-3.0).tolist()
    (3.0, 0.0)
    """

    def __call__(self, log_norm_squared: ArrayLike) -> Value:
        return jax.nn.relu(log_norm_squared)


@variant("regularizer")
class QuadraticNorm(Regularizer):
    """(n - 1)^2 up to n = e^20, and its tangent in log n beyond, so that float32 stays finite.

    >>> import math
    >>> QuadraticNorm()(math.log(3.0)).round(5).tolist()
    4.0
    """

    def __call__(self, log_norm_squared: ArrayLike) -> Value:
        tangent = _LIMIT_SLOPE * jax.nn.relu(log_norm_squared - _LOG_LIMIT)
        return jnp.square(jnp.expm1(jnp.minimum(log_norm_squared, _LOG_LIMIT))) + tangent
