"""Problems that trainers are given, and the results that they return."""

import abc
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from .._arrays import on_device
from .._compiled import ahead
from .._registry import UNSTORED
from ..contraction import unpack
from ._risk import Risk, count, losses, members, value


class Samples(NamedTuple):
    """Embedded samples on the device, padded to a bucketed length with samples of weight zero.

    Attributes
    ----------
    phi : array (length, nsites, phys_dim), or `Embedded`
    target : array (length,) or (length, n_outputs)
    weight : array (length,)
    """

    phi: Any
    target: jax.Array
    weight: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Embedded:
    """Vectors that are made where they are read, by index, from columns that take less memory.

    Parameters
    ----------
    columns : array (length, width)
    embed : callable pytree, the map from columns to vectors (length, nsites, phys_dim)
    sites : (int, int), nsites and phys_dim
    """

    columns: Any
    embed: Callable
    sites: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def __getitem__(self, rows):
        return self.embed(self.columns[rows])

    @property
    def shape(self):
        return (len(self.columns), *self.sites)

    @property
    def dtype(self):
        return self.columns.dtype


class Windows(abc.ABC):
    """Samples that are read in windows, since together they take too much memory.

    Parameters
    ----------
    n_samples : int, of all windows
    mean_weight : float, of all samples
    identity : str, what says whether others are the same samples in the same order
    """

    n_samples: int
    mean_weight: float
    identity: str = ""

    @abc.abstractmethod
    def lengths(self) -> list[int]:
        """Numbers of samples of the windows, all but the last the same."""

    @abc.abstractmethod
    def epoch(self, seed: int) -> Iterator[Samples]:
        """All samples once, as many in each of these as `lengths` says.

        seed : int, below 2**31, of their order
        """


class Begun(NamedTuple):
    """An epoch under way.

    Attributes
    ----------
    seed : int, that of the order of its windows
    n_windows : int, windows that were trained on
    total : float, sum of the losses on their samples, mean over the networks
    first : float, mean loss on the first of them
    """

    seed: int
    n_windows: int
    total: float
    first: float


def bucket(size: int) -> int:
    """Smallest of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ... that is at least `size`.

    Four sizes per octave, so that nearby sizes share compiled code at a cost of at most a quarter.

    >>> [bucket(n) for n in (1, 9, 455, 456, 60000)]
    [1, 10, 512, 512, 65536]
    """
    step = 1 << max(0, int(size - 1).bit_length() - 3)
    return -(-size // step) * step


@dataclasses.dataclass(frozen=True)
class Epoch:
    """A finished epoch, as callbacks see it.

    Parameters
    ----------
    number : int, counted from 1
    history : dict, lists by name, one value per epoch
    members : function without arguments, returns the current networks as a list of quimb networks
    """

    number: int
    history: dict[str, list[float]]
    members: Callable[[], list]


@dataclasses.dataclass
class Result:
    """The outcome of training.

    Parameters
    ----------
    params : pytree, as in `Problem`
    state : list of arrays, leaves of the trainer's state
    history : dict, lists by name, one value per epoch
    n_iter : int, number of epochs
    structures, anchor : as in `Problem`, None if unchanged
    stopped : bool, whether a callback ended training
    """

    params: Any
    state: Any = ()
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    n_iter: int = 0
    structures: tuple | None = None
    anchor: Any = None
    stopped: bool = False


class Trainable(abc.ABC):
    """A training task as the loop over epochs sees it, a dataclass; fields as in `Problem`."""

    params: Any
    state: Any = None
    validation: Any = None
    subsets: Any = None
    windows: Any = None
    random_state: Any = None
    callbacks: tuple = ()
    verbose: bool = False

    def largest(self, params) -> float:
        """Largest size of a parameter, NaN where one is; what is not finite is never kept."""
        arrays = (leaf for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype"))
        floats = (array for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact))
        return float(np.max([np.abs(np.asarray(a)).max(initial=0) for a in floats], initial=0))

    def training_loss(self, params) -> float:
        """Mean loss of these parameters on the training samples."""
        return dataclasses.replace(self, validation=self.samples).validation_loss(params)

    #: What makes training shorter, a sentence.
    remedy = "Fewer samples, a smaller model or fewer epochs take less."

    @abc.abstractmethod
    def validation_loss(self, params) -> float:
        """Mean loss of these parameters on the validation samples."""

    @abc.abstractmethod
    def outcome(self, params) -> Result:
        """A `Result` with these parameters and all that belongs to them."""

    @abc.abstractmethod
    def networks(self, result: Result) -> list:
        """The trained models of a `Result`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Problem(Trainable):
    """A training task: several networks of one padded structure on the same samples.

    Parameters
    ----------
    structures : tuple, one per network, from `tn4ml_plus.contraction.pack`
    objective : `tn4ml_plus.losses.Loss` or `tn4ml_plus.losses.Objective`, to be minimised
    params : pytree, the packed networks, with leaves (n_members, ...)
    anchor : pytree like `params`, the parameters that decay pulls toward
    samples : Samples
    n_samples : int, number of real samples, which come before the padding
    neutral : array (nsites, phys_dim), the vectors that stand in for dropped features
    orders : int array (n_members, nsites), optional
        The site of phi that each site of a network reads; None: the given order.
    validation : Samples, optional
    subsets : int array (n_members, n_trained), optional
        Numbers of the samples that each network is trained on, by `Gradient` alone; None: all.
    random_state : `numpy.random.RandomState`
    state : list of arrays, optional, leaves of a trainer's state to continue from; None: a new one
    n_seen : int, samples that the networks have been trained on before, summed over epochs
    callbacks : tuple of functions of an `Epoch`
    verbose : bool, whether to show progress
    mean_weight : float, optional, of the samples and of what they are a part of; None: of these
    windows : Windows, optional
        All samples, of which `samples` are some, to train on by `Gradient` alone.
    begun : Begun, optional, the epoch that the next step goes on with
    reached : function of (params, state, Begun), optional, to call after each window but the last
    """

    structures: tuple
    objective: Any
    params: Any
    anchor: Any
    samples: Samples
    n_samples: int
    neutral: jax.Array
    orders: jax.Array | None = None
    validation: Samples | None = None
    subsets: np.ndarray | None = None
    random_state: np.random.RandomState = dataclasses.field(default_factory=np.random.RandomState)
    state: Any = None
    n_seen: int = 0
    callbacks: tuple = ()
    verbose: bool = False
    mean_weight: float | None = None
    windows: Windows | None = dataclasses.field(default=None, **UNSTORED)
    begun: Begun | None = dataclasses.field(default=None, **UNSTORED)
    reached: Callable | None = dataclasses.field(default=None, **UNSTORED)

    @property
    def remedy(self):
        return (
            f"The time grows with the {self.structure.nsites} sites, one for a column, with the "
            f"{self.n_members} networks and with the square of their bonds: choose columns first, "
            "by scikit-learn's SelectKBest or PCA, or set n_members=1 or a smaller bond_dim."
        )

    @property
    def structure(self):
        """The padded structure that all networks share, which compiled functions are keyed by."""
        return self.structures[0].padded(self.samples.phi.shape[2])

    @property
    def n_members(self) -> int:
        """Number of networks that are trained together."""
        return count(self.params)

    @property
    def n_trained(self) -> int:
        """Number of samples that each network is trained on."""
        return self.n_samples if self.subsets is None else self.subsets.shape[1]

    @property
    def effective_size(self) -> float:
        """Number of samples that decay is balanced against.

        The sum of the weights, which may be frequencies, but no less than the number of samples.
        """
        return max(self._total_weight, self.n_samples)

    @cached_property
    def _total_weight(self):
        if self.mean_weight is not None:
            return self.mean_weight * self.n_samples
        return float(np.asarray(self.samples.weight).sum(dtype=float))

    @cached_property
    def risk(self) -> Risk:
        """The objective on the training samples, as a pytree for compiled functions."""
        return self._risk(self.samples, self.n_samples / self._total_weight)

    def parts(self, seed: int, n_before: int = 0) -> Iterator["Problem"]:
        """Problems of the windows, each on the device as the next is read.

        Parameters
        ----------
        seed : int, that of their order
        n_before : int, windows that are left out
        """
        shown = {"desc": "rows", "unit": " rows", "unit_scale": True, "disable": not self.verbose}
        lengths = self.windows.lengths()
        with (
            contextlib.closing(ahead(self.windows.epoch(seed))) as read,
            tqdm(total=sum(lengths), leave=False, **shown) as progress,
        ):
            for number, (samples, length) in enumerate(zip(read, lengths, strict=True)):
                if number >= n_before:
                    samples = jax.tree.map(on_device, samples)
                    changes = {"samples": samples, "n_samples": length, "windows": None}
                    yield dataclasses.replace(self, **changes)
                progress.update(length)

    def _risk(self, samples, scale):
        scale = np.asarray(scale, samples.weight.dtype)
        return Risk(self.structure, self.objective, samples, self.orders, self.neutral, scale)

    def value(self, params, rows=None) -> jax.Array:
        """The objective of every network, (n_members,): mean loss plus penalties.

        Parameters
        ----------
        params : pytree, packed networks, with leaves (n_members, ...)
        rows : int array (n_rows,) or (n_members, n_rows), optional
            Samples that the mean is estimated from, -1 for none; None: all samples.
        """
        return value(self.risk, params, None if rows is None else on_device(rows))

    def value_and_grad(self, params, rows=None) -> tuple[jax.Array, Any]:
        """The objective and its gradient in `params`; see `Problem.value` for the parameters."""
        rows = None if rows is None else on_device(rows)
        return value(self.risk, params, rows, jax.value_and_grad)

    def validation_losses(self, params, temperatures=None) -> tuple[np.ndarray, np.ndarray]:
        """Losses on the validation samples, and the weights of these.

        Parameters
        ----------
        params : pytree, packed networks, with leaves (n_members, ...)
        temperatures : array (n_temperatures,), optional
            What outputs are divided by.

        Returns
        -------
        losses : (n_members, n_samples), or (n_temperatures, n_members, n_samples)
        weight : (n_samples,)
        """
        # Arrays are contracted as large as they are; a structure that kept to the ranks of each
        # epoch would compile anew.
        length = len(self.validation.weight)
        block = length if length <= 1024 else math.gcd(length, 1024)
        tried = np.ones(1) if temperatures is None else np.asarray(temperatures, float)
        risk = self._risk(self.validation, 1)
        found = losses(risk, params, block, tried.astype(risk.scale.dtype))
        weight = np.asarray(self.validation.weight, float)
        found = np.asarray(found, float)[..., weight > 0]
        return found[0] if temperatures is None else found, weight[weight > 0]

    def validation_loss(self, params) -> float:
        found, weight = self.validation_losses(params)
        return float(np.average(found, axis=1, weights=weight).mean())

    def outcome(self, params) -> Result:
        return Result(params, structures=self.structures, anchor=self.anchor)

    def networks(self, result: Result) -> list:
        pairs = members(result.structures, result.params)
        return [unpack(packed, structure) for structure, packed in pairs]


def extend_history(history: dict, new: dict) -> None:
    """Append new epochs to a history, with None where either has no value.

    Parameters
    ----------
    history, new : dict, lists by name, one value per epoch; the first is changed
    """
    before, n_new = (max(map(len, part.values()), default=0) for part in (history, new))
    for name in history | new:
        history.setdefault(name, [None] * before).extend(new.get(name, [None] * n_new))
