"""Losses and regularisers of the norm: pure functions of a network's outputs, targets, log-norm.

Examples here assume jnp (`jax.numpy`) and `tn4ml_plus.contraction.Amplitude`.

>>> from tn4ml_plus.losses import CrossEntropy, ReluLogNorm
>>> CrossEntropy(label_smoothing=0.1) + 0.4 * ReluLogNorm()
Objective(loss=CrossEntropy(label_smoothing=0.1), terms=((0.4, ReluLogNorm()),))
"""

from ._base import LogNorm, Loss, Objective, Penalty, QuadraticNorm, Regularizer, ReluLogNorm
from ._density import (
    LogQuadratic,
    NegativeLogLikelihood,
    Quadratic,
    SemiSupervisedLogistic,
    SemiSupervisedLogQuadratic,
)
from ._outputs import (
    BornCrossEntropy,
    CallableLoss,
    CrossEntropy,
    Huber,
    OptaxLoss,
    Quantile,
    SquaredError,
    unsmoothed,
)

__all__ = [
    "BornCrossEntropy", "CallableLoss", "CrossEntropy", "Huber", "LogNorm", "LogQuadratic", "Loss",
    "NegativeLogLikelihood", "Objective", "OptaxLoss", "Penalty", "Quadratic", "QuadraticNorm",
    "Quantile", "Regularizer", "ReluLogNorm", "SemiSupervisedLogQuadratic",
    "SemiSupervisedLogistic", "SquaredError", "unsmoothed",
]  # fmt: skip
