"""How networks are fitted to samples."""

from ._gradient import Gradient
from ._lbfgs import LBFGS
from ._objective import outputs
from ._problem import Epoch, Problem, Result, Samples, bucket
from ._schedules import Constant, Schedule, WarmupCosine
from ._stopping import EarlyStopping

__all__ = [
    "LBFGS",
    "Constant",
    "EarlyStopping",
    "Epoch",
    "Gradient",
    "Problem",
    "Result",
    "Samples",
    "Schedule",
    "WarmupCosine",
    "bucket",
    "outputs",
]
