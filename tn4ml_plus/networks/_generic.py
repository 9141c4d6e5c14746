"""Networks of any geometry whose open indices are named."""

import re
from collections import Counter

import quimb.tensor as qtn

from ._layered import LayeredMPS
from ._mera import MERA
from ._mpo import MPO, SMPO
from ._mps import MPS
from ._ttn import TTN


class Network(qtn.TensorNetwork):
    """A quimb TensorNetwork of any geometry that knows its inputs and outputs.

    Inputs are the indices ``k0, k1, ...`` (`site_ind_id`), one tensor each. Make one by
    `from_quimb`, which checks them. ``view_like`` turns it back into the quimb class it came from.
    """

    _EXTRA_PROPS = ("_site_ind_id", "_nsites", "_output_inds")

    @property
    def site_ind_id(self):
        """Format string of the names of the inputs."""
        return self._site_ind_id

    @property
    def nsites(self):
        """Number of inputs."""
        return self._nsites

    @property
    def output_inds(self):
        """Names of the output indices, in the order of the axes of the outputs."""
        return self._output_inds

    @property
    def phys_dims(self):
        """Size of every input."""
        return tuple(self.ind_size(self.site_ind(i)) for i in range(self.nsites))

    def site_ind(self, i):
        """Name of the input index of site `i`."""
        return self.site_ind_id.format(i)


def from_quimb(network, output_inds=None, site_ind_id="k{}"):
    """Take a quimb TensorNetwork whose open indices are named, of any geometry, as a model.

    Its inputs are the indices ``k0, k1, ...`` (`site_ind_id`), its outputs `output_inds`: every
    other open index, by default in order of appearance; an index that joins tensors may be an
    output too. A matrix product state becomes an `MPS` where that holds its outputs (none, or all
    on one site), a matrix product operator from upper to lower indices an `MPO`, anything else a
    `Network`; networks of this package are passed as they are. Arrays are not copied. Raises
    ValueError for missing inputs, an input on several tensors or a forgotten open index.

    >>> import quimb.tensor as qtn
    >>> ring = qtn.MPS_rand_state(4, bond_dim=3, cyclic=True)
    >>> type(from_quimb(ring)).__name__
    'MPS'
    >>> operator = from_quimb(qtn.MPO_rand(3, bond_dim=2))
    >>> type(operator).__name__, operator.output_inds
    ('MPO', ('b0', 'b1', 'b2'))
    """
    if isinstance(network, (LayeredMPS, MERA, MPS, SMPO, TTN, Network)) and (
        output_inds is None or tuple(output_inds) == network.output_inds
    ):
        return network
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
    if _is_chain(network, len(sites), output_inds, site_ind_id):
        if isinstance(network, qtn.MatrixProductOperator):
            return network.view_as(MPO)
        return network.view_as(MPS, output_inds=output_inds)
    return network.view_as(
        Network, site_ind_id=site_ind_id, nsites=len(sites), output_inds=output_inds
    )


def _is_chain(network, nsites, output_inds, site_ind_id):
    """Whether an `MPS` or `MPO` can hold it: a tensor a site, bonds only between neighbours."""
    if isinstance(network, qtn.MatrixProductState):
        input_id = network.site_ind_id
    elif isinstance(network, qtn.MatrixProductOperator):
        input_id = network.upper_ind_id
    else:
        return False
    if (network.L, input_id) != (nsites, site_ind_id):
        return False
    cyclic = network.cyclic
    site_of = {
        tid: i for i in range(nsites) for tid in network.tag_map.get(network.site_tag(i), ())
    }

    def sites(ind):
        return sorted(site_of[tid] for tid in network.ind_map[ind])

    if sorted(site_of.values()) != list(range(nsites)) or network.num_tensors != nsites:
        return False
    inputs = [site_ind_id.format(i) for i in range(nsites)]
    bonds = network.ind_map.keys() - {*inputs, *output_inds}
    neighbours = [sorted((i, (i + 1) % nsites)) for i in range(nsites if cyclic else nsites - 1)]
    return (
        not (cyclic and nsites < 3)
        and [sites(ind) for ind in inputs] == [[i] for i in range(nsites)]
        and sorted(sites(ind) for ind in bonds) == sorted(neighbours)
        and _outputs_fit(network, output_inds, [sites(ind) for ind in output_inds])
    )


def _outputs_fit(network, output_inds, sites):
    """Whether an `MPS` has all outputs on one site, an `MPO` its own one at every site."""
    if isinstance(network, qtn.MatrixProductOperator):
        own = [network.lower_ind(i) for i in range(network.L)]
        return list(output_inds) == own and sites == [[i] for i in range(network.L)]
    return all(len(where) == 1 and where == sites[0] for where in sites)
