"""Losses of densities: functions of one squared norm per sample."""

import jax
import jax.numpy as jnp

from .._amplitude import Amplitude
from .._checks import check_number
from .._registry import variant
from ._base import Loss, Losses, QuadraticNorm


def _log_weight(amplitude):
    """log w, (batch,), with the smallest normal number in place of zero or less."""
    value, tiny = amplitude.value, jnp.finfo(amplitude.value.dtype).tiny
    # Not the maximum of both: its gradient is zero times the overflowing slope of a loss there.
    return jnp.log(jnp.where(value > tiny, value, tiny)) + amplitude.log_scale


@variant("loss")
class NegativeLogLikelihood(Loss):
    """log n - log w in nats, with w the squared norm of the outputs and n that of the network.

    exp(-loss) is a density where the embedding is orthonormal (Han et al. 2018, eq. 1 and 3).
    A sample's own loss is -log w, to which training adds log n.

    >>> weight = Amplitude(jnp.array([1.0, 3.0]), jnp.array([2, 0]))
    >>> NegativeLogLikelihood()(weight, jnp.ones(2)).round(3).tolist() # -log 4, -log 3
    [-1.386..., -1.09...]
    """

    task = "density"
    normalized = True

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        return -_log_weight(amplitude)


@variant("loss")
class LogQuadratic(Loss):
    """(log w - target)^2, with w the squared norm of the outputs: pulls all samples to one norm.

    `target` is the wanted log w. Together with a penalty on the norm of the network, which keeps it
    from giving that norm to everything, the loss detects anomalies (Wang et al. 2020,
    arXiv:2006.02516): ``LogQuadratic() + 0.3 * ReluLogNorm()``.

    >>> weight = Amplitude(jnp.array([jnp.e, 1.0]), jnp.array([0, 0]))
    >>> LogQuadratic()(weight, jnp.ones(2)).tolist()
    [0.0, 1.0]
    """

    task = "density"
    target: float = 1.0

    def __post_init__(self):
        check_number("target", self.target)

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        return jnp.square(_log_weight(amplitude) - self.target)


@variant("loss")
class Quadratic(Loss):
    """(w - 1)^2 up to w = e^20 and its tangent in log w beyond; w: squared norm of the outputs.

    >>> weight = Amplitude(jnp.array([1.5, 1.0]), jnp.array([1, -1]))
    >>> Quadratic()(weight, jnp.ones(2)).round(4).tolist()
    [4.0, 0.25]
    """

    task = "density"

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        return QuadraticNorm()(_log_weight(amplitude))


@variant("loss")
class SemiSupervisedLogQuadratic(LogQuadratic):
    """`LogQuadratic` q for inliers and 1 / (q + epsilon) for outliers, which it pushes away.

    It replaces tn4ml's semi-supervised loss, which is the square of this; the inverse for outliers
    is that of Ruff et al. 2020 (Deep SAD).

    >>> weight = Amplitude(jnp.ones(2), jnp.zeros(2, int))
    >>> loss = SemiSupervisedLogQuadratic(target=2.0)
    >>> loss(weight, jnp.array([1, -1])).round(4).tolist()
    [4.0, 0.249...]

    Parameters
    ----------
    target : float, the wanted log w of inliers, w being the squared norm of the outputs
    epsilon : float, above 0; the loss of an outlier is at most 1 / epsilon
    """

    supervised = True
    epsilon: float = 1e-2

    def __post_init__(self):
        super().__post_init__()
        check_number("epsilon", self.epsilon, above=0)

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        q = super().per_sample(amplitude, target)
        return jnp.where(target > 0, q, 1 / (q + self.epsilon))


@variant("loss")
class SemiSupervisedLogistic(Loss):
    """log(1 + exp(-t (log w - threshold))) in nats: inliers (t = 1) above, outliers (-1) below it.

    The negative log-likelihood of the label, with odds w : e^threshold for an inlier, w being the
    squared norm of the outputs (noise-contrastive estimation, Gutmann & Hyvarinen 2010). It
    replaces tn4ml's semi-supervised likelihood. Add a penalty on the norm of the network.

    >>> weight = Amplitude(jnp.array([1.5, 1.5]), jnp.array([1, 1]))
    >>> loss = SemiSupervisedLogistic()(weight, jnp.array([1, -1])) # -log 3/4, -log 1/4
    >>> loss.round(4).tolist()
    [0.287..., 1.386...]
    """

    task = "density"
    supervised = True
    threshold: float = 0.0

    def __post_init__(self):
        check_number("threshold", self.threshold)

    def per_sample(self, amplitude: Amplitude, target: jax.Array) -> Losses:
        margin = _log_weight(amplitude) - self.threshold
        return jax.nn.softplus(jnp.where(target > 0, -margin, margin))
