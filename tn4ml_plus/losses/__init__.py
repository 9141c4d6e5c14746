"""Losses and norm regularisers: pure functions of a network's outputs, targets and log-norm.

>>> from tn4ml_plus.losses import CrossEntropy, ReluLogNorm
>>> CrossEntropy(label_smoothing=0.1) + 0.4 * ReluLogNorm()
Objective(loss=CrossEntropy(label_smoothing=0.1), terms=((0.4, ReluLogNorm()),))
"""

from ._base import Loss, Objective
from ._classification import BornCrossEntropy, CrossEntropy
from ._density import (
    LogQuadratic,
    NegativeLogLikelihood,
    Quadratic,
    SemiSupervisedLogistic,
    SemiSupervisedLogQuadratic,
)
from ._norms import LogNorm, Penalty, QuadraticNorm, Regularizer, ReluLogNorm
from ._regression import Huber, SquaredError
from ._wrapped import CallableLoss, OptaxLoss

__all__ = [
    "BornCrossEntropy",
    "CallableLoss",
    "CrossEntropy",
    "Huber",
    "LogNorm",
    "LogQuadratic",
    "Loss",
    "NegativeLogLikelihood",
    "Objective",
    "OptaxLoss",
    "Penalty",
    "Quadratic",
    "QuadraticNorm",
    "Regularizer",
    "ReluLogNorm",
    "SemiSupervisedLogQuadratic",
    "SemiSupervisedLogistic",
    "SquaredError",
]
