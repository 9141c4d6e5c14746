"""Losses on the values of the outputs."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import optax

from .._registry import register
from ._base import Loss


def mean_over_outputs(losses):
    """(batch, *outputs) to (batch,)."""
    return losses.mean(axis=tuple(range(1, losses.ndim)))


@register("loss")
@dataclasses.dataclass(frozen=True)
class SquaredError(Loss):
    """Squared difference of outputs and targets, averaged over the outputs.

    >>> import jax.numpy as jnp
    >>> from tn4ml_plus._typing import Amplitude
    >>> outputs = Amplitude(jnp.array([[1.0, 2.0]]), jnp.array([1])) # the numbers 2 and 4
    >>> SquaredError()(outputs, jnp.array([[0.0, 4.0]])).tolist()
    [2.0]
    """

    task: ClassVar[str] = "regression"

    def per_sample(self, amplitude, target):
        return mean_over_outputs(jnp.square(amplitude.dense() - target))


@register("loss")
@dataclasses.dataclass(frozen=True)
class Huber(Loss):
    """Half the squared difference up to `delta`, linear beyond, averaged over the outputs.

    delta: > 0, in the units of the targets (Huber 1964), which `TNRegressor` standardises.

    >>> import jax.numpy as jnp
    >>> from tn4ml_plus._typing import Amplitude
    >>> outputs = Amplitude(jnp.array([[0.5], [10.0]]), jnp.array([0, 0]))
    >>> Huber(delta=1.0)(outputs, jnp.zeros((2, 1))).tolist()
    [0.125, 9.5]
    """

    task: ClassVar[str] = "regression"
    delta: float = 1.0

    def __post_init__(self):
        if not 0 < self.delta < float("inf"):
            raise ValueError(f"delta must be positive and finite, got {self.delta}.")

    def per_sample(self, amplitude, target):
        losses = optax.losses.huber_loss(amplitude.dense(), target, delta=self.delta)
        return mean_over_outputs(losses)
