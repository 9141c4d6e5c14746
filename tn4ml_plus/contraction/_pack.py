"""The seam between quimb and speed: a network as a few arrays and a hashable structure."""

import dataclasses
from functools import singledispatch

import jax.numpy as jnp


@singledispatch
def pack(network):
    """Split a network into ``(packed, structure)``.

    packed: a pytree of few arrays, what optimisers see; structure: static and hashable, what
    compiled functions are keyed by. `unpack` is the inverse.
    """
    raise TypeError(
        f"Cannot pack a {type(network).__name__}: give a quimb TensorNetwork, or see "
        "tn4ml_plus.networks.from_quimb."
    )


class Structure:
    """What structures with one phys_dim a site, `phys_dims`, have in common."""

    @property
    def nsites(self):
        """Number of sites."""
        return len(self.phys_dims)

    @property
    def phys_dim(self):
        """Largest phys_dim, that of the packed arrays and of embedded samples."""
        return max(self.phys_dims)

    def padded(self):
        """The same structure with the sizes of the packed arrays at every site and bond.

        Networks that differ in the order of their sites share it, and so their compiled code.
        """
        sizes = {"phys_dims": (self.phys_dim,) * self.nsites}
        if bonds := getattr(self, "bond_dims", ()):
            sizes["bond_dims"] = (max(bonds),) * len(bonds)
        return dataclasses.replace(self, **sizes)


def real_dtype(dtype):
    """The dtype itself; ValueError unless it is a floating one."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"The arrays must be real floats, got {dtype}: convert the network's.")
    return dtype


@singledispatch
def _unpack(structure, packed):
    raise TypeError(f"Not the structure of a packed network: {type(structure).__name__}.")


def unpack(packed, structure):
    """The quimb network that `pack` took apart, with the arrays of `packed` (NumPy)."""
    return _unpack(structure, packed)


@singledispatch
def _contract(structure, packed, phi):
    raise TypeError(f"Not the structure of a packed network: {type(structure).__name__}.")


def contract(packed, structure, phi):
    """Evaluate a network on a batch of embedded samples.

    phi: (batch, nsites, phys_dim), zero-padded where a site's own phys_dim is smaller. Returns an
    `Amplitude` with value (batch, *outputs). Pure and differentiable in `packed` and `phi`; call it
    under `jax.jit` with `structure` static. Raises ValueError when phi does not fit the structure.
    """
    if phi.ndim != 3 or phi.shape[1:] != (structure.nsites, structure.phys_dim):
        raise ValueError(
            f"The network takes embedded samples of shape (batch, {structure.nsites}, "
            f"{structure.phys_dim}), got {phi.shape}: is this the embedding, and are these the "
            "features, that the network was made for?"
        )
    return _contract(structure, packed, phi)


@singledispatch
def _log_norm_squared(structure, packed):
    raise TypeError(f"Not the structure of a packed network: {type(structure).__name__}.")


def log_norm_squared(packed, structure):
    """Natural logarithm of the squared Frobenius norm of the whole network, a scalar."""
    return _log_norm_squared(structure, packed)
