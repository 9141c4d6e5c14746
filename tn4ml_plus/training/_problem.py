"""What a trainer is given and what it returns."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..contraction import unpack
from ._members import members
from ._objective import mean_loss


class Samples(NamedTuple):
    """Embedded samples on the device, padded to a bucketed length with samples of weight zero.

    phi: (length, nsites, phys_dim); target: (length,) or (length, n_outputs); weight: (length,).
    """

    phi: jax.Array
    target: jax.Array
    weight: jax.Array


def bucket(size):
    """Smallest of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ... that is at least `size`.

    Four sizes an octave, so that nearby sizes share compiled code at a cost of at most a quarter.

    >>> [bucket(n) for n in (1, 9, 455, 456, 60000)]
    [1, 10, 512, 512, 65536]
    """
    step = 1 << max(0, int(size - 1).bit_length() - 3)
    return -(-size // step) * step


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What a callback sees after each epoch.

    number: counted from 1; history: lists by name, one value an epoch; members: a function without
    arguments that returns the current networks as a list of quimb networks.
    """

    number: int
    history: dict[str, list[float]]
    members: Callable[[], list]


@dataclasses.dataclass
class Problem:
    """One training task: several networks of one padded structure on the same samples.

    structures: one a network, from `pack`; params: packed networks, leaves (n_members, ...);
    anchor: the same pytree, what decay pulls toward; orders: (n_members, nsites) which site of phi
    each network's sites read, None for the given order; neutral: (nsites, phys_dim) the vector of
    a dropped feature; n_samples: the real ones among `samples`; n_seen: those that the networks
    have been trained on before, an epoch after another; state: the leaves of a trainer's
    state to continue from, None to start.
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
    random_state: np.random.RandomState = dataclasses.field(default_factory=np.random.RandomState)
    state: Any = None
    n_seen: int = 0
    callbacks: tuple = ()
    verbose: bool = False

    @property
    def structure(self):
        """The padded structure that all networks share, what compiled functions are keyed by."""
        return self.structures[0].padded()

    @property
    def n_members(self):
        """How many networks are trained together."""
        return len(jax.tree.leaves(self.params)[0])

    @property
    def effective_size(self):
        """How many samples decay is balanced against.

        The sum of the weights, which are repetitions where they are integers, but no less than the
        number of samples: a common factor of small weights changes nothing.
        """
        return max(float(self.samples.weight.sum()), self.n_samples)

    def validation_loss(self, params):
        """Mean loss of networks with these parameters on the validation samples."""
        samples = self.validation
        block = min(1024, len(samples.weight))
        # Arrays are contracted as large as they are; a structure that kept to the ranks of each
        # epoch would compile anew.
        losses = mean_loss(self.structure, self.objective, params, samples, self.orders, block)
        return float(losses.mean())

    def networks(self, params, structures):
        """The networks with these parameters, a list."""
        return [unpack(packed, structure) for structure, packed in members(structures, params)]


@dataclasses.dataclass
class Result:
    """What training returns.

    params, structures: as in `Problem`; state: leaves of the trainer's; history; n_iter: epochs
    run; anchor: what decay pulls toward from now on; stopped: whether a callback ended training.
    Structures and anchor are None if the same.
    """

    params: Any
    state: Any
    history: dict[str, list[float]]
    n_iter: int
    structures: tuple | None = None
    anchor: Any = None
    stopped: bool = False


def extend_history(history, new):
    """Add what new epochs have, lists by name, to a history: None where either has no value."""
    before, n_new = (max(map(len, part.values()), default=0) for part in (history, new))
    for name in history | new:
        history.setdefault(name, [None] * before).extend(new.get(name, [None] * n_new))
