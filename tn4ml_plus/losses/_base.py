"""What every loss is, and its sum with norm penalties."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from .._registry import register
from .._typing import Amplitude
from ._norms import Penalty, Regularizer


class Loss(abc.ABC):
    """A loss per sample, from a network's outputs and the targets.

    A subclass is a frozen dataclass that sets `task`, ``"classification"``, ``"regression"`` or
    ``"density"``, and defines `per_sample`. Calling it checks shapes while tracing, so a wrong
    target raises ValueError before anything is computed and never broadcasts.
    """

    task: str
    #: Whether log n, with n the network's squared norm, is a part of every sample's loss.
    normalized: ClassVar[bool] = False
    #: Whether a density's loss reads which samples are outliers.
    supervised: ClassVar[bool] = False

    def __call__(self, amplitude: Amplitude, target) -> jax.Array:
        """Losses, (batch,).

        Classification: amplitude.value (batch, n_classes), target (batch,) integer classes; a class
        outside 0..n_classes-1 gives NaN, since values cannot be checked while tracing. Regression:
        target of exactly the shape of amplitude.value. Density: amplitude.value (batch,), the
        squared norm of the network's outputs; target (batch,), 1 for inliers, -1 for outliers.
        """
        target = jnp.asarray(target)
        if self.task == "classification":
            _check_classes(amplitude.value, target)
            inside = (target >= 0) & (target < amplitude.value.shape[1])
            return jnp.where(inside, self.per_sample(amplitude, target), jnp.nan)
        _check_values(amplitude.value, target)
        if self.task == "density" and amplitude.value.ndim != 1:
            raise ValueError(
                "A density's loss reads one squared norm a sample, shape (batch,), got "
                f"{amplitude.value.shape}: see tn4ml_plus.contraction.SquaredNorm."
            )
        return self.per_sample(amplitude, target.astype(amplitude.value.dtype))

    @abc.abstractmethod
    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> jax.Array:
        """Losses, (batch,), for targets whose shape and dtype are already checked."""

    def log_probabilities(self, amplitude: Amplitude) -> jax.Array:
        """Natural log of the class probabilities, (batch, n_classes): softmax of the outputs.

        ValueError for other losses, which have none.
        """
        if self.task != "classification":
            raise ValueError(
                f"{type(self).__name__} is a {self.task} loss and gives no class probabilities; "
                "use a classification loss such as CrossEntropy()."
            )
        # Subtracting the largest output before the scale is applied keeps probabilities right even
        # where the outputs themselves leave the range of the dtype.
        largest = jax.lax.stop_gradient(amplitude.value.max(axis=-1, keepdims=True))
        outputs = amplitude._replace(value=amplitude.value - largest).dense()
        return outputs - jnp.log(jnp.sum(jnp.exp(outputs), axis=-1, keepdims=True))

    def probabilities(self, amplitude: Amplitude) -> jax.Array:
        """Class probabilities, (batch, n_classes), rows summing to 1."""
        return jnp.exp(self.log_probabilities(amplitude))

    # A loss alone is the objective without penalty, so that training treats both alike.

    @property
    def loss(self):
        """The loss itself."""
        return self

    @property
    def needs_norm(self):
        """Whether the network's norm is read."""
        return self.normalized

    def penalty(self, log_norm_squared):
        """Zero."""
        return jnp.zeros_like(log_norm_squared)

    def __add__(self, penalty):
        if not isinstance(penalty, Regularizer):
            return NotImplemented
        return Objective(self, (1.0 * penalty).terms)

    __radd__ = __add__


@register("loss")
@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss plus weighted norm penalties; training minimises mean(loss) + penalty.

    loss: a Loss; terms: pairs (weight >= 0, Regularizer).

    >>> from tn4ml_plus.losses import LogNorm, ReluLogNorm, SquaredError
    >>> objective = SquaredError() + 0.4 * ReluLogNorm() + 0.1 * LogNorm()
    >>> objective.loss, objective.needs_norm, f'{objective.penalty(2.0):.3f}'
    (SquaredError(), True, '1.200')
    """

    loss: Loss
    terms: tuple[tuple[float, Regularizer], ...] = ()

    def __post_init__(self):
        if not isinstance(self.loss, Loss):
            raise TypeError(f"loss must be a Loss, got {type(self.loss).__name__}.")
        object.__setattr__(self, "terms", Penalty(self.terms).terms)

    @property
    def needs_norm(self):
        """Whether the network's norm is read."""
        return self.loss.normalized or bool(self.terms)

    def penalty(self, log_norm_squared):
        """Weighted sum of the regularisers, a scalar; log_norm_squared: natural log, a scalar."""
        return Penalty(self.terms)(log_norm_squared)

    def __add__(self, penalty):
        if not isinstance(penalty, Regularizer):
            return NotImplemented
        return Objective(self.loss, self.terms + (1.0 * penalty).terms)

    __radd__ = __add__


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
            f"{target.shape}; reshape them, for instance target[:, None] for one output."
        )
    if not jnp.issubdtype(target.dtype, jnp.number) or jnp.iscomplexobj(target):
        raise ValueError(f"Targets must be real numbers, got {target.dtype}; convert to float.")
