"""Networks whose value is the squared norm of their outputs: what densities are trained on."""

from operator import attrgetter

from .._registry import variant
from ._structure import Structure


@variant("structure", "squared_norm")
class SquaredNorm(Structure):
    """A packed network whose `contract` gives the squared norm of its outputs, one per sample.

    Parameters
    ----------
    structure : Structure, that of the network itself, which `unpack` gives back

    Examples
    --------
    >>> import jax, numpy as np
    >>> from tn4ml_plus.contraction import contract, pack
    >>> from tn4ml_plus.networks import MPS
    >>> packed, structure = pack(MPS.random(5, n_outputs=3, key=jax.random.key(0)))
    >>> phi = np.ones((2, 5, 2), "f4")
    >>> outputs = contract(packed, structure, phi).dense()
    >>> squares = contract(packed, SquaredNorm(structure), phi).dense()
    >>> bool(np.allclose(squares, (outputs**2).sum(axis=1)))
    True
    """

    structure: Structure

    squared = True
    output_inds = ()
    output_dims = ()

    # All else is that of the network.
    phys_dims = property(attrgetter("structure.phys_dims"))
    n_tensors = property(attrgetter("structure.n_tensors"))
    output_tensors = property(attrgetter("structure.output_tensors"))
    rooted_needs = property(attrgetter("structure.rooted_needs"))
    log_norm_squared = property(attrgetter("structure.log_norm_squared"))
    unpack = property(attrgetter("structure.unpack"))
    rooted = property(attrgetter("structure.rooted"))
    to_nodes = property(attrgetter("structure.to_nodes"))

    def padded(self):
        """The same of the padded structure."""
        return SquaredNorm(self.structure.padded())

    def rescale(self, packed, log_factor):
        """Multiply the squared norms by exp(log_factor)."""
        return self.structure.rescale(packed, log_factor / 2)

    def contract(self, packed, phi):
        return self.structure.contract_squared(packed, phi)

    def from_nodes(self, cores, ranks):
        """Packed network and structure, see `Structure.from_nodes`."""
        packed, structure = self.structure.from_nodes(cores, ranks)
        return packed, SquaredNorm(structure)
