"""States of nodes and what the network makes of them, step by step, with their Gram matrices."""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._typing import exponent_of, power_of_two


class Around(NamedTuple):
    """What is around a bond, piece by piece, as a sweep keeps it.

    mine, siblings: states (d, outputs below, batch) of the lower node's children and of the upper
    node's other ones; above: (batch, outputs, m) what the network makes of the upper node's bond,
    None at the root; grams: the same three without samples, as pairs of a Gram matrix and the
    exponent of two that scales it, or None where the objective reads no norm; exponent: of two,
    which scales all outputs; target: (batch, ...); weight: (batch,), of sum 1; signs: random ones,
    (samples of the metric, outputs), None at the root.
    """

    mine: tuple
    siblings: tuple
    above: jax.Array | None
    grams: tuple | None
    exponent: jax.Array
    target: jax.Array
    weight: jax.Array
    signs: jax.Array | None


class Surroundings(NamedTuple):
    """What a local problem holds fixed, `Around` with its pieces together.

    children: (p, outputs below, batch) the lower node's children; others: (k, batch) the upper
    node's other children; grams: of these two and of what is above, or None; gram_exponent: of two,
    which scales the product of these; all else as there.
    """

    children: jax.Array
    others: jax.Array
    above: jax.Array | None
    grams: tuple | None
    exponent: jax.Array
    gram_exponent: jax.Array
    target: jax.Array
    weight: jax.Array
    signs: jax.Array | None


def surroundings(around):
    """`Surroundings` of what is `Around` a bond."""
    children = together(around.mine)
    one = jnp.ones((1, children.shape[2]), children.dtype)
    others = together(around.siblings)[:, 0] if around.siblings else one
    grams, exponent = None, 0
    if around.grams is not None:
        mine, siblings, (top, beyond) = around.grams
        (mine, below), (siblings, beside) = kron(mine), kron(((one[:, :1], 0), *siblings))
        grams, exponent = (mine, siblings, top), below + beside + beyond
    return Surroundings(
        children, others, around.above, grams, around.exponent, jnp.asarray(exponent, jnp.int32),
        around.target, around.weight, around.signs,
    )  # fmt: skip


def together(states):
    """Product of states (d, outputs, batch): of all their entries, and of all their outputs."""

    def pair(a, b):
        both = a[:, None, :, None] * b[None, :, None]
        return both.reshape(len(a) * len(b), -1, a.shape[2])

    return reduce(pair, states)


def kron(grams):
    """Of pairs of a Gram matrix and its exponent."""
    return reduce(jnp.kron, (gram for gram, _ in grams)), sum(exponent for _, exponent in grams)


def above_child(above, around):
    """What the network makes of the bond of a child, (batch, outputs, D), and its Gram matrix.

    above: core of the parent, the child first, (D, k, m) but for its shape. The latter is a pair
    as in `Around`, None where it has none.
    """
    others, env = surroundings(around)[1:3]
    size, k, batch = len(above), *others.shape
    above = above.reshape(size, k, -1)
    m = above.shape[2]
    if env is not None and k <= env.shape[1]:
        parts = env.reshape(-1, m) @ above.swapaxes(0, 1).reshape(-1, m).T
        parts = parts.reshape(batch, -1, k, size)
        found = sum(parts[:, :, i] * o[:, None, None] for i, o in enumerate(others))
    else:
        cores = others.T @ above.transpose(1, 2, 0).reshape(k, m * size)
        cores = cores.reshape(batch, m, size)
        found = cores if env is None else env @ cores
    if around.grams is None:
        return found, None
    one = jnp.ones((1, 1), above.dtype)
    (siblings, beside), (top, beyond) = kron(((one, 0), *around.grams[1])), around.grams[2]
    half = jnp.einsum("akm,kl->alm", above, siblings)
    half = half if top is None else half @ top
    gram, exponent = _scaled(jnp.tensordot(half, above, ((1, 2), (1, 2))))
    return found, (gram, exponent + beside + beyond)


def state_above(core, mine):
    """State of a node scaled to order one, the core scaled alike, and the exponent.

    mine: states of its children; the state is (D, outputs below, batch).
    """
    children = together(mine)
    state = core.reshape(-1, core.shape[-1]).T @ children.reshape(len(children), -1)
    exponent = exponent_of(jnp.max(jnp.abs(state), axis=1))
    scale = power_of_two(-exponent, state.dtype)
    return (state * scale).reshape(-1, *children.shape[1:]), core * scale, exponent


def fewer_outputs(parts):
    """As many outputs as the bond is wide, with the same second moments a sample.

    parts: (batch, outputs, D); returns (batch, D, D).
    """
    missing = max(0, parts.shape[2] - parts.shape[1])
    return jnp.linalg.qr(jnp.pad(parts, ((0, 0), (0, missing), (0, 0))), mode="r")


def gram_above(core, mine):
    """Gram matrix (D, D) of a node's bond and its exponent, from those of its children."""
    flat, (children, below) = core.reshape(-1, core.shape[-1]), kron(mine)
    gram, exponent = _scaled(flat.T @ children @ flat)
    return gram, exponent + below


def _scaled(gram):
    exponent = exponent_of(jnp.max(jnp.abs(gram), axis=1))
    return gram * power_of_two(-exponent, gram.dtype), exponent


def at_root(core, mine, exponent, squared):
    """The root's core, the exponent of the network's scale, and the outputs (batch, outputs).

    Squares, whose scale may be anything, keep an exponent; other outputs are what they are.
    """
    flat, children = core.reshape(-1, core.shape[-1]).T, together(mine)
    outputs = (flat @ children.reshape(len(children), -1)).reshape(-1, *children.shape[1:])
    up = -exponent_of(jnp.max(jnp.abs(outputs), axis=(1, 2))) if squared else exponent
    outputs = jnp.ldexp(outputs.transpose(2, 1, 0).reshape(children.shape[2], -1), up)
    return jnp.ldexp(core, up), exponent - up, outputs
