"""Chains: a scan of one GEMM a site over stacked cores, with its own backward pass."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._registry import register
from .._typing import Amplitude, exponent_of, power_of_two, scale_by_power_of_two
from ..networks import MPS
from ._khatri_rao import khatri_rao
from ._pack import Structure, _contract, _log_norm_squared, _unpack, pack, real_dtype


@register("structure", name="chain")
@dataclasses.dataclass(frozen=True)
class ChainStructure(Structure):
    """What a packed chain is besides its arrays.

    The arrays are ``left`` (sites before the center) and ``right`` (after it), each
    (nsites, D, d, D) with the bond on the outer side first, and ``center`` (D, d, *outputs, D).
    center: the site whose core carries the outputs (the middle where there are none);
    bond_dims: sizes of the bonds left of sites 0..nsites-1, then of the last right bond (1 at open
    ends); phys_dims: one a site.
    """

    center: int
    bond_dims: tuple[int, ...]
    phys_dims: tuple[int, ...]
    output_inds: tuple[str, ...] = ()
    output_dims: tuple[int, ...] = ()
    cyclic: bool = False
    site_ind_id: str = "k{}"
    site_tag_id: str = "I{}"

    def with_bias(self, packed, bias):
        """`packed` plus the output core of another packed chain."""
        return packed | {"center": packed["center"] + bias["center"]}

    def rescale(self, packed, log_factor):
        """Multiply the whole network by exp(log_factor): the center first, then all cores alike."""
        at_center = np.clip(log_factor, -10 * np.log(2), 10 * np.log(2))
        a_site = np.exp((log_factor - at_center) / self.nsites)
        factors = {"left": a_site, "center": a_site * np.exp(at_center), "right": a_site}
        return {name: core * core.dtype.type(factors[name]) for name, core in packed.items()}

    @property
    def bond_dim(self):
        """Largest bond, that of the packed cores."""
        return max(self.bond_dims)


@pack.register
def _pack_chain(mps: MPS):
    nsites, cyclic = mps.L, mps.cyclic
    center = nsites // 2 if mps.output_site is None else mps.output_site
    cores, bond_dims, phys_dims = [], [], []
    for i in range(nsites):
        tensor = mps[i]
        inds = [mps.site_ind(i), *(ind for ind in mps.output_inds if ind in tensor.inds)]
        if cyclic or i > 0:
            inds.insert(0, mps.bond((i - 1) % nsites, i))
        if cyclic or i < nsites - 1:
            inds.append(mps.bond(i, (i + 1) % nsites))
        data = tensor.transpose(*inds).data
        if not cyclic:
            data = data[None] if i == 0 else data
            data = data[..., None] if i == nsites - 1 else data
        cores.append(data)
        bond_dims.append(data.shape[0])
        phys_dims.append(data.shape[1])
    bond_dims.append(cores[-1].shape[-1])
    if mps.exponent:
        cores[center] = cores[center] * 10.0**mps.exponent
    structure = ChainStructure(
        center,
        tuple(bond_dims),
        tuple(phys_dims),
        mps.output_inds,
        cores[center].shape[2:-1],
        cyclic,
        mps.site_ind_id,
        mps.site_tag_id,
    )
    xp = jnp if any(isinstance(core, jax.core.Tracer) for core in cores) else np
    bond, phys = structure.bond_dim, structure.phys_dim
    dtype = real_dtype(jnp.result_type(jnp.float32, *cores))

    def padded(core):
        widths = [(0, bond - core.shape[0]), (0, phys - core.shape[1])]
        widths += [(0, 0)] * (core.ndim - 3) + [(0, bond - core.shape[-1])]
        return xp.pad(xp.asarray(core), widths).astype(dtype)

    def stack(part):
        return (
            xp.stack([padded(c) for c in part]) if part else xp.zeros((0, bond, phys, bond), dtype)
        )

    packed = {
        "left": stack(cores[:center]),
        "center": padded(cores[center]),
        "right": stack([xp.swapaxes(core, 0, -1) for core in cores[center + 1 :]]),
    }
    return jax.tree.map(jnp.asarray, packed), structure


@_unpack.register
def _unpack_chain(structure: ChainStructure, packed):
    packed = jax.tree.map(np.asarray, packed)
    cores = [*packed["left"], packed["center"], *packed["right"].swapaxes(1, 3)]
    arrays = []
    for i, core in enumerate(cores):
        core = core[: structure.bond_dims[i], : structure.phys_dims[i]]
        core = core[..., : structure.bond_dims[i + 1]]
        core = np.moveaxis(core, -1, 1)
        if not structure.cyclic:
            core = core[:, 0] if i == structure.nsites - 1 else core
            core = core[0] if i == 0 else core
        arrays.append(np.ascontiguousarray(core))
    return MPS(
        arrays,
        output_site=structure.center if structure.output_inds else None,
        output_inds=structure.output_inds,
        site_ind_id=structure.site_ind_id,
        site_tag_id=structure.site_tag_id,
    )


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
        return (u * power_of_two(-e, u.dtype), total + e), (v, e)

    e = exponent_of(state)
    flat = cores.reshape(nsites, bond * phys, bond)
    last, saved = lax.scan(
        site, (state * power_of_two(-e, state.dtype), e), (flat, phi), reverse=reverse
    )
    return last, (cores, phi, saved, e)


def _walk_backward(reverse, residuals, cotangent):
    cores, phi, (states, exponents), e_first = residuals
    nsites, bond, phys, _ = cores.shape

    def site(g, inputs):
        core, p, v, e = inputs
        g = g * power_of_two(-e, g.dtype)
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
    return d_cores.reshape(cores.shape), d_phi, g * power_of_two(-e_first, g.dtype)


walk.defvjp(_walk_forward, _walk_backward)


@_contract.register
def _contract_chain(structure: ChainStructure, packed, phi):
    phi = phi.transpose(1, 2, 0)
    c, batch = structure.center, phi.shape[-1]
    center = packed["center"]
    bond, phys, outputs = center.shape[0], center.shape[1], center.shape[2:-1]

    def from_boundary(start):
        state = jnp.broadcast_to(start[:, None], (bond, batch)).astype(center.dtype)
        # Without the barrier XLA folds this constant into chains of two sites and, on the CPU,
        # miscompiles them (jax 0.10): outputs then come from uninitialised memory.
        state = lax.optimization_barrier(state)
        left, e_left = walk(packed["left"], phi[:c], state, False)
        right, e_right = walk(packed["right"], phi[c + 1 :], state, True)
        z = center.reshape(-1, bond) @ right
        z = z.reshape(bond * phys, -1, batch)
        z = jnp.sum(z * khatri_rao(left, phi[c])[:, None], axis=0)
        return z, e_left + e_right

    if structure.cyclic:
        z, e = jax.vmap(from_boundary)(jnp.eye(bond, dtype=center.dtype))
        # Boundary states that end in zero have no scale of their own.
        exists = jnp.any(z != 0, axis=1)
        largest = jnp.max(jnp.where(exists, e, -(2**30)), axis=0)
        largest = jnp.where(jnp.any(exists, axis=0), largest, 0)
        z = jnp.sum(scale_by_power_of_two(z, (e - largest)[:, None]), axis=0)
        e = largest
    else:
        z, e = from_boundary(jnp.zeros(bond).at[0].set(1))
    e_z = exponent_of(z)
    z, e = z * power_of_two(-e_z, z.dtype), e + e_z
    return Amplitude(z.T.reshape(batch, *outputs), e)


@_log_norm_squared.register
def _log_norm_squared_chain(structure: ChainStructure, packed):
    center = packed["center"]
    bond = center.shape[0]

    def site(carry, core):
        double, log = carry
        if structure.cyclic:
            double = jnp.einsum("abij,isk,jsl->abkl", double, core, core)
        else:
            double = jnp.einsum("ij,isk,jsl->kl", double, core, core)
        size = jnp.max(jnp.abs(double))
        size = lax.stop_gradient(jnp.where(size > 0, size, 1))
        return (double / size, log + jnp.log(size)), None

    if structure.cyclic:
        eye = jnp.eye(bond, dtype=center.dtype)
        double = jnp.einsum("ai,bj->abij", eye, eye)
    else:
        double = jnp.zeros((bond, bond), center.dtype).at[0, 0].set(1)
    carry = (double, jnp.zeros((), center.dtype))
    middle = jnp.moveaxis(center, 1, -2).reshape(bond, -1, bond)
    carry, _ = lax.scan(jax.checkpoint(site), carry, packed["left"])
    carry, _ = site(carry, middle)
    (double, log), _ = lax.scan(jax.checkpoint(site), carry, packed["right"].swapaxes(1, 3))
    trace = jnp.einsum("abab->", double) if structure.cyclic else double[0, 0]
    return jnp.log(trace) + log
