"""Training of networks and image models: problems, trainers and their results."""

from ._gradient import Gradient
from ._lbfgs import LBFGS
from ._members import members, stacked, trimmed
from ._problem import Epoch, Problem, Result, Samples, Trainable, bucket, extend_history
from ._risk import Risk, outputs
from ._schedules import Constant, Schedule, WarmupCosine
from ._sequential import Sequential
from ._stopping import EarlyStopping
from ._trainer import Step, Trainer
from .images._augmentations import Augmentation, CutMix, HorizontalFlip, Mixup, RandomCrop
from .images._image_gradient import ImageGradient
from .images._labelled import ImageProblem, LabelledImages, image_outputs
from .sweeps._isometric import IsometricSweep
from .sweeps._sweep import Sweep

__all__ = [
    "LBFGS", "Augmentation", "Constant", "CutMix", "EarlyStopping", "Epoch", "Gradient",
    "HorizontalFlip", "ImageGradient", "ImageProblem", "IsometricSweep", "LabelledImages", "Mixup",
    "Problem", "RandomCrop", "Result", "Risk", "Samples", "Schedule", "Sequential", "Step", "Sweep",
    "Trainable", "Trainer", "WarmupCosine", "bucket", "extend_history", "image_outputs", "members",
    "outputs", "stacked", "trimmed",
]  # fmt: skip
