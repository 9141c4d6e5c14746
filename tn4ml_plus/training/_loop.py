"""The loop over epochs that trainers share: history, progress, stopping, the best weights."""

import time
from functools import partial

import jax
import numpy as np
from tqdm import tqdm

from .._errors import NotFiniteError
from ._problem import Epoch, Result


def run(
    problem,
    step,
    state,
    n_epochs,
    advice,
    early_stopping=None,
    time_limit=None,
    callbacks=(),
    start=None,
    packed=None,
    checkpoint=None,
):
    """Call ``step(epoch, params, state)`` for each epoch and return a `Result`.

    A step returns params, state, the mean loss and a dict of further numbers for the history; a
    mean loss that is not finite stands for weights that are not to be kept, and raises
    NotFiniteError with `advice`, a clause. Like any other error, it has the `result` so far.
    With a `Checkpoint` it goes on from that, if there is one; the numbers of epochs count on.
    Trainers whose own params are others give their `start`, and a function `packed` from them to
    params and structures as in `Problem`. In their gauge the anchor means nothing: they leave their
    result in its place.
    """
    params, history = problem.params if start is None else start, {"loss": [], "seconds": []}
    stopped = False
    anchor = problem.anchor if packed is None else None
    packed = packed or (lambda params: (params, problem.structures))

    def result():
        found, structures = packed(params)
        return Result(
            found, jax.tree.leaves(state), history, len(history["loss"]), tuple(structures),
            found if anchor is None else anchor, stopped,
        )  # fmt: skip

    stopping = None if problem.validation is None else early_stopping
    best, best_loss, best_epoch = params, np.inf, 0
    saved = checkpoint and checkpoint.restore((params, state, best))
    if saved:
        (params, state, best), history = saved
        for epoch, loss in enumerate(history["validation_loss"] if stopping else []):
            if loss < best_loss - stopping.min_delta:
                best_loss, best_epoch = loss, epoch
    n_before = len(history["loss"])
    started = time.perf_counter() - sum(history["seconds"][-1:])
    shown = {"desc": "epochs", "disable": not problem.verbose, "leave": False}
    progress = tqdm(total=n_epochs, initial=n_before, **shown)
    try:
        for epoch in range(n_before, n_epochs):
            if stopping is not None and epoch > best_epoch + stopping.patience:
                break
            new_params, new_state, loss, numbers = step(epoch, params, state)
            if not np.isfinite(loss):
                kept = " The weights of the epoch before were kept." if epoch else ""
                raise NotFiniteError(
                    f"The loss stopped being finite in epoch {epoch + 1}. {advice}; a custom "
                    f"loss may be at fault too.{kept}"
                )
            numbers |= {"loss": loss, "seconds": time.perf_counter() - started}
            if problem.validation is not None:
                numbers["validation_loss"] = problem.validation_loss(packed(new_params)[0])
                if np.isnan(numbers["validation_loss"]):
                    raise NotFiniteError(
                        f"The validation loss of epoch {epoch + 1} is not a number, though the "
                        "training loss is finite: look for samples far outside of the others. The "
                        "weights of the epoch before were kept."
                    )
            params, state = new_params, new_state
            for name, value in numbers.items():
                history.setdefault(name, []).append(value)
            progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
            progress.update()
            stop = time_limit is not None and numbers["seconds"] >= time_limit
            if stopping and numbers["validation_loss"] < best_loss - stopping.min_delta:
                best, best_loss, best_epoch = params, numbers["validation_loss"], epoch
            if checkpoint is not None:
                checkpoint.save((params, state, best), history)
            seen = Epoch(epoch + 1, history, partial(_networks, problem, packed, params))
            stops = [bool(callback(seen)) for callback in (*callbacks, *problem.callbacks)]
            stopped = any(stops)
            if stop or stopped:
                break
    except (Exception, KeyboardInterrupt) as error:
        error.result = result()
        raise
    finally:
        progress.close()
    if stopping is not None:
        params = best
    return result()


def _networks(problem, packed, params):
    return problem.networks(*packed(params))
