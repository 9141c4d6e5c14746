"""The contract of trainers, and what all of them share."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from .._checks import check_instance, check_int, check_number, function_tuple
from ._loop import Checkpoint, run
from ._problem import Result, Trainable
from ._stopping import EarlyStopping


class Step(NamedTuple):
    """The outcome of an epoch.

    Attributes
    ----------
    params, state : pytree, to continue with
    loss : float or array (n_members,), of each member, or their mean
    numbers : dict, further values for the history by name
    """

    params: Any
    state: Any
    loss: Any
    numbers: dict = {}  # noqa: RUF012, never changed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer(abc.ABC):
    """A way to train networks: a frozen dataclass that defines `step` and, with a state, `init`.

    `train` and everything about it is inherited: histories, progress, early stopping with the best
    weights, time limits, callbacks, errors that keep what was trained.

    Parameters
    ----------
    max_epochs : int, optional, number of epochs; None: the trainer's own choice, see `epochs`
    early_stopping : EarlyStopping, optional, when to stop by the loss on samples set aside
    time_limit : float, optional, seconds after which no new epoch starts
    callbacks : sequence of functions of an `Epoch`, called after each; a true result stops training
    """

    max_epochs: int | None = None
    early_stopping: EarlyStopping | None = None
    time_limit: float | None = None
    callbacks: tuple[Callable, ...] = ()

    #: Epochs where max_epochs is None.
    default_epochs: ClassVar[int] = 100
    #: Whether `partial_train` is supported, for streams of samples.
    trains_on_parts: ClassVar[bool] = False
    #: What to do where the loss stops being finite, a clause.
    advice: ClassVar[str] = "Use another initializer or smaller steps"

    def __post_init__(self):
        check_int("max_epochs", self.max_epochs, 1, optional=True)
        check_instance("early_stopping", self.early_stopping, EarlyStopping, optional=True)
        check_number("time_limit", self.time_limit, above=0, optional=True)
        object.__setattr__(self, "callbacks", function_tuple("callbacks", self.callbacks))

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
        del problem
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
            training, KeyboardInterrupt too, has the weights of the last finished epoch.
        ValueError
            For networks that this trainer cannot train.
        """
        self.check(problem)
        return run(self, problem, self.epochs(problem.n_samples))

    def partial_train(self, problem: Trainable) -> Result:
        """One epoch on a part of the samples, continuing from ``problem.state``."""
        if not self.trains_on_parts:
            raise ValueError(
                f"{type(self).__name__} cannot train on part of the samples: use one trainer that "
                'can for partial_fit, such as trainer="gradient" or trainer="sweep".'
            )
        self.check(problem)
        return run(self, problem, 1)

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
        return problem.params, jax.tree.unflatten(tree, map(jnp.asarray, leaves))

    def outcome(self, problem, params) -> Result:
        """A `Result` with these parameters in the problem's form.

        Parameters
        ----------
        problem : Trainable
        params : pytree, as `step` returns them
        """
        return problem.outcome(params)

    def checkpoint_of(self, problem) -> Checkpoint | None:
        """The file that training is continued from, None for none."""
        return None
