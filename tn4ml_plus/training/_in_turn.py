"""Trainers one after the other."""

import dataclasses
from typing import Any

from .._registry import register
from ._members import trimmed
from ._problem import extend_history


@register("trainer")
@dataclasses.dataclass(frozen=True)
class InTurn:
    """Trainers that go on one after the other with the same networks, such as sweeps and gradients.

    trainers: at least one, which may be others of this kind. Their histories are joined, each part
    of those names that it has; callbacks see the epochs of each trainer by themselves, and one that
    is true stops them all.
    Raises what they raise, before any of them has begun if one cannot train these networks; a
    `result` that comes with it has all that was trained before too.

    >>> from tn4ml_plus.training import Gradient, Sweep
    >>> [type(trainer).__name__ for trainer in InTurn((Sweep(), Gradient())).trainers]
    ['Sweep', 'Gradient']
    """

    trainers: tuple[Any, ...]

    def __post_init__(self):
        given = self.trainers if isinstance(self.trainers, tuple | list) else (self.trainers,)
        nested = (part.trainers if isinstance(part, InTurn) else (part,) for part in given)
        object.__setattr__(self, "trainers", tuple(part for parts in nested for part in parts))
        if not self.trainers or not all(hasattr(trainer, "train") for trainer in self.trainers):
            raise ValueError(
                "trainers must be one or more trainers, such as (Sweep(), Gradient()), got "
                f"{self.trainers!r}."
            )

    @property
    def early_stopping(self):
        """The first that a trainer has, else None: what decides on the validation samples."""
        found = (getattr(trainer, "early_stopping", None) for trainer in self.trainers)
        return next((stopping for stopping in found if stopping is not None), None)

    def train(self, problem):
        """Train the networks of a `Problem`; returns a `Result`."""
        for trainer in self.trainers:
            if hasattr(trainer, "check"):
                trainer.check(problem)
        history, n_iter, result = {}, 0, None

        def joined(result):
            new = dict(result.history)
            if "seconds" in new:
                new["seconds"] = [sum(history.get("seconds", [])[-1:]) + t for t in new["seconds"]]
            extend_history(history, new)
            return dataclasses.replace(result, history=history, n_iter=n_iter + result.n_iter)

        for trainer in self.trainers:
            try:
                result = joined(trainer.train(problem))
            except (Exception, KeyboardInterrupt) as error:
                if hasattr(error, "result"):
                    error.result = joined(error.result)
                elif result is not None:
                    error.result = result
                raise
            if result.stopped:
                break
            n_iter, structures = result.n_iter, result.structures or problem.structures
            params, anchor = result.params, result.anchor
            if result.structures is not None:
                # The next one shall not train what only pads.
                params = trimmed(structures, params)
                anchor = params if anchor is result.params else anchor
            problem = dataclasses.replace(
                problem,
                params=params,
                structures=structures,
                anchor=problem.anchor if anchor is None else anchor,
            )
        return result
