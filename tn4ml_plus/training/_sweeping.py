"""What trainers that sweep have in common: batches, epochs, histories."""

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_instance, check_int, check_number, function_tuple
from ..contraction import rooted, to_nodes
from ._bond import METRIC_ROWS
from ._local import Settings
from ._loop import run
from ._members import members, stacked
from ._problem import bucket
from ._stopping import EarlyStopping


class Sweeping:
    """A trainer that goes through each network again and again, batch by batch.

    A subclass is a frozen dataclass with the fields `max_epochs`, `batch_size`, `ridge`, `damping`,
    `shrinkage`, `steps`, `feature_dropout`, `cache_bytes`, `early_stopping`, `time_limit` and
    `callbacks`. It defines `_sweeper`, a `Sweeper` for a network, and `_sweep`, which sends one of
    them once through its network, with a damping, and returns the mean loss and numbers for the
    history.
    """

    _default_epochs = 4

    def _check(self):
        check_int("max_epochs", self.max_epochs, 1, optional=True)
        for name in ("batch_size", "steps", "cache_bytes"):
            check_int(name, getattr(self, name), 1)
        for name in ("ridge", "damping"):
            check_number(name, getattr(self, name), at_least=0)
        check_number("shrinkage", self.shrinkage, at_least=0, at_most=1)
        check_number("feature_dropout", self.feature_dropout, at_least=0, below=1)
        check_instance("early_stopping", self.early_stopping, EarlyStopping, optional=True)
        check_number("time_limit", self.time_limit, above=0, optional=True)
        object.__setattr__(self, "callbacks", function_tuple("callbacks", self.callbacks))

    def check(self, problem):
        """ValueError for networks that cannot be swept."""
        for structure in problem.structures:
            rooted(structure)

    def train(self, problem):
        """Train the networks of a `Problem`; returns a `Result`."""
        n_epochs = self._default_epochs if self.max_epochs is None else self.max_epochs
        return self._run(problem, n_epochs, 0)

    def partial_train(self, problem):
        """One pass over the samples, in steps that forget little of ``problem.n_seen`` others."""
        return self._run(problem, 1, problem.n_seen)

    def _settings(self, damping, **others):
        # No metric at all is cheaper than one in which all directions count alike.
        shrinkage = None if self.shrinkage == 1 else self.shrinkage
        return Settings(self.ridge, damping, shrinkage, self.steps, **others)

    def _run(self, problem, n_epochs, n_seen):
        self.check(problem)
        networks = members(problem.structures, jax.device_get(problem.params))
        # All of one size, that of the largest bond of any.
        size = max((rank for net in networks for rank in to_nodes(*net)[1]), default=1)
        sweepers = [self._sweeper(network, problem.objective, size) for network in networks]
        n_batches = -(-problem.n_samples // self.batch_size)
        weight = np.asarray(problem.samples.weight, float)

        def step(epoch, params, _):
            losses, numbers = [], []
            for m, (member, state) in enumerate(zip(sweepers, params, strict=True)):
                member.state, of_batches, weights = state, [], []
                if epoch == 1:
                    # What a start makes of the samples says little of the outputs' size.
                    member.choose_unit()
                for i, rows in enumerate(_batches(problem, n_batches)):
                    self._show(member, problem, m, rows)
                    # One batch is all that there is: nothing to forget.
                    before = epoch * n_batches + i if n_batches > 1 else 0
                    before += n_seen / np.sum(rows >= 0)
                    loss, found = self._sweep(member, self.damping * (1.0 + before))
                    of_batches.append(loss)
                    weights.append(weight[rows[rows >= 0]].sum())
                member.forget()
                losses.append(np.average(of_batches, weights=weights))
                numbers.append(found)
            # One list a member, unless there is only one.
            history = {
                name: [np.asarray(found[name]).tolist() for found in numbers] for name in numbers[0]
            }
            if len(sweepers) == 1:
                history = {name: value[0] for name, value in history.items()}
            new = [member.state for member in sweepers]
            cores = jax.tree.leaves([cores for cores, *_ in new])
            finite = all(np.isfinite(core).all() for core in cores)
            return new, (), float(np.mean(losses)) if finite else np.nan, history

        def packed(params):
            found = []
            for member, state in zip(sweepers, params, strict=True):
                member.state = state
                found.append(member.packed())
            structures = tuple(structure for _, structure in found)
            return stacked(packed for packed, _ in found), structures

        return run(
            problem, step, (), n_epochs, "Raise ridge or damping", self.early_stopping,
            self.time_limit, self.callbacks,
            start=[member.state for member in sweepers], packed=packed,
        )  # fmt: skip

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
