"""The loop over epochs that all trainers share, and the files that it continues from."""

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ..errors import NotFiniteError
from ..io import read, write
from ._problem import Epoch


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file with the state of a training after its last epoch, replaced whole after each epoch.

    task: numbers and strings that tell this training from others.
    """

    path: str
    task: dict

    def save(self, tree, history):
        """Write a pytree of arrays, and lists of numbers by name."""
        arrays = {f"leaf.{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
        write(self.path, arrays, {"task": self.task, "history": history})

    def restore(self, tree):
        """The tree and history that `save` wrote, None if there is no file; tree: of like shapes.

        ValueError for a file of another training.
        """
        if not Path(self.path).exists():
            return None
        arrays, metadata = read(self.path)
        leaves, treedef = jax.tree.flatten(tree)
        saved = [arrays.get(f"leaf.{i}") for i in range(len(leaves))]
        alike = len(arrays) == len(leaves) and all(
            array is not None and (array.shape, array.dtype) == (leaf.shape, leaf.dtype)
            for array, leaf in zip(saved, leaves, strict=True)
        )
        if metadata.get("task") != self.task or not alike:
            theirs = metadata.get("task") or {}
            other = [name for name in self.task if theirs.get(name) != self.task[name]]
            raise ValueError(
                f"The checkpoint {str(self.path)!r} is of another training, which differs in "
                f"{', '.join(other) or 'the model'}: remove the file to start again, or name "
                "another one."
            )
        return jax.tree.unflatten(treedef, map(jnp.asarray, saved)), metadata["history"]


def run(trainer, problem, n_epochs):
    """Let a `Trainer` take its steps, one per epoch; returns a `Result`.

    NotFiniteError where a loss or a parameter is not finite; any error has the `result` so far.
    Training is resumed from the trainer's `Checkpoint` where there is one.
    """
    params, state = trainer.begin(problem)
    history, stopped = {"loss": [], "seconds": []}, False
    stopping = None if problem.validation is None else trainer.early_stopping
    best = np.inf, 0, params  # validation loss, epoch, parameters

    def better(*found):
        return found if stopping and found[0] < best[0] - stopping.min_delta else best

    def result(params):
        found = trainer.outcome(problem, params)
        found.state, found.history, found.stopped = jax.tree.leaves(state), history, stopped
        found.n_iter = len(history["loss"])
        return found

    checkpoint = trainer.checkpoint_of(problem)
    saved = checkpoint and checkpoint.restore((params, state, params))
    if saved:
        (params, state, kept), history = saved
        for epoch, loss in enumerate(history.get("validation_loss", [])):
            best = better(loss, epoch, kept)
    n_before = len(history["loss"])
    started = time.perf_counter() - sum(history["seconds"][-1:])
    shown = {"desc": "epochs", "disable": not problem.verbose, "leave": False}
    progress = tqdm(total=n_epochs, initial=n_before, **shown)
    try:
        for epoch in range(n_before, n_epochs):
            if stopping and epoch > best[1] + stopping.patience:
                break
            step = trainer.step(problem, params, state, epoch)
            loss = float(np.mean(step.loss))
            if not np.isfinite(loss) or not problem.is_finite(step.params):
                kept = " The weights of the epoch before were kept." if epoch else ""
                raise NotFiniteError(
                    f"The loss stopped being finite in epoch {epoch + 1}. {trainer.advice}; a "
                    f"custom loss may be at fault too.{kept}"
                )
            numbers = {**step.numbers, "loss": loss, "seconds": time.perf_counter() - started}
            if problem.validation is not None:
                evaluated = trainer.outcome(problem, step.params).params
                numbers["validation_loss"] = problem.validation_loss(evaluated)
                if np.isnan(numbers["validation_loss"]):
                    raise NotFiniteError(
                        f"The validation loss of epoch {epoch + 1} is not a number, though the "
                        "training loss is finite: look for samples far outside of the others. The "
                        "weights of the epoch before were kept."
                    )
                best = better(numbers["validation_loss"], epoch, step.params)
            params, state = step.params, step.state
            for name, value in numbers.items():
                history.setdefault(name, []).append(value)
            progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
            progress.update()
            if checkpoint is not None:
                checkpoint.save((params, state, best[2]), history)
            members = lambda p=params: problem.networks(trainer.outcome(problem, p))  # noqa: E731
            current = Epoch(epoch + 1, history, members)
            # All of them are called, whatever the first ones say.
            stops = [bool(f(current)) for f in (*trainer.callbacks, *problem.callbacks)]
            stopped = any(stops)
            late = trainer.time_limit is not None and numbers["seconds"] >= trainer.time_limit
            if late or stopped:
                break
    except (Exception, KeyboardInterrupt) as error:
        error.result = result(params)
        raise
    finally:
        progress.close()
    return result(best[2] if stopping else params)
