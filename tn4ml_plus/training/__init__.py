"""How networks are fitted to samples."""

from ._augmentations import Augmentation, CutMix, HorizontalFlip, Mixup, RandomCrop
from ._gradient import Gradient
from ._images import ImageGradient, ImageProblem, LabelledImages, image_outputs
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
    "Augmentation",
    "Constant",
    "CutMix",
    "EarlyStopping",
    "Epoch",
    "Gradient",
    "HorizontalFlip",
    "ImageGradient",
    "ImageProblem",
    "InTurn",
    "IsometricSweep",
    "LabelledImages",
    "Mixup",
    "Problem",
    "RandomCrop",
    "Result",
    "Samples",
    "Schedule",
    "Sweep",
    "WarmupCosine",
    "bucket",
    "image_outputs",
    "outputs",
]
