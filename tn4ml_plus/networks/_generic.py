"""Networks of any geometry whose open indices are named."""

import re
from collections import Counter
from collections.abc import Sequence

import quimb.tensor as qtn

from ._base import NamedOutputs
from ._mpo import MPO
from ._mps import MPS


class Network(NamedOutputs, qtn.TensorNetwork):
    """A quimb TensorNetwork of any geometry that knows its inputs and outputs.

    Inputs are the indices ``k0, k1, ...`` (`site_ind_id`), one tensor each. `from_quimb` makes and
    checks one; ``view_like`` turns it back into the quimb class it came from.
    """

    _EXTRA_PROPS = ("_site_ind_id", "_nsites", "_output_inds")

    @property
    def site_ind_id(self) -> str:
        """Format string of the names of the inputs."""
        return self._site_ind_id

    @property
    def nsites(self) -> int:
        """Number of inputs."""
        return self._nsites

    @property
    def phys_dims(self) -> tuple[int, ...]:
        """Size of every input."""
        return tuple(self.ind_size(self.site_ind(i)) for i in range(self.nsites))

    def site_ind(self, i: int) -> str:
        """Name of the input index of site `i`."""
        return self.site_ind_id.format(i)


def from_quimb(
    network: qtn.TensorNetwork, output_inds: Sequence[str] | None = None, site_ind_id: str = "k{}"
) -> qtn.TensorNetwork:
    """Model made of a quimb TensorNetwork of any geometry whose open indices are named.

    A matrix product state becomes an `MPS` where that can hold its outputs (none, or all on one
    site), a matrix product operator from upper to lower indices an `MPO`, anything else a
    `Network`; networks of this package are returned unchanged. Arrays are not copied.

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork, the network, each input on one tensor only
    output_inds : sequence of str, optional
        Outputs: every open index that is no input, by default in order of appearance. An index
        that joins tensors may be an output too.
    site_ind_id : str, format of the names of the inputs

    Raises
    ------
    ValueError
        For missing inputs, an input on several tensors or a forgotten open index.

    Examples
    --------
    >>> import quimb.tensor as qtn
    >>> ring = qtn.MPS_rand_state(4, bond_dim=3, cyclic=True)
    >>> type(from_quimb(ring)).__name__
    'MPS'
    >>> operator = from_quimb(qtn.MPO_rand(3, bond_dim=2))
    >>> type(operator).__name__, operator.output_inds
    ('MPO', ('b0', 'b1', 'b2'))
    """
    # Networks of this package, and of others that follow it, say which are their outputs.
    own = getattr(network, "output_inds", None)
    if own is not None and (output_inds is None or tuple(output_inds) == own):
        return network
    found = as_network(network, output_inds, site_ind_id)
    return _as_chain(network, found) or found


def as_network(
    network: qtn.TensorNetwork, output_inds: Sequence[str] | None = None, site_ind_id: str = "k{}"
) -> Network:
    """A `Network` made of any quimb TensorNetwork; see `from_quimb` for the parameters."""
    counts = Counter(ind for tensor in network for ind in tensor.inds)
    is_input = re.compile(re.escape(site_ind_id).replace(r"\{\}", "(0|[1-9][0-9]*)")).fullmatch
    open_inds = [ind for ind, count in counts.items() if count == 1]
    if output_inds is None:
        output_inds = tuple(ind for ind in open_inds if not is_input(ind))
    output_inds = tuple(output_inds)
    if len(set(output_inds)) < len(output_inds) or not counts.keys() >= set(output_inds):
        raise ValueError(f"output_inds must be different indices of the network: {output_inds}.")

    matches = [is_input(ind) for ind in counts if ind not in output_inds]
    sites = {int(match[1]): match[0] for match in matches if match}
    missing = [site_ind_id.format(i) for i in range(max(sites, default=0) + 1) if i not in sites]
    if missing:
        raise ValueError(
            f"The network has no input {', '.join(missing)}; its open indices are {open_inds}. "
            f"Name its inputs {site_ind_id.format(0)}, {site_ind_id.format(1)}, ... with "
            "network.reindex({old: new}), or give their site_ind_id."
        )
    shared = [ind for ind in sites.values() if counts[ind] > 1]
    if shared:
        raise ValueError(
            f"The inputs {', '.join(shared)} appear more than once. Rename them if they are bonds; "
            "otherwise give the tensors bonds of their own and join these and the input by a "
            "quimb.tensor.COPY_tensor."
        )
    forgotten = [i for i in open_inds if i not in output_inds and i not in sites.values()]
    if forgotten:
        raise ValueError(
            f"The open indices {', '.join(forgotten)} are neither inputs nor in output_inds: add "
            "them there, or sum over them first with network.sum_reduce(ind)."
        )
    return network.view_as(
        Network, site_ind_id=site_ind_id, nsites=len(sites), output_inds=output_inds
    )


def _as_chain(network, found):
    """The `MPS` or `MPO` that holds a quimb network of these classes, None where none does."""
    if isinstance(network, qtn.MatrixProductState):
        input_id, chain = network.site_ind_id, network.view_as(MPS, output_inds=found.output_inds)
    elif isinstance(network, qtn.MatrixProductOperator):
        input_id, chain = network.upper_ind_id, network.view_as(MPO)
    else:
        return None
    own = network.L, input_id, chain.output_inds
    fits = own == (found.nsites, found.site_ind_id, found.output_inds)
    cores = chain.cores() if fits else None
    every_output = isinstance(chain, MPS) or len(chain.output_sites) == network.L
    return chain if cores is not None and cores[1] == network.cyclic and every_output else None
