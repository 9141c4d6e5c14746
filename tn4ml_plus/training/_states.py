"""States of nodes and what the network makes of them, step by step, with their Gram matrices."""

import jax
import jax.numpy as jnp

from .._typing import exponent_of, power_of_two


@jax.jit
def above_child(above, others, env):
    """What the network makes of the bond of a child, (batch, outputs, D).

    above: core of the parent (D, k, m), the child first; others, env: as in `Surroundings`.
    """
    size, k, m = above.shape
    batch = others.shape[1]
    if env is not None and k <= env.shape[1]:
        flat = env.reshape(-1, m)
        parts = ((flat @ core.T).reshape(batch, -1, size) for core in above.swapaxes(0, 1))
        return sum(part * o[:, None, None] for part, o in zip(parts, others))
    cores = (others.T @ above.transpose(1, 2, 0).reshape(k, m * size)).reshape(batch, m, size)
    return cores if env is None else env @ cores


@jax.jit
def state_above(core, children):
    """State of a node scaled to order one, the core scaled alike, and the exponent.

    children: (p, outputs below, batch); the state has D in place of p.
    """
    state = core.reshape(-1, core.shape[-1]).T @ children.reshape(len(children), -1)
    exponent = exponent_of(jnp.max(jnp.abs(state), axis=1))
    scale = power_of_two(-exponent, state.dtype)
    return (state * scale).reshape(-1, *children.shape[1:]), core * scale, exponent


@jax.jit
def fewer_outputs(parts):
    """As many outputs as the bond is wide, with the same second moments a sample.

    parts: (batch, outputs, D); returns (batch, D, D).
    """
    missing = max(0, parts.shape[2] - parts.shape[1])
    return jnp.linalg.qr(jnp.pad(parts, ((0, 0), (0, missing), (0, 0))), mode="r")


@jax.jit
def gram_above(core, children):
    """Gram matrix (D, D) of a node's bond from that of its children together, and an exponent."""
    flat = core.reshape(-1, core.shape[-1])
    return _scaled(flat.T @ children @ flat)


@jax.jit
def gram_below(above, others, top):
    """Gram matrix (D, D) of a child's bond and an exponent; above: core of the parent (D, k, m)."""
    half = jnp.einsum("akm,kl->alm", above, others)
    if top is not None:
        half = half @ top
    return _scaled(jnp.tensordot(half, above, ((1, 2), (1, 2))))


def _scaled(gram):
    exponent = exponent_of(jnp.max(jnp.abs(gram), axis=1))
    return gram * power_of_two(-exponent, gram.dtype), exponent
