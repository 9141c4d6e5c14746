"""Losses written elsewhere: by name from optax, or any callable."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from .._registry import register
from ._base import Loss
from ._regression import mean_over_outputs

_INTEGER_TARGETS = frozenset(
    {
        "multiclass_hinge_loss",
        "multiclass_perceptron_loss",
        "multiclass_sparsemax_loss",
        "softmax_cross_entropy_with_integer_labels",
    }
)
_ONE_HOT_TARGETS = frozenset(
    {
        "poly_loss_cross_entropy",
        "safe_softmax_cross_entropy",
        "sigmoid_binary_cross_entropy",
        "sigmoid_focal_loss",
        "softmax_cross_entropy",
    }
)


class _Wrapped(Loss):
    @abc.abstractmethod
    def _losses(self, predictions, target):
        """What the wrapped function returns, (batch, ...)."""

    def per_sample(self, amplitude, target):
        losses = self._losses(amplitude.dense(), target)
        if losses.shape[:1] != amplitude.value.shape[:1]:
            raise ValueError(
                f"{self} returned shape {losses.shape}; a loss must return one value per sample, "
                f"shape {amplitude.value.shape[:1]} with further axes averaged: do not reduce over "
                "the batch."
            )
        return mean_over_outputs(losses)


@register("loss")
@dataclasses.dataclass(frozen=True)
class OptaxLoss(_Wrapped):
    """A loss of `optax.losses` by its name; axes beyond the batch are averaged.

    name: a public function of `optax.losses` that takes outputs and targets. options: its keyword
    arguments, a mapping or pairs (name, value) of hashable values. The functions on class labels
    are classification losses, given integer or one-hot labels as each expects, with softmax
    probabilities; all others are regression losses.

    >>> import jax.numpy as jnp
    >>> from tn4ml_plus._typing import Amplitude
    >>> outputs = Amplitude(jnp.array([[3.0]]), jnp.array([0]))
    >>> OptaxLoss("huber_loss", {"delta": 2.0})(outputs, jnp.array([[0.0]])).tolist()
    [4.0]
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        options = self.options.items() if isinstance(self.options, Mapping) else self.options
        object.__setattr__(self, "options", tuple(sorted((str(k), v) for k, v in options)))
        public = sorted(
            n for n, f in vars(optax.losses).items() if callable(f) and not n.startswith("_")
        )
        if self.name not in public:
            raise ValueError(
                f"optax.losses has no loss {self.name!r}. Valid names: {', '.join(public)}. For a "
                "function from elsewhere use CallableLoss(function)."
            )

    @property
    def task(self):
        labels = self.name in _INTEGER_TARGETS | _ONE_HOT_TARGETS
        return "classification" if labels else "regression"

    def _losses(self, predictions, target):
        if self.name in _ONE_HOT_TARGETS:
            target = jax.nn.one_hot(target, predictions.shape[1], dtype=predictions.dtype)
        return getattr(optax.losses, self.name)(predictions, target, **dict(self.options))


@register("loss")
@dataclasses.dataclass(frozen=True)
class CallableLoss(_Wrapped):
    """Any JAX function f(predictions, targets); axes beyond the batch are averaged.

    function: hashable, predictions (batch, *outputs) to losses (batch, ...). task: "regression"
    (targets of the outputs' shape) or "classification" (targets (batch,) integers, softmax
    probabilities). A model trained with it cannot be saved, since a file never holds code: use
    `OptaxLoss` or a registered class for that.

    >>> import jax.numpy as jnp
    >>> from tn4ml_plus._typing import Amplitude
    >>> outputs = Amplitude(jnp.array([[3.0, 1.0]]), jnp.array([0]))
    >>> CallableLoss(lambda p, t: jnp.abs(p - t))(outputs, jnp.zeros((1, 2))).tolist()
    [2.0]
    """

    function: Callable
    task: str = "regression"

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {type(self.function).__name__}.")
        if self.task not in ("classification", "regression"):
            raise ValueError(f"task must be 'classification' or 'regression', got {self.task!r}.")

    def _losses(self, predictions, target):
        return self.function(predictions, target)
