"""Larger bonds for a generator that is already trained."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_int, check_number
from ._base import built, is_generator, mapped
from ._decoder import Layer
from ._grouped import GroupedGenerator
from ._trees import TreeGenerator, check_state


def grow(tree, bond_dim: int, *, key: jax.Array, noise: float = 1e-2):
    """A pytree whose generators have larger bonds and the same weights.

    Entries that read the new modes start at zero, so that weights stay the same up to rounding
    while gradients flow.

    >>> import jax
    >>> from tn4ml_plus.generators import MERAGenerator
    >>> small = MERAGenerator((64, 64), key=jax.random.key(0))
    >>> large = grow(small, 3, key=jax.random.key(1))
    >>> bool(abs(large() - small()).max() < 1e-6 * abs(small()).max())
    True

    Parameters
    ----------
    tree : pytree, a generator or a compressed model, say; ValueError for those without bonds
    bond_dim : int, new size of hidden modes, at least the old one
    key, noise : of the new entries, and their standard deviation over the rms of the old ones
    """
    check_int("bond_dim", bond_dim, 1)
    check_number("noise", noise, at_least=0)
    keys = iter(jax.random.split(key, len(jax.tree.leaves(tree, is_leaf=is_generator))))
    return mapped(lambda generator: _grown(generator, bond_dim, next(keys), noise), tree)


def _grown(generator, bond_dim, key, noise):
    if isinstance(generator, GroupedGenerator):
        keys = jax.random.split(key, generator.n_groups)
        groups = eqx.filter_vmap(lambda g, k: _grown(g, bond_dim, k, noise))(generator.groups, keys)
        return eqx.tree_at(lambda g: g.groups, generator, groups)
    if not isinstance(generator, TreeGenerator):
        raise ValueError(
            f"{type(generator).__name__} has no bonds to grow: grow before quantisation, and use "
            "TTNGenerator, ATTNGenerator or MERAGenerator."
        )
    old = generator.bond_dim
    if bond_dim < old:
        raise ValueError(f"bond_dim must be at least the {old} of the generator, got {bond_dim}.")
    check_state(bond_dim, generator.schedule)
    first, *keys = jax.random.split(key, 1 + len(generator.layers))
    latent = generator.latent.reshape((old,) * generator.schedule[0])
    latent = _larger(latent, (bond_dim,) * latent.ndim, first, noise)
    layers = []
    for number, (layer, key) in enumerate(zip(generator.layers, keys, strict=True)):
        inner = number < len(generator.layers) - 1
        layers.append(_larger_layer(layer, old, bond_dim, inner, key, noise))
    new = {"latent": latent.reshape(-1), "layers": tuple(layers), "bond_dim": bond_dim}
    return built(type(generator), generator, **new)


def _larger(array, shape, key, noise):
    """The array in the leading corner of a larger one, noise elsewhere."""
    scale = noise * jnp.sqrt(jnp.mean(array**2)) if array.size else 0
    new = scale * jax.random.normal(key, shape, array.dtype)
    return new.at[tuple(map(slice, array.shape))].set(array)


def _larger_layer(layer, old, new, inner, key, noise):
    """A layer that reads bonds `new`; inner: whether it makes such bonds too."""
    split, keep = jax.random.split(key)

    def cores(array, n_out, key):
        if inner:
            array = array.reshape(len(array), old, *(old,) * n_out)
            array = _larger(array, (len(array), old, *(new,) * n_out), key, noise)
            array = array.reshape(len(array), old, new**n_out)
        # Nothing is read from the new modes yet.
        return jnp.pad(array, [(0, 0), (0, new - old), (0, 0)])

    gates = layer.gates
    if inner and gates is not None:
        n = len(gates)
        identity = jnp.broadcast_to(jnp.eye(new * new, dtype=gates.dtype), (n, new**2, new**2))
        corner = (slice(None), *(slice(old),) * 4)
        gates = identity.reshape(n, *(new,) * 4).at[corner].set(gates.reshape(n, *(old,) * 4))
        gates = gates.reshape(n, new**2, new**2)
    return Layer(cores(layer.split, 2, split), cores(layer.keep, 1, keep), gates)
