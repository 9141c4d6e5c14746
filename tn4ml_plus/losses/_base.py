"""The bases of losses and of penalties on the norm, and their sums."""

import abc
import math
import numbers
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._amplitude import Amplitude
from .._arrays import on_device, one_program
from .._registry import variant
from .._types import ArrayLike

# Of one network, or element by element of many.
Value = Float[jax.Array, "..."]
# QuadraticNorm continues as its tangent beyond e^20: its value, gradient and the gradient's square
# (Adam's second moment) then stay in float32's range.
_LOG_LIMIT = 20.0
_LIMIT_SLOPE = 2 * math.expm1(_LOG_LIMIT) * math.exp(_LOG_LIMIT)
# One loss per sample of the batch whose outputs are `amplitude`, and numbers of its classes.
Losses = Float[jax.Array, "{len(amplitude.value)}"]
ByClass = Float[jax.Array, "{len(amplitude.value)} {amplitude.value.shape[1]}"]


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


class _Minimised:
    """Sum of a loss and weighted penalties on the norm."""

    loss: "Loss"
    terms: tuple = ()

    @property
    def needs_norm(self) -> bool:
        """Whether the network's norm is read."""
        return self.loss.normalized or bool(self.terms)

    def with_log_norm(self, losses: jax.Array, log_norm_squared: ArrayLike) -> jax.Array:
        """Losses, (batch,), with log n added where the loss is normalized.

        Parameters
        ----------
        losses, log_norm_squared : (batch,) losses of samples, and the scalar log n
        """
        return losses + log_norm_squared if self.loss.normalized else losses

    def penalty(self, log_norm_squared: ArrayLike) -> Value:
        """Weighted sum of the regularisers, a scalar; log_norm_squared: natural log, a scalar."""
        return Penalty(self.terms)(log_norm_squared)

    def __add__(self, penalty):
        if not isinstance(penalty, Regularizer):
            return NotImplemented
        return Objective(self.loss, self.terms + (1.0 * penalty).terms)

    __radd__ = __add__


class Loss(_Minimised, abc.ABC):
    """A loss per sample, from a network's outputs and the targets.

    A subclass is a frozen dataclass that sets `task`, ``"classification"``, ``"regression"`` or
    ``"density"``, and defines `per_sample`. Calls check shapes while tracing, so a wrong target
    raises ValueError before anything is computed and never broadcasts.
    """

    task: str
    #: A loss alone is an objective without penalties.
    terms: ClassVar[tuple] = ()
    #: Whether log n, with n the network's squared norm, is part of every sample's loss.
    normalized: ClassVar[bool] = False
    #: Whether a density's loss reads which samples are outliers.
    supervised: ClassVar[bool] = False

    def __call__(self, amplitude: Amplitude, target: ArrayLike) -> Losses:
        """Losses, (batch,).

        Parameters
        ----------
        amplitude : Amplitude, outputs; for a density their squared norm, (batch,)
        target : array
            Classification: (batch,) integers; one outside 0..n_classes-1 gives NaN, since values
            cannot be checked while tracing. Regression: targets of exactly the outputs' shape.
            Density: (batch,), 1 for inliers and -1 for outliers.
        """
        target = on_device(target)
        if self.task == "classification":
            _check_classes(amplitude.value, target)
            return _of_classes(self, amplitude, target)
        _check_values(amplitude.value, target)
        if self.task == "density" and amplitude.value.ndim != 1:
            raise ValueError(
                "A density's loss reads one squared norm per sample, shape (batch,), got "
                f"{amplitude.value.shape}: see tn4ml_plus.contraction.SquaredNorm."
            )
        return _of_values(self, amplitude, target)

    @abc.abstractmethod
    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        """Losses, (batch,), for targets whose shape and dtype are already checked.

        See `__call__` for the parameters.
        """

    @property
    def loss(self) -> "Loss":
        """The loss itself."""
        return self

    def log_probabilities(self, amplitude: Amplitude) -> ByClass:
        """Natural log of the class probabilities, (batch, n_classes): softmax of the outputs.

        ValueError for losses of other tasks, which have none.
        """
        if self.task != "classification":
            raise ValueError(
                f"{type(self).__name__} is a {self.task} loss and gives no class probabilities; "
                "use a classification loss such as CrossEntropy()."
            )
        return _log_softmax(amplitude)

    def probabilities(self, amplitude: Amplitude) -> ByClass:
        """Class probabilities, (batch, n_classes), rows summing to 1."""
        return jnp.exp(self.log_probabilities(amplitude))


@one_program
def _log_softmax(amplitude):
    # Subtracting the largest output before the scale is applied keeps probabilities right even
    # where the outputs themselves leave the range of the dtype.
    largest = jax.lax.stop_gradient(amplitude.value.max(axis=-1, keepdims=True))
    outputs = amplitude._replace(value=amplitude.value - largest).dense()
    return outputs - jnp.log(jnp.sum(jnp.exp(outputs), axis=-1, keepdims=True))


@partial(one_program, static_argnums=0)
def _of_classes(loss, amplitude, target):
    inside = (target >= 0) & (target < amplitude.value.shape[1])
    return jnp.where(inside, loss.per_sample(amplitude, target), jnp.nan)


@partial(one_program, static_argnums=0)
def _of_values(loss, amplitude, target):
    return loss.per_sample(amplitude, target.astype(amplitude.value.dtype))


@variant("loss")
class Objective(_Minimised):
    """A loss plus weighted penalties on the norm; training minimises mean(loss) + penalty.

    >>> from tn4ml_plus.losses import LogNorm, ReluLogNorm, SquaredError
    >>> objective = SquaredError() + 0.4 * ReluLogNorm() + 0.1 * LogNorm()
    >>> objective.loss, objective.needs_norm, f'{objective.penalty(2.0):.3f}'
    (SquaredError(), True, '1.200')

    Parameters
    ----------
    loss : Loss, the loss per sample
    terms : tuple, pairs (weight >= 0, Regularizer)
    """

    loss: Loss
    terms: tuple[tuple[float, Regularizer], ...] = ()

    def __post_init__(self):
        if not isinstance(self.loss, Loss):
            raise TypeError(f"loss must be a Loss, got {type(self.loss).__name__}.")
        object.__setattr__(self, "terms", Penalty(self.terms).terms)


def _check_classes(value, target):
    if value.ndim != 2 or value.shape[1] < 2:
        raise ValueError(
            "A classification loss needs outputs of shape (batch, n_classes) with at least 2 "
            f"classes, got {value.shape}; build the network with n_outputs=n_classes."
        )
    if target.shape != value.shape[:1]:
        raise ValueError(
            f"Targets must be one class index per sample, shape {value.shape[:1]}, got "
            f"{target.shape}; for one-hot rows pass target.argmax(axis=1)."
        )
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise ValueError(
            f"Targets must be integers 0..{value.shape[1] - 1}, got {target.dtype}; encode labels "
            "first, for instance with sklearn.preprocessing.LabelEncoder."
        )


def _check_values(value, target):
    if target.shape != value.shape:
        raise ValueError(
            f"Targets must have exactly the shape of the outputs, {value.shape}, got "
            f"{target.shape}; reshape them, such as target[:, None] for one output."
        )
    if not jnp.issubdtype(target.dtype, jnp.number) or jnp.iscomplexobj(target):
        raise ValueError(f"Targets must be real numbers, got {target.dtype}; convert to float.")
