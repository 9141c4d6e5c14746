"""A trainer of trainers."""

import dataclasses

from .._registry import register, variant
from ._problem import extend_history
from ._risk import trimmed
from ._trainer import Trainer


@register("trainer", name="in_turn")  # as earlier versions saved it
@variant("trainer")
class Sequential:
    """Trainers that run in sequence on the same networks, such as sweeps and then gradients.

    trainers: one or more, of which each may be a `Sequential` itself.

    Their histories are joined, each part with the names that it has. Callbacks see the epochs of
    each trainer by themselves; a true result stops them all. Exceptions are raised as the trainers
    do, before the first of them has begun if one cannot train these networks; the `result` of an
    exception includes all that was trained before.

    >>> from tn4ml_plus.training import Gradient, Sweep
    >>> [type(trainer).__name__ for trainer in Sequential((Sweep(), Gradient())).trainers]
    ['Sweep', 'Gradient']
    """

    trainers: tuple[Trainer, ...]

    trains_on_parts = False
    #: The refusal of `Trainer`.
    partial_train = Trainer.partial_train

    def __post_init__(self):
        given = self.trainers if isinstance(self.trainers, tuple | list) else (self.trainers,)
        nested = (part.trainers if isinstance(part, Sequential) else (part,) for part in given)
        object.__setattr__(self, "trainers", tuple(part for parts in nested for part in parts))
        if not self.trainers or not all(isinstance(each, Trainer) for each in self.trainers):
            raise ValueError(
                "trainers must be one or more trainers, such as (Sweep(), Gradient()), got "
                f"{self.trainers!r}."
            )

    @property
    def early_stopping(self):
        """The first trainer's that has one, else None; it decides on validation samples."""
        found = (trainer.early_stopping for trainer in self.trainers)
        return next((stopping for stopping in found if stopping is not None), None)

    def check(self, problem):
        """ValueError for networks that one of the trainers cannot train."""
        for trainer in self.trainers:
            trainer.check(problem)

    def train(self, problem):
        """Train the networks of a `Problem` by each trainer in sequence; returns a `Result`."""
        self.check(problem)
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
                # The next trainer must not train what only pads.
                params = trimmed(structures, params)
                anchor = params if anchor is result.params else anchor
            anchor = problem.anchor if anchor is None else anchor
            new = {"params": params, "structures": structures, "anchor": anchor}
            problem = dataclasses.replace(problem, **new)
        return result
