"""Cross-entropies, one per link from outputs to probabilities."""

import dataclasses

import jax
import jax.numpy as jnp

from .._amplitude import Amplitude
from .._registry import variant
from ._base import ByClass, Loss, Losses


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


@variant("loss")
class CrossEntropy(_CrossEntropy):
    """Cross-entropy of the softmax of the outputs, in nats; the outputs' magnitude is learned.

    `label_smoothing`, in [0, 1), is the share of the target that is spread over all classes
    (Szegedy et al. 2016, section 7).

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
