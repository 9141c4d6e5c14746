"""Trainers one after the other."""

import dataclasses
from typing import Any

from .._errors import NotFiniteError
from .._registry import register


@register("trainer")
@dataclasses.dataclass(frozen=True)
class InTurn:
    """Trainers that go on one after the other with the same networks, such as sweeps and gradients.

    trainers: at least one. Their histories are joined, each part of those names that it has.
    Raises what they raise; a `result` that comes with it has all that was trained before too.

    >>> from tn4ml_plus.training import Gradient, Sweep
    >>> [type(trainer).__name__ for trainer in InTurn((Sweep(), Gradient())).trainers]
    ['Sweep', 'Gradient']
    """

    trainers: tuple[Any, ...]

    def __post_init__(self):
        object.__setattr__(self, "trainers", tuple(self.trainers))
        if not self.trainers or not all(hasattr(trainer, "train") for trainer in self.trainers):
            raise ValueError(f"trainers must be one or more trainers, got {self.trainers!r}.")

    @property
    def early_stopping(self):
        """The first that a trainer has, else None: what decides on the validation samples."""
        found = (getattr(trainer, "early_stopping", None) for trainer in self.trainers)
        return next((stopping for stopping in found if stopping is not None), None)

    def train(self, problem):
        """Train the networks of a `Problem`; returns a `Result`."""
        history, n_iter = {}, 0

        def joined(result):
            for name, values in result.history.items():
                history.setdefault(name, []).extend(values)
            return dataclasses.replace(result, history=history, n_iter=n_iter + result.n_iter)

        for trainer in self.trainers:
            try:
                result = joined(trainer.train(problem))
            except (NotFiniteError, KeyboardInterrupt) as error:
                if hasattr(error, "result"):
                    error.result = joined(error.result)
                raise
            n_iter = result.n_iter
            problem = dataclasses.replace(
                problem,
                params=result.params,
                structures=result.structures or problem.structures,
                anchor=problem.anchor if result.anchor is None else result.anchor,
            )
        return result
