"""Several packed networks as one pytree, with a leading member axis."""

import jax
import jax.numpy as jnp
import numpy as np

from ..contraction import pack, unpack


def members(structures, params):
    """Pairs of a structure and the packed network that it describes."""
    return [
        (structure, jax.tree.map(lambda leaf, m=m: leaf[m], params))
        for m, structure in enumerate(structures)
    ]


def stacked(trees):
    """Packed networks as one pytree with a leading member axis; smaller arrays are zero-padded."""

    def stack(*leaves):
        shape = np.max([leaf.shape for leaf in leaves], axis=0)
        padded = [
            np.pad(leaf, [(0, size) for size in shape - np.array(leaf.shape)]) for leaf in leaves
        ]
        return jnp.asarray(np.stack(padded))

    return jax.tree.map(stack, *trees)


def trimmed(structures, params):
    """Packed networks with arrays no larger than the largest of them needs."""
    networks = [unpack(packed, structure) for structure, packed in members(structures, params)]
    return stacked(pack(network)[0] for network in networks)


def over_members(function, n_members, in_axes):
    """vmap over members; a single member is squeezed instead, which keeps GEMMs unbatched."""
    if n_members > 1:
        return jax.vmap(function, in_axes=in_axes)

    def single(*args):
        args = [
            jax.tree.map(lambda a: a[0], arg) if axis == 0 else arg
            for arg, axis in zip(args, in_axes, strict=True)
        ]
        return jax.tree.map(lambda a: jnp.asarray(a)[None], function(*args))

    return single
