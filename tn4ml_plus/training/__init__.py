"""Training of networks and image models: problems, trainers and their results."""

from ._checkpoint import Checkpoint
from ._gradient import LBFGS, Constant, Gradient, Schedule, WarmupCosine
from ._identity import digest
from ._problem import (
    Embedded,
    Epoch,
    Problem,
    Result,
    Samples,
    Trainable,
    Windows,
    bucket,
    extend_history,
)
from ._risk import Risk, members, outputs, stacked, trimmed
from ._trainer import EarlyStopping, Sequential, Step, Trainer
from .images._gradient import Augmentation, CutMix, HorizontalFlip, ImageGradient, Mixup, RandomCrop
from .images._labelled import ImageProblem, LabelledImages, image_outputs
from .sweeps._isometric import IsometricSweep
from .sweeps._sweep import Sweep

__all__ = [
    "LBFGS", "Augmentation", "Checkpoint", "Constant", "CutMix", "EarlyStopping", "Embedded",
    "Epoch", "Gradient", "HorizontalFlip", "ImageGradient", "ImageProblem", "IsometricSweep",
    "LabelledImages", "Mixup", "Problem", "RandomCrop", "Result", "Risk", "Samples", "Schedule",
    "Sequential", "Step", "Sweep", "Trainable", "Trainer", "WarmupCosine", "Windows", "bucket",
    "digest", "extend_history", "image_outputs", "members", "outputs", "stacked", "trimmed",
]  # fmt: skip
