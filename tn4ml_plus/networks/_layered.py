"""A matrix product state on the outputs of a matrix product operator."""

import dataclasses

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from .._registry import register
from ._mpo import MPO, SMPO, output_sites_of
from ._mps import MPS
from ._spec import NetworkSpec


class LayeredMPS(qtn.TensorNetworkGenVector):
    """An `MPS` that reads the outputs of an `SMPO`: one layer of a deep tensor network.

    The SMPO transforms the embedded features and the MPS, one site an output of it, carries the
    classes. Inputs are the SMPO's ``k0, k1, ...``; its outputs ``b{site}`` are the bonds between
    the two layers, tagged "SMPO" and "MPS". Raises ValueError when the layers do not fit together.
    Source: Zunkovic 2022, Deep tensor networks with matrix product operators.

    >>> import jax
    >>> smpo = SMPO.random(6, spacing=2, out_dim=4, key=jax.random.key(0))
    >>> mps = MPS.random(3, phys_dim=4, n_outputs=10, key=jax.random.key(1))
    >>> layered = LayeredMPS(smpo, mps)
    >>> layered.output_inds, layered.num_tensors, layered.smpo.output_inds
    (('out',), 9, ('b0', 'b2', 'b4'))
    """

    _EXTRA_PROPS = (
        *qtn.TensorNetworkGenVector._EXTRA_PROPS,
        "_lower_ind_id",
        "_output_inds",
    )

    def __init__(self, smpo, mps=None, **tn_opts):
        if mps is None:
            super().__init__(smpo)
            return
        sizes = tuple(map(smpo.ind_size, smpo.output_inds))
        inputs = tuple(mps.ind_size(mps.site_ind(j)) for j in range(mps.L))
        if sizes != inputs:
            raise ValueError(
                f"The SMPO has outputs of the sizes {sizes}, but the MPS reads {inputs}: give it "
                "one site an output, of the same phys_dim."
            )
        lower, upper = smpo.copy(), mps.copy()
        upper.reindex_({mps.site_ind(j): ind for j, ind in enumerate(smpo.output_inds)})
        upper.retag_({mps.site_tag(j): smpo.site_tag(i) for j, i in enumerate(smpo.output_sites)})
        lower.add_tag("SMPO")
        upper.add_tag("MPS")
        self._sites = tuple(range(smpo.L))
        self._site_ind_id = smpo.upper_ind_id
        self._site_tag_id = smpo.site_tag_id
        self._lower_ind_id = smpo.lower_ind_id
        self._output_inds = mps.output_inds
        qtn.TensorNetwork.__init__(self, [*lower, *upper], virtual=True, **tn_opts)
        self.exponent = smpo.exponent + mps.exponent

    @property
    def output_inds(self):
        """Names of the output indices, in the order of the axes of the outputs."""
        return self._output_inds

    @property
    def lower_ind_id(self):
        """Format string of the names of the bonds between the layers."""
        return self._lower_ind_id

    @property
    def smpo(self):
        """The lower layer, which transforms the samples; its arrays are not copied."""
        smpo = self.select("SMPO", virtual=False).view_as(
            SMPO,
            L=len(self.sites),
            cyclic=_is_ring([self[self.site_tag(i), "SMPO"] for i in self.sites]),
            upper_ind_id=self.site_ind_id,
        )
        smpo.drop_tags("SMPO")
        smpo.exponent = 0.0
        return smpo

    @property
    def mps(self):
        """The upper layer with sites of its own, and the network's exponent; arrays as above."""
        sites = self.smpo.output_sites
        mps = self.select("MPS", virtual=False)
        mps.reindex_({self.lower_ind_id.format(i): f"k{j}" for j, i in enumerate(sites)})
        mps.retag_({self.site_tag(i): f"I{j}" for j, i in enumerate(sites)})
        mps = mps.view_as(
            MPS,
            L=len(sites),
            cyclic=_is_ring([self[self.site_tag(i), "MPS"] for i in sites]),
            site_ind_id="k{}",
            site_tag_id="I{}",
        )
        mps.drop_tags("MPS")
        mps.exponent = self.exponent
        return mps

    @classmethod
    def random(
        cls,
        nsites,
        *,
        bond_dim=8,
        mps_bond_dim=2,
        phys_dim=2,
        out_dim=2,
        spacing=2,
        output_sites=None,
        cyclic=False,
        n_outputs=None,
        initializer=None,
        weights=None,
        output_std=0.1,
        output_bias=None,
        key,
    ):
        """Both layers filled by an initializer, with at most one output index, ``"out"``.

        bond_dim, out_dim, spacing and output_sites are the SMPO's, see `SMPO.random`; mps_bond_dim,
        n_outputs, output_std and output_bias the MPS's, see `MPS.random`; cyclic: whether the ends
        of both are joined, of the MPS from 3 sites on.

        >>> import jax
        >>> layered = LayeredMPS.random(6, spacing=3, n_outputs=2, key=jax.random.key(0))
        >>> layered.smpo.output_sites, layered.mps.bond_sizes()
        ((0, 3), [2])
        """
        below, above = jax.random.split(key)
        smpo = SMPO.random(
            nsites,
            bond_dim=bond_dim,
            phys_dim=phys_dim,
            out_dim=out_dim,
            spacing=spacing,
            output_sites=output_sites,
            cyclic=cyclic,
            initializer=initializer,
            weights=weights,
            key=below,
        )
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


def _is_ring(tensors):
    """Whether the ends of a chain are joined."""
    return len(tensors) > 2 and bool(qtn.bonds(tensors[0], tensors[-1]))


@dataclasses.dataclass(frozen=True)
class _OperatorSpec(NetworkSpec):
    """What the specs of operators share."""

    spacing = 1
    output_sites = None

    def random(self, nsites, *, n_outputs=None, output_std=0.1, output_bias=None, **options):
        """The network: see `SMPO.random`, or `LayeredMPS.random` where n_outputs is given.

        A single output needs no second layer: it carries the n_outputs itself.
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

    spacing: distance of the outputs; output_sites: their 0-based sites instead; out_dim: size of
    each; mps_bond_dim: bond of the MPS, `LayeredMPS`; cyclic: whether the ends are joined.

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

    >>> import jax
    >>> MPOSpec().random(3, bond_dim=2, key=jax.random.key(0)).output_inds
    ('b0', 'b1', 'b2')
    """

    out_dim: int = 2
    mps_bond_dim: int = 2
    cyclic: bool = False
