"""How networks are fitted to samples."""

from ._gradient import Gradient
from ._in_turn import InTurn
from ._isometric import IsometricSweep
from ._lbfgs import LBFGS
from ._objective import outputs
from ._problem import Epoch, Problem, Result, Samples, bucket
from ._schedules import Constant, Schedule, WarmupCosine
from ._stopping import EarlyStopping
from ._sweep import Sweep

__all__ = [
    "LBFGS",
    "Constant",
    "EarlyStopping",
    "Epoch",
    "Gradient",
    "InTurn",
    "IsometricSweep",
    "Problem",
    "Result",
    "Samples",
    "Schedule",
    "Sweep",
    "WarmupCosine",
    "bucket",
    "outputs",
]
