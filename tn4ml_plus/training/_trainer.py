"""The contract of trainers, the loop over epochs that all share, and trainers in sequence."""

import abc
import dataclasses
import os
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax

from .._arrays import on_device
from .._checks import check, check_instance, check_int, check_number, function_tuple
from .._registry import UNSTORED, register, variant
from ._checkpoint import Checkpoint, as_checkpoint
from ._problem import Result, Trainable, extend_history
from ._risk import trimmed
from ._run import Run


@variant("stopping")
class EarlyStopping:
    """Stop when the validation loss has not fallen for `patience` epochs; keep the best weights.

    >>> EarlyStopping(patience=3)
    EarlyStopping(patience=3, validation_fraction=0.1, min_delta=0.0)

    Parameters
    ----------
    patience : int, epochs to wait
    validation_fraction : float, share of the training samples set aside, in (0, 1)
    min_delta : float, fall of the loss that counts, at least
    """

    patience: int = 10
    validation_fraction: float = 0.1
    min_delta: float = 0.0

    def __post_init__(self):
        check_int("patience", self.patience, 1)
        check_number("validation_fraction", self.validation_fraction, above=0, below=1)
        check_number("min_delta", self.min_delta, at_least=0)


class Step(NamedTuple):
    """The outcome of an epoch.

    Attributes
    ----------
    params, state : pytree, to continue with
    loss : float or array (n_members,), of each member, or their mean
    numbers : dict, further values for the history by name
    first : float, optional, loss on the first samples of the epoch; None: as `loss`
    """

    params: Any
    state: Any
    loss: Any
    numbers: dict = {}  # noqa: RUF012, never changed
    first: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer(abc.ABC):
    """A way to train networks: a frozen dataclass that defines `step` and, with a state, `init`.

    `train` and everything about it is inherited: histories, progress, early stopping with the best
    weights, time limits, callbacks, checkpoints, errors that keep what was trained, a
    `DivergenceWarning` and the best weights where the loss climbed far above its start.

    Parameters
    ----------
    max_epochs : int, optional, number of epochs; None: the trainer's own choice, see `epochs`
    early_stopping : EarlyStopping, optional, when to stop by the loss on samples set aside
    time_limit : float, optional, seconds after which no new epoch starts
    callbacks : sequence of functions of an `Epoch`, called after each; a true result stops training
    checkpoint : Checkpoint, str or path, optional
        File from which training goes on where it was cut off.
    """

    max_epochs: int | None = None
    early_stopping: EarlyStopping | None = None
    time_limit: float | None = None
    callbacks: tuple[Callable, ...] = ()
    checkpoint: Checkpoint | None = dataclasses.field(default=None, **UNSTORED)

    #: Epochs where max_epochs is None.
    default_epochs: ClassVar[int] = 100
    #: Whether `partial_train` is supported, for streams of samples.
    trains_on_parts: ClassVar[bool] = False
    #: Whether each network may be trained on samples of its own, `Problem.subsets`.
    trains_on_subsets: ClassVar[bool] = False
    #: Whether samples may come in windows, `Problem.windows`.
    trains_on_windows: ClassVar[bool] = False
    #: What to do where the loss climbs or stops being finite, a clause.
    advice: ClassVar[str] = "Use another initializer or smaller steps"

    def __post_init__(self):
        check_int("max_epochs", self.max_epochs, 1, optional=True)
        check_instance("early_stopping", self.early_stopping, EarlyStopping, optional=True)
        check_number("time_limit", self.time_limit, above=0, optional=True)
        object.__setattr__(self, "callbacks", function_tuple("callbacks", self.callbacks))
        object.__setattr__(self, "checkpoint", as_checkpoint(self.checkpoint))

    @property
    def writes(self) -> bool:
        """Whether this process writes the checkpoint; of several that train together, one does."""
        return True

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoint, if there is one."""
        return () if self.checkpoint is None else (self.checkpoint,)

    def numbered(self, number: int) -> "Trainer":
        """The trainer of one of several trainings, whose checkpoint has a file of its own."""
        if self.checkpoint is None:
            return self
        return dataclasses.replace(self, checkpoint=self.checkpoint.numbered(number))

    @abc.abstractmethod
    def step(self, problem, params, state, epoch: int) -> Step:
        """One epoch: from parameters and a state to the next ones.

        `Problem.value_and_grad` gives the objective to lower, with weights, site orders, norms and
        penalties.

        Parameters
        ----------
        problem : Problem
        params, state : pytree, parameters with the leaves (n_members, ...) of `Problem.params`
        epoch : int, counted from 0
        """

    def init(self, problem) -> Any:
        """The state before the first epoch, a pytree; empty by default."""
        return ()

    def check(self, problem) -> None:
        """ValueError for networks that this trainer cannot train; by default it trains all."""
        del problem

    def epochs(self, n_samples: int) -> int:
        """Number of epochs for this many samples."""
        return self.default_epochs if self.max_epochs is None else self.max_epochs

    def train(self, problem: Trainable) -> Result:
        """Train the networks of a problem.

        Raises
        ------
        NotFiniteError
            When the loss stops being finite. The `result` of that and of any other error that ends
            training, KeyboardInterrupt too, has the weights of the last finished epoch; where
            training stops early or the loss climbed, those of the best.
        ValueError
            For networks that this trainer cannot train.
        ModelFileError
            Where the file of the checkpoint is none of this training.
        """
        self.check(problem)
        return Run(self, problem, self.epochs(problem.n_samples)).result()

    def partial_train(self, problem: Trainable) -> Result:
        """One epoch on a part of the samples, continuing from ``problem.state``."""
        if not self.trains_on_parts:
            raise ValueError(
                f"{type(self).__name__} cannot train on part of the samples: use one trainer that "
                'can for partial_fit, such as trainer="gradient" or trainer="sweep".'
            )
        if self.checkpoint is not None:
            raise ValueError(
                "A checkpoint is of a whole training, and partial_fit takes a part at a time: set "
                "the trainer's checkpoint=None, and save the model between the parts."
            )
        self.check(problem)
        return Run(self, problem, 1).result()

    # Trainers whose own parameters differ from those of the problem override these.

    def begin(self, problem) -> tuple[Any, Any]:
        """The parameters and the state to start from."""
        state, leaves = self.init(problem), problem.state
        if leaves is None:
            return problem.params, state
        tree = jax.tree.structure(state)
        if tree.num_leaves != len(leaves):
            raise ValueError(
                "The optimizer differs from the one that training started with: keep it, or call "
                "fit to start again."
            )
        return problem.params, jax.tree.unflatten(tree, map(on_device, leaves))

    def outcome(self, problem, params) -> Result:
        """A `Result` with these parameters in the problem's form.

        Parameters
        ----------
        problem : Trainable
        params : pytree, as `step` returns them
        """
        return problem.outcome(params)


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
        valid = self.trainers and all(isinstance(each, Trainer) for each in self.trainers)
        allowed = "one or more trainers, such as (Sweep(), Gradient())"
        check("trainers", self.trainers, valid, allowed)
        paths = [os.path.realpath(checkpoint.path) for checkpoint in self.checkpoints]
        if len(set(paths)) < len(paths):
            raise ValueError(
                "Two of the trainers have the same file for their checkpoints: name one for each."
            )

    @property
    def checkpoints(self):
        """Those of all trainers, each of which goes on from its own."""
        return tuple(each for trainer in self.trainers for each in trainer.checkpoints)

    def numbered(self, number):
        """Trainers whose checkpoints have files of their own, see `Trainer.numbered`."""
        return Sequential(tuple(trainer.numbered(number) for trainer in self.trainers))

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
            except (Exception, KeyboardInterrupt) as error:
                if hasattr(error, "result"):
                    error.result = joined(error.result)
                elif result is not None:
                    error.result = result
                raise
        return result
