"""Learning rates over a training run."""

import abc

import numpy as np

from .._checks import check_number
from .._registry import variant


class Schedule(abc.ABC):
    """A shape over the run that the peak learning rate is multiplied with."""

    @abc.abstractmethod
    def factors(self, total_steps):
        """Factors of the peak learning rate, (total_steps,)."""


@variant("schedule")
class WarmupCosine(Schedule):
    """Linear warm-up over a share of the steps, then half a cosine to zero.

    >>> WarmupCosine(warmup=0.5).factors(4).round(3).tolist()
    [0.5, 0.854, 0.5, 0.146]
    """

    warmup: float = 0.05

    def __post_init__(self):
        check_number("warmup", self.warmup, at_least=0, below=1)

    def factors(self, total_steps):
        step = np.arange(total_steps)
        ramp = np.minimum(1, (step + 1) / max(1.0, self.warmup * total_steps))
        return ramp * 0.5 * (1 + np.cos(np.pi * step / total_steps))


@variant("schedule")
class Constant(Schedule):
    """The same learning rate at every step.

    >>> Constant().factors(2).tolist()
    [1.0, 1.0]
    """

    def factors(self, total_steps):
        return np.ones(total_steps)
