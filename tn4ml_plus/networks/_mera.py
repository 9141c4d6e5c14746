"""Multi-scale entanglement renormalization."""

import dataclasses
from collections.abc import Sequence
from itertools import count
from math import prod

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from .._registry import register
from .._types import ArrayLike
from ..initializers import generators
from ._spec import NetworkSpec
from ._start import default_floats, phys_dims_of, start, top_tensor
from ._tensors import NamedOutputs, named_tensors


class MERA(NamedOutputs, qtn.MERA):
    """quimb's binary MERA for any number of sites, whose top may carry output indices.

    A layer has disentanglers, on the pairs of sites that straddle neighbouring blocks, and above
    them isometries, which join the two sites of a block; a left-over site passes up undisturbed.
    When `cyclic`, layers of an even number of sites have a disentangler on the last and the first
    one too. The top joins the last two sites. Vidal, Phys. Rev. Lett. 101 (2008) 110501.

    Inputs are the indices ``k0, k1, ...``; tags are quimb's, ``I{i}`` the causal cone of site i.

    Parameters
    ----------
    arrays : sequence of arrays
        Layer by layer the disentanglers (left, right, left above, right above), then the isometries
        (left, right, above), and last the top (left, right, *outputs).
    nsites : int, number of sites
    cyclic : bool, whether disentanglers join the ends
    output_inds, site_ind_id, site_tag_id, **tn_opts : as in `MPS`

    Examples
    --------
    >>> import numpy as np
    >>> shapes = [(2, 2, 2, 2), (2, 2, 3), (2, 2, 3), (3, 3, 5)]
    >>> mera = MERA([np.ones(shape) for shape in shapes], 4, output_inds=("out",))
    >>> mera.nsites, mera.output_inds, mera.max_bond()
    (4, ('out',), 3)
    """

    _EXTRA_PROPS = (*qtn.MERA._EXTRA_PROPS, "_output_inds")

    def __init__(
        self,
        arrays,
        nsites=None,
        *,
        cyclic=False,
        output_inds=(),
        site_ind_id="k{}",
        site_tag_id="I{}",
        **tn_opts,
    ):
        if isinstance(arrays, qtn.TensorNetwork):
            qtn.TensorNetwork.__init__(self, arrays)
            return
        arrays, nodes = list(arrays), _nodes(nsites, cyclic)
        if len(arrays) != len(nodes):
            raise ValueError(
                f"A MERA of {nsites} sites has {len(nodes)} tensors, got {len(arrays)} arrays."
            )
        names = {i: site_ind_id.format(i) for i in range(nsites)}
        cone = {i: (i,) for i in range(nsites)}
        inds, tags = [], []
        for layer, below, above in nodes:
            names |= {wire: qtn.rand_uuid() for wire in above}
            inds.append([names[wire] for wire in below + above] + list(output_inds) * (not above))
            sites = sorted({site for wire in below for site in cone[wire]})
            cone |= dict.fromkeys(above, sites)
            kind = "_UNI" if len(above) == 2 else "_ISO"
            tags.append([kind, f"_LAYER{layer}", *map(site_tag_id.format, sites)])
        expected = (
            "two below, then two above a disentangler, one above an isometry, at the top one per "
            "output index"
        )
        tensors = named_tensors(arrays, inds, tags, "tensor", expected)
        self._L, self.cyclic, self._output_inds = nsites, cyclic, tuple(output_inds)
        self._site_ind_id, self._site_tag_id = site_ind_id, site_tag_id
        qtn.TensorNetwork.__init__(self, tensors, virtual=True, **tn_opts)

    @classmethod
    def random(
        cls,
        nsites: int,
        *,
        cyclic: bool = False,
        bond_dim: int = 8,
        n_outputs: int | None = None,
        output_std: float = 0.1,
        output_bias: ArrayLike | None = None,
        key: jax.Array,
        **options,
    ) -> "MERA":
        """MERA filled by an initializer, with at most one output index, ``"out"``.

        Disentanglers start as the identity, with noise of the initializer's size as an operator;
        between sites of different phys_dim they embed each one in the largest.

        Parameters
        ----------
        nsites, cyclic : as in `MERA`
        bond_dim : int, size of the bonds above the isometries, less where the sites below span less
        n_outputs, output_std, output_bias, key : as in `MPS.random`
        **options : phys_dim, initializer and weights as in `MPS.random`

        Examples
        --------
        >>> import jax
        >>> mera = MERA.random(8, bond_dim=5, n_outputs=3, key=jax.random.key(0))
        >>> mera.num_tensors, mera.max_bond(), mera.ind_size("out")
        (11, 5, 3)
        """
        initializer, weights = start(nsites, bond_dim, n_outputs, **options)
        nodes, fan = _nodes(nsites, cyclic), nsites * bond_dim
        shapes = cls.shapes(
            nsites, cyclic=cyclic, bond_dim=bond_dim, phys_dim=list(map(len, weights))
        )
        # One vector per index that stands for "nothing known": w . phi = 1, or the first channel.
        known = {i: initializer.unit(w) for i, w in enumerate(weights)}
        *rngs, last = generators(key, len(nodes))
        arrays = []
        for rng, (_, below, above), shape in zip(rngs, nodes, shapes):
            vectors = [known[wire] for wire in below]
            if len(above) == 1:
                arrays.append(initializer.merge(rng, vectors, shape[-1], fan))
                known[above[0]] = np.eye(shape[-1])[0]
                continue
            rows, columns = prod(shape[:2]), prod(shape[2:])
            noise = initializer.noise(rng, (rows, 1, columns), fan).reshape(shape)
            identity = np.einsum("ac,bd->abcd", np.eye(*shape[::2]), np.eye(*shape[1::2]))
            # Over the root of its length, a row of noise is as large as one of its entries was.
            arrays.append(identity + noise / np.sqrt(columns))
            for wire, vector, size in zip(above, vectors, shape[2:], strict=True):
                known[wire] = np.pad(vector, (0, size - len(vector)))
        below = [known[wire] for wire in nodes[-1][1]]
        arrays.append(top_tensor(last, below, n_outputs, output_std, output_bias))
        outputs = ("out",) if n_outputs else ()
        return cls(default_floats(arrays), nsites, cyclic=cyclic, output_inds=outputs)

    @staticmethod
    def shapes(
        nsites: int, *, cyclic: bool = False, bond_dim: int = 8, phys_dim: int | Sequence[int] = 2
    ) -> list[tuple[int, ...]]:
        """Shapes of arrays, that of the top without outputs; see `random` for the parameters."""
        phys_dims = phys_dims_of(phys_dim, nsites)
        # The widest site decides everywhere, so that only inputs depend on the order of the sites.
        sizes = dict.fromkeys(range(nsites), max(phys_dims))
        shapes = []
        for _, below, above in _nodes(nsites, cyclic):
            wide = [sizes[wire] for wire in below]
            up = wide if len(above) == 2 else [min(bond_dim, prod(wide))] * len(above)
            sizes |= dict(zip(above, up, strict=True))
            own = (phys_dims[wire] if wire < nsites else sizes[wire] for wire in below)
            shapes.append((*own, *up))
        return shapes


def _nodes(nsites, cyclic):
    """Every tensor as (layer, wires below, wires above); the wires 0..nsites-1 are the sites."""
    check_int("nsites", nsites, at_least=1)
    wires, new, nodes, layer = list(range(nsites)), count(nsites), [], 0
    while len(wires) > 2:
        size = len(wires)
        straddling = [(j, j + 1) for j in range(1, size - 2, 2)]
        if cyclic and size % 2 == 0:
            straddling.append((size - 1, 0))
        for i, j in straddling:
            below = wires[i], wires[j]
            wires[i], wires[j] = next(new), next(new)
            nodes.append((layer, below, (wires[i], wires[j])))
        blocks = [tuple(wires[j : j + 2]) for j in range(0, size - 1, 2)]
        joined = [next(new) for _ in blocks]
        nodes += [(layer, block, (wire,)) for block, wire in zip(blocks, joined, strict=True)]
        wires = joined + wires[2 * len(blocks) :]
        layer += 1
    return [*nodes, (layer, tuple(wires), ())]


@register("network", name="mera")
@dataclasses.dataclass(frozen=True)
class MERASpec(NetworkSpec):
    """A `MERA` yet to be made, the ``network`` of an estimator; `cyclic` as in `MERA`.

    >>> import jax
    >>> MERASpec(cyclic=True).random(4, bond_dim=2, key=jax.random.key(0)).num_tensors
    5
    """

    cyclic: bool = False

    def random(self, nsites: int, **options) -> MERA:
        """The network, see `MERA.random` for the parameters."""
        return MERA.random(nsites, cyclic=self.cyclic, **options)
