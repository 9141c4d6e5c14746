"""Sweeps that keep every core but the root's an isometry, as renormalisation has them."""

import dataclasses
import warnings
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._registry import register
from .._typing import power_of_two
from ..contraction import END, from_nodes, rooted
from ._bond import Bond
from ._local import LocalObjective
from ._states import surroundings
from ._stopping import EarlyStopping
from ._sweeper import Steps, Sweeper
from ._sweeping import Sweeping
from ._visits import ROOT, arrive, descend, single, with_core


@register("trainer")
@dataclasses.dataclass(frozen=True)
class IsometricSweep(Sweeping):
    """Sweeps over trees (and open chains) that keep every core below the root an isometry.

    Core by core, from the leaves to the root: E, the gradient of minus the objective in the core T,
    is made U S V^T and T becomes U V^T, the isometry that follows E best; where the objective would
    rise, E + t T is taken instead with growing t, or T stays. The root, which carries the outputs
    and all of the scale, is improved by conjugate gradients as in `Sweep`. A network is brought to
    this form first, with its function unchanged; bonds larger than what is below them shrink.

    max_epochs: passes over the samples, None for 10; batch_size: samples seen at a time, all cores
    once for each batch; ridge, damping, shrinkage, steps: of the root, as in `Sweep`;
    feature_dropout, cache_bytes, early_stopping, time_limit, callbacks: as there. The history has
    the share of the isometries that "changed".
    Raises ValueError for other geometries and for operators; warns where the scale is more than the
    root's floats can hold, as with hundreds of sites and vectors far from norm 1: then all cores
    share it.
    After Evenbly and Vidal 2009, arXiv:0707.1454, and Liu et al. 2017, arXiv:1710.04833.

    >>> IsometricSweep(max_epochs=20).max_epochs
    20
    """

    max_epochs: int | None = None
    batch_size: int = 10_000
    ridge: float = 1e-3
    damping: float = 0.1
    shrinkage: float = 1.0
    steps: int = 4
    feature_dropout: float = 0.0
    cache_bytes: int = 2_000_000_000
    early_stopping: EarlyStopping | None = None
    time_limit: float | None = None
    callbacks: tuple = ()

    _default_epochs = 10

    def __post_init__(self):
        self._check()

    def check(self, problem):
        """ValueError for networks that cannot be swept."""
        for structure in problem.structures:
            if rooted(structure).is_open:
                raise ValueError(
                    "Isometric sweeps need the outputs at one core: train operators by Sweep."
                )

    def _sweeper(self, network, objective, size):
        return _Isometric(*network, objective, size, self.cache_bytes)

    def _sweep(self, member, damping):
        settings = self._settings(
            damping, steps_after=0, cutoff=0.0, max_bond=member.size, forced=False
        )
        loss, changed = member.sweep(settings)
        return loss, {"changed": changed}


class _Isometric(Sweeper):
    """A `Sweeper` whose cores below the root are isometries between its sweeps."""

    def __init__(self, structure, packed, objective, size, cache_bytes):
        super().__init__(structure, packed, objective, size, cache_bytes)
        self._make_isometric()

    def _make_isometric(self):
        """Hand all but an isometry from each core to its parent, the leaves first."""
        form, last, dtype = self.form, len(self.stacks) - 1, self.store.cores[ROOT].dtype
        cores = [np.asarray(core, float) for core in self.cores]
        ranks, exponent = [int(rank) for rank in self.ranks], 0
        for i in range(last):
            children = form.nodes[i]
            below = [
                1 if c == END else n if c < form.nsites else ranks[c - form.nsites]
                for c, n in zip(children, cores[i].shape)
            ]
            used = (*map(slice, below), slice(ranks[i]))
            Q, R = np.linalg.qr(cores[i][used].reshape(-1, ranks[i]))
            rank = ranks[i] = len(R)
            cores[i] = np.zeros_like(cores[i])
            cores[i][(*used[:-1], slice(rank))] = Q.reshape(*below, rank)
            parent, slot = form.parents[i]
            above = np.tensordot(R, np.moveaxis(cores[parent], slot, 0)[: R.shape[1]], 1)
            _, e = np.frexp(np.abs(above).max())
            padded = np.zeros_like(np.moveaxis(cores[parent], slot, 0))
            padded[:rank] = np.ldexp(above, -e)
            cores[parent] = np.moveaxis(padded, 0, slot)
            exponent += int(e)
        self.cores = [core.astype(dtype) for core in cores]
        self.store = self.store._replace(ranks=jnp.asarray(ranks, jnp.int32))
        self.exponent = jnp.asarray(exponent, jnp.int32)

    def packed(self):
        """As of any `Sweeper`, with all of the scale at the root if its floats can hold it."""
        with np.errstate(over="ignore"):
            root = np.ldexp(self.cores[-1], int(self.exponent))
        if not np.isfinite(root).all() or not root.any():
            warnings.warn(
                "With isometries below it, the scale of the root leaves the range of its floats: "
                "all cores share it, and are isometries up to powers of two. Use an embedding of "
                "vectors of norm 1 such as Trigonometric().",
                stacklevel=2,
            )
            return super().packed()
        ranks = tuple(map(int, self.ranks))
        return from_nodes(self.structure, [*self.cores[:-1], root], ranks)

    def sweep(self, settings):
        """Improve the root, every isometry, and the root again: the loss, the share changed."""
        self.improve_root(settings)
        plan = self.plan(Steps(descend, improve_isometry, single=True))
        changed = self._run(plan, jnp.zeros(len(plan.visits.node), bool), self.exponents)
        loss = self.improve_root(settings)
        # Isometries again, with the exponents that the states lack at the root.
        exponents, cores = jnp.append(self.exponents, 0), {}
        for name, stack in self.store.cores.items():
            nodes = [i for i, other in enumerate(self.stacks) if other == name]
            own = exponents[jnp.asarray(nodes)].reshape(-1, *[1] * (stack.ndim - 1))
            cores[name] = jnp.ldexp(stack, own)
        self.store = self.store._replace(cores=cores)
        self.exponent = self.exponent - jnp.sum(self.exponents)
        loss, changed = jax.device_get((loss, changed))
        return loss, np.mean(changed[plan.last]) if len(plan.last) else 1.0


def improve_isometry(task, kind, store, seen, visit, exponents):
    """Follow the environment of a node, and go up; reports whether anything changed."""
    core, F, state, better = isometric_step(
        task.objective, task.squared, store.cores[kind.mine][visit.lower],
        exponents[visit.node], store.outputs, single(kind, store, seen, visit),
        store.ranks[visit.node],
    )  # fmt: skip
    store = with_core(store, kind.mine, visit.lower, core)._replace(outputs=F)
    return arrive(task, kind, store, seen, visit, core, state), better


def isometric_step(objective, squared, core, exponent, F, around, rank):
    """The isometry that follows the environment best, without a rise of the objective.

    core: 2**-exponent times an isometry, (*children, D), zero beyond `rank`. Returns the new core,
    the outputs, the state of the node and whether anything changed.
    """
    shape, fixed = (prod(core.shape[:-1]), 1, core.shape[-1]), surroundings(around)
    bond = Bond(fixed, shape)
    value = LocalObjective(objective, squared, fixed, 0.0)
    scale = power_of_two(-exponent, core.dtype)
    T = core.reshape(shape) / scale
    E = -value.gradient(bond, core.reshape(shape), F)
    size = jnp.sqrt(jnp.sum(E**2) / rank)
    present = jnp.arange(shape[2]) < rank

    def at(t):
        # Never without T, since directions that E lacks must not be lost.
        U, _, V = jnp.linalg.svd((E + t * size * T)[:, 0], full_matrices=False)
        B = scale * jnp.where(present, U @ V, 0)[:, None]
        F = bond.outputs(B)
        norm = bond.inner(B, B)
        return B, F, value(F, norm, jnp.zeros_like(norm))[0]

    B0 = core.reshape(shape)
    first = value(F, bond.inner(B0, B0), jnp.zeros((), F.dtype))[0]
    start = jnp.asarray(1e-3, F.dtype)
    _, (B, F_new, last) = lax.while_loop(
        lambda c: ~(c[1][2] <= first) & (c[0] < 1e3),
        lambda c: (4 * c[0], at(4 * c[0])),
        (start, at(start)),
    )
    better = last < first
    B, F = jnp.where(better, B, B0), jnp.where(better, F_new, F)
    state = B.reshape(shape[0], shape[2]).T @ bond.x
    return B.reshape(core.shape), F, state.reshape(-1, *fixed.children.shape[1:]), better
