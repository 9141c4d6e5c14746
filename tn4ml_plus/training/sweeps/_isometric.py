"""Sweeps that keep all cores except the root isometries, as in renormalisation."""

from functools import partial
from math import prod
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ... import _precise as precise
from ..._amplitude import power_of_two
from ..._arrays import on_device
from ..._checks import warn
from ..._forks import unforked
from ..._registry import variant
from ._effective_problem import EffectiveObjective
from ._environments import EffectiveMap
from ._sweep import SweepTrainer
from ._sweeper import Sweeper
from ._updates import ROOT, Scheme, extend_above


@variant("trainer", kw_only=True)
class IsometricSweep(SweepTrainer):
    """Sweeps over trees (and open chains) that keep every core below the root an isometry.

    Core by core, from the leaves to the root: E, the gradient of minus the objective in the core T,
    is made U S V^T and T becomes U V^T, the isometry that follows E best; where the objective would
    rise, E + t T is taken instead with growing t, or T stays. The root, which carries the outputs
    and all of the scale, is improved by conjugate gradients as in `Sweep`. A network is brought to
    this form first, with its function unchanged; bonds larger than what is below them shrink.

    The history has the share of the isometries that "changed". A warning tells where the scale is
    more than the root's floats can hold, as with hundreds of sites and vectors far from norm 1:
    then all cores share it. An epoch is a pass over the samples, of which there are 10 by default.

    >>> IsometricSweep(max_epochs=20).max_epochs
    20

    Parameters
    ----------
    max_epochs, early_stopping, time_limit, callbacks, checkpoint : as in `Trainer`
    mesh : as in `Sweep`
    batch_size : int, samples seen at a time, all cores once for each batch
    ridge, damping, shrinkage, steps : as in `Sweep`, of the root
    feature_dropout, cache_bytes : as in `Sweep`

    References
    ----------
    Evenbly and Vidal 2009, arXiv:0707.1454; Liu et al. 2017, arXiv:1710.04833.
    """

    ridge: float = 1e-3
    steps: int = 4

    default_epochs: ClassVar[int] = 10

    def check(self, problem):
        super().check(problem)
        if any(structure.rooted().is_open for structure in problem.structures):
            raise ValueError(
                "Isometric sweeps need the outputs at one core: train operators by Sweep."
            )

    def _sweeper(self, network, objective, size):
        return _Isometric(*network, objective, size, self.cache_bytes)

    def _sweep(self, member, damping):
        cut = {"steps_after": 0, "cutoff": 0.0, "max_bond": member.size, "forced": False}
        loss, changed = member.sweep(self._settings(damping, **cut))
        return loss, {"changed": changed}


@jax.tree_util.register_pytree_node_class
class _Isometric(Sweeper):
    """A `Sweeper` whose cores below the root are isometries between its sweeps."""

    def __init__(self, structure, packed, *others):
        super().__init__(structure, packed, *others)
        # All but an isometry passes from each core to its parent, the leaves first.
        cores, ranks, exponent = structure.nodes(packed), [], 0
        for i, (parent, slot) in enumerate(self.form.parents):
            shape = cores[i].shape
            Q, R = np.linalg.qr(cores[i].reshape(-1, shape[-1]))
            cores[i] = Q.reshape(*shape[:-1], len(R))
            above = np.tensordot(R, np.moveaxis(cores[parent], slot, 0), 1)
            _, e = np.frexp(np.abs(above).max())
            cores[parent] = np.moveaxis(np.ldexp(above, -e), 0, slot)
            ranks.append(len(R))
            exponent += int(e)
        dtype = self.state.cores[ROOT].dtype
        self.cores = [self._padded(i, core.astype(dtype)) for i, core in enumerate(cores)]
        self.state = self.state._replace(ranks=on_device(ranks, np.int32))
        self.exponent = on_device(exponent, np.int32)

    def packed(self):
        """The packed network, all of its scale at the root if its floats can hold it."""
        with np.errstate(over="ignore"):
            root = np.ldexp(self.cores[-1], int(self.exponent))
        if not np.isfinite(root).all() or not root.any():
            warn(
                "With isometries below it, the scale of the root leaves the range of its floats: "
                "all cores share it, and are isometries up to powers of two. Use an embedding of "
                "vectors of norm 1 such as Trigonometric()."
            )
            return super().packed()
        ranks = tuple(self.state.ranks.tolist())
        return self.structure.from_nodes([*self.cores[:-1], root], ranks)

    def sweep(self, settings):
        """Improve the root, every isometry, and the root again: the loss, the share changed."""
        self.improve_root(settings)
        plan = self.plan(Scheme(extend_above, isometric_update, single=True))
        changed = self._run(plan, on_device(np.zeros(len(plan.places.node), bool)), self.exponents)
        loss = self.improve_root(settings)
        # Isometries again, with the exponents that the states lack at the root.
        given = self.state.cores, self.exponents, self.exponent
        cores, self.exponent = _with_exponents(tuple(self.stacks), *given)
        self.state = self.state._replace(cores=cores)
        loss, changed = jax.device_get((loss, changed))
        return loss, np.mean(changed[plan.last]) if len(plan.last) else 1.0


@unforked
@partial(jax.jit, static_argnums=0)
def _with_exponents(stacks, cores, exponents, exponent):
    """Cores times the powers of two of their nodes, but the root's, and the scale without them."""
    own, found = jnp.append(exponents, 0), {}
    for name, stack in cores.items():
        nodes = np.array([i for i, other in enumerate(stacks) if other == name])
        found[name] = jnp.ldexp(stack, own[nodes].reshape(-1, *[1] * (stack.ndim - 1)))
    return found, exponent - jnp.sum(exponents, dtype=jnp.int32)


def isometric_update(bond, state, exponents):
    """Follow the environment of a node, and go up; reports whether anything changed."""
    # 2**-exponent times an isometry, zero beyond its rank.
    core, exponent = bond.lower(state), exponents[bond.place.node]
    rank, fixed = state.ranks[bond.place.node], bond.environment_of_lower(state)
    core, F, of_node, better = isometric_step(bond.task, core, exponent, state.outputs, fixed, rank)
    state = bond.with_lower(state, core)._replace(outputs=F)
    return bond.keep_below(state, core, of_node), better


def isometric_step(task, core, exponent, F, fixed, rank):
    """The isometry that follows the environment best, without a rise of the objective.

    Returns the new core, the outputs, the state of the node and whether anything changed.
    """
    shape = prod(core.shape[:-1]), 1, core.shape[-1]
    linear, value = EffectiveMap(fixed, shape), EffectiveObjective(task, fixed, 0.0)
    scale = power_of_two(-exponent, core.dtype)
    T = core.reshape(shape) / scale
    E = -value.gradient(linear, core.reshape(shape), F)
    size = jnp.sqrt(jnp.sum(E**2) / rank.astype(E.dtype))
    present = jnp.arange(shape[2], dtype=jnp.int32) < rank

    def at(t):
        # Never without T, since directions that E lacks must not be lost.
        U, _, V = jnp.linalg.svd((E + t * size * T)[:, 0], full_matrices=False)
        B = scale * jnp.where(present[None], precise.matmul(U, V), 0)[:, None]
        F = linear.outputs(B)
        norm = linear.inner(B, B)
        return B, F, value(F, norm, jnp.zeros_like(norm))[0]

    B0 = core.reshape(shape)
    first = value(F, linear.inner(B0, B0), jnp.zeros((), F.dtype))[0]
    start = jnp.asarray(1e-3, F.dtype)
    _, (B, F_new, last) = lax.while_loop(
        lambda c: ~(c[1][2] <= first) & (c[0] < 1e3),
        lambda c: (4 * c[0], at(4 * c[0])),
        (start, at(start)),
    )
    better = last < first
    B, F = jnp.where(better, B, B0), jnp.where(better, F_new, F)
    state = precise.matmul(B.reshape(shape[0], shape[2]).T, linear.x)
    return B.reshape(core.shape), F, state.reshape(-1, *fixed.lower.shape[1:]), better
