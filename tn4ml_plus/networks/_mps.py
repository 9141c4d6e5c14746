"""Chains: tensors in a row or a ring, and matrix product states with named outputs."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check, check_int, check_number
from .._registry import variant
from .._types import AnyArray, ArrayLike
from ..initializers import Initializer, generators
from ._arrangements import MutualInformation, check_sites
from ._base import NamedOutputs, NetworkSpec, Orders, as_floats, named_tensors, start, tensors_of

# Sites in a row of a drawing.
_WIDTH = 28


class ChainOfCores:
    """The mixin of chains that are made of cores and found again by their indices.

    The tensors are found by their inputs, whatever their tags and their order. `_own_inds` are the
    indices of each site besides its bonds, the input first, and `_letters` stand for these.
    """

    @classmethod
    def from_cores(cls, cores, cyclic, **options):
        """Chain of cores as in `cores`, (left bond, *own, right bond) each.

        Parameters
        ----------
        cores : list of arrays
        cyclic : bool, whether the ends are joined, else their bonds have size 1
        **options : parameters of the class
        """
        arrays = [np.moveaxis(core, -1, 1) for core in cores]
        if not cyclic:
            arrays[-1] = arrays[-1][:, 0]
            arrays[0] = arrays[0][0]
        return cls([np.ascontiguousarray(array) for array in arrays], **options)

    def _join(self, arrays, own_inds, site_tag_id, expected, tn_opts):
        """Fill the network with arrays of the axes (left bond, right bond, *own), one per site.

        own_inds: names of the own axes, one tuple per site; expected: the same in words.
        """
        nsites = len(arrays)
        cyclic = nsites > 1 and np.ndim(arrays[0]) - len(own_inds[0]) == 2
        bonds = [(qtn.rand_uuid(),) for _ in arrays]
        left = bonds if cyclic else [(), *bonds[1:]]
        right = [*left[1:], left[0]]
        inds = [before + after + own for before, after, own in zip(left, right, own_inds)]
        tags = map(site_tag_id.format, range(nsites))
        tensors = named_tensors(arrays, inds, tags, "site", f"left bond, right bond, {expected}")
        self._L, self.cyclic, self._site_tag_id = nsites, cyclic, site_tag_id
        qtn.TensorNetwork.__init__(self, tensors, virtual=True, **tn_opts)

    def cores(self) -> tuple[list, bool] | None:
        """Arrays (left bond, input, *outputs, right bond) per site, and whether it is a ring.

        Open ends have bonds of size 1. None where the tensors no longer form a chain: a tensor per
        site, one bond between neighbours, nothing else.
        """
        own_inds = self._own_inds()
        tensors, nsites = tensors_of(self, [own[0] for own in own_inds]), len(own_inds)
        if tensors is None or self.num_tensors != nsites:
            return None
        right = [qtn.bonds(a, b) for a, b in zip(tensors, tensors[1:] + tensors[:1])]
        cyclic = nsites > 2 and bool(right[-1])
        right[-1] = right[-1] if cyclic else ()
        if {len(bonds) for bonds in right[: nsites if cyclic else -1]} - {1}:
            return None
        cores = []
        for site, (tensor, own) in enumerate(zip(tensors, own_inds, strict=True)):
            inds = (*right[site - 1], *own, *right[site])
            if sorted(inds) != sorted(tensor.inds):
                return None
            data = tensor.transpose(*inds).data
            if not cyclic:
                data = data[None] if site == 0 else data
                data = data[..., None] if site == nsites - 1 else data
            cores.append(data)
        return cores, cyclic

    def layout(self) -> np.ndarray | None:
        """Positions of the tensors in a drawing, (n_tensors, 2), None where they are no chain.

        A ring, or rows of sites.
        """
        found = tensors_of(self, [own[0] for own in self._own_inds()])
        if found is None or len(found) != self.num_tensors:
            return None
        numbers = {id(tensor): site for site, tensor in enumerate(found)}
        sites = np.array([numbers[id(tensor)] for tensor in self])
        if self.cyclic:
            angle, radius = 2 * np.pi * sites / len(sites), len(sites) / (2 * np.pi)
            return radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        rows, columns = np.divmod(sites, _WIDTH)
        # To and fro, so that neighbours are neighbours.
        columns = np.where(rows % 2, _WIDTH - 1 - columns, columns)
        return np.stack([columns, -1.5 * rows], axis=1)

    def permute_arrays(self, shape: str | None = None) -> None:
        """Store the arrays in the order `shape`: lrp, of operators lrud, if None; others last."""
        own_inds, letters = self._own_inds(), self._letters
        shape = f"lr{letters}" if shape is None else shape
        for i in self.gen_sites_present():
            inds = dict(zip(letters, own_inds[i]))
            if self.cyclic or i > 0:
                inds["l"] = self.bond(i, (i - 1) % self.L)
            if self.cyclic or i < self.L - 1:
                inds["r"] = self.bond(i, (i + 1) % self.L)
            first = [inds[axis] for axis in shape if axis in inds]
            outputs = [ind for ind in self.output_inds if ind in self[i].inds]
            self[i].transpose_(*dict.fromkeys(first + outputs))


def check_cyclic(cyclic, nsites):
    """ValueError for a ring of fewer than 3 sites."""
    if cyclic and nsites < 3:
        raise ValueError(f"A cyclic chain needs at least 3 sites, got {nsites}.")


class MPS(NamedOutputs, ChainOfCores, qtn.MatrixProductState):
    """quimb's matrix product state, one site of which may also carry output indices.

    Inputs are the indices ``k0, k1, ...``. It is cyclic when the first array has both bonds.

    Parameters
    ----------
    arrays : sequence of arrays
        One per site in quimb's "lrp" order (left bond, right bond, physical), that at the output
        site with one further axis per output; open ends lack the missing bond.
    output_site : int, optional, the 0-based site of the outputs
    output_inds : sequence of str, names of the output indices
    site_ind_id, site_tag_id : str, formats of the names of inputs and of the tags of sites
    **tn_opts : options of `quimb.tensor.TensorNetwork`

    Examples
    --------
    >>> import numpy as np
    >>> mps = MPS([np.ones((2, 3)), np.ones((2, 2, 3, 4)), np.ones((2, 3))],
    ...           output_site=1, output_inds=("out",))
    >>> mps.output_inds, mps.output_site, mps.outer_inds()
    (('out',), 1, ('k0', 'k1', 'out', 'k2'))
    """

    _EXTRA_PROPS = (*qtn.MatrixProductState._EXTRA_PROPS, "_output_inds")
    _letters = "p"

    def __init__(
        self,
        arrays,
        *,
        output_site=None,
        output_inds=(),
        site_ind_id="k{}",
        site_tag_id="I{}",
        **tn_opts,
    ):
        if isinstance(arrays, qtn.MatrixProductState):
            self._output_inds = ()
            super().__init__(arrays)
            return
        arrays, output_inds = list(arrays), tuple(output_inds)
        if (output_site is None) != (not output_inds):
            raise ValueError("Give output_site and output_inds together, or neither.")
        own_inds = [(site_ind_id.format(i),) for i in range(len(arrays))]
        if output_site in range(len(arrays)):
            own_inds[output_site] += output_inds
        self._site_ind_id, self._output_inds = site_ind_id, output_inds
        self._join(arrays, own_inds, site_tag_id, "physical, then one per output index", tn_opts)

    @property
    def output_site(self) -> int | None:
        """The 0-based site whose tensor carries the outputs, None without outputs."""
        if not self._output_inds:
            return None
        owners = set(self.ind_map.get(self._output_inds[0], ()))
        inputs = (self.ind_map.get(self.site_ind(i), ()) for i in range(self.L))
        return next((i for i, found in enumerate(inputs) if owners & set(found)), None)

    def _own_inds(self) -> list[tuple[str, ...]]:
        """Input of each site, at the output site with the outputs."""
        outputs = {self.output_site: self.output_inds}
        return [(self.site_ind(i), *outputs.get(i, ())) for i in range(self.L)]

    @classmethod
    def random(
        cls,
        nsites: int,
        *,
        bond_dim: int = 8,
        phys_dim: int | Sequence[int] = 2,
        n_outputs: int | None = None,
        output_site: int | None = None,
        cyclic: bool = False,
        initializer: Initializer | None = None,
        weights: ArrayLike | None = None,
        output_std: float = 0.1,
        output_bias: ArrayLike | None = None,
        key: jax.Array,
    ) -> "MPS":
        """MPS filled by an initializer, with at most one output index, ``"out"``.

        The dtype is JAX's default float.

        Parameters
        ----------
        nsites, bond_dim : int, number of sites and size of every bond, at least 1
        phys_dim : int or sequence of int, size of the inputs, one for all or one per site
        n_outputs : int, optional, size of the output index; by default there is none
        output_site : int, optional, 0-based, by default in the middle
        cyclic : bool, whether the ends are joined, which takes 3 sites or more
        initializer : Initializer, optional, by default `LeastSquaresIdentity`
        weights : (nsites, largest phys_dim), optional
            Numbers w with w . phi near 1, see `tn4ml_plus.initializers.least_squares_weights`; by
            default 1 / phys_dim.
        output_std : float, size of the noise in the output core
        output_bias : (n_outputs,), optional, initial outputs with an identity, by default 0
        key : jax.Array, a JAX key, from which each site has its own random generator

        Examples
        --------
        >>> import jax
        >>> mps = MPS.random(5, bond_dim=3, phys_dim=2, n_outputs=4, key=jax.random.key(0))
        >>> mps.output_site, mps.ind_size("out"), mps.bond_sizes()
        (2, 4, [3, 3, 3, 3])
        """
        begun = start(nsites, bond_dim, n_outputs, phys_dim, initializer, weights)
        initializer, weights, fan = begun
        check_int("output_site", output_site, 0, optional=True)
        check_number("output_std", output_std, at_least=0)
        check_cyclic(cyclic, nsites)
        site = nsites // 2 if output_site is None else output_site
        check("output_site", site, site < nsites, f"between 0 and {nsites - 1}")
        *rngs, last = generators(key, nsites + 1)
        cores = [
            initializer(rng, (bond_dim, len(w), bond_dim), w, fan) for rng, w in zip(rngs, weights)
        ]
        if n_outputs is None:
            return cls.from_cores(as_floats(cores), cyclic)
        spread = last.normal(size=(bond_dim, bond_dim, 1, n_outputs))
        spread *= output_std / np.sqrt(bond_dim)
        if output_bias is not None:
            spread[0, 0] += np.asarray(output_bias)
        cores[site] = np.moveaxis(spread * weights[site][:, None], 1, -1)
        cores = as_floats(cores)
        return cls.from_cores(cores, cyclic, output_site=site, output_inds=("out",))


@variant("network", "mps")
class MPSSpec(NetworkSpec):
    """An `MPS` yet to be made: the ``network`` of an estimator.

    Parameters
    ----------
    output_site : int, optional, 0-based, by default in the middle
    cyclic : bool, whether the ends are joined
    order : tuple of int or MutualInformation, optional
        Order in which the first network reads the sites of the data, a permutation of 0, 1, ..., or
        how to find one from the data; by default the given order. Later networks have random ones.

    Examples
    --------
    >>> import jax
    >>> spec = MPSSpec(output_site=0)
    >>> spec.random(3, bond_dim=2, n_outputs=2, key=jax.random.key(0)).output_site
    0
    """

    output_site: int | None = None
    cyclic: bool = False
    order: tuple[int, ...] | MutualInformation | None = None

    def __post_init__(self):
        check_int("output_site", self.output_site, 0, optional=True)
        if self.order is not None and not isinstance(self.order, MutualInformation):
            order = tuple(map(int, self.order))
            object.__setattr__(self, "order", order)
            whole = sorted(order) == list(range(len(order)))
            check("order", order, whole, "a permutation of 0, 1, ...")

    @property
    def has_exact_marginals(self) -> bool:
        """Whether the ends are open, see `NetworkSpec`."""
        return not self.cyclic

    def for_data(self, X: AnyArray, nsites: int) -> "MPSSpec":
        """The spec with an order from the data, if that is asked for."""
        if not isinstance(self.order, MutualInformation):
            return self
        return dataclasses.replace(self, order=self.order.order(check_sites(X, nsites)))

    def orders(self, nsites: int, n_members: int, rng: np.random.RandomState) -> Orders:
        """As in `NetworkSpec`; ValueError for an order of another number of sites."""
        orders = super().orders(nsites, n_members, rng)
        if self.order is not None:
            if len(self.order) != nsites:
                raise ValueError(f"order has {len(self.order)} entries for {nsites} sites.")
            orders[0] = self.order
        return orders

    def random(self, nsites: int, **options) -> MPS:
        """The network, see `MPS.random` for the parameters."""
        return MPS.random(nsites, output_site=self.output_site, cyclic=self.cyclic, **options)
