"""Matrix product operators with outputs at every site or at some, and states on their outputs."""

from collections.abc import Sequence

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check, check_int, int_tuple
from .._registry import variant
from .._types import ArrayLike
from ..initializers import Initializer, generators
from ._base import NamedOutputs, NetworkSpec, as_floats, start, tensors_of
from ._mps import MPS, ChainOfCores, check_cyclic

_CHANGED = "The tensors of this network no longer form an SMPO and an MPS."


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

    _letters = "ud"

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
        output_sites = output_sites_of(len(arrays), 1, output_sites)
        own_inds = [(upper_ind_id.format(i),) for i in range(len(arrays))]
        for i in output_sites:
            own_inds[i] += (lower_ind_id.format(i),)
        self._upper_ind_id, self._lower_ind_id = upper_ind_id, lower_ind_id
        expected = "input, then the output if it has one"
        self._join(arrays, own_inds, site_tag_id, expected, tn_opts)

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
        initializer, weights, fan = start(nsites, bond_dim, None, phys_dim, initializer, weights)
        check_int("out_dim", out_dim, 1)
        check_cyclic(cyclic, nsites)
        output_sites = output_sites_of(nsites, spacing, output_sites)
        cores = []
        for i, (rng, w) in enumerate(zip(generators(key, nsites), weights, strict=True)):
            if i not in output_sites:
                cores.append(initializer(rng, (bond_dim, len(w), bond_dim), w, fan))
                continue
            channels = initializer.merge_start(rng, [initializer.unit(w)], out_dim)
            channels[:, 1:] /= np.sqrt(len(output_sites))
            noise = initializer.noise(rng, (bond_dim, len(w) * out_dim, bond_dim), fan)
            eye = np.multiply.outer(np.eye(bond_dim), channels)
            cores.append(np.moveaxis(eye, 1, -1) + noise.reshape(bond_dim, -1, out_dim, bond_dim))
        return cls.from_cores(as_floats(cores), cyclic, output_sites=output_sites)


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
    found, last = int_tuple("Each of output_sites", tuple(output_sites), 0), nsites - 1
    valid = found and sorted({*found}) == [*found] and found[-1] <= last
    check("output_sites", found, valid, f"at least one and ascending, from 0 to {last}")
    return found


class LayeredMPS(NamedOutputs, qtn.TensorNetworkGenVector):
    """An `MPS` that reads the outputs of an `SMPO`: one layer of a deep tensor network.

    The SMPO transforms the embedded features and the MPS carries the classes. Inputs are the SMPO's
    ``k0, k1, ...``; its outputs ``b{site}`` are the bonds between the two layers, tagged "SMPO" and
    "MPS". Source: Zunkovic 2022, Deep tensor networks with matrix product operators.

    Parameters
    ----------
    smpo : SMPO, the lower layer
    mps : MPS, the upper layer, with one site per output of the lower, of the same phys_dim
    **tn_opts : options of `quimb.tensor.TensorNetwork`

    Examples
    --------
    >>> import jax
    >>> smpo = SMPO.random(6, spacing=2, out_dim=4, key=jax.random.key(0))
    >>> mps = MPS.random(3, phys_dim=4, n_outputs=10, key=jax.random.key(1))
    >>> layered = LayeredMPS(smpo, mps)
    >>> layered.output_inds, layered.num_tensors, layered.smpo.output_inds
    (('out',), 9, ('b0', 'b2', 'b4'))
    """

    _EXTRA_PROPS = (*qtn.TensorNetworkGenVector._EXTRA_PROPS, "_lower_ind_id", "_output_inds")

    def __init__(self, smpo, mps=None, **tn_opts):
        if mps is None:
            super().__init__(smpo)
            return
        sizes = tuple(map(smpo.ind_size, smpo.output_inds))
        inputs = tuple(mps.ind_size(mps.site_ind(j)) for j in range(mps.L))
        if sizes != inputs:
            raise ValueError(
                f"The SMPO has outputs of the sizes {sizes}, but the MPS reads {inputs}: give it "
                "one site per output, of the same phys_dim."
            )
        lower, upper = smpo.copy(), mps.copy()
        upper.reindex_({mps.site_ind(j): ind for j, ind in enumerate(smpo.output_inds)})
        upper.retag_({mps.site_tag(j): smpo.site_tag(i) for j, i in enumerate(smpo.output_sites)})
        lower.add_tag("SMPO")
        upper.add_tag("MPS")
        self._sites, self._output_inds = tuple(range(smpo.L)), mps.output_inds
        self._site_ind_id, self._lower_ind_id = smpo.upper_ind_id, smpo.lower_ind_id
        self._site_tag_id = smpo.site_tag_id
        qtn.TensorNetwork.__init__(self, [*lower, *upper], virtual=True, **tn_opts)
        self.exponent = smpo.exponent + mps.exponent

    @property
    def lower_ind_id(self) -> str:
        """Format string of the names of the bonds between the layers."""
        return self._lower_ind_id

    @property
    def smpo(self) -> SMPO:
        """The lower layer, which transforms the samples; its arrays are not copied."""
        return self.layers()[0]

    @property
    def mps(self) -> MPS:
        """The upper layer, on sites numbered anew, with the network's exponent; arrays shared."""
        return self.layers()[1]

    def layers(self) -> tuple[SMPO, MPS]:
        """``(smpo, mps)``, found by the inputs, whatever the tags; their arrays are not copied.

        ValueError where the tensors no longer form two chains.
        """
        lower = tensors_of(self, list(map(self.site_ind, self.sites))) or []
        rest = [t for t in self if all(t is not other for other in lower)]
        owners = {ind: tensor for tensor in rest for ind in tensor.inds}
        outputs = {i: ind for i, t in enumerate(lower) for ind in t.inds if ind in owners}
        upper = [owners[ind] for ind in outputs.values()]
        if not outputs or len({id(tensor) for tensor in upper}) < len(rest):
            raise ValueError(_CHANGED)
        below = {"upper_ind_id": self.site_ind_id, "lower_ind_id": self.lower_ind_id}
        above = {"site_ind_id": "k{}", "output_inds": self.output_inds}
        names = {ind: self.lower_ind_id.format(i) for i, ind in outputs.items()}
        smpo = _chain(SMPO, lower, names, site_tag_id=self.site_tag_id, **below)
        names = {ind: f"k{j}" for j, ind in enumerate(outputs.values())}
        mps = _chain(MPS, upper, names, site_tag_id="I{}", **above)
        mps.exponent = self.exponent
        return smpo, mps

    @classmethod
    def random(
        cls,
        nsites: int,
        *,
        mps_bond_dim: int = 2,
        out_dim: int = 2,
        cyclic: bool = False,
        n_outputs: int | None = None,
        initializer: Initializer | None = None,
        output_std: float = 0.1,
        output_bias: ArrayLike | None = None,
        key: jax.Array,
        **options,
    ) -> "LayeredMPS":
        """Both layers filled by an initializer, with at most one output index, ``"out"``.

        Parameters
        ----------
        nsites : int, number of sites
        mps_bond_dim, out_dim : int, the bond_dim of the MPS and its phys_dim
        cyclic : bool, whether the ends of both are joined, those of the MPS from 3 sites on
        n_outputs, initializer, output_std, output_bias, key : as in `MPS.random`
        **options : other parameters of `SMPO.random`

        Examples
        --------
        >>> import jax
        >>> layered = LayeredMPS.random(6, spacing=3, n_outputs=2, key=jax.random.key(0))
        >>> layered.smpo.output_sites, layered.mps.bond_sizes()
        ((0, 3), [2])
        """
        below, above = jax.random.split(key)
        options |= {"out_dim": out_dim, "cyclic": cyclic, "initializer": initializer}
        smpo = SMPO.random(nsites, key=below, **options)
        n_hidden = len(smpo.output_sites)
        options = {"bond_dim": mps_bond_dim, "phys_dim": out_dim, "cyclic": cyclic and n_hidden > 2}
        options |= {"n_outputs": n_outputs, "output_std": output_std, "output_bias": output_bias}
        # The first channel of every output stands for "nothing known".
        options |= {"initializer": initializer, "weights": np.eye(1, out_dim).repeat(n_hidden, 0)}
        return cls(smpo, MPS.random(n_hidden, key=above, **options))


def _chain(cls, tensors, names, site_tag_id, **options):
    """Chain of a class of the tensors, with new names of their indices and a tag per site."""
    chain = qtn.TensorNetwork(
        qtn.Tensor(t.data, [names.get(ind, ind) for ind in t.inds], site_tag_id.format(i))
        for i, t in enumerate(tensors)
    )
    cyclic = len(tensors) > 2 and bool(qtn.bonds(tensors[0], tensors[-1]))
    options |= {"L": len(tensors), "cyclic": cyclic, "site_tag_id": site_tag_id}
    chain = chain.view_as(cls, **options)
    if chain.cores() is None:
        raise ValueError(_CHANGED)
    return chain


class _OperatorSpec(NetworkSpec):
    """The base of specs of operators."""

    spacing = 1
    output_sites = None

    def random(self, nsites, *, n_outputs=None, output_std=0.1, output_bias=None, **options):
        """An operator, see `SMPO.random`; with n_outputs a `LayeredMPS`, see its `random`.

        A single output needs no second layer: it carries the n_outputs itself.

        Parameters
        ----------
        nsites, n_outputs, output_std, output_bias, **options : as in `LayeredMPS.random`
        """
        output_sites = output_sites_of(nsites, self.spacing, self.output_sites)
        shape = {"output_sites": output_sites, "out_dim": self.out_dim, "cyclic": self.cyclic}
        if n_outputs is None:
            operator = MPO if len(output_sites) == nsites else SMPO
            return operator.random(nsites, **shape, **options)
        options |= {"n_outputs": n_outputs, "output_std": output_std, "output_bias": output_bias}
        if len(output_sites) > 1:
            return LayeredMPS.random(nsites, mps_bond_dim=self.mps_bond_dim, **shape, **options)
        mps = MPS.random(nsites, output_site=output_sites[0], cyclic=self.cyclic, **options)
        return SMPO([tensor.data for tensor in mps], output_sites=output_sites)

    def __post_init__(self):
        for name in ("spacing", "out_dim", "mps_bond_dim"):
            check_int(name, getattr(self, name), at_least=1)


@variant("network", "smpo")
class SMPOSpec(_OperatorSpec):
    """An `SMPO` yet to be made, with an MPS on its outputs where classes or targets are asked for.

    Parameters
    ----------
    spacing : int, distance between the outputs
    output_sites : tuple of int, optional, their 0-based sites instead
    out_dim : int, size of each output
    mps_bond_dim : int, size of the bonds of the MPS, see `LayeredMPS`
    cyclic : bool, whether the ends are joined

    Examples
    --------
    >>> import jax
    >>> spec = SMPOSpec(spacing=3)
    >>> spec.random(6, bond_dim=2, key=jax.random.key(0)).output_inds
    ('b0', 'b3')
    >>> spec.random(6, bond_dim=2, n_outputs=5, key=jax.random.key(0)).output_inds
    ('out',)
    """

    spacing: int = 2
    output_sites: tuple[int, ...] | None = None
    out_dim: int = 2
    mps_bond_dim: int = 2
    cyclic: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.output_sites is not None:
            object.__setattr__(self, "output_sites", tuple(self.output_sites))


@variant("network", "mpo")
class MPOSpec(_OperatorSpec):
    """An `MPO` yet to be made: an `SMPOSpec` with an output at every site.

    Parameters
    ----------
    out_dim, mps_bond_dim, cyclic : as in `SMPOSpec`

    Examples
    --------
    >>> import jax
    >>> MPOSpec().random(3, bond_dim=2, key=jax.random.key(0)).output_inds
    ('b0', 'b1', 'b2')
    """

    out_dim: int = 2
    mps_bond_dim: int = 2
    cyclic: bool = False
