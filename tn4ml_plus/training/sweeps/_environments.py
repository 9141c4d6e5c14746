"""Environments of bonds and sites, and the outputs as linear functions of the cores in them."""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ... import _precise as precise
from ..._amplitude import exponent_of, power_of_two
from ...contraction import khatri_rao


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
        parts = precise.matmul(top.reshape(-1, m), above.swapaxes(0, 1).reshape(-1, m).T)
        parts = parts.reshape(batch, -1, k, size)
        found = sum(parts[:, :, i] * o[:, None, None] for i, o in enumerate(siblings))
    else:
        cores = precise.matmul(siblings.T, above.transpose(1, 2, 0).reshape(k, m * size))
        cores = cores.reshape(batch, m, size)
        found = cores if top is None else precise.matmul(top, cores)
    if env.grams is None:
        return found, None
    _, (beside, e_beside), (beyond, e_beyond) = env.grams
    half = precise.einsum("akm,kl->alm", above, beside)
    half = half if beyond is None else precise.matmul(half, beyond)
    gram, exponent = _scaled(precise.tensordot(half, above, ((1, 2), (1, 2))))
    return found, (gram, exponent + e_beside + e_beyond)


def state_of_node(core, states):
    """State (D, outputs below, batch) of a node at order one, the core likewise, the exponent."""
    children = product_of_states(states)
    state = precise.matmul(core.reshape(-1, core.shape[-1]).T, children.reshape(len(children), -1))
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
    gram, exponent = _scaled(precise.matmul(flat.T, children, flat))
    return gram, exponent + below


def _scaled(gram):
    exponent = exponent_of(jnp.max(jnp.abs(gram), axis=1))
    return gram * power_of_two(-exponent, gram.dtype), exponent


def root_outputs(core, states, exponent, squared):
    """The root's core, the exponent of the network's scale, and the outputs (batch, outputs)."""
    flat, children = core.reshape(-1, core.shape[-1]).T, product_of_states(states)
    outputs = precise.matmul(flat, children.reshape(len(children), -1))
    outputs = outputs.reshape(-1, *children.shape[1:])
    # Squares, whose scale may be anything, keep an exponent; other outputs are what they are.
    up = -exponent_of(jnp.max(jnp.abs(outputs), axis=(1, 2))) if squared else exponent
    outputs = jnp.ldexp(outputs.transpose(2, 1, 0).reshape(children.shape[2], -1), up)
    return jnp.ldexp(core, up), exponent - up, outputs


# Samples that the metric is made from; any metric is right, more of them make it no better.
METRIC_ROWS = 4096


class EffectiveMap:
    """Outputs, their adjoint and the norm as functions of B, (p, k, m), in an `Environment`.

    k: of the siblings; m: of the upper node's own bond, of the outputs at the root. With a
    shrinkage, as in `Settings`, they are functions of B~, without one of B.
    """

    def __init__(self, fixed, shape, shrinkage=None):
        self.shape = shape
        x, self.o, self.env = fixed.lower, fixed.siblings, fixed.above
        self.n_below, self.batch = x.shape[1:]
        self.x = x.reshape(len(x), -1)
        self.gram_x = self.gram_y = None
        self.root_x = self.inverse_x = self.root_y = self.inverse_y = None
        if fixed.grams is not None:
            self.gram_x, others, above = (gram for gram, _ in fixed.grams)
            self.gram_y = others if above is None else jnp.kron(others, above)
        if shrinkage is None:
            return
        # Samples come in random order.
        n, batch = METRIC_ROWS, fixed.batch
        y, weight = self.o[:, :n], batch.weight[:n] / jnp.sum(batch.weight[:n])
        if self.env is not None:
            signs = batch.signs[:, : self.env.shape[1]]
            # Random signs: an unbiased estimate of the sum over outputs, without their number.
            y = khatri_rao(y, precise.einsum("nc,ncd->nd", signs, self.env[:n]).T)
        self.root_x, self.inverse_x = _moments_root(fixed.lower[:, :, :n], weight, shrinkage)
        self.root_y, self.inverse_y = _moments_root(y[:, None], weight, shrinkage)
        self.x = precise.matmul(self.inverse_x, self.x)
        if self.env is None:
            self.o = precise.matmul(self.inverse_y, self.o)
        if fixed.grams is not None:
            self.gram_x = precise.matmul(self.inverse_x, self.gram_x, self.inverse_x)
            self.gram_y = precise.matmul(self.inverse_y, self.gram_y, self.inverse_y)

    def white(self, B):
        """B~ of B."""
        return self.right(left(self.root_x, B), self.root_y)

    def right(self, B, matrix):
        """B times a matrix on the side of y, None standing for one."""
        if matrix is None:
            return B
        if self.env is None:
            return precise.einsum("pkm,kl->plm", B, matrix)
        return precise.matmul(B.reshape(len(B), -1), matrix).reshape(B.shape)

    def outputs(self, B):
        """Outputs (batch, outputs below times outputs)."""
        p, k, m = self.shape
        if self.env is not None:
            B = self.right(B, self.inverse_y)
        z = precise.matmul(self.x.T, B.reshape(p, k * m))
        if self.n_below == 1:
            # Many times faster than the same with an axis of size 1.
            z = precise.einsum("nkm,kn->nm", z.reshape(self.batch, k, m), self.o)
            return z if self.env is None else precise.einsum("nd,ncd->nc", z, self.env)
        z = precise.einsum("ankm,kn->anm", z.reshape(self.n_below, self.batch, k, m), self.o)
        if self.env is not None:
            z = precise.einsum("and,ncd->anc", z, self.env)
        return z.swapaxes(0, 1).reshape(self.batch, -1)

    def adjoint(self, r):
        """The adjoint of `outputs`, of B's shape."""
        if self.n_below == 1:
            z = r if self.env is None else precise.einsum("nc,ncd->nd", r, self.env)
        else:
            z = r.reshape(self.batch, self.n_below, -1).swapaxes(0, 1)
            z = z if self.env is None else precise.einsum("anc,ncd->and", z, self.env)
        o = self.o.T[(None,) * (z.ndim - 2)]
        y = (o[..., None] * z[..., None, :]).reshape(self.x.shape[1], -1)
        B = precise.matmul(self.x, y).reshape(self.shape)
        return B if self.env is None else self.right(B, self.inverse_y)

    def gram(self, B):
        """G B with <B, G B> the squared norm of the whole network, 0 where no one reads it."""
        if self.gram_x is None:
            return 0.0
        return left(self.gram_x, self.right(B, self.gram_y))

    def inner(self, A, B):
        """<A, G B>."""
        none = jnp.zeros((), A.dtype)
        return none if self.gram_x is None else precise.vdot(A, self.gram(B))


def _moments_root(x, weight, shrinkage):
    """S and S^-1, S^2 being second moments of x (p, ..., batch), weighted, shrunk to their mean."""
    weighted = (x * weight[None, None]).reshape(len(x), -1)
    moments = precise.matmul(weighted, x.reshape(len(x), -1).T)
    # What pads a bond has no moments and takes no part in the mean.
    present = jnp.maximum(jnp.sum(jnp.diagonal(moments) > 0), 1)
    mean = jnp.maximum(jnp.trace(moments) / present.astype(x.dtype), jnp.finfo(x.dtype).tiny)
    moments = (1 - shrinkage) * moments + shrinkage * mean * jnp.eye(len(x), dtype=x.dtype)
    values, vectors = jnp.linalg.eigh(moments)
    root = jnp.sqrt(jnp.maximum(values, 1e-7 * values[-1]))
    return tuple(
        precise.matmul(each, vectors.T) for each in (vectors * root[None], vectors / root[None])
    )


def left(matrix, B):
    """A matrix times B on the side of x, None standing for one."""
    if matrix is None:
        return B
    return precise.matmul(matrix, B.reshape(len(B), -1)).reshape(B.shape)
