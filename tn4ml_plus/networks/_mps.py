"""Matrix product states with named outputs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int, check_number
from .._registry import register
from ..initializers import LeastSquaresIdentity, generators
from ._chain import chain_tensors
from ._information import MutualInformation, check_sites
from ._sizes import phys_dims_of, weights_of
from ._spec import NetworkSpec


class MPS(qtn.MatrixProductState):
    """quimb's matrix product state, one site of which may carry output indices besides.

    arrays: one array a site in quimb's "lrp" order (left bond, right bond, physical); open ends
    lack the missing bond. The array at `output_site` has one further axis per name in
    `output_inds`. Inputs are the indices ``k0, k1, ...``. It is cyclic when the first array has
    both bonds. Raises ValueError when arrays and outputs do not fit together.

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
        arrays = list(arrays)
        nsites = len(arrays)
        output_inds = tuple(output_inds)
        if (output_site is None) != (not output_inds):
            raise ValueError("Give output_site and output_inds together, or neither.")
        cyclic = nsites > 1 and np.ndim(arrays[0]) - len(output_inds) * (output_site == 0) == 3
        own = [
            (site_ind_id.format(i), *(output_inds if i == output_site else ()))
            for i in range(nsites)
        ]
        tensors = chain_tensors(
            arrays, own, cyclic, site_tag_id, "physical, then one per output index"
        )
        self._L = nsites
        self._site_ind_id = site_ind_id
        self._site_tag_id = site_tag_id
        self._output_inds = output_inds
        self.cyclic = cyclic
        qtn.TensorNetwork.__init__(self, tensors, virtual=True, **tn_opts)

    @property
    def output_inds(self):
        """Names of the output indices, in the order of the axes of the outputs."""
        return self._output_inds

    @property
    def output_site(self):
        """The 0-based site whose tensor carries the outputs, None without outputs."""
        if not self._output_inds:
            return None
        (tid,) = self.ind_map[self._output_inds[0]]
        tensor = self.tensor_map[tid]
        return next(i for i in range(self.L) if self.site_tag(i) in tensor.tags)

    def permute_arrays(self, shape="lrp"):
        """Store the arrays in the order `shape`; output axes come last."""
        for i in self.gen_sites_present():
            tensor = self[i]
            inds = {"p": self.site_ind(i)}
            if self.cyclic or i > 0:
                inds["l"] = self.bond(i, (i - 1) % self.L)
            if self.cyclic or i < self.L - 1:
                inds["r"] = self.bond(i, (i + 1) % self.L)
            outputs = [ind for ind in self._output_inds if ind in tensor.inds]
            tensor.transpose_(*(inds[axis] for axis in shape if axis in inds), *outputs)

    @classmethod
    def random(
        cls,
        nsites,
        *,
        bond_dim=8,
        phys_dim=2,
        n_outputs=None,
        output_site=None,
        cyclic=False,
        initializer=None,
        weights=None,
        output_std=0.1,
        output_bias=None,
        key,
    ):
        """MPS filled by an initializer, with at most one output index, ``"out"``.

        bond_dim: size of every bond; phys_dim: int, or one int a site; n_outputs: size of the
        output index, None for a plain amplitude; output_site: 0-based, None for the middle;
        weights: (nsites, max phys_dim) numbers w with w . phi near 1 (see
        `tn4ml_plus.initializers.least_squares_weights`), None for 1 / phys_dim; output_std: size of
        the output core's noise; output_bias: (n_outputs,) where the outputs of an identity-aware
        initializer start, None for 0; key: a JAX key, from which each site has its own
        generator. The dtype is JAX's default float. Raises ValueError for
        sizes below one or weights of another shape.

        >>> import jax
        >>> mps = MPS.random(5, bond_dim=3, phys_dim=2, n_outputs=4, key=jax.random.key(0))
        >>> mps.output_site, mps.ind_size("out"), mps.bond_sizes()
        (2, 4, [3, 3, 3, 3])
        """
        initializer = LeastSquaresIdentity() if initializer is None else initializer
        phys_dims = phys_dims_of(phys_dim, nsites)
        check_int("bond_dim", bond_dim, 1)
        check_int("n_outputs", n_outputs, 1, optional=True)
        check_int("output_site", output_site, 0, optional=True)
        check_number("output_std", output_std, at_least=0)
        if cyclic and nsites < 3:
            raise ValueError(f"A cyclic chain needs at least 3 sites, got {nsites}.")
        site = nsites // 2 if output_site is None else output_site
        if site >= nsites:
            raise ValueError(f"output_site must be between 0 and {nsites - 1}, got {site}.")
        weights = weights_of(weights, phys_dims)
        *sites, last = generators(key, nsites + 1)
        arrays = []
        for i, d in enumerate(phys_dims):
            core = initializer(sites[i], (bond_dim, d, bond_dim), weights[i, :d], nsites * bond_dim)
            arrays.append(core.transpose(0, 2, 1))
        if n_outputs is not None:
            spread = last.normal(size=(bond_dim, bond_dim, 1, n_outputs))
            spread *= output_std / np.sqrt(bond_dim)
            if output_bias is not None:
                spread[0, 0] += np.asarray(output_bias)
            arrays[site] = spread * weights[site, : phys_dims[site], None]
        if not cyclic:
            arrays[-1] = arrays[-1][:, 0]
            arrays[0] = arrays[0][0]
        dtype = jnp.zeros(()).dtype
        arrays = [np.ascontiguousarray(array, dtype) for array in arrays]
        if n_outputs is None:
            return cls(arrays)
        return cls(arrays, output_site=site, output_inds=("out",))


@register("network", name="mps")
@dataclasses.dataclass(frozen=True)
class MPSSpec(NetworkSpec):
    """An `MPS` yet to be made: what estimators take as ``network``.

    output_site: 0-based, None for the middle; cyclic: whether the ends are joined; order: the sites
    of the data that a first network reads in turn, a permutation of 0, 1, ... or what makes one
    from the data, None for as they come; networks after the first have random orders.

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

    def for_data(self, X, nsites):
        """With an order from the data, if that is asked for."""
        if not isinstance(self.order, MutualInformation):
            return self
        return dataclasses.replace(self, order=self.order.order(check_sites(X, nsites)))

    def orders(self, nsites, n_members, rng):
        """See `NetworkSpec`; raises ValueError for an order of another number of sites."""
        orders = super().orders(nsites, n_members, rng)
        if self.order is not None:
            if len(self.order) != nsites:
                raise ValueError(f"order has {len(self.order)} entries for {nsites} sites.")
            orders[0] = self.order
        return orders

    def random(self, nsites, **options):
        """The network, see `MPS.random`."""
        return MPS.random(nsites, output_site=self.output_site, cyclic=self.cyclic, **options)
