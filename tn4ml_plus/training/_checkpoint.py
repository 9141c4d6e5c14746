"""Checkpoints: files from which trainings that were cut off go on as if they had not been."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from .._arrays import on_device
from .._checks import check, check_instance, check_int
from ..errors import ModelFileError
from ..io import read, write
from ._identity import identity
from ._problem import Begun

# What fits with no integer for a random_state do not repeat.
_RANDOM = {"start", "anchor", "random numbers", "site orders", "samples of each network"}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file from which a training that was cut off goes on, with the same result bit for bit.

    It is written whole or not at all, every so many epochs and at the end, and within epochs of
    rows that are read in parts every minute. It stays: the same training once more is read from it.
    Callbacks are called for the last epoch of the file again, since they may have been cut off.
    Files of other samples, starts, random numbers, fields of the trainer or versions of this
    library, JAX or Python are refused and left alone; callbacks, verbose and time_limit may differ.
    Functions are compared by their code and what they close over, not by what they find in their
    module.

    Files of models do not have it.

    >>> Checkpoint("run.ckpt", every=10).numbered(2)
    Checkpoint(path='run-2.ckpt', every=10)

    Parameters
    ----------
    path : str or path, the file, in a folder that exists
    every : int, epochs after which it is written, at least 1
    """

    path: str | os.PathLike
    every: int = 1

    def __post_init__(self):
        check("path", self.path, isinstance(self.path, str | os.PathLike), "the name of a file")
        object.__setattr__(self, "path", os.fspath(self.path))
        check("path", self.path, isinstance(self.path, str) and self.path, "the name of a file")
        check_int("every", self.every, 1)

    def numbered(self, number: int) -> "Checkpoint":
        """The checkpoint of one of several trainings, in a file of its own beside the others."""
        path = Path(self.path)
        path = path.with_name(f"{path.stem}-{number}{path.suffix}")
        return dataclasses.replace(self, path=str(path))


def as_checkpoint(value) -> Checkpoint | None:
    """The checkpoint that a path stands for; ValueError for anything but these and None."""
    value = Checkpoint(value) if isinstance(value, str | os.PathLike) else value
    check_instance("checkpoint", value, Checkpoint, optional=True)
    return value


class Progress(NamedTuple):
    """The state of a training after an epoch, or within one.

    Attributes
    ----------
    params, state : pytree, to continue with
    best : pytree, the parameters of the best epoch, or of the start
    history : dict, lists by name, one value per epoch
    start : float, loss before all epochs
    begun : Begun or None, the epoch that is under way
    """

    params: Any
    state: Any
    best: Any
    history: dict
    start: float
    begun: Begun | None = None


class CheckpointFile:
    """The file of a `Checkpoint` as one training reads and writes it.

    It has the random numbers of the problem besides what it is given, and says whose it is.
    """

    def __init__(self, trainer, problem):
        self.checkpoint, self.path = trainer.checkpoint, trainer.checkpoint.path
        if not Path(self.path).absolute().parent.is_dir():
            raise FileNotFoundError(f"There is no folder for {self.path!r}: make it first.")
        if Path(self.path).is_dir():
            raise IsADirectoryError(f"The checkpoint {self.path!r} is a folder: name a file.")
        self.problem, self.identity = problem, identity(trainer, problem)
        #: Shapes and types of the arrays that it may have, and the number of epochs that it has.
        self.shapes, self.n_epochs = {}, 0

    def write(self, progress: Progress):
        """Replace the file, once `read` has said what it may hold."""
        arrays, random = _arrays(progress[:3]), None
        if _shapes(arrays) != self.shapes:
            raise ValueError(
                "A checkpoint needs parameters and a state that keep their shapes and types from "
                "the start on, and this trainer's do not: set its checkpoint=None."
            )
        rng = self.problem.random_state
        if rng is not None:
            random = rng.get_state(legacy=False)
            if random["bit_generator"] != "MT19937":
                raise ValueError(
                    f"Checkpoints keep random numbers of the kind MT19937, not of "
                    f"{random['bit_generator']}: give numpy.random.RandomState(seed)."
                )
            arrays["random"] = random["state"]["key"]
            random = [random["state"]["pos"], random["has_gauss"], random["gauss"]]
        content = {
            "identity": self.identity,
            "history": {name: _plain(values) for name, values in progress.history.items()},
            "start": float(progress.start),
            "random": random,
            "begun": progress.begun,
        }
        write(self.path, arrays, {"checkpoint": content})
        self.n_epochs = len(progress.history["loss"])

    def read(self, params, state, n_epochs: int) -> Progress | None:
        """The content of the file, None if there is none; ModelFileError for any other file.

        Parameters
        ----------
        params, state : pytree, those before all epochs
        n_epochs : int, epochs that it has at most
        """
        start = params, state, params
        self.shapes = _shapes(_arrays(start))
        # A link to a file that is yet to be made will be followed.
        if not os.path.exists(self.path):
            return None
        try:
            arrays, metadata = read(self.path)
        except ValueError as error:
            raise self._refusal(f"cannot be read: {error}") from error
        content = metadata.get("checkpoint") if isinstance(metadata, dict) else None
        if not isinstance(content, dict) or not isinstance(content.get("identity"), dict):
            raise self._refusal("is another file, with no training in it.")
        self._check_identity(content["identity"])
        try:
            found, random = self._checked(arrays, content, start, n_epochs)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._refusal(f"is damaged: {error}.") from error
        if self.problem.random_state is not None:
            self.problem.random_state.set_state(random)
        self.n_epochs = len(found.history["loss"])
        return found

    def _refusal(self, fault):
        return ModelFileError(
            f"The checkpoint {self.path!r} {fault} Remove the file to start again, or name another "
            "one."
        )

    def _check_identity(self, theirs):
        mine = self.identity
        other = [name for name in mine if theirs.get(name) != mine[name]]
        if theirs.keys() - mine.keys():
            other.append("what this version does not know")
        if not other:
            return
        *names, last = other
        names = f"{', '.join(names)} and {last}" if names else last
        hint = ""
        if _RANDOM.issuperset(other):
            hint = " The start and random numbers are repeated if random_state is the same integer."
        raise self._refusal(f"is of another training: it differs in {names}.{hint}")

    def _checked(self, arrays, content, like, n_epochs):
        """`Progress` and the state of the random numbers; errors for what cannot be right."""
        rng, expected = self.problem.random_state, dict(self.shapes)
        if rng is not None:
            expected["random"] = (624,), np.dtype(np.uint32)
        if _shapes(arrays) != expected:
            raise ValueError("its arrays are not those of this training")
        history, start, random = (content.get(name) for name in ("history", "start", "random"))
        begun = self._checked_begun(content.get("begun"))
        self._check_history(history, n_epochs, 1 if begun is None else 0)
        if not _is_finite(start):
            raise ValueError("the loss before all epochs is not finite")
        leaves, tree = jax.tree.flatten(like)
        leaves = [
            _restored(leaf, arrays[f"leaf.{i}"]) if _is_number(leaf) else leaf
            for i, leaf in enumerate(leaves)
        ]
        params, state, best = jax.tree.unflatten(tree, leaves)
        if not np.isfinite([self.problem.largest(params), self.problem.largest(best)]).all():
            raise ValueError("the parameters are not finite")
        if rng is not None:
            position, has_gauss, gauss = random
            whole = type(position) is int and type(has_gauss) is int
            if not (whole and 0 <= position <= 624 and has_gauss in (0, 1) and _is_finite(gauss)):
                raise ValueError("the state of the random numbers is none")
            random = "MT19937", arrays["random"], position, has_gauss, gauss
        return Progress(params, state, best, history, start, begun), random

    def _checked_begun(self, numbers):
        """The `Begun` of these numbers, None of None; ValueError for any that cannot be."""
        if numbers is None:
            return None
        windows = self.problem.windows
        begun = Begun(*numbers) if isinstance(numbers, list) and len(numbers) == 4 else None
        if (
            begun is None
            or windows is None
            or not all(map(_is_finite, begun))
            or {type(begun.seed), type(begun.n_windows)} != {int}
            or not 0 <= begun.seed < 2**31
            or not 0 < begun.n_windows < len(windows.lengths())
        ):
            raise ValueError("the epoch that it has begun is none of this training")
        return begun

    def _check_history(self, history, n_epochs, least):
        """ValueError unless all that a history names has a value for each of its epochs.

        These are at least `least` and at most n_epochs.
        """
        judged = ["validation_loss"] if self.problem.validation is not None else []
        names = ["loss", "seconds", *judged]
        valid = isinstance(history, dict) and all(map(_is_plain, history.values()))
        valid = valid and all(isinstance(values, list) for values in history.values())
        if not valid or not history.keys() >= {*names} or len({*map(len, history.values())}) > 1:
            raise ValueError("the history is not one of epochs")
        # An epoch that was begun is one of them, too.
        if not least <= len(history["loss"]) <= n_epochs - 1 + least:
            raise ValueError(f"the history has {len(history['loss'])} epochs")
        for name in names:
            for value in history[name]:
                if not (_is_finite(value) or (name in judged and value == np.inf)):
                    raise ValueError(f"the history of {name} has {value!r}")
        if np.any(np.diff([0.0, *history["seconds"]]) < 0):
            raise ValueError("the seconds of the history go back")


def _arrays(tree):
    """The arrays of a file by name."""
    leaves = enumerate(jax.tree.leaves(tree))
    return {f"leaf.{i}": _stored(leaf) for i, leaf in leaves if _is_number(leaf)}


def _shapes(arrays):
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _is_number(leaf):
    """Whether a leaf is what training changes, an array or a number."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float)


def _is_key(leaf):
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(leaf):
    """An array or number as an array that files hold."""
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    if array.dtype.kind in "biuf" and array.itemsize <= 8:
        return array
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _restored(leaf, array):
    """The leaf that `_stored` made an array of; leaf: one of the same kind."""
    if _is_key(leaf):
        return jax.random.wrap_key_data(on_device(array), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, bool | int | float):
        return type(leaf)(array.item())
    array = array if array.dtype == leaf.dtype else array.view(leaf.dtype).reshape(leaf.shape)
    if isinstance(leaf, jax.Array):
        return on_device(array)
    return array if isinstance(leaf, np.ndarray) else array[()]


def _is_finite(value):
    return type(value) in (int, float) and math.isfinite(value)


def _plain(value):
    """A value of a history as JSON has it; TypeError for what it has not."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if _is_plain(value):
        return value
    raise TypeError(f"A checkpoint keeps histories of numbers, not of {type(value).__name__}.")


def _is_plain(value):
    """Whether a value is None, a number, a string or a list of these."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
