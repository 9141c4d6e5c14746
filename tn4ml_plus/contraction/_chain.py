"""Chains: a scan of one GEMM a site over stacked cores, with its own backward pass."""

import dataclasses
from functools import partial
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _precise as precise
from .._amplitude import (
    Amplitude,
    exponent_of,
    power_of_two,
    scale_by_power_of_two,
    times_power_of_two,
)
from .._arrays import on_device
from .._registry import variant
from ..networks import MPS, as_network
from ._pack import common_dtype, khatri_rao, pack, padded, stacked
from ._structure import Rooted, Structure, arms, attributes


class LinearStructure(Structure):
    """The base of chains and operators, whose bonds go from left to right or around."""

    bond_dims: tuple[int, ...]
    cyclic: bool

    #: Largest bond, that of the packed cores.
    bond_dim = property(lambda self: max(self.bond_dims))
    n_tensors = property(attrgetter("nsites"))
    rooted_needs = property(lambda self: "open ends, cyclic=False" if self.cyclic else None)

    def unpadded(self, cores):
        """Cores (left, input, ..., right) of all sites without padding of these axes."""
        sizes = zip(cores, self.bond_dims, self.phys_dims, self.bond_dims[1:])
        return [core[:left, :d, ..., :right] for core, left, d, right in sizes]

    def summed(self, from_boundary, bond, dtype):
        """Value (outputs, batch) and exponent (batch,) over all states of the boundary.

        from_boundary: from a state (bond,) to a value and its exponent.
        """
        if self.cyclic:
            value, e = jax.vmap(from_boundary)(jnp.eye(bond, dtype=dtype))
            value, e = aligned(value.swapaxes(0, 1), e)
            value = jnp.sum(value, axis=1)
        else:
            value, e = from_boundary(jnp.zeros(bond, dtype).at[0].set(1))
        e_value = exponent_of(value)
        return times_power_of_two(value, -e_value), e + e_value


@variant("structure", "chain")
class ChainStructure(LinearStructure):
    """A packed chain besides its arrays.

    The arrays are ``left`` (sites before the center) and ``right`` (after it), each
    (nsites, D, d, D) with the bond on the outer side first, and ``center`` (D, d, *outputs, D).

    Parameters
    ----------
    center : int, the site whose core carries the outputs, the middle where there are none
    bond_dims : tuple of int
        Sizes of the bonds left of sites 0..nsites-1, then of the last right bond (1 at open ends).
    phys_dims : tuple of int, one per site
    output_inds, output_dims : tuple, names and sizes of the outputs
    cyclic : bool, whether the ends are joined
    site_ind_id, site_tag_id : str, those of the `MPS`
    """

    center: int
    bond_dims: tuple[int, ...]
    phys_dims: tuple[int, ...]
    output_inds: tuple[str, ...] = ()
    output_dims: tuple[int, ...] = ()
    cyclic: bool = False
    site_ind_id: str = "k{}"
    site_tag_id: str = "I{}"

    output_tensors = property(lambda self: {"left": 0, "center": 1, "right": 0})

    def unpack(self, packed):
        packed = jax.tree.map(np.asarray, packed)
        cores = [*packed["left"], packed["center"], *packed["right"].swapaxes(1, 3)]
        names = attributes(self, "output_inds", "site_ind_id", "site_tag_id")
        site = self.center if self.output_inds else None
        return MPS.from_cores(self.unpadded(cores), self.cyclic, output_site=site, **names)

    def contract(self, packed, phi):
        """A walk from both ends to the center; from every boundary state of a ring."""
        c, center, batch = self.center, packed["center"], len(phi)
        phi = phi.transpose(1, 2, 0).astype(center.dtype)
        bond, phys, *outputs, _ = center.shape

        def from_boundary(start):
            state = boundary(start, batch)
            left, e_left = walk(packed["left"], phi[:c], state, False)
            right, e_right = walk(packed["right"], phi[c + 1 :], state, True)
            z = center.reshape(-1, bond) @ right
            z = z.reshape(bond * phys, -1, batch)
            z = jnp.sum(z * khatri_rao(left, phi[c])[:, None], axis=0)
            return z, e_left + e_right

        z, e = self.summed(from_boundary, bond, center.dtype)
        return Amplitude(z.T.reshape(batch, *outputs), e)

    def log_norm_squared(self, packed):
        center = packed["center"]
        bond = center.shape[0]
        # The overlaps of a ring are those of all pairs of boundary states.
        start = jnp.eye(bond if self.cyclic else 1, bond, dtype=center.dtype)
        start = precise.einsum("ai,bj->abij", start, start).reshape(-1, bond, bond)
        left, e_left = overlaps(packed["left"], start, False)
        right, e_right = overlaps(packed["right"], start, True)
        center = jnp.moveaxis(center, -1, 1).reshape(bond, bond, -1)
        half = precise.einsum("eij,jls->eils", left, center)
        half = precise.einsum("eils,ekl->iks", half, right)
        norm = precise.vdot(half, center)
        return jnp.log(norm) + Amplitude(norm, e_left + e_right).log_scale

    def rooted(self):
        """Two arms below the center."""
        return super().rooted() if self.cyclic else Rooted.chain(self.nsites, self.center)

    def to_nodes(self, packed):
        left, center, right = (np.asarray(packed[name]) for name in ("left", "center", "right"))
        bond, phys = center.shape[:2]
        center = np.moveaxis(center, -1, 2).reshape(bond, phys, bond, -1)
        return [*left, *right[::-1], center], arms(self.bond_dims[1:-1], self.center)

    def from_nodes(self, cores, ranks):
        c, n = self.center, self.nsites
        bond = cores[0].shape[-1] if n > 1 else 1
        shape = bond, self.phys_dim, bond
        center = cores[-1].reshape(*cores[-1].shape[:3], *self.output_dims)
        packed = {
            "left": stacked(cores[:c], shape, center.dtype),
            "center": on_device(np.moveaxis(center, 2, -1)),
            "right": stacked(cores[c : n - 1][::-1], shape, center.dtype),
        }
        return packed, dataclasses.replace(self, bond_dims=(1, *arms(ranks, c), 1))


@pack.register
def _(mps: MPS):
    if (found := mps.cores()) is None:
        return pack(as_network(mps, mps.output_inds, mps.site_ind_id))
    cores, cyclic = found
    center = mps.L // 2 if mps.output_site is None else mps.output_site
    dtype = common_dtype(cores)
    if mps.exponent:
        cores[center] = cores[center] * 10.0**mps.exponent
    names = attributes(mps, "output_inds", "site_ind_id", "site_tag_id")
    sizes = {"output_dims": cores[center].shape[2:-1], **sizes_of(cores)}
    structure = ChainStructure(center, cyclic=cyclic, **sizes, **names)
    shape = structure.bond_dim, structure.phys_dim, structure.bond_dim
    right = [core.swapaxes(0, -1) for core in cores[center + 1 :]]
    middle = padded(cores[center], (*shape[:2], *structure.output_dims, shape[-1]))
    packed = {
        "left": stacked(cores[:center], shape, dtype),
        "center": on_device(middle, dtype),
        "right": stacked(right, shape, dtype),
    }
    return packed, structure


def sizes_of(cores):
    """The bonds and inputs of cores (left, input, ..., right), fields of a `LinearStructure`."""
    bond_dims = (*(core.shape[0] for core in cores), cores[-1].shape[-1])
    return {"bond_dims": bond_dims, "phys_dims": tuple(core.shape[1] for core in cores)}


def boundary(start, batch):
    """State (bond, batch) at the ends of a chain, the same for all samples."""
    # Without the barrier XLA folds this constant into chains of two sites and, on the CPU,
    # miscompiles them (jax 0.10): outputs then come from uninitialised memory.
    return lax.optimization_barrier(jnp.broadcast_to(start[:, None], (*start.shape, batch)))


def aligned(values, exponents):
    """Columns (D, columns, batch) with exponents of their own, brought to one per sample.

    Columns of zeros have no scale of their own.
    """
    exists = jnp.any(values != 0, axis=0)
    largest = jnp.max(jnp.where(exists, exponents, -(2**30)), axis=0)
    largest = jnp.where(jnp.any(exists, axis=0), largest, 0)
    return scale_by_power_of_two(values, (exponents - largest[None])[None]), largest


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def walk(cores, phi, state, reverse):
    """Carry `state` through the sites of a chain.

    cores: (nsites, D, d, D), entering bond first; phi: (nsites, d, batch); state: (D, batch);
    reverse: start at the last site. Returns the last state (D, batch) and the exponent (batch,)
    of the power of two by which it has to be multiplied. A site costs one GEMM on the Khatri-Rao
    product of state and embedding, forward; two, backward. Every state is rescaled by an exact
    power of two, constant under differentiation.
    """
    return _walk_forward(cores, phi, state, reverse)[0]


def _walk_forward(cores, phi, state, reverse):
    nsites, bond, phys, _ = cores.shape

    def site(carry, inputs):
        v, total = carry
        core, p = inputs
        u = lax.dot_general(core, khatri_rao(v, p), (((0,), (0,)), ((), ())))
        e = exponent_of(u)
        return (times_power_of_two(u, -e), total + e), (v, e)

    e = exponent_of(state)
    flat = cores.reshape(nsites, bond * phys, bond)
    last, saved = lax.scan(site, (times_power_of_two(state, -e), e), (flat, phi), reverse=reverse)
    return last, (cores, phi, saved, e)


def _walk_backward(reverse, residuals, cotangent):
    cores, phi, (states, exponents), e_first = residuals
    nsites, bond, phys, _ = cores.shape

    def site(g, inputs):
        core, p, v, e = inputs
        g = times_power_of_two(g, -e)
        y = khatri_rao(p, g)
        d_core = lax.dot_general(v, y, (((1,), (1,)), ((), ())))
        # Unused, and then removed by the compiler, unless phi is differentiated.
        d_x = lax.dot_general(core.reshape(bond * phys, bond), g, (((1,), (0,)), ((), ())))
        d_phi = jnp.sum(d_x.reshape(bond, phys, -1) * v[:, None], axis=0)
        return core @ y, (d_core, d_phi)

    flat = cores.reshape(nsites, bond, phys * bond)
    g, (d_cores, d_phi) = lax.scan(
        site, cotangent[0], (flat, phi, states, exponents), reverse=not reverse
    )
    return d_cores.reshape(cores.shape), d_phi, times_power_of_two(g, -e_first)


walk.defvjp(_walk_forward, _walk_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def overlaps(cores, environments, reverse):
    """Carry overlaps of a chain with itself through its sites.

    cores: (nsites, D, d, D), entering bond first; environments: (pairs, D, D), one for each pair
    (a, b) of boundary states, those of (b, a) the transposes; reverse: start at the last site.
    Returns the last environments and the exponent, (), of the power of two by which they have to
    be multiplied. A site costs two GEMMs, forward; three, backward, since the gradients of both
    layers are equal. The exponent is constant under differentiation.
    """
    return _overlaps_forward(cores, environments, reverse)[0]


def _overlaps_forward(cores, environments, reverse):
    pairs, bond = environments.shape[:2]
    states = round(pairs**0.5)

    def site(carry, core):
        environments, total = carry
        half = precise.matmul(environments, core.reshape(bond, -1)).reshape(pairs, -1, bond)
        following = precise.dot_general(core.reshape(-1, bond), half, (((0,), (1,)), ((), ())))
        following = following.swapaxes(0, 1)
        # No overlap is larger than the largest of a state with itself.
        own = following[:: states + 1].reshape(-1, bond**2)[:, :: bond + 1]
        e = exponent_of(own.reshape(-1, 1))[0]
        return (following * power_of_two(-e, following.dtype), total + e), (environments, e)

    carry = environments, jnp.zeros((), jnp.int32)
    last, saved = lax.scan(site, carry, cores, reverse=reverse)
    return last, (cores, saved)


def _overlaps_backward(reverse, residuals, cotangent):
    cores, (saved, exponents) = residuals
    pairs, bond = saved.shape[1:3]
    states = round(pairs**0.5)

    def site(g, inputs):
        core, environments, e = inputs
        g = g * power_of_two(-e, g.dtype)
        half = precise.matmul(core.reshape(-1, bond), g).reshape(pairs, bond, -1)
        d_core = 2 * precise.einsum("eji,ejx->ix", environments, half)
        return precise.einsum("eix,jx->eij", half, core.reshape(bond, -1)), d_core

    # A cotangent may lack the symmetry of the environments; the rest of it changes nothing.
    g = cotangent[0].reshape(states, states, bond, bond)
    g = (g + g.transpose(1, 0, 3, 2)).reshape(pairs, bond, bond) / 2
    g, d_cores = lax.scan(site, g, (cores, saved, exponents), reverse=not reverse)
    return d_cores.reshape(cores.shape), g


overlaps.defvjp(_overlaps_forward, _overlaps_backward)
