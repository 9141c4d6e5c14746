"""An MPS on the outputs of an operator, evaluated as one chain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from .._registry import register
from ..networks import LayeredMPS
from ._chain import ChainStructure
from ._operator import OperatorStructure
from ._pack import Structure, _contract, _log_norm_squared, _unpack, pack, unpack


@register("structure", name="layered")
@dataclasses.dataclass(frozen=True)
class LayeredStructure(Structure):
    """What a packed `LayeredMPS` is besides its arrays: ``smpo`` and ``mps``, packed each."""

    smpo: OperatorStructure
    mps: ChainStructure

    @property
    def phys_dims(self):
        """Sizes of the inputs, one a site."""
        return self.smpo.phys_dims

    @property
    def output_inds(self):
        """Names of the outputs."""
        return self.mps.output_inds

    @property
    def output_dims(self):
        """Sizes of the outputs."""
        return self.mps.output_dims

    @property
    def chain(self):
        """Structure of the chain that both layers make together."""
        smpo, mps = self.smpo, self.mps
        return ChainStructure(
            smpo.output_sites[mps.center],
            (smpo.bond_dim * mps.bond_dim,) * (self.nsites + 1),
            (self.phys_dim,) * self.nsites,
            mps.output_inds,
            mps.output_dims,
            smpo.cyclic or mps.cyclic,
        )

    def padded(self):
        """The same structure with every site's phys_dim that of the packed cores."""
        return dataclasses.replace(self, smpo=self.smpo.padded())

    def with_bias(self, packed, bias):
        """`packed` plus the output core of another packed network."""
        return packed | {"mps": self.mps.with_bias(packed["mps"], bias["mps"])}

    def rescale(self, packed, log_factor):
        """Multiply by exp(log_factor): the core with the outputs first, then all cores alike."""
        at_center = np.clip(log_factor, -10 * np.log(2), 10 * np.log(2))
        a_core = np.exp((log_factor - at_center) / (self.nsites + self.mps.nsites))
        packed = jax.tree.map(lambda core: core * core.dtype.type(a_core), packed)
        return packed | {"mps": self.mps.rescale(packed["mps"], at_center)}


@pack.register
def _pack_layered(network: LayeredMPS):
    smpo, smpo_structure = pack(network.smpo)
    mps, mps_structure = pack(network.mps)
    return {"smpo": smpo, "mps": mps}, LayeredStructure(smpo_structure, mps_structure)


@_unpack.register
def _unpack_layered(structure: LayeredStructure, packed):
    smpo, mps = (unpack(packed[layer], getattr(structure, layer)) for layer in ("smpo", "mps"))
    return LayeredMPS(smpo, mps)


def _fused(structure, packed):
    """The packed chain: a site's bond is the SMPO's times the MPS's."""
    plain, output = packed["smpo"]["plain"], packed["smpo"]["output"]
    mps, center = packed["mps"], structure.mps.center
    below, above = plain.shape[1], mps["center"].shape[0]
    bond, phys = below * above, plain.shape[2]
    right = mps["right"].swapaxes(1, 3)
    readers = jnp.concatenate([mps["left"], right])
    others = jnp.concatenate([output[:center], output[center + 1 :]])
    # Between two outputs the MPS hands its state on.
    plain = jnp.einsum("nlsr,ab->nlasrb", plain, jnp.eye(above, dtype=plain.dtype))
    others = jnp.einsum("nlsor,naob->nlasrb", others, readers)
    middle = jnp.einsum("lsor,ao...b->las...rb", output[center], mps["center"])
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


@_contract.register
def _contract_layered(structure: LayeredStructure, packed, phi):
    return _contract(structure.chain, _fused(structure, packed), phi)


@_log_norm_squared.register
def _log_norm_squared_layered(structure: LayeredStructure, packed):
    return _log_norm_squared(structure.chain, _fused(structure, packed))
