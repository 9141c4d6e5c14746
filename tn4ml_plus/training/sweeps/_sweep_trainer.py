"""Batches, epochs and histories of trainers that sweep."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import check_int, check_number
from .._members import members, stacked
from .._problem import Result, bucket
from .._trainer import Step, Trainer
from ._effective_map import METRIC_ROWS
from ._effective_problem import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepTrainer(Trainer):
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

    def train(self, problem):
        # Only `partial_train` forgets little of what was seen before.
        return super().train(dataclasses.replace(problem, n_seen=0))

    def _settings(self, damping, **others):
        # No metric at all is cheaper than one in which all directions count alike.
        shrinkage = None if self.shrinkage == 1 else self.shrinkage
        return Settings(self.ridge, damping, shrinkage, self.steps, **others)

    def begin(self, problem):
        """A `Sweeper` for each network, and no state besides."""
        networks = members(problem.structures, jax.device_get(problem.params))
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
            member, of_batches, weights = jax.tree.map(jnp.copy, before), [], []
            if epoch == 1:
                # What a start makes of the samples says little of the outputs' size.
                member.choose_unit()
            for i, rows in enumerate(_batches(problem, n_batches)):
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
        order = None if problem.orders is None else problem.orders[m]
        phi, target, weight = _chosen(samples, rows, order)
        if self.feature_dropout:
            dropped = rng.random_sample((len(phi), len(rows))) < self.feature_dropout
            neutral = problem.neutral if order is None else problem.neutral[order]
            phi = jnp.where(dropped[:, None], neutral[..., None], phi)
        signs = None
        if self.shrinkage < 1:
            signs = rng.choice([-1.0, 1.0], (min(len(rows), METRIC_ROWS), member.n_signs))
            signs = jnp.asarray(signs, phi.dtype)
        member.see(phi, target, weight, signs)


@jax.jit
def _chosen(samples, rows, order):
    """phi (nsites, phys_dim, batch), target and weight of some rows, of weight 0 where negative."""
    phi = samples.phi[rows]
    phi = phi if order is None else phi[:, order]
    weight = jnp.where(rows >= 0, samples.weight[rows], 0).astype(phi.dtype)
    return phi.transpose(1, 2, 0), samples.target[rows], weight


def _batches(problem, n_batches):
    """Row numbers of every batch, of equal and bucketed lengths, -1 where there is none."""
    rows = problem.random_state.permutation(problem.n_samples)
    length = bucket(-(-len(rows) // n_batches))
    for part in np.array_split(rows, n_batches):
        yield np.concatenate([part, np.full(length - len(part), -1)])
