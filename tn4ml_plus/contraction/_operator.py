"""Matrix product operators, alone and below an MPS; squared norms by a scan over two layers."""

import dataclasses
from functools import partial
from math import log10
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _precise as precise
from .._amplitude import Amplitude, exponent_of, times_power_of_two
from .._arrays import on_device
from .._registry import variant
from ..errors import ContractionTooLargeError
from ..networks import MPO, MPS, SMPO, LayeredMPS, as_network
from ._chain import ChainStructure, LinearStructure, aligned, boundary, sizes_of, walk
from ._generic import MAX_INTERMEDIATE
from ._pack import common_dtype, khatri_rao, pack, spread, stacked
from ._structure import OPEN, SHUT, Rooted, Structure, arms, attributes

_IDS = "upper_ind_id", "lower_ind_id", "site_tag_id"


@variant("structure", "operator")
class OperatorStructure(LinearStructure):
    """A packed SMPO or MPO besides its arrays.

    The arrays are ``plain`` (sites without output, D, d, D), bond on the left first, and ``output``
    (sites with one, D, d, o, D).

    Parameters
    ----------
    output_sites : tuple of int, the sites that have an output
    bond_dims, phys_dims : tuple of int, as in `ChainStructure`
    output_dims : tuple of int, one per output site
    cyclic : bool, whether the ends are joined
    upper_ind_id, lower_ind_id, site_tag_id : str, those of the operator
    """

    output_sites: tuple[int, ...]
    bond_dims: tuple[int, ...]
    phys_dims: tuple[int, ...]
    output_dims: tuple[int, ...]
    cyclic: bool = False
    upper_ind_id: str = "k{}"
    lower_ind_id: str = "b{}"
    site_tag_id: str = "I{}"

    output_inds = property(lambda self: tuple(map(self.lower_ind_id.format, self.output_sites)))
    output_tensors = property(lambda self: {"plain": 0, "output": len(self.output_sites)})

    @property
    def order(self):
        """For each site, its place in the plain cores followed by those with an output."""
        plain = [i for i in range(self.nsites) if i not in self.output_sites]
        return np.argsort([*plain, *self.output_sites])

    def unpack(self, packed):
        """An `MPO` where every site has an output, else an `SMPO`."""
        operator = MPO if len(self.output_sites) == self.nsites else SMPO
        names = attributes(self, "output_sites", *_IDS)
        return operator.from_cores(self._ragged(packed), self.cyclic, **names)

    def _ragged(self, packed):
        """Cores (left, input[, output], right) of all sites without padding, NumPy."""
        cores = [core for name in ("plain", "output") for core in np.asarray(packed[name])]
        found = self.unpadded([cores[place] for place in self.order])
        for site, size in zip(self.output_sites, self.output_dims, strict=True):
            found[site] = found[site][:, :, :size]
        return found

    def _cores(self, packed):
        """(nsites, D, d, o, D) in the order of sites, an output that is not there as channel 0."""
        plain, output = packed["plain"], packed["output"]
        xp = np if isinstance(plain, np.ndarray) else jnp
        plain = xp.pad(plain[:, :, :, None], [(0, 0)] * 3 + [(0, output.shape[3] - 1), (0, 0)])
        return xp.concatenate([plain, output])[self.order]

    def contract(self, packed, phi):
        plain, output = packed["plain"], packed["output"]
        bond, phys, out = output.shape[1:4]
        sites, batch = self.output_sites, len(phi)
        starts = bond if self.cyclic else 1
        if starts * batch * bond * out ** len(sites) > MAX_INTERMEDIATE:
            raise ContractionTooLargeError(
                f"The outputs of this operator are 10^{log10(out) * len(sites):.1f} numbers per "
                f"sample, too many for {batch} samples: train on their squared norm, SquaredNorm, "
                "get the transformed states by transform, or read the outputs by the MPS of a "
                "LayeredMPS."
            )
        phi = phi.transpose(1, 2, 0).astype(output.dtype)

        def from_boundary(start):
            state = boundary(start, batch)
            last = sites[-1] + 1
            right, total = walk(plain[last - len(sites) :].swapaxes(1, 3), phi[last:], state, True)
            left, columns, first = state, 1, 0
            for j, site in enumerate(sites):
                # One column per value of the outputs so far and per sample.
                p = jnp.tile(phi[first : site + 1], columns)
                left, e = walk(plain[first - j : site - j], p[:-1], left.reshape(bond, -1), False)
                left, e = aligned(left.reshape(bond, columns, batch), e.reshape(columns, batch))
                x = khatri_rao(left.reshape(bond, -1), p[-1])
                flat = output[j].reshape(bond * phys, -1)
                left = lax.dot_general(flat, x, (((0,), (0,)), ((), ())))
                left = left.reshape(out, bond, columns, batch).transpose(1, 2, 0, 3)
                columns, first = columns * out, site + 1
                e_site = exponent_of(left.reshape(-1, batch))
                left = times_power_of_two(left, -e_site)
                total = total + e + e_site
            return jnp.sum(left.reshape(bond, columns, batch) * right[:, None], axis=0), total

        value, e = self.summed(from_boundary, bond, output.dtype)
        value = value.T.reshape(batch, *(out,) * len(sites))
        return Amplitude(value[(slice(None), *map(slice, self.output_dims))], e)

    def contract_squared(self, packed, phi):
        cores = self._cores(packed)
        phi = phi.transpose(1, 2, 0).astype(cores.dtype)
        has_output = tuple(i in self.output_sites for i in range(self.nsites))
        return Amplitude(*squared_norms(cores, phi, has_output, self.cyclic))

    def log_norm_squared(self, packed):
        """The squared norm of the outputs where every input is one too."""
        cores = self._cores(packed)
        nsites, bond = cores.shape[:2]
        cores = cores.reshape(nsites, bond, 1, -1, bond)
        ones = jnp.ones((nsites, 1, 1), cores.dtype)
        return Amplitude(*squared_norms(cores, ones, (True,) * nsites, self.cyclic)).log_abs()[0]

    def transform(self, packed, phi):
        """States of the outputs, one `MPS` per sample."""
        if self.cyclic and len(self.output_sites) == 2:
            raise ValueError(
                "A cyclic operator of two outputs gives a ring of two sites: use contract, whose "
                "outputs are few there."
            )
        phi = np.asarray(phi)
        tensors, current, exponent = [], None, np.zeros(len(phi), int)
        for i, core in enumerate(self._ragged(packed)):
            core = np.einsum("ls...r,bs->bl...r", core, phi[:, i, : core.shape[1]])
            if current is None:
                current = core
            elif i not in self.output_sites or current.ndim == 3:
                current = np.einsum("bl...m,bm...r->bl...r", current, core)
            else:
                tensors.append(current)
                current = core
            _, e = np.frexp(np.abs(current).reshape(len(phi), -1).max(axis=1))
            current = np.ldexp(current, -e.reshape(-1, *[1] * (current.ndim - 1)))
            exponent += e
        tensors.append(current)
        cyclic = self.cyclic
        if cyclic and len(tensors) == 1:
            tensors, cyclic = [np.einsum("blol->bo", current)[:, None, :, None]], False
        states = []
        for b in range(len(phi)):
            state = MPS.from_cores([tensor[b] for tensor in tensors], cyclic)
            state.exponent = float(exponent[b] * np.log10(2))
            states.append(state)
        return states

    def rooted(self):
        """Two arms; every node has a leaf for an output, so that all share compiled code."""
        n = self.nsites
        leaves = [(i, OPEN if i in self.output_sites else SHUT) for i in range(n)]
        return super().rooted() if self.cyclic else Rooted.chain(n, n // 2, leaves)

    def to_nodes(self, packed):
        c = self.nsites // 2
        cores = self._cores(jax.tree.map(np.asarray, packed))
        found = [*cores[:c], *cores[:c:-1].swapaxes(1, -1), cores[c][..., None]]
        return found, arms(self.bond_dims[1:-1], c)

    def from_nodes(self, cores, ranks):
        n, c = self.nsites, self.nsites // 2
        bond = cores[0].shape[-1] if n > 1 else 1
        inner = [core.swapaxes(0, -1) for core in cores[c : n - 1][::-1]]
        cores = [*cores[:c], cores[-1][:bond, ..., :bond, 0], *inner]
        plain = [core[:, :, 0] for i, core in enumerate(cores) if i not in self.output_sites]
        packed = {
            "plain": stacked(plain, (bond, self.phys_dim, bond), cores[0].dtype),
            "output": on_device(np.stack([cores[i] for i in self.output_sites])),
        }
        return packed, dataclasses.replace(self, bond_dims=(1, *arms(ranks, c), 1))


@pack.register
def _(smpo: SMPO):
    if (found := smpo.cores()) is None:
        return pack(as_network(smpo, smpo.output_inds, smpo.upper_ind_id))
    cores, cyclic = found
    output_sites, dtype = smpo.output_sites, common_dtype(cores)
    cores = spread(cores, smpo.exponent)
    sizes = {"output_dims": tuple(cores[i].shape[2] for i in output_sites), **sizes_of(cores)}
    structure = OperatorStructure(output_sites, cyclic=cyclic, **sizes, **attributes(smpo, *_IDS))
    bond, phys, out = structure.bond_dim, structure.phys_dim, max(structure.output_dims)
    plain = [core for i, core in enumerate(cores) if i not in output_sites]
    output = [cores[i] for i in output_sites]
    packed = {
        "plain": stacked(plain, (bond, phys, bond), dtype),
        "output": stacked(output, (bond, phys, out, bond), dtype),
    }
    return packed, structure


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def squared_norms(cores, phi, has_output, cyclic):
    """Squared norms of the outputs of a chain: values (batch,) and their exponents of two.

    cores: (nsites, D, d, o, D); phi: (nsites, d, batch); has_output: one bool per site, only
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
        x = (env[:, None] * p[None, :, None, None, None]).reshape(bond * d, -1)
        half = _gemm(core.reshape(bond * d, o * bond), x)
        half = half.reshape(o, bond, ends, bond, ends, batch).transpose(3, 0, 1, 2, 4, 5)
        y = (half[:, None] * p[None, :, None, None, None, None]).reshape(bond * d * o, -1)
        full = _gemm(core.reshape(bond * d * o, bond), y)
        return full.reshape(bond, bond, ends, ends, batch).transpose(0, 3, 1, 2, 4)

    def site(carry, inputs):
        env, total = carry
        core, p, flag = inputs
        new = _at_site(absorb, has_output, flag, core, p, env)
        e = exponent_of(new.reshape(-1, batch))
        return (times_power_of_two(new, -e), total + e), (env, e)

    start = jnp.broadcast_to(closing, (*closing.shape[:-1], batch))
    carry = lax.optimization_barrier(start), jnp.zeros(batch, jnp.int32)
    (env, total), (envs, exponents) = lax.scan(site, carry, (cores, phi, np.array(has_output)))
    value = jnp.sum(env * closing, axis=(0, 1, 2, 3))
    e = exponent_of(value[None])
    value = times_power_of_two(value, -e)
    return (value, total + e), (cores, phi, envs, exponents, e)


def _squared_backward(has_output, cyclic, residuals, cotangent):
    cores, phi, envs, exponents, e_last = residuals
    bond, channels, batch = cores.shape[1], cores.shape[3], phi.shape[-1]
    closing = _closing(bond, cyclic, cores.dtype)
    ends = closing.shape[1]

    def pull(core, p, env, g):
        d, o = core.shape[1:3]
        z = (g[None] * p[:, None, None, None, None]).reshape(d * bond, -1)
        w = _gemm(core.transpose(1, 3, 0, 2).reshape(d * bond, bond * o), z)
        w = w.reshape(bond, o, ends, bond, ends, batch).transpose(1, 3, 4, 0, 2, 5)
        w = w.reshape(o * bond, -1)
        x = (env[:, None] * p[None, :, None, None, None]).reshape(bond * d, -1)
        d_core = precise.dot_general(x, w, (((1,), (1,)), ((), ()))).reshape(bond, d, o, bond)
        d_core = jnp.pad(d_core, [(0, 0), (0, 0), (0, channels - o), (0, 0)])
        y = (p[:, None] * w.reshape(1, -1, batch)).reshape(d * o * bond, -1)
        g = _gemm(core.transpose(1, 2, 3, 0).reshape(d * o * bond, bond), y)
        # Unused, and then removed by the compiler, unless phi is differentiated.
        h = precise.matmul(core.reshape(bond * d, o * bond), w)
        h = h.reshape(bond, d, ends, bond, ends, batch)
        d_phi = jnp.sum(h * env[:, None], axis=(0, 2, 3, 4))
        return g.reshape(env.shape), d_core, d_phi

    def site(g, inputs):
        core, p, flag, env, e = inputs
        g = times_power_of_two(g, -e)
        g, d_core, d_phi = _at_site(pull, has_output, flag, core, p, env, g)
        return g, (d_core, d_phi)

    g = closing * times_power_of_two(cotangent[0], -e_last)[None, None, None, None]
    inputs = (cores, phi, np.array(has_output), envs, exponents)
    _, (d_cores, d_phi) = lax.scan(site, g, inputs, reverse=True)
    # Both layers alike.
    return 2 * d_cores, 2 * d_phi


squared_norms.defvjp(_squared_forward, _squared_backward)


def _closing(bond, cyclic, dtype):
    """Ends of both layers, (D, C, D, C, 1)."""
    end = jnp.eye(bond, bond if cyclic else 1, dtype=dtype)
    return jnp.multiply.outer(end, end)[..., None]


def _at_site(function, has_output, flag, core, *arguments):
    """function(core, *arguments) with the channels that a site has: all of them, or the first."""
    if all(has_output) or core.shape[2] == 1:
        return function(core, *arguments)
    return lax.cond(flag, partial(function, core), partial(function, core[:, :, :1]), *arguments)


def _gemm(a, b):
    """a^T b."""
    return precise.dot_general(a, b, (((0,), (0,)), ((), ())))


@variant("structure", "layered")
class LayeredStructure(Structure):
    """A packed `LayeredMPS` besides its arrays, ``smpo`` and ``mps``, packed each.

    Parameters
    ----------
    smpo : OperatorStructure, that of the lower layer
    mps : ChainStructure, that of the upper one
    """

    smpo: OperatorStructure
    mps: ChainStructure

    phys_dims = property(attrgetter("smpo.phys_dims"))
    output_inds = property(attrgetter("mps.output_inds"))
    output_dims = property(attrgetter("mps.output_dims"))
    max_bond = property(lambda self: max(self.smpo.max_bond, self.mps.max_bond))
    n_tensors = property(lambda self: self.smpo.n_tensors + self.mps.n_tensors)

    @property
    def output_tensors(self):
        """The center of the upper layer."""
        return {"smpo": {"plain": 0, "output": 0}, "mps": self.mps.output_tensors}

    @property
    def chain(self):
        """Structure of the chain that both layers make together."""
        smpo, mps = self.smpo, self.mps
        center, bond = smpo.output_sites[mps.center], smpo.bond_dim * mps.bond_dim
        sizes = (bond,) * (self.nsites + 1), (self.phys_dim,) * self.nsites
        cyclic = smpo.cyclic or mps.cyclic
        return ChainStructure(center, *sizes, mps.output_inds, mps.output_dims, cyclic)

    def padded(self, phys_dim=None):
        """Structure with every site's phys_dim that of the packed cores."""
        return dataclasses.replace(self, smpo=self.smpo.padded(phys_dim))

    def unpack(self, packed):
        return LayeredMPS(self.smpo.unpack(packed["smpo"]), self.mps.unpack(packed["mps"]))

    def contract(self, packed, phi):
        return self.chain.contract(_fused(self, packed), phi)

    def log_norm_squared(self, packed):
        return self.chain.log_norm_squared(_fused(self, packed))


@pack.register
def _(network: LayeredMPS):
    try:
        layers = network.layers()
    except ValueError:
        return pack(as_network(network, network.output_inds, network.site_ind_id))
    (smpo, smpo_structure), (mps, mps_structure) = map(pack, layers)
    return {"smpo": smpo, "mps": mps}, LayeredStructure(smpo_structure, mps_structure)


def _fused(structure, packed):
    """The packed chain: a site's bond is the SMPO's times the MPS's."""
    plain, output = packed["smpo"]["plain"], packed["smpo"]["output"]
    mps, center = packed["mps"], structure.mps.center
    below, above = plain.shape[1], mps["center"].shape[0]
    bond, phys = below * above, plain.shape[2]
    right = mps["right"].swapaxes(1, 3)
    readers = jnp.concatenate([mps["left"], right])
    others = jnp.concatenate([output[:center], output[center + 1 :]])
    # Between two outputs the MPS passes its state.
    plain = precise.einsum("nlsr,ab->nlasrb", plain, jnp.eye(above, dtype=plain.dtype))
    others = precise.einsum("nlsor,naob->nlasrb", others, readers)
    middle = precise.einsum("lsor,ao...b->las...rb", output[center], mps["center"])
    cores = jnp.concatenate([plain, others]).reshape(-1, bond, phys, bond)
    # Sites in order, without that of the center.
    order = structure.smpo.order
    place = structure.nsites - len(structure.smpo.output_sites) + center
    site = structure.smpo.output_sites[center]
    order = np.delete(np.where(order > place, order - 1, order), site)
    return {
        "left": cores[order[:site]],
        "center": middle.reshape(bond, phys, *middle.shape[3:-2], bond),
        "right": cores[order[site:]].swapaxes(1, 3),
    }
