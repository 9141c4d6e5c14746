"""An MPS on the outputs of an operator, evaluated as one chain."""

import dataclasses
from operator import attrgetter

import jax.numpy as jnp
import numpy as np

from .._registry import variant
from ..networks import LayeredMPS, as_network
from ._chain import ChainStructure
from ._operator import OperatorStructure
from ._pack import pack
from ._structure import Structure


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

    @property
    def n_tensors(self):
        """Those of both layers."""
        return self.smpo.n_tensors + self.mps.n_tensors

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

    def padded(self):
        """Structure with every site's phys_dim that of the packed cores."""
        return dataclasses.replace(self, smpo=self.smpo.padded())

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
