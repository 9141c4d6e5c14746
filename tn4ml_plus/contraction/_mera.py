"""The MERA: networks of any geometry, with words of its own for how large it may be."""

import numpy as np

from .._registry import variant
from ..networks import MERA
from ._generic import GenericStructure, fields_of, largest_fitting, pack_as
from ._pack import pack


@variant("structure", "mera")
class MERAStructure(GenericStructure):
    """A packed `MERA` besides its arrays, one per tensor.

    Parameters
    ----------
    inds, shapes, tags, left_inds, nsites, output_inds, site_ind_id : as in `GenericStructure`
    cyclic : bool, whether disentanglers join the ends
    site_tag_id : str, format of the tags of sites
    """

    cyclic: bool = False
    site_tag_id: str = "I{}"

    def capped(self, bond_dim):
        """Structure made with this bond_dim, which leaves the bonds over the inputs as they are."""
        return super().capped(max(bond_dim, self.phys_dim))

    def first_sites(self, nsites):
        """Structure of a MERA of the first `nsites` sites and the same bond_dim."""
        options = {"bond_dim": self.max_bond, "phys_dim": self.phys_dims[:nsites]}
        *shapes, top = MERA.shapes(nsites, cyclic=self.cyclic, **options)
        arrays = [np.broadcast_to(0.0, shape) for shape in (*shapes, top + self.output_dims)]
        mera = MERA(arrays, nsites, cyclic=self.cyclic, output_inds=self.output_inds)
        return MERAStructure(**fields_of(mera), cyclic=self.cyclic)

    def smaller(self, fits):
        by_bond_dim = super().smaller(fits)
        nsites = 0
        if not by_bond_dim:
            nsites = largest_fitting(lambda n: fits(self.first_sites(n)), self.nsites)
        return [f"at most {nsites} sites"] if nsites else by_bond_dim

    def view(self, network):
        """A quimb network of this structure as a `MERA`."""
        names = ("output_inds", "site_ind_id", "site_tag_id", "cyclic")
        return network.view_as(MERA, L=self.nsites, **{n: getattr(self, n) for n in names})


@pack.register
def _(network: MERA):
    ids = {"cyclic": network.cyclic, "site_tag_id": network.site_tag_id}
    return pack_as(MERAStructure, network, **ids)
