"""A matrix product state on the outputs of a matrix product operator."""

import dataclasses

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from .._registry import register
from .._types import ArrayLike
from ..initializers import Initializer
from ._mpo import MPO, SMPO, output_sites_of
from ._mps import MPS
from ._spec import NetworkSpec
from ._tensors import NamedOutputs, tensors_of

_CHANGED = "The tensors of this network no longer form an SMPO and an MPS."


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
        mps = MPS.random(
            n_hidden,
            bond_dim=mps_bond_dim,
            phys_dim=out_dim,
            n_outputs=n_outputs,
            cyclic=cyclic and n_hidden > 2,
            initializer=initializer,
            # The first channel of every output stands for "nothing known".
            weights=np.eye(1, out_dim).repeat(n_hidden, axis=0),
            output_std=output_std,
            output_bias=output_bias,
            key=above,
        )
        return cls(smpo, mps)


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


@dataclasses.dataclass(frozen=True)
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


@register("network", name="smpo")
@dataclasses.dataclass(frozen=True)
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


@register("network", name="mpo")
@dataclasses.dataclass(frozen=True)
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
