"""Matrix product operators: dense outputs, and squared norms by a scan over two layers."""

import dataclasses
from functools import partial
from math import log10

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._errors import ContractionTooLargeError
from .._registry import register
from .._typing import Amplitude, exponent_of, power_of_two, scale_by_power_of_two
from ..networks import MPO, MPS, SMPO
from ._chain import walk
from ._generic import MAX_INTERMEDIATE
from ._khatri_rao import khatri_rao
from ._pack import Structure, _contract, _log_norm_squared, _unpack, pack, real_dtype
from ._squared import contract_squared


@register("structure", name="operator")
@dataclasses.dataclass(frozen=True)
class OperatorStructure(Structure):
    """What a packed SMPO or MPO is besides its arrays.

    The arrays are ``plain`` (sites without output, D, d, D), bond on the left first, and ``output``
    (sites with one, D, d, o, D). bond_dims: as in `ChainStructure`; phys_dims: one a site;
    output_dims: one an output site.
    """

    output_sites: tuple[int, ...]
    bond_dims: tuple[int, ...]
    phys_dims: tuple[int, ...]
    output_dims: tuple[int, ...]
    cyclic: bool = False
    upper_ind_id: str = "k{}"
    lower_ind_id: str = "b{}"
    site_tag_id: str = "I{}"

    @property
    def bond_dim(self):
        """Largest bond, that of the packed cores."""
        return max(self.bond_dims)

    @property
    def output_inds(self):
        """Names of the outputs."""
        return tuple(map(self.lower_ind_id.format, self.output_sites))

    @property
    def order(self):
        """For each site, its place in the plain cores followed by those with an output."""
        plain = [i for i in range(self.nsites) if i not in self.output_sites]
        return np.argsort([*plain, *self.output_sites])

    def with_bias(self, packed, bias):
        """`packed` plus the output cores of another packed operator."""
        return packed | {"output": packed["output"] + bias["output"]}

    def rescale(self, packed, log_factor):
        """Multiply by exp(log_factor): the cores with outputs first, then all cores alike."""
        at_outputs = np.clip(log_factor, -10 * np.log(2), 10 * np.log(2))
        a_site = np.exp((log_factor - at_outputs) / self.nsites)
        factors = {"plain": a_site, "output": a_site * np.exp(at_outputs / len(self.output_sites))}
        return {name: core * core.dtype.type(factors[name]) for name, core in packed.items()}


@pack.register
def _pack_operator(smpo: SMPO):
    nsites, cyclic, output_sites = smpo.L, smpo.cyclic, smpo.output_sites
    cores = []
    for i in range(nsites):
        inds = [smpo.upper_ind(i)] + [smpo.lower_ind(i)] * (i in output_sites)
        if cyclic or i > 0:
            inds.insert(0, smpo.bond((i - 1) % nsites, i))
        if cyclic or i < nsites - 1:
            inds.append(smpo.bond(i, (i + 1) % nsites))
        data = smpo[i].transpose(*inds).data
        if not cyclic:
            data = data[None] if i == 0 else data
            data = data[..., None] if i == nsites - 1 else data
        cores.append(data)
    if smpo.exponent:
        # Spread over the sites, the scale of the whole network overflows none of them.
        scale = 10.0 ** (smpo.exponent / nsites)
        cores = [core * scale for core in cores]
    structure = OperatorStructure(
        output_sites,
        (*(core.shape[0] for core in cores), cores[-1].shape[-1]),
        tuple(core.shape[1] for core in cores),
        tuple(cores[i].shape[2] for i in output_sites),
        cyclic,
        smpo.upper_ind_id,
        smpo.lower_ind_id,
        smpo.site_tag_id,
    )
    xp = jnp if any(isinstance(core, jax.core.Tracer) for core in cores) else np
    dtype = real_dtype(jnp.result_type(jnp.float32, *cores))
    bond, phys, out = structure.bond_dim, structure.phys_dim, max(structure.output_dims)

    def stack(sites, shape):
        padded = [
            xp.pad(cores[i], [(0, n - m) for n, m in zip(shape, cores[i].shape, strict=True)])
            for i in sites
        ]
        return jnp.asarray(xp.stack(padded) if padded else xp.zeros((0, *shape)), dtype)

    plain = [i for i in range(nsites) if i not in output_sites]
    packed = {
        "plain": stack(plain, (bond, phys, bond)),
        "output": stack(output_sites, (bond, phys, out, bond)),
    }
    return packed, structure


def _arrays(structure, packed):
    """Cores in the order of sites without their padding, NumPy, (left, right, input[, output])."""
    packed = jax.tree.map(np.asarray, packed)
    cores = [*packed["plain"], *packed["output"]]
    dims = dict(zip(structure.output_sites, structure.output_dims, strict=True))
    found = []
    for i, place in enumerate(structure.order):
        core = cores[place][: structure.bond_dims[i], : structure.phys_dims[i]]
        core = core[:, :, : dims[i]] if i in dims else core
        found.append(np.moveaxis(core[..., : structure.bond_dims[i + 1]], -1, 1))
    return found


def _opened(arrays, cyclic):
    """Without the bonds of size 1 beyond open ends."""
    if not cyclic:
        arrays[-1] = arrays[-1][:, 0]
        arrays[0] = arrays[0][0]
    return [np.ascontiguousarray(array) for array in arrays]


@_unpack.register
def _unpack_operator(structure: OperatorStructure, packed):
    operator = MPO if len(structure.output_sites) == structure.nsites else SMPO
    return operator(
        _opened(_arrays(structure, packed), structure.cyclic),
        output_sites=structure.output_sites,
        upper_ind_id=structure.upper_ind_id,
        lower_ind_id=structure.lower_ind_id,
        site_tag_id=structure.site_tag_id,
    )


def transform(packed, structure, phi):
    """Transformed states of embedded samples: one `MPS` a sample, with one site an output.

    structure: of a packed SMPO or MPO; phi: (batch, nsites, phys_dim). The inputs k0, k1, ... of a
    state are the operator's outputs, from the left; its scale is in ``exponent``, as quimb has it.
    Raises ValueError for a cyclic operator of two outputs, whose state no `MPS` can hold.

    >>> import jax, numpy as np
    >>> from tn4ml_plus.contraction import pack
    >>> from tn4ml_plus.networks import SMPO
    >>> packed, structure = pack(SMPO.random(6, spacing=2, key=jax.random.key(0)))
    >>> (state,) = transform(packed, structure, np.ones((1, 6, 2)))
    >>> state.outer_inds()
    ('k0', 'k1', 'k2')
    """
    if structure.cyclic and len(structure.output_sites) == 2:
        raise ValueError(
            "A cyclic operator of two outputs gives a ring of two sites: use contract, whose "
            "outputs are few there."
        )
    phi = np.asarray(phi)
    tensors, current, exponent = [], None, np.zeros(len(phi), int)
    for i, core in enumerate(_arrays(structure, packed)):
        core = np.einsum("lrs...,bs->blr...", core, phi[:, i, : core.shape[2]])
        if current is None:
            current = core
        elif i not in structure.output_sites:
            current = np.einsum("blm...,bmr->blr...", current, core)
        elif current.ndim == 3:
            current = np.einsum("blm,bmro->blro", current, core)
        else:
            tensors.append(current)
            current = core
        _, e = np.frexp(np.abs(current).reshape(len(phi), -1).max(axis=1))
        current = np.ldexp(current, -e.reshape(-1, *[1] * (current.ndim - 1)))
        exponent += e
    tensors.append(current)
    cyclic = structure.cyclic
    if cyclic and len(tensors) == 1:
        tensors, cyclic = [np.einsum("bllo->bo", current)[:, None, None]], False
    states = []
    for b in range(len(phi)):
        state = MPS(_opened([tensor[b] for tensor in tensors], cyclic))
        state.exponent = float(exponent[b] * np.log10(2))
        states.append(state)
    return states


def _cores(structure, packed):
    """(nsites, D, d, o, D) in the order of sites; a site without output has it in channel 0."""
    plain, output = packed["plain"], packed["output"]
    plain = jnp.pad(plain[:, :, :, None], [(0, 0)] * 3 + [(0, output.shape[3] - 1), (0, 0)])
    return jnp.concatenate([plain, output])[structure.order]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def squared_norms(cores, phi, has_output, cyclic):
    """Squared norms of the outputs of a chain: values (batch,) and their exponents of two.

    cores: (nsites, D, d, o, D); phi: (nsites, d, batch); has_output: a truth value a site, only
    channel 0 of the others is read. The environment E (D, C, D, C, batch) of two layers, each with
    its bond and that of the closing end (C = 1 for open chains), takes two GEMMs a site forward and
    three backward, and is all that is kept for the backward pass; a cyclic chain has D**2 times as
    much of both. E is rescaled by exact powers of two, constant under differentiation. It is
    symmetric under exchange of its layers, and so is its cotangent, which both passes rely on.
    """
    return _squared_forward(cores, phi, has_output, cyclic)[0]


def _squared_forward(cores, phi, has_output, cyclic):
    bond, batch = cores.shape[1], phi.shape[-1]
    closing = _closing(bond, cyclic, cores.dtype)
    ends = closing.shape[1]

    def absorb(core, p, env):
        d, o = core.shape[1:3]
        x = (env[:, None] * p[:, None, None, None]).reshape(bond * d, -1)
        half = _gemm(core.reshape(bond * d, o * bond), x)
        half = half.reshape(o, bond, ends, bond, ends, batch).transpose(3, 0, 1, 2, 4, 5)
        y = (half[:, None] * p[:, None, None, None, None]).reshape(bond * d * o, -1)
        full = _gemm(core.reshape(bond * d * o, bond), y)
        return full.reshape(bond, bond, ends, ends, batch).transpose(0, 3, 1, 2, 4)

    def site(carry, inputs):
        env, total = carry
        core, p, flag = inputs
        new = _at_site(absorb, has_output, flag, core, p, env)
        e = exponent_of(new.reshape(-1, batch))
        return (new * power_of_two(-e, new.dtype), total + e), (env, e)

    start = jnp.broadcast_to(closing, (*closing.shape[:-1], batch))
    carry = lax.optimization_barrier(start), jnp.zeros(batch, jnp.int32)
    (env, total), (envs, exponents) = lax.scan(site, carry, (cores, phi, np.array(has_output)))
    value = jnp.sum(env * closing, axis=(0, 1, 2, 3))
    e = exponent_of(value[None])
    value = value * power_of_two(-e, value.dtype)
    return (value, total + e), (cores, phi, envs, exponents, e)


def _squared_backward(has_output, cyclic, residuals, cotangent):
    cores, phi, envs, exponents, e_last = residuals
    bond, channels, batch = cores.shape[1], cores.shape[3], phi.shape[-1]
    closing = _closing(bond, cyclic, cores.dtype)
    ends = closing.shape[1]

    def pull(core, p, env, g):
        d, o = core.shape[1:3]
        z = (g * p[:, None, None, None, None]).reshape(d * bond, -1)
        w = _gemm(core.transpose(1, 3, 0, 2).reshape(d * bond, bond * o), z)
        w = w.reshape(bond, o, ends, bond, ends, batch).transpose(1, 3, 4, 0, 2, 5)
        w = w.reshape(o * bond, -1)
        x = (env[:, None] * p[:, None, None, None]).reshape(bond * d, -1)
        d_core = lax.dot_general(x, w, (((1,), (1,)), ((), ()))).reshape(bond, d, o, bond)
        d_core = jnp.pad(d_core, [(0, 0), (0, 0), (0, channels - o), (0, 0)])
        y = (p[:, None] * w.reshape(-1, batch)).reshape(d * o * bond, -1)
        g = _gemm(core.transpose(1, 2, 3, 0).reshape(d * o * bond, bond), y)
        # Unused, and then removed by the compiler, unless phi is differentiated.
        h = (core.reshape(bond * d, o * bond) @ w).reshape(bond, d, ends, bond, ends, batch)
        d_phi = jnp.sum(h * env[:, None], axis=(0, 2, 3, 4))
        return g.reshape(env.shape), d_core, d_phi

    def site(g, inputs):
        core, p, flag, env, e = inputs
        g = g * power_of_two(-e, g.dtype)
        g, d_core, d_phi = _at_site(pull, has_output, flag, core, p, env, g)
        return g, (d_core, d_phi)

    g = closing * (cotangent[0] * power_of_two(-e_last, cores.dtype))
    inputs = (cores, phi, np.array(has_output), envs, exponents)
    _, (d_cores, d_phi) = lax.scan(site, g, inputs, reverse=True)
    # Both layers alike.
    return 2 * d_cores, 2 * d_phi


squared_norms.defvjp(_squared_forward, _squared_backward)


def _closing(bond, cyclic, dtype):
    """What closes the ends of both layers, (D, C, D, C, 1)."""
    end = jnp.eye(bond, bond if cyclic else 1, dtype=dtype)
    return jnp.multiply.outer(end, end)[..., None]


def _at_site(function, has_output, flag, core, *arguments):
    """function(core, *arguments) with the channels that a site has: all of them, or the first."""
    if all(has_output) or core.shape[2] == 1:
        return function(core, *arguments)
    return lax.cond(flag, partial(function, core), partial(function, core[:, :, :1]), *arguments)


def _gemm(a, b):
    """a^T b."""
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


@contract_squared.register
def _contract_squared_operator(structure: OperatorStructure, packed, phi):
    cores = _cores(structure, packed)
    phi = phi.transpose(1, 2, 0).astype(cores.dtype)
    has_output = tuple(i in structure.output_sites for i in range(structure.nsites))
    return Amplitude(*squared_norms(cores, phi, has_output, structure.cyclic))


@_log_norm_squared.register
def _log_norm_squared_operator(structure: OperatorStructure, packed):
    # That of the outputs where every input is one too.
    cores = _cores(structure, packed)
    nsites, bond = cores.shape[:2]
    cores = cores.reshape(nsites, bond, 1, -1, bond)
    ones = jnp.ones((nsites, 1, 1), cores.dtype)
    return Amplitude(*squared_norms(cores, ones, (True,) * nsites, structure.cyclic)).log_abs()[0]


@_contract.register
def _contract_operator(structure: OperatorStructure, packed, phi):
    plain, output = packed["plain"], packed["output"]
    bond, phys, out = output.shape[1:4]
    sites, batch = structure.output_sites, len(phi)
    starts = bond if structure.cyclic else 1
    if starts * batch * bond * out ** len(sites) > MAX_INTERMEDIATE:
        raise ContractionTooLargeError(
            f"The outputs of this operator are 10^{log10(out) * len(sites):.1f} numbers a sample, "
            f"too many for {batch} samples: train on their squared norm, SquaredNorm, get the "
            "transformed states by transform, or read the outputs by the MPS of a LayeredMPS."
        )
    phi = phi.transpose(1, 2, 0).astype(output.dtype)

    def from_boundary(start):
        state = jnp.broadcast_to(start[:, None], (bond, batch)).astype(output.dtype)
        # See the kernel of chains for the barrier.
        state = lax.optimization_barrier(state)
        last = sites[-1] + 1
        right, total = walk(plain[last - len(sites) :].swapaxes(1, 3), phi[last:], state, True)
        left, columns, first = state, 1, 0
        for j, site in enumerate(sites):
            # One column a value of the outputs so far and a sample.
            p = jnp.tile(phi[first : site + 1], columns)
            left, e = walk(plain[first - j : site - j], p[:-1], left.reshape(bond, -1), False)
            left, e = _aligned(left.reshape(bond, columns, batch), e.reshape(columns, batch))
            x = khatri_rao(left.reshape(bond, -1), p[-1])
            left = _gemm(output[j].reshape(bond * phys, -1), x)
            left = left.reshape(out, bond, columns, batch).transpose(1, 2, 0, 3)
            columns, first = columns * out, site + 1
            e_site = exponent_of(left.reshape(-1, batch))
            left = left * power_of_two(-e_site, left.dtype)
            total = total + e + e_site
        return jnp.sum(left.reshape(bond, columns, batch) * right[:, None], axis=0), total

    if structure.cyclic:
        value, e = jax.vmap(from_boundary)(jnp.eye(bond, dtype=output.dtype))
        value, e = _aligned(value.swapaxes(0, 1), e)
        value = jnp.sum(value, axis=1)
    else:
        value, e = from_boundary(jnp.zeros(bond).at[0].set(1))
    e_value = exponent_of(value)
    value, e = value * power_of_two(-e_value, value.dtype), e + e_value
    value = value.T.reshape(batch, *(out,) * len(sites))
    return Amplitude(value[(slice(None), *map(slice, structure.output_dims))], e)


def _aligned(values, exponents):
    """Columns (D, columns, batch) with exponents of their own, brought to one a sample."""
    exists = jnp.any(values != 0, axis=0)
    largest = jnp.max(jnp.where(exists, exponents, -(2**30)), axis=0)
    largest = jnp.where(jnp.any(exists, axis=0), largest, 0)
    return scale_by_power_of_two(values, exponents - largest), largest
