"""Several packed networks as one pytree, with a leading member axis."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..contraction import pack, unpack


def members(structures: tuple, params) -> list[tuple]:
    """Pairs of a structure and the packed network that it describes.

    Parameters
    ----------
    structures : tuple, one per network
    params : pytree, the packed networks, with leaves (n_members, ...)
    """
    return [
        (structure, jax.tree.map(lambda leaf, m=m: leaf[m], params))
        for m, structure in enumerate(structures)
    ]


def stacked(trees: Iterable) -> Any:
    """Packed networks as one pytree with a leading member axis; smaller arrays are zero-padded."""

    def stack(*leaves):
        shape = np.max([leaf.shape for leaf in leaves], axis=0)
        padding = [[(0, size) for size in shape - np.array(leaf.shape)] for leaf in leaves]
        return jnp.asarray(np.stack([*map(np.pad, leaves, padding)]))

    return jax.tree.map(stack, *trees)


def trimmed(structures: tuple, params) -> Any:
    """Packed networks, arrays as large as the largest needs; see `members` for the parameters."""
    networks = [unpack(packed, structure) for structure, packed in members(structures, params)]
    return stacked(pack(network)[0] for network in networks)


def count(params):
    """Number of networks."""
    return len(jax.tree.leaves(params)[0])


def over_members(function, n_members, in_axes):
    """vmap over members; a single member is squeezed instead, which keeps GEMMs unbatched."""
    if n_members > 1:
        return jax.vmap(function, in_axes=in_axes)

    def single(*args):
        pairs = zip(args, in_axes, strict=True)
        args = [jax.tree.map(lambda a: a[0], arg) if axis == 0 else arg for arg, axis in pairs]
        return jax.tree.map(lambda a: jnp.asarray(a)[None], function(*args))

    return single


@partial(jax.jit, static_argnames="optimizer")
def start(optimizer, params):
    """The state of an optax transformation for each member."""
    return jax.vmap(optimizer.init)(params)


def nan_unless_finite(params, losses):
    """The losses; NaN where a parameter overflowed in the last step, which no loss shows."""
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
    return jnp.where(finite, losses, jnp.nan)
