"""Losses on the outputs: cross-entropies, squared errors, those of optax, or any callable."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .._amplitude import Amplitude
from .._checks import check
from .._registry import variant
from ._base import ByClass, Loss, Losses

# Losses of optax that read class labels, as integers or as one-hot rows.
_INTEGER_TARGETS = {f"multiclass_{name}_loss" for name in ("hinge", "perceptron", "sparsemax")}
_INTEGER_TARGETS |= {"softmax_cross_entropy_with_integer_labels"}
_ONE_HOT_TARGETS = {"poly_loss_cross_entropy", "safe_softmax_cross_entropy", "sigmoid_focal_loss"}
_ONE_HOT_TARGETS |= {"sigmoid_binary_cross_entropy", "softmax_cross_entropy"}


def unsmoothed(p, label_smoothing):
    """Probabilities of which p are the mixture with the uniform distribution, rows of sum 1.

    What is no such mixture gets a hundredth of the uniform part, so that no probability is zero.

    >>> import numpy as np
    >>> unsmoothed(np.array([0.9, 0.1]), 0.1).round(3).tolist()
    [0.944, 0.056]

    Parameters
    ----------
    p : array of shape (..., n_classes)
    label_smoothing : float, share of the uniform distribution, in [0, 1)
    """
    if not label_smoothing:
        return p
    uniform = label_smoothing / p.shape[-1]
    weights = (p - uniform).clip(uniform / 100)
    return weights / weights.sum(axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class _CrossEntropy(Loss):
    """-sum_c q_c log p_c, with q the one-hot target mixed with the uniform distribution."""

    task = "classification"
    label_smoothing: float = 0.0

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}.")

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        log_p = self.log_probabilities(amplitude)
        n_classes = log_p.shape[1]
        q = (1 - self.label_smoothing) * jax.nn.one_hot(target, n_classes, dtype=log_p.dtype)
        q = q + self.label_smoothing / n_classes
        # A class of weight 0 may have log p = -inf, and 0 * -inf is NaN.
        return -jnp.where(q > 0, q * log_p, 0).sum(axis=1)

    def probabilities(self, amplitude: Amplitude) -> ByClass:
        return unsmoothed(super().probabilities(amplitude), self.label_smoothing)


@variant("loss")
class CrossEntropy(_CrossEntropy):
    """Cross-entropy of the softmax of the outputs, in nats; the outputs' magnitude is learned.

    `label_smoothing`, in [0, 1), is the share of the target that is spread over all classes in
    training (Szegedy et al. 2016, section 7); `probabilities` are those of the classes without it.

    >>> outputs = Amplitude(jnp.zeros((1, 4)), jnp.zeros(1, int))
    >>> CrossEntropy()(outputs, jnp.array([2])).round(3).tolist() # log 4
    [1.38...]
    """


@variant("loss")
class BornCrossEntropy(_CrossEntropy):
    """Cross-entropy of p_c proportional to the squared output (Born rule), in nats.

    The outputs' common scale cancels, so only amplitude.value is read. Outputs that are all zero
    give the uniform distribution. `epsilon` bounds the loss by about -log(epsilon) and keeps its
    gradient finite at v_c = 0; the default is the resolution of squares in float32. Source of the
    rule: Han et al. 2018, eq. 1.

    >>> outputs = Amplitude(jnp.array([[1.0, -3.0]]), jnp.array([2000]))
    >>> [f"{p:.3f}" for p in BornCrossEntropy().probabilities(outputs)[0]]
    ['0.100', '0.900']

    Parameters
    ----------
    label_smoothing : float, as in `CrossEntropy`
    epsilon : float, in (0, 1), floor on p_c, which is proportional to v_c^2 + epsilon sum(v^2)
    """

    epsilon: float = 1e-7

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon must lie in (0, 1), got {self.epsilon}.")

    def log_probabilities(self, amplitude: Amplitude) -> ByClass:
        value = amplitude.value
        # Divided by the largest, the squares neither overflow nor all vanish.
        largest = jax.lax.stop_gradient(jnp.abs(value).max(axis=-1, keepdims=True))
        squares = jnp.square(value / jnp.where(largest > 0, largest, 1))
        total = squares.sum(axis=-1, keepdims=True)
        weights = squares + self.epsilon * jnp.where(largest > 0, total, 1)
        return jnp.log(weights) - jnp.log(weights.sum(axis=-1, keepdims=True))


def _mean_over_outputs(losses):
    """(batch, *outputs) to (batch,)."""
    return losses.mean(axis=tuple(range(1, losses.ndim)))


@variant("loss")
class SquaredError(Loss):
    """Squared difference of outputs and targets, averaged over the outputs.

    >>> outputs = Amplitude(jnp.array([[1.0, 2.0]]), jnp.array([1])) # the numbers 2 and 4
    >>> SquaredError()(outputs, jnp.array([[0.0, 4.0]])).tolist()
    [2.0]
    """

    task = "regression"

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        return _mean_over_outputs(jnp.square(amplitude.dense() - target))


@variant("loss")
class Huber(Loss):
    """Half the squared difference up to `delta`, linear beyond, averaged over the outputs.

    `delta` is positive, in units of the targets (Huber 1964), which `TNRegressor` standardises.

    >>> outputs = Amplitude(jnp.array([[0.5], [10.0]]), jnp.array([0, 0]))
    >>> Huber(delta=1.0)(outputs, jnp.zeros((2, 1))).tolist()
    [0.125, 9.5]
    """

    task = "regression"
    delta: float = 1.0

    def __post_init__(self):
        check("delta", self.delta, 0 < self.delta < float("inf"), "positive and finite")

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        losses = optax.losses.huber_loss(amplitude.dense(), target, delta=self.delta)
        return _mean_over_outputs(losses)


@variant("loss")
class Quantile(Loss):
    """Quantile loss, averaged over the outputs: what it trains to is above a share of the targets.

    With a difference r = target - output it is max(level r, (level - 1) r) (Koenker and Bassett
    1978, equation 3.1).

    >>> outputs = Amplitude(jnp.array([[0.0], [0.0]]), jnp.array([0, 0]))
    >>> Quantile(0.75)(outputs, jnp.array([[2.0], [-2.0]])).tolist()
    [1.5, 0.5]

    Parameters
    ----------
    level : float, share of the targets below, in (0, 1)
    """

    task = "regression"
    level: float = 0.5

    def __post_init__(self):
        check("level", self.level, 0 < self.level < 1, "in (0, 1)")

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        difference = target - amplitude.dense()
        losses = jnp.maximum(self.level * difference, (self.level - 1) * difference)
        return _mean_over_outputs(losses)


class _Wrapped(Loss):
    @abc.abstractmethod
    def _losses(self, predictions, target):
        """Losses of the wrapped function, (batch, ...)."""

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        losses = self._losses(amplitude.dense(), target)
        if losses.shape[:1] != amplitude.value.shape[:1]:
            raise ValueError(
                f"{self} returned shape {losses.shape}; a loss must return one value per sample, "
                f"shape {amplitude.value.shape[:1]} with further axes averaged: do not reduce over "
                "the batch."
            )
        return _mean_over_outputs(losses)


@variant("loss")
class OptaxLoss(_Wrapped):
    """A loss of `optax.losses` by its name; axes beyond the batch are averaged.

    The functions of class labels are classification losses, given integer or one-hot labels as each
    expects, with softmax probabilities; all others are regression losses.

    >>> import jax.numpy as jnp
    >>> outputs = Amplitude(jnp.array([[3.0]]), jnp.array([0]))
    >>> OptaxLoss("huber_loss", {"delta": 2.0})(outputs, jnp.array([[0.0]])).tolist()
    [4.0]

    Parameters
    ----------
    name : str, a public function of `optax.losses` that takes outputs and targets
    options : mapping or pairs, its keyword arguments; values must be hashable
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        options = self.options.items() if isinstance(self.options, Mapping) else self.options
        object.__setattr__(self, "options", tuple(sorted((str(k), v) for k, v in options)))
        public = sorted(n for n, f in vars(optax.losses).items() if callable(f) and n[0] != "_")
        if self.name not in public:
            raise ValueError(
                f"optax.losses has no loss {self.name!r}. Valid names: {', '.join(public)}. For a "
                "function from elsewhere use CallableLoss(function)."
            )

    @property
    def task(self) -> str:
        labels = self.name in _INTEGER_TARGETS | _ONE_HOT_TARGETS
        return "classification" if labels else "regression"

    def _losses(self, predictions, target):
        if self.name in _ONE_HOT_TARGETS:
            target = jax.nn.one_hot(target, predictions.shape[1], dtype=predictions.dtype)
        return getattr(optax.losses, self.name)(predictions, target, **dict(self.options))


@variant("loss")
class CallableLoss(_Wrapped):
    """Any JAX function f(predictions, targets); axes beyond the batch are averaged.

    A model trained with it cannot be saved, since a file never holds code: use `OptaxLoss` or a
    registered class for that.

    >>> import jax.numpy as jnp
    >>> outputs = Amplitude(jnp.array([[3.0, 1.0]]), jnp.array([0]))
    >>> CallableLoss(lambda p, t: jnp.abs(p - t))(outputs, jnp.zeros((1, 2))).tolist()
    [2.0]

    Parameters
    ----------
    function : callable, hashable, of predictions (batch, *outputs) and targets; (batch, ...)
    task : str, "regression", or "classification", with integer targets and softmax probabilities
    """

    function: Callable
    task: str = "regression"

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {type(self.function).__name__}.")
        valid = self.task in ("classification", "regression")
        check("task", self.task, valid, "'classification' or 'regression'")

    def _losses(self, predictions, target):
        return self.function(predictions, target)
