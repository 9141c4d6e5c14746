"""Matrix product operators with outputs at every site or at some."""

from collections.abc import Sequence

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from .._types import ArrayLike
from ..initializers import Initializer, generators
from ._chain_tensors import ChainOfCores, chain_tensors, check_cyclic
from ._start import default_floats, start


class SMPO(ChainOfCores, qtn.MatrixProductOperator):
    """Spaced matrix product operator: quimb's, with outputs at some sites only.

    Inputs are the upper indices ``k0, k1, ...``, outputs the lower ones, ``b{site}``, so quimb's
    ``apply``, which contracts the lower ones, is the transpose of what it does to samples. It is
    cyclic when the first array has both bonds. Source: Wang et al., arXiv:2006.02516.

    Parameters
    ----------
    arrays : sequence of arrays
        One per site in quimb's "lrud" order (left bond, right bond, input, output); open ends lack
        the missing bond, and sites without an output that axis.
    output_sites : sequence of int, optional, ascending 0-based sites with an output; all by default
    upper_ind_id, lower_ind_id, site_tag_id : str, formats of inputs, outputs and tags of sites
    **tn_opts : options of `quimb.tensor.TensorNetwork`

    Examples
    --------
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
        own_inds = [
            (upper_ind_id.format(i),) + (lower_ind_id.format(i),) * (i in output_sites)
            for i in range(nsites)
        ]
        expected = "input, then the output if it has one"
        tensors = chain_tensors(arrays, own_inds, cyclic, site_tag_id, expected)
        self._L, self.cyclic, self._site_tag_id = nsites, cyclic, site_tag_id
        self._upper_ind_id, self._lower_ind_id = upper_ind_id, lower_ind_id
        qtn.TensorNetwork.__init__(self, tensors, virtual=True, **tn_opts)

    @property
    def output_sites(self) -> tuple[int, ...]:
        """The 0-based sites that have an output, ascending."""
        return tuple(i for i in range(self.L) if self.lower_ind(i) in self.ind_map)

    @property
    def output_inds(self) -> tuple[str, ...]:
        """Names of the output indices, in the order of the axes of the outputs."""
        return tuple(map(self.lower_ind, self.output_sites))

    lower_inds_present = output_inds

    def _own_inds(self) -> list[tuple[str, ...]]:
        """Input of each site, and its output where it has one."""
        names = ((self.upper_ind(i), self.lower_ind(i)) for i in range(self.L))
        return [(upper, lower) if lower in self.ind_map else (upper,) for upper, lower in names]

    def permute_arrays(self, shape: str = "lrud") -> None:
        """Store the arrays in the order `shape`."""
        self._permute(shape, "ud")

    @classmethod
    def random(
        cls,
        nsites: int,
        *,
        bond_dim: int = 8,
        phys_dim: int | Sequence[int] = 2,
        out_dim: int = 2,
        spacing: int = 2,
        output_sites: Sequence[int] | None = None,
        cyclic: bool = False,
        initializer: Initializer | None = None,
        weights: ArrayLike | None = None,
        key: jax.Array,
    ) -> "SMPO":
        """SMPO filled by an initializer.

        An identity-aware initializer passes its state on: the first channel of an output is
        w . phi, near 1, and the others are random mixtures of phi, so small that the squared norm
        of a transformed sample is of order 1 for any number of outputs.

        Parameters
        ----------
        nsites, bond_dim, phys_dim : as in `MPS.random`
        out_dim : int, size of every output
        spacing : int, distance between the outputs, the first of which is at site 0
        output_sites : sequence of int, optional, ascending 0-based sites of the outputs instead
        cyclic, initializer, weights, key : as in `MPS.random`

        Examples
        --------
        >>> import jax
        >>> smpo = SMPO.random(5, bond_dim=3, out_dim=4, key=jax.random.key(0))
        >>> smpo.output_inds, smpo.bond_sizes(), smpo.ind_size("b2")
        (('b0', 'b2', 'b4'), [3, 3, 3, 3], 4)
        """
        options = {"phys_dim": phys_dim, "initializer": initializer, "weights": weights}
        initializer, weights = start(nsites, bond_dim, **options)
        check_int("out_dim", out_dim, 1)
        check_cyclic(cyclic, nsites)
        output_sites = output_sites_of(nsites, spacing, output_sites)
        fan, cores = nsites * bond_dim, []
        for i, (rng, w) in enumerate(zip(generators(key, nsites), weights, strict=True)):
            if i not in output_sites:
                cores.append(initializer(rng, (bond_dim, len(w), bond_dim), w, fan))
                continue
            channels = initializer.merge_start(rng, [initializer.unit(w)], out_dim)
            channels[:, 1:] /= np.sqrt(len(output_sites))
            noise = initializer.noise(rng, (bond_dim, len(w) * out_dim, bond_dim), fan)
            eye = np.multiply.outer(np.eye(bond_dim), channels)
            cores.append(np.moveaxis(eye, 1, -1) + noise.reshape(bond_dim, -1, out_dim, bond_dim))
        return cls.from_cores(default_floats(cores), cyclic, output_sites=output_sites)


class MPO(SMPO):
    """An `SMPO` with an output at every site: inputs ``k0, k1, ...``, outputs ``b0, b1, ...``.

    >>> import numpy as np
    >>> MPO([np.ones((3, 2, 5)), np.ones((3, 2, 4))]).outer_inds()
    ('k0', 'b0', 'k1', 'b1')
    """

    @classmethod
    def random(cls, nsites: int, **options) -> "MPO":
        """MPO filled by an initializer, see `SMPO.random` for the parameters."""
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
