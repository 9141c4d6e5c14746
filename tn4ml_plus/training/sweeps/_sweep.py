"""Sweeps over open chains and trees: batches, epochs and histories of all trainers that sweep."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays import on_device
from ..._checks import check, check_int, check_number
from ..._forks import unforked
from ..._registry import variant
from .._mesh import MeshTrainer, by_samples
from .._problem import Result, bucket
from .._risk import members, stacked
from .._trainer import Step
from ._effective_problem import Settings
from ._environments import METRIC_ROWS
from ._sweeper import Sweeper, largest_rank
from ._updates import SCHEMES


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepTrainer(MeshTrainer):
    """A trainer that sweeps through each network again and again, batch by batch.

    A subclass defines `_sweeper`, a `Sweeper` for a network, and `_sweep`, which sends one of them
    once through its network, with a damping, and returns the mean loss and numbers for the history.
    Fields: see `Sweep`.
    """

    batch_size: int = 10_000
    ridge: float = 1e-2
    damping: float = 0.1
    shrinkage: float = 1.0
    steps: int = 2
    feature_dropout: float = 0.0
    cache_bytes: int = 2_000_000_000

    trains_on_parts: ClassVar[bool] = True
    advice: ClassVar[str] = "Raise ridge or damping"

    def __post_init__(self):
        super().__post_init__()
        for name in ("batch_size", "steps", "cache_bytes"):
            check_int(name, getattr(self, name), 1)
        for name in ("ridge", "damping"):
            check_number(name, getattr(self, name), at_least=0)
        check_number("shrinkage", self.shrinkage, at_least=0, at_most=1)
        check_number("feature_dropout", self.feature_dropout, at_least=0, below=1)

    def check(self, problem):
        """ValueError for networks that cannot be swept."""
        for structure in problem.structures:
            structure.check_swept()
        super().check(problem)

    def train(self, problem):
        # Only `partial_train` forgets little of what was seen before.
        return super().train(dataclasses.replace(problem, n_seen=0))

    def _settings(self, damping, **others):
        # No metric at all is cheaper than one in which all directions count alike.
        shrinkage = None if self.shrinkage == 1 else self.shrinkage
        return Settings(self.ridge, damping, shrinkage, self.steps, **others)

    def begin(self, problem):
        """A `Sweeper` for each network, and no state besides."""
        networks = members(problem.structures, problem.params)
        # All of one size, that of the largest bond of any.
        size = max((rank for s, p in networks for rank in s.to_nodes(p)[1]), default=1)
        return [self._sweeper(network, problem.objective, size) for network in networks], ()

    def step(self, problem, params, state, epoch):
        """One sweep of each network for each batch."""
        n_batches = -(-problem.n_samples // self.batch_size)
        weight = np.asarray(problem.samples.weight, float)
        losses, numbers, new = [], [], []
        for m, before in enumerate(params):
            # A copy, since sweeps give the memory of what they start from to what they end with.
            leaves, tree = jax.tree.flatten(before)
            member, of_batches, weights = jax.tree.unflatten(tree, _copied(leaves)), [], []
            if epoch == 1:
                # What a start makes of the samples says little of the outputs' size.
                member.choose_unit()
            for i, rows in enumerate(_batches(problem, n_batches, self.n_parts)):
                self._show(member, problem, m, rows)
                # One batch is all that there is: nothing to forget.
                earlier = epoch * n_batches + i if n_batches > 1 else 0
                earlier += problem.n_seen / np.sum(rows >= 0)
                loss, found = self._sweep(member, float(self.damping * (1.0 + earlier)))
                of_batches.append(loss)
                weights.append(weight[rows[rows >= 0]].sum())
            member.forget()
            losses.append(np.average(of_batches, weights=weights))
            numbers.append(found)
            new.append(member)
        history = {}
        for name in numbers[0]:
            values = [np.asarray(found[name]).tolist() for found in numbers]
            # One list per member, unless there is only one.
            history[name] = values if len(params) > 1 else values[0]
        return Step(new, state, losses, history)

    def outcome(self, problem, params):
        """A `Result` with the packed networks, which are the anchor from now on."""
        found = [member.packed() for member in params]
        packed = stacked(packed for packed, _ in found)
        return Result(packed, structures=tuple(s for _, s in found), anchor=packed)

    def _show(self, member, problem, m, rows):
        samples, rng = problem.samples, problem.random_state
        order = None if problem.orders is None else np.asarray(problem.orders)[m]
        phi, target, weight = _chosen(samples, rows, order)
        if self.feature_dropout:
            dropped = rng.random_sample((len(phi), len(rows))) < self.feature_dropout
            neutral = problem.neutral if order is None else problem.neutral[order]
            phi = jnp.where(dropped[:, None], neutral[..., None], phi)
        signs = None
        if self.shrinkage < 1:
            signs = rng.choice([-1.0, 1.0], (min(len(rows), METRIC_ROWS), member.n_signs))
            signs = on_device(signs, phi.dtype)
        if self.mesh is not None:
            phi = by_samples(self.mesh, phi, axis=2)
            target, weight = by_samples(self.mesh, (target, weight), axis=0)
        member.see(phi, target, weight, signs)


@unforked
@jax.jit
def _copied(arrays):
    return [jnp.copy(array) for array in arrays]


@unforked
@jax.jit
def _chosen(samples, rows, order):
    """phi (nsites, phys_dim, batch), target and weight of some rows, of weight 0 where negative."""
    phi = samples.phi[rows]
    phi = phi if order is None else phi[:, order]
    weight = jnp.where(rows >= 0, samples.weight[rows], 0).astype(phi.dtype)
    return phi.transpose(1, 2, 0), samples.target[rows], weight


def _batches(problem, n_batches, multiple):
    """Row numbers of every batch, of equal and bucketed lengths, -1 where there is none."""
    rows = problem.random_state.permutation(problem.n_samples)
    length = -(-bucket(-(-len(rows) // n_batches)) // multiple) * multiple
    for part in np.array_split(rows, n_batches):
        yield np.concatenate([part, np.full(length - len(part), -1)])


@variant("trainer")
class Sweep(SweepTrainer):
    """Sweeps over open chains and trees, with bonds that grow and shrink as the data need.

    At each bond the product of the two cores is improved by conjugate gradients on the Gauss-Newton
    model of the objective, cut to the rank that `cutoff` asks for, and improved again within it; a
    step that ends above where it began, by more than a millionth or what the cutoff allows, is
    rejected unless the bond is larger than max_bond. There is no learning rate. The outputs stay at
    their core, so that bonds need not carry them. Operators are trained on their squared norm, as
    losses of densities read it.

    The history has the mean loss of all batches, each after its own sweep, and of the last the
    "bond_dims" and the shares discarded there, "truncation", both in the order of the sites, or of
    the tree's nodes. An epoch is a pass over the samples, of which there are 4 by default.

    >>> Sweep(max_bond=32, cutoff=1e-4).max_bond
    32

    Parameters
    ----------
    n_sites : int, cores that are improved together, 2, or 1 for cheaper steps and slower growth
    max_bond : int, optional
        Cap on the bonds and size of all arrays; None: the largest that the network has when
        training begins.
    cutoff : float
        Share of the square of two cores' product that a truncation may discard, in [0, 1), in the
        metric that shrinkage names.
    steps_after : int, steps of conjugate gradients after the truncation
    expansion : int, directions that single cores add to a bond before it is cut
    max_epochs, early_stopping, time_limit, callbacks, checkpoint : as in `Trainer`
    mesh : jax.sharding.Mesh, optional
        Devices that divide each batch, as in `Gradient`. Results are those of one device to
        rounding, which truncations make visible.
    batch_size : int, samples seen at a time, all bonds once for each batch
    ridge : float
        Weight of half the product's square, in units of the outputs' mean square when training
        begins, chosen once more after the first sweep.
    damping : float
        Weight of half the squared steps, in units in which it is that before the step; grows in
        proportion to the batches seen where there are several.
    shrinkage : float
        In [0, 1], from the metric of the samples, where steps, ridge and cutoff count outputs, to
        one where all directions count alike, which fits slower and generalises better.
    steps : int, steps of conjugate gradients before the truncation
    feature_dropout : float, share of the features that each sample loses in each batch, in [0, 1)
    cache_bytes : int
        Memory for the environments of bonds, each about batch_size times the outputs times the
        bond; those beyond it are made again instead of kept.

    References
    ----------
    White 1992, Phys. Rev. Lett. 69, 2863; Stoudenmire and Schwab 2016, arXiv:1605.05775.
    """

    n_sites: int = 2
    max_bond: int | None = None
    cutoff: float = 1e-6
    steps_after: int = 1
    expansion: int = 4

    default_epochs: ClassVar[int] = 4

    def __post_init__(self):
        super().__post_init__()
        check_int("n_sites", self.n_sites, 1)
        check("n_sites", self.n_sites, self.n_sites <= 2, "1 or 2")
        check_int("max_bond", self.max_bond, 1, optional=True)
        for name in ("steps_after", "expansion"):
            check_int(name, getattr(self, name), 0)
        check_number("cutoff", self.cutoff, at_least=0, below=1)

    def _sweeper(self, network, objective, size):
        size = max(size, min(self.max_bond or 1, largest_rank(*network)))
        return Sweeper(*network, objective, size, self.cache_bytes)

    def _sweep(self, member, damping):
        cut = {"cutoff": self.cutoff, "max_bond": self.max_bond or member.size, "forced": True}
        others = {"steps_after": self.steps_after, "expansion": self.expansion}
        settings = self._settings(damping, **cut, **others)
        if not member.form.bonds:
            return member.improve_root(settings), {"bond_dims": [], "truncation": []}
        reports = jax.device_get(member.sweep(settings, self.n_sites))
        # The last update of a bond counts, that on the way back.
        last = member.plan(SCHEMES[self.n_sites]).last[list(member.form.bonds)]
        numbers = {"bond_dims": reports.rank[last], "truncation": reports.truncation[last]}
        return reports.loss[-1], numbers
