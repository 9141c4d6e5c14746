"""The base of losses, and their sums with penalties on the norm."""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._amplitude import Amplitude
from .._registry import variant
from .._types import ArrayLike
from ._norms import Penalty, Regularizer, Value

# One loss per sample of the batch whose outputs are `amplitude`, and numbers of its classes.
Losses = Float[jax.Array, "{len(amplitude.value)}"]
ByClass = Float[jax.Array, "{len(amplitude.value)} {amplitude.value.shape[1]}"]


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
        target = jnp.asarray(target)
        if self.task == "classification":
            _check_classes(amplitude.value, target)
            inside = (target >= 0) & (target < amplitude.value.shape[1])
            return jnp.where(inside, self.per_sample(amplitude, target), jnp.nan)
        _check_values(amplitude.value, target)
        if self.task == "density" and amplitude.value.ndim != 1:
            raise ValueError(
                "A density's loss reads one squared norm per sample, shape (batch,), got "
                f"{amplitude.value.shape}: see tn4ml_plus.contraction.SquaredNorm."
            )
        return self.per_sample(amplitude, target.astype(amplitude.value.dtype))

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
        # Subtracting the largest output before the scale is applied keeps probabilities right even
        # where the outputs themselves leave the range of the dtype.
        largest = jax.lax.stop_gradient(amplitude.value.max(axis=-1, keepdims=True))
        outputs = amplitude._replace(value=amplitude.value - largest).dense()
        return outputs - jnp.log(jnp.sum(jnp.exp(outputs), axis=-1, keepdims=True))

    def probabilities(self, amplitude: Amplitude) -> ByClass:
        """Class probabilities, (batch, n_classes), rows summing to 1."""
        return jnp.exp(self.log_probabilities(amplitude))


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
