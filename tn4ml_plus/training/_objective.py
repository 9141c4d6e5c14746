"""The scalar that trainers minimise, from packed parameters to a weighted mean."""

from functools import partial

import jax
import jax.numpy as jnp

from ..contraction import contract, log_norm_squared
from ._members import over_members


def reordered(phi, order):
    """Samples (batch, nsites, phys_dim) as the network with this site order reads them."""
    return phi if order is None else jnp.take(phi, order, axis=1)


def objective_value(structure, objective, params, phi, target, weight, count):
    """Weighted sum of the losses over `count` samples plus the penalty, and that weighted sum."""
    losses = objective.loss(contract(params, structure, phi), target)
    penalty = 0.0
    if objective.needs_norm:
        log_norm = log_norm_squared(params, structure)
        penalty = objective.penalty(log_norm)
        losses = losses + log_norm if objective.loss.normalized else losses
    # A sample of weight zero is padding: whatever its loss is, it must not reach the sum.
    total = jnp.sum(jnp.where(weight > 0, losses, 0) * weight)
    return total / count + penalty, total


@partial(jax.jit, static_argnames=("structure", "block"))
def outputs(structure, params, phi, orders, block):
    """Amplitude of every member on all samples, evaluated `block` samples at a time.

    phi: (length, nsites, phys_dim) with length a multiple of block. The amplitude's value is
    (n_members, length, *outputs), its exponent (n_members, length).
    """

    def member(params, order):
        def part(phi):
            return contract(params, structure, reordered(phi, order))

        blocks = phi.reshape(-1, block, *phi.shape[1:])
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), jax.lax.map(part, blocks))

    n_members = len(jax.tree.leaves(params)[0])
    return over_members(member, n_members, (0, None if orders is None else 0))(params, orders)


@partial(jax.jit, static_argnames=("structure", "objective", "block"))
def mean_loss(structure, objective, params, samples, orders, block):
    """Weighted mean loss of every member, (n_members,), without penalty."""
    amplitude = outputs(structure, params, samples.phi, orders, block)

    def member(amplitude, params):
        losses = objective.loss(amplitude, samples.target)
        if objective.loss.normalized:
            losses = losses + log_norm_squared(params, structure)
        total = jnp.sum(jnp.where(samples.weight > 0, losses, 0) * samples.weight)
        return total / jnp.sum(samples.weight)

    return jax.vmap(member)(amplitude, params)
