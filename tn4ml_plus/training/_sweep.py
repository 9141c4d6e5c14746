"""Training by sweeps: bond after bond, each a small problem solved for all samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_instance, check_int, check_number, function_tuple
from .._registry import register
from ._local import Settings
from ._loop import run
from ._problem import bucket
from ._stopping import EarlyStopping
from ._sweeper import Sweeper


@register("trainer")
@dataclasses.dataclass(frozen=True)
class Sweep:
    """Two-site sweeps over open chains and trees, with bonds that grow and shrink as data need.

    At each bond the product of the two cores is improved by conjugate gradients on the Gauss-Newton
    model of the objective, in the metric of the samples, cut to the rank that `cutoff` asks for,
    and improved again within it; a step that ends above where it began, by more than a millionth or
    what the cutoff allows, is rejected. There is no learning rate. The outputs stay at their core,
    so that a bond needs no room for them.

    max_bond: cap on the bonds, None for the network's largest; cutoff: share of the outputs' mean
    square that a truncation may discard, in [0, 1); max_epochs: passes over the samples, None for
    4; batch_size: samples seen at a time, all bonds once for each batch; ridge: weight of half the
    outputs' mean square; damping: of half the squared steps, grows in proportion to the batches
    seen; shrinkage: share of the mean second moment added to the metric; steps, steps_after: of
    conjugate gradients before and after the truncation; early_stopping, time_limit, callbacks: as
    in `Gradient`. The history has, after every epoch, "bond_dims" and the shares discarded there,
    "truncation", both in the order of the sites, or of the tree's nodes.
    Raises ValueError for networks with other geometries, NotFiniteError as `Gradient` does.
    After White 1992, Phys. Rev. Lett. 69, 2863, and Stoudenmire and Schwab 2016, arXiv:1605.05775.

    >>> Sweep(max_bond=32, cutoff=1e-4).max_bond
    32
    """

    max_bond: int | None = None
    cutoff: float = 1e-6
    max_epochs: int | None = None
    batch_size: int = 10_000
    ridge: float = 3e-3
    damping: float = 0.1
    shrinkage: float = 0.1
    steps: int = 2
    steps_after: int = 1
    early_stopping: EarlyStopping | None = None
    time_limit: float | None = None
    callbacks: tuple = ()

    def __post_init__(self):
        check_int("max_bond", self.max_bond, 1, optional=True)
        check_int("max_epochs", self.max_epochs, 1, optional=True)
        for name, least in (("batch_size", 1), ("steps", 1), ("steps_after", 0)):
            check_int(name, getattr(self, name), least)
        check_number("cutoff", self.cutoff, at_least=0, below=1)
        for name in ("ridge", "damping", "shrinkage"):
            check_number(name, getattr(self, name), at_least=0)
        check_instance("early_stopping", self.early_stopping, EarlyStopping, optional=True)
        check_number("time_limit", self.time_limit, above=0, optional=True)
        object.__setattr__(self, "callbacks", function_tuple("callbacks", self.callbacks))

    def train(self, problem):
        """Train the networks of a `Problem`; returns a `Result`."""
        return self._run(problem, 4 if self.max_epochs is None else self.max_epochs)

    def partial_train(self, problem):
        """One pass over the samples."""
        return self._run(problem, 1)

    def _run(self, problem, n_epochs):
        def sweepers(size):
            return [
                Sweeper(
                    structure, jax.tree.map(lambda leaf, m=m: leaf[m], problem.params),
                    problem.objective, size,
                )
                for m, structure in enumerate(problem.structures)
            ]  # fmt: skip

        # All of one size, that of the largest bond of any.
        members = sweepers(max(member.size for member in sweepers(self.max_bond or 1)))
        rng = problem.random_state
        n_batches = -(-problem.n_samples // self.batch_size)

        def step(epoch, params, state):
            del state
            losses, reports = [], []
            for m, (member, (cores, ranks)) in enumerate(zip(members, params, strict=True)):
                member.cores, member.ranks = list(cores), list(ranks)
                for i, rows in enumerate(self._batches(problem, n_batches)):
                    _show(member, problem, m, rows)
                    seen = epoch * n_batches + i
                    key = jax.random.key(rng.randint(2**31 - 1))
                    found = member.sweep(self._settings(member, seen if n_batches > 1 else 0), key)
                losses.append(found[-1][1].loss)
                # The last visit of a bond counts, that on the way back.
                last = dict(found)
                reports.append([last[node] for node in member.form.bonds])
            reports = jax.device_get(reports)
            numbers = {
                "bond_dims": [[int(bond.rank) for bond in bonds] for bonds in reports],
                "truncation": [[float(bond.truncation) for bond in bonds] for bonds in reports],
            }
            if len(reports) == 1:
                numbers = {name: value[0] for name, value in numbers.items()}
            new = [(member.cores, member.ranks) for member in members]
            finite = all(jnp.isfinite(core).all() for cores, _ in new for core in cores)
            loss = float(np.mean(jax.device_get(losses))) if finite else np.nan
            return new, (), loss, numbers

        def packed(params):
            found = []
            for member, (cores, ranks) in zip(members, params, strict=True):
                member.cores, member.ranks = list(cores), list(ranks)
                found.append(member.packed())
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p for p, _ in found))
            return stacked, tuple(structure for _, structure in found)

        return run(
            problem, step, (), n_epochs, "Raise ridge or damping", self.early_stopping,
            self.time_limit, self.callbacks,
            start=[(member.cores, member.ranks) for member in members], packed=packed,
        )  # fmt: skip

    def _settings(self, member, n_seen):
        cap = self.max_bond or member.size
        return Settings(
            ridge=self.ridge,
            damping=self.damping * (1.0 + n_seen),
            shrinkage=self.shrinkage,
            steps=self.steps,
            steps_after=self.steps_after,
            cutoff=self.cutoff,
            max_bond=cap,
            forced=cap < member.size,
        )

    def _batches(self, problem, n_batches):
        """Row numbers of every batch, of equal and bucketed lengths, -1 where there is none."""
        n = problem.n_samples
        rows = np.arange(n) if n_batches == 1 else problem.random_state.permutation(n)
        length = bucket(-(-n // n_batches))
        for part in np.array_split(rows, n_batches):
            # In order, so that gathering reads memory forward.
            yield np.concatenate([np.sort(part), np.full(length - len(part), -1)])


def _show(member, problem, m, rows):
    samples = problem.samples
    phi = samples.phi[rows]
    if problem.orders is not None:
        phi = phi[:, problem.orders[m]]
    weight = jnp.where(rows >= 0, samples.weight[rows], 0).astype(phi.dtype)
    member.see(phi.transpose(1, 2, 0), samples.target[rows], weight)
