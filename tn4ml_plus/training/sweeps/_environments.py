"""Environments of bonds and sites, and their Gram matrices, one node at a time."""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._amplitude import exponent_of, power_of_two


class Batch(NamedTuple):
    """Read-only inputs of a sweep.

    sites, leaves: states (sites, d, 1, batch) of the sites and (2, q, q, batch) of `OPEN` and
    `SHUT`; exponent: of two, which scales all outputs; target: (batch, ...); weight: (batch,), of
    sum 1; signs: random ones, (samples of the metric, outputs), None where there is no metric.
    """

    sites: jax.Array
    leaves: jax.Array
    exponent: jax.Array
    target: jax.Array
    weight: jax.Array
    signs: jax.Array | None


class Environment(NamedTuple):
    """All that an effective problem holds fixed, with the contraction of the rest of the network.

    lower: (p, outputs below, batch) product of the states of the lower node's children; siblings:
    (k, batch) that of the upper node's other children; above: (batch, outputs, m) environment of
    the upper node's own bond, None at the root; grams: the same three without samples, pairs of a
    Gram matrix and the exponent of two that scales it, None where the objective reads no norm.
    """

    lower: jax.Array
    siblings: jax.Array
    above: jax.Array | None
    grams: tuple | None
    batch: Batch

    @property
    def gram_exponent(self):
        """Exponent of two that scales the product of the Gram matrices."""
        exponent = 0 if self.grams is None else sum(exponent for _, exponent in self.grams)
        return jnp.asarray(exponent, jnp.int32)


def environment(lower, siblings, above, grams, batch):
    """The `Environment` of states and Gram pairs, one per child; grams: three of these, or None."""
    lower = product_of_states(lower)
    one = jnp.ones((1, lower.shape[2]), lower.dtype)
    siblings = product_of_states(siblings)[:, 0] if siblings else one
    if grams is not None:
        below, beside, beyond = grams
        grams = kron(below), kron(((one[:, :1], 0), *beside)), beyond
    return Environment(lower, siblings, above, grams, batch)


def product_of_states(states):
    """Product of states (d, outputs, batch): of all their entries, and of all their outputs."""

    def pair(a, b):
        both = a[:, None, :, None] * b[None, :, None]
        return both.reshape(len(a) * len(b), -1, a.shape[2])

    return reduce(pair, states)


def kron(grams):
    """Kronecker product of pairs of a Gram matrix and its exponent."""
    return reduce(jnp.kron, (gram for gram, _ in grams)), sum(exponent for _, exponent in grams)


def environment_of_child(above, env):
    """Environment (batch, outputs, D) of the bond of a child, and its Gram pair or None.

    above: core of the parent, the child first, (D, k, m) but for its shape.
    """
    siblings, top = env.siblings, env.above
    size, k, batch = len(above), *siblings.shape
    above = above.reshape(size, k, -1)
    m = above.shape[2]
    if top is not None and k <= top.shape[1]:
        parts = top.reshape(-1, m) @ above.swapaxes(0, 1).reshape(-1, m).T
        parts = parts.reshape(batch, -1, k, size)
        found = sum(parts[:, :, i] * o[:, None, None] for i, o in enumerate(siblings))
    else:
        cores = siblings.T @ above.transpose(1, 2, 0).reshape(k, m * size)
        cores = cores.reshape(batch, m, size)
        found = cores if top is None else top @ cores
    if env.grams is None:
        return found, None
    _, (beside, e_beside), (beyond, e_beyond) = env.grams
    half = jnp.einsum("akm,kl->alm", above, beside)
    half = half if beyond is None else half @ beyond
    gram, exponent = _scaled(jnp.tensordot(half, above, ((1, 2), (1, 2))))
    return found, (gram, exponent + e_beside + e_beyond)


def state_of_node(core, states):
    """State (D, outputs below, batch) of a node at order one, the core likewise, the exponent."""
    children = product_of_states(states)
    state = core.reshape(-1, core.shape[-1]).T @ children.reshape(len(children), -1)
    exponent = exponent_of(jnp.max(jnp.abs(state), axis=1))
    scale = power_of_two(-exponent, state.dtype)
    return (state * scale).reshape(-1, *children.shape[1:]), core * scale, exponent


def fewer_outputs(parts):
    """Outputs (batch, D, D), as many as the bond is wide, with the same moments per sample."""
    missing = max(0, parts.shape[2] - parts.shape[1])
    return jnp.linalg.qr(jnp.pad(parts, ((0, 0), (0, missing), (0, 0))), mode="r")


def fold_siblings(siblings, above):
    """(batch, outputs, k m) of siblings (k, outputs, batch) and their parent's environment."""
    others = product_of_states(siblings).transpose(2, 1, 0)
    if above is None:
        return others
    both = others[:, :, None, :, None] * above[:, None, :, None]
    return both.reshape(len(above), others.shape[1] * above.shape[1], -1)


def gram_of_node(core, grams):
    """Gram matrix (D, D) of a node's bond and its exponent, from those of its children."""
    flat, (children, below) = core.reshape(-1, core.shape[-1]), kron(grams)
    gram, exponent = _scaled(flat.T @ children @ flat)
    return gram, exponent + below


def _scaled(gram):
    exponent = exponent_of(jnp.max(jnp.abs(gram), axis=1))
    return gram * power_of_two(-exponent, gram.dtype), exponent


def root_outputs(core, states, exponent, squared):
    """The root's core, the exponent of the network's scale, and the outputs (batch, outputs)."""
    flat, children = core.reshape(-1, core.shape[-1]).T, product_of_states(states)
    outputs = (flat @ children.reshape(len(children), -1)).reshape(-1, *children.shape[1:])
    # Squares, whose scale may be anything, keep an exponent; other outputs are what they are.
    up = -exponent_of(jnp.max(jnp.abs(outputs), axis=(1, 2))) if squared else exponent
    outputs = jnp.ldexp(outputs.transpose(2, 1, 0).reshape(children.shape[2], -1), up)
    return jnp.ldexp(core, up), exponent - up, outputs
