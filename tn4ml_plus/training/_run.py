"""The loop over epochs that all trainers share."""

import dataclasses
import time

import jax
import numpy as np
from tqdm import tqdm

from .._checks import warn
from .._compiled import interruptible
from ..errors import DivergenceWarning, DurationWarning, NotFiniteError
from ._checkpoint import CheckpointFile, Progress
from ._problem import Epoch, extend_history

# Factor by which a step that is too large has made weights grow.
_OUTGROWN = 100.0
# Seconds of training that nobody has asked for, after which a user wants to know.
_LONG = 60.0
# Seconds between checkpoints within an epoch.
_OFTEN = 60.0


class Run:
    """A training under way, one step of a `Trainer` per epoch, from its checkpoint if it has one.

    Parameters
    ----------
    trainer : Trainer
    problem : Trainable
    n_epochs : int, epochs at most
    """

    def __init__(self, trainer, problem, n_epochs):
        if problem.subsets is not None and not trainer.trains_on_subsets:
            raise ValueError(
                f"{type(trainer).__name__} trains all networks on the same samples: leave "
                "subsets=None or use Gradient."
            )
        if problem.windows is not None and not trainer.trains_on_windows:
            raise ValueError(
                f"{type(trainer).__name__} trains on rows in memory, and X has "
                f"{problem.n_samples}, which are read in parts: take Gradient, or give an array "
                "of some of them."
            )
        self.trainer, self.problem, self.n_epochs = trainer, problem, n_epochs
        self.params, self.state = trainer.begin(problem)
        self.size = problem.largest(self.params)
        judged = {} if problem.validation is None else {"validation_loss": []}
        self.history, self.stopped = {"loss": [], "seconds": [], **judged}, False
        # The training loss before all epochs.
        self.start = None
        self.stopping = None if problem.validation is None else trainer.early_stopping
        self.watched = "validation_loss" if self.stopping else "loss"
        # The watched loss, its epoch, the parameters.
        self.best = np.inf, 0, self.params
        self.file, self.begun = trainer.checkpoint and CheckpointFile(trainer, problem), None
        if self.file and (saved := self.file.read(self.params, self.state, n_epochs)):
            self.params, self.state, lowest, self.history, self.start, self.begun = saved
            self.best = np.inf if self.stopping else self.start, 0, lowest
            for epoch, loss in enumerate(self.history[self.watched]):
                self._keep(loss, epoch, lowest)
        self.n_before, self.told = self.n_done, trainer.max_epochs is not None
        self.started = time.perf_counter() - self.seconds
        self.saved = time.perf_counter()

    @property
    def n_done(self):
        """Number of finished epochs."""
        return len(self.history["loss"])

    @property
    def seconds(self):
        """Seconds that the finished epochs took."""
        return sum(self.history["seconds"][-1:])

    @interruptible()
    def result(self):
        """The `Result` of training.

        NotFiniteError where a loss or a parameter is not finite; any error has the `result` so far.
        Where the loss climbs to over four times its start, plus one, a DivergenceWarning tells, and
        the weights are those of the epoch with the lowest loss, or those of the start.
        """
        shown = {"desc": "epochs", "disable": not self.problem.verbose, "leave": False}
        progress = tqdm(total=self.n_epochs, initial=self.n_before, **shown)
        try:
            # Whoever was cut off while it was watched has not seen all of the last epoch.
            self.stopped = self.n_before > 0 and self._watch()
            while not self._has_ended():
                self._advance()
                progress.set_postfix(loss=f"{self.history['loss'][-1]:.4f}", refresh=False)
                progress.update()
                if self.file and self.n_done % self.file.checkpoint.every == 0:
                    self._save()
                self.stopped = self._watch()
            if self.file and self.file.n_epochs < self.n_done:
                self._save()
            found = self._outcome()
        except (Exception, KeyboardInterrupt) as error:
            error.result = self._outcome()
            raise
        finally:
            progress.close()
        if self._has_climbed():
            warn(
                f"The loss climbed from {self.start:.3g} to {self._highest():.3g}: the weights of "
                f"the lowest {self.watched.replace('_', ' ')} were kept. {self.trainer.advice}.",
                DivergenceWarning,
            )
        return found

    def _has_ended(self):
        limit, epoch, stopping = self.trainer.time_limit, self.n_done, self.stopping
        return (
            self.stopped
            or epoch >= self.n_epochs
            or (limit is not None and self.seconds >= limit)
            or (stopping is not None and epoch > self.best[1] + stopping.patience)
        )

    def _advance(self):
        """Take one step; NotFiniteError, and nothing changed, where it leads to no numbers."""
        trainer, problem, epoch = self.trainer, self.problem, self.n_done
        if problem.windows is not None and self.file:
            problem = dataclasses.replace(problem, begun=self.begun, reached=self._reached)
        step = trainer.step(problem, self.params, self.state, epoch)
        loss = float(np.mean(np.asarray(step.loss, float)))
        largest = problem.largest(step.params)
        if _OUTGROWN * max(1.0, self.size) < largest < np.inf:
            # No loss of the epoch shows what its last step has done.
            after = problem.training_loss(trainer.outcome(problem, step.params).params)
            loss = float(np.maximum(loss, after))
        kept = f" The weights of the {self._whose()} were kept."
        if not np.isfinite([loss, largest]).all():
            raise NotFiniteError(
                f"The loss stopped being finite in epoch {epoch + 1}. {trainer.advice}; a custom "
                f"loss may be at fault too.{kept if epoch else ''}"
            )
        numbers = {**step.numbers, "loss": loss, "seconds": time.perf_counter() - self.started}
        if problem.validation is not None:
            evaluated = trainer.outcome(problem, step.params).params
            numbers["validation_loss"] = problem.validation_loss(evaluated)
            if np.isnan(numbers["validation_loss"]):
                raise NotFiniteError(
                    f"The validation loss of epoch {epoch + 1} is not a number, though the "
                    f"training loss is finite: look for samples far outside of the others.{kept}"
                )
        if self.start is None:
            self.start = loss if step.first is None else step.first
            if not self.stopping:
                self.best = self.start, epoch, self.params
        self._keep(numbers[self.watched], epoch, step.params)
        each = numbers["seconds"] - self.seconds
        # A first epoch compiles, too, and tells nothing of the others unless it is long.
        if not self.told and (epoch > self.n_before or each > _LONG):
            self._tell(each)
        self.params, self.state, self.begun = step.params, step.state, None
        extend_history(self.history, {name: [value] for name, value in numbers.items()})

    def _keep(self, loss, epoch, params):
        """Keep the parameters of an epoch if its loss is the lowest."""
        margin = self.stopping.min_delta if self.stopping else 0.0
        if loss < self.best[0] - margin:
            self.best = loss, epoch, params

    def _tell(self, each):
        """Warn of the minutes that the epochs after this one take, if these are any."""
        left, self.told = each * (self.n_epochs - self.n_done - 1), True
        if left > _LONG:
            warn(
                f"Training takes some {left / 60:.0f} more minutes, {self.n_epochs} epochs of "
                f"{each:.2g} seconds. {self.problem.remedy} A max_epochs that is given is taken "
                "without a warning.",
                DurationWarning,
            )

    def _watch(self):
        """Show the last epoch to all callbacks; whether one of them stops training."""
        params, problem = self.params, self.problem
        members = lambda: problem.networks(self.trainer.outcome(problem, params))  # noqa: E731
        current = Epoch(self.n_done, self.history, members)
        # All of them are called, whatever the first ones say.
        stops = [bool(f(current)) for f in (*self.trainer.callbacks, *problem.callbacks)]
        return any(stops)

    def _save(self):
        self._write(self.params, self.state, None)

    def _reached(self, params, state, begun):
        """Write a checkpoint within an epoch, once in a while and where all numbers are finite."""
        is_due = time.perf_counter() - self.saved >= _OFTEN
        if is_due and np.isfinite([begun.total, self.problem.largest(params)]).all():
            self._write(params, state, begun)

    def _write(self, params, state, begun):
        start = begun.first if self.start is None else self.start
        if self.trainer.writes:
            self.file.write(Progress(params, state, self.best[2], self.history, start, begun))
        self.saved = time.perf_counter()

    def _highest(self):
        return max(self.history["loss"], default=self.start)

    def _has_climbed(self):
        return self.start is not None and self._highest() > self.start + 3 * abs(self.start) + 1

    def _keeps_best(self):
        return self.stopping is not None or self._has_climbed()

    def _whose(self):
        return "best epoch" if self._keeps_best() else "epoch before"

    def _outcome(self):
        found = self.trainer.outcome(
            self.problem, self.best[2] if self._keeps_best() else self.params
        )
        found.state, found.history = jax.tree.leaves(self.state), self.history
        found.stopped, found.n_iter = self.stopped, self.n_done
        return found
