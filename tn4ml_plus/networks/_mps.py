"""Matrix product states with named outputs."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int, check_number
from .._registry import register
from .._types import AnyArray, ArrayLike
from ..initializers import Initializer, generators
from ._chain_tensors import ChainOfCores, chain_tensors, check_cyclic
from ._spec import NetworkSpec, Orders
from ._start import default_floats, start
from ._statistics import MutualInformation, check_sites
from ._tensors import NamedOutputs


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
        nsites = len(arrays)
        cyclic = nsites > 1 and np.ndim(arrays[0]) - len(output_inds) * (output_site == 0) == 3
        own_inds = [
            (site_ind_id.format(i), *(output_inds if i == output_site else ()))
            for i in range(nsites)
        ]
        expected = "physical, then one per output index"
        tensors = chain_tensors(arrays, own_inds, cyclic, site_tag_id, expected)
        self._L, self.cyclic, self._output_inds = nsites, cyclic, output_inds
        self._site_ind_id, self._site_tag_id = site_ind_id, site_tag_id
        qtn.TensorNetwork.__init__(self, tensors, virtual=True, **tn_opts)

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

    def permute_arrays(self, shape: str = "lrp") -> None:
        """Store the arrays in the order `shape`; output axes come last."""
        self._permute(shape, "p")

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
        options = {"phys_dim": phys_dim, "initializer": initializer, "weights": weights}
        initializer, weights = start(nsites, bond_dim, n_outputs, **options)
        check_int("output_site", output_site, 0, optional=True)
        check_number("output_std", output_std, at_least=0)
        check_cyclic(cyclic, nsites)
        site = nsites // 2 if output_site is None else output_site
        if site >= nsites:
            raise ValueError(f"output_site must be between 0 and {nsites - 1}, got {site}.")
        *rngs, last = generators(key, nsites + 1)
        cores = [
            initializer(rng, (bond_dim, len(w), bond_dim), w, nsites * bond_dim)
            for rng, w in zip(rngs, weights)
        ]
        if n_outputs is None:
            return cls.from_cores(default_floats(cores), cyclic)
        spread = last.normal(size=(bond_dim, bond_dim, 1, n_outputs))
        spread *= output_std / np.sqrt(bond_dim)
        if output_bias is not None:
            spread[0, 0] += np.asarray(output_bias)
        cores[site] = np.moveaxis(spread * weights[site][:, None], 1, -1)
        outputs = {"output_site": site, "output_inds": ("out",)}
        return cls.from_cores(default_floats(cores), cyclic, **outputs)


@register("network", name="mps")
@dataclasses.dataclass(frozen=True)
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
            if sorted(order) != list(range(len(order))):
                raise ValueError(f"order must be a permutation of 0, 1, ..., got {order}.")

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
