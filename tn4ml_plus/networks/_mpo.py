"""Matrix product operators with outputs at every site or at some."""

import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from ..initializers import LeastSquaresIdentity, generators
from ._chain import chain_tensors
from ._sizes import phys_dims_of, weights_of


class SMPO(qtn.MatrixProductOperator):
    """Spaced matrix product operator: quimb's, with outputs at some sites only.

    arrays: one array a site in quimb's "lrud" order (left bond, right bond, input, output); open
    ends lack the missing bond, and sites that are not in `output_sites` (None: all are) the output.
    Inputs are the upper indices ``k0, k1, ...``, outputs the lower ones, ``b{site}``, so quimb's
    ``apply``, which contracts the lower ones, is the transpose of what it does to samples. It is
    cyclic when the first array has both bonds. Raises ValueError when arrays and outputs do not
    fit together. Source: Wang et al., arXiv:2006.02516.

    >>> import numpy as np
    >>> smpo = SMPO([np.ones((3, 2, 5)), np.ones((3, 3, 2)), np.ones((3, 2))], output_sites=(0,))
    >>> smpo.output_inds, smpo.outer_inds()
    (('b0',), ('k0', 'b0', 'k1', 'k2'))
    """

    def __init__(
        self,
        arrays,
        *,
        output_sites=None,
        upper_ind_id="k{}",
        lower_ind_id="b{}",
        site_tag_id="I{}",
        **tn_opts,
    ):
        if isinstance(arrays, qtn.TensorNetwork):
            super().__init__(arrays)
            return
        arrays = list(arrays)
        nsites = len(arrays)
        output_sites = output_sites_of(nsites, 1, output_sites)
        cyclic = nsites > 1 and np.ndim(arrays[0]) - (0 in output_sites) == 3
        own = [
            (upper_ind_id.format(i), *[lower_ind_id.format(i)] * (i in output_sites))
            for i in range(nsites)
        ]
        tensors = chain_tensors(
            arrays, own, cyclic, site_tag_id, "input, then the output if it has one"
        )
        self._L = nsites
        self._upper_ind_id = upper_ind_id
        self._lower_ind_id = lower_ind_id
        self._site_tag_id = site_tag_id
        self.cyclic = cyclic
        qtn.TensorNetwork.__init__(self, tensors, virtual=True, **tn_opts)

    @property
    def output_sites(self):
        """The 0-based sites that have an output, ascending."""
        return tuple(i for i in range(self.L) if self.lower_ind(i) in self.ind_map)

    @property
    def output_inds(self):
        """Names of the output indices, in the order of the axes of the outputs."""
        return tuple(map(self.lower_ind, self.output_sites))

    lower_inds_present = output_inds

    def permute_arrays(self, shape="lrud"):
        """Store the arrays in the order `shape`."""
        for i in self.gen_sites_present():
            inds = {"u": self.upper_ind(i)}
            if self.lower_ind(i) in self.ind_map:
                inds["d"] = self.lower_ind(i)
            if self.cyclic or i > 0:
                inds["l"] = self.bond(i, (i - 1) % self.L)
            if self.cyclic or i < self.L - 1:
                inds["r"] = self.bond(i, (i + 1) % self.L)
            self[i].transpose_(*(inds[axis] for axis in shape if axis in inds))

    @classmethod
    def random(
        cls,
        nsites,
        *,
        bond_dim=8,
        phys_dim=2,
        out_dim=2,
        spacing=2,
        output_sites=None,
        cyclic=False,
        initializer=None,
        weights=None,
        key,
    ):
        """SMPO filled by an initializer.

        out_dim: size of every output; spacing: distance of the outputs, the first of which is at
        site 0; output_sites: the 0-based sites of the outputs instead; the rest as in `MPS.random`.
        An identity-aware initializer hands its state on: the first channel of an output is
        w . phi, near 1, and the others are random mixtures of phi, so small that the squared norm
        of a transformed sample is of order 1 for any number of outputs.

        >>> import jax
        >>> smpo = SMPO.random(5, bond_dim=3, out_dim=4, key=jax.random.key(0))
        >>> smpo.output_inds, smpo.bond_sizes(), smpo.ind_size("b2")
        (('b0', 'b2', 'b4'), [3, 3, 3, 3], 4)
        """
        initializer = LeastSquaresIdentity() if initializer is None else initializer
        phys_dims = phys_dims_of(phys_dim, nsites)
        check_int("bond_dim", bond_dim, 1)
        check_int("out_dim", out_dim, 1)
        if cyclic and nsites < 3:
            raise ValueError(f"A cyclic chain needs at least 3 sites, got {nsites}.")
        output_sites = output_sites_of(nsites, spacing, output_sites)
        weights = weights_of(weights, phys_dims)
        fan, arrays = nsites * bond_dim, []
        for i, (rng, d) in enumerate(zip(generators(key, nsites), phys_dims, strict=True)):
            if i in output_sites:
                channels = initializer.merge_start(rng, [initializer.unit(weights[i, :d])], out_dim)
                channels[:, 1:] /= np.sqrt(len(output_sites))
                noise = initializer.noise(rng, (bond_dim, d * out_dim, bond_dim), fan)
                noise = noise.reshape(bond_dim, d, out_dim, bond_dim).transpose(0, 3, 1, 2)
                core = np.multiply.outer(np.eye(bond_dim), channels) + noise
            else:
                core = initializer(rng, (bond_dim, d, bond_dim), weights[i, :d], fan)
                core = core.transpose(0, 2, 1)
            arrays.append(core)
        if not cyclic:
            arrays[-1] = arrays[-1][:, 0]
            arrays[0] = arrays[0][0]
        dtype = jnp.zeros(()).dtype
        arrays = [np.ascontiguousarray(array, dtype) for array in arrays]
        return cls(arrays, output_sites=output_sites)


class MPO(SMPO):
    """quimb's matrix product operator with inputs ``k0, k1, ...`` and outputs ``b0, b1, ...``.

    arrays: one array a site in quimb's "lrud" order, as for `SMPO`.

    >>> import numpy as np
    >>> MPO([np.ones((3, 2, 5)), np.ones((3, 2, 4))]).outer_inds()
    ('k0', 'b0', 'k1', 'b1')
    """

    @classmethod
    def random(cls, nsites, **options):
        """MPO filled by an initializer, see `SMPO.random`."""
        return super().random(nsites, spacing=1, **options)


def output_sites_of(nsites, spacing, output_sites):
    """Sites 0, spacing, 2 * spacing, ..., or the given ones; ValueError unless they ascend."""
    check_int("spacing", spacing, 1)
    if output_sites is None:
        return tuple(range(0, nsites, spacing))
    output_sites = tuple(output_sites)
    for site in output_sites:
        check_int("Each of output_sites", site, 0)
    if not output_sites or sorted({*output_sites}) != [*output_sites] or output_sites[-1] >= nsites:
        raise ValueError(
            f"output_sites must be at least one and ascending, from 0 to {nsites - 1}, "
            f"got {output_sites}."
        )
    return tuple(map(int, output_sites))
