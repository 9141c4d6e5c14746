"""Multi-scale entanglement renormalization."""

import dataclasses
from functools import reduce
from itertools import count
from math import prod

import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from .._registry import register
from ..initializers import LeastSquaresIdentity, generators
from ._sizes import phys_dims_of, weights_of
from ._spec import NetworkSpec


class MERA(qtn.MERA):
    """quimb's binary MERA for any number of sites, whose top may carry output indices.

    A layer has disentanglers, on the pairs of sites that straddle neighbouring blocks, and above
    them isometries, which join the two sites of a block; a left-over site passes up undisturbed.
    When `cyclic`, layers of an even number of sites have a disentangler on the last and the first
    one too. The top joins the last two sites. Vidal, Phys. Rev. Lett. 101 (2008) 110501.

    arrays: layer by layer the disentanglers (left, right, left above, right above), then the
    isometries (left, right, above), and the top (left, right) with one further axis per name in
    `output_inds`. Inputs are the indices ``k0, k1, ...``; tags are quimb's, ``I{i}`` the causal
    cone of site i. Raises ValueError when arrays and nsites do not fit together.

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
        tensors, sizes = [], {}
        for i, (array, (layer, below, above)) in enumerate(zip(arrays, nodes, strict=True)):
            names |= {wire: qtn.rand_uuid() for wire in above}
            own = [names[wire] for wire in below + above] + list(output_inds) * (not above)
            if np.ndim(array) != len(own):
                raise ValueError(
                    f"Array {i} has {np.ndim(array)} axes where {len(own)} are expected: two "
                    "below, then two above a disentangler, one above an isometry, at the top one "
                    "per output index."
                )
            for ind, size in zip(own, np.shape(array), strict=True):
                if sizes.setdefault(ind, size) != size:
                    raise ValueError(
                        f"Array {i} and one below share a bond, but one has size {sizes[ind]} "
                        f"there and the other {size}."
                    )
            sites = sorted({site for wire in below for site in cone[wire]})
            cone |= dict.fromkeys(above, sites)
            kind = "_UNI" if len(above) == 2 else "_ISO"
            tags = [kind, f"_LAYER{layer}", *map(site_tag_id.format, sites)]
            tensors.append(qtn.Tensor(array, own, tags))
        self._site_ind_id = site_ind_id
        self._site_tag_id = site_tag_id
        self.cyclic = cyclic
        self._L = nsites
        self._output_inds = tuple(output_inds)
        qtn.TensorNetwork.__init__(self, tensors, virtual=True, **tn_opts)

    @property
    def output_inds(self):
        """Names of the output indices, in the order of the axes of the outputs."""
        return self._output_inds

    @classmethod
    def random(
        cls,
        nsites,
        *,
        cyclic=False,
        bond_dim=8,
        phys_dim=2,
        n_outputs=None,
        initializer=None,
        weights=None,
        output_std=0.1,
        output_bias=None,
        key,
    ):
        """MERA filled by an initializer, with at most one output index, ``"out"``.

        bond_dim: size of the bonds above the isometries, less where the sites below span less; the
        rest as in `MPS.random`. Disentanglers start as the identity, with noise of the
        initializer's size as an operator; between sites of different phys_dim they embed each one
        in the largest.

        >>> import jax
        >>> mera = MERA.random(8, bond_dim=5, n_outputs=3, key=jax.random.key(0))
        >>> mera.num_tensors, mera.max_bond(), mera.ind_size("out")
        (11, 5, 3)
        """
        initializer = LeastSquaresIdentity() if initializer is None else initializer
        check_int("bond_dim", bond_dim, at_least=1)
        check_int("n_outputs", n_outputs, at_least=1, optional=True)
        phys_dims = phys_dims_of(phys_dim, nsites)
        weights = weights_of(weights, phys_dims)
        nodes, fan = _nodes(nsites, cyclic), nsites * bond_dim
        shapes = mera_shapes(phys_dims, bond_dim, cyclic)
        # One number an index that stands for "nothing known": w . phi = 1, or the first channel.
        known = [initializer.unit(w[:d]) for w, d in zip(weights, phys_dims, strict=True)]
        constants, rngs, arrays = dict(enumerate(known)), generators(key, len(nodes)), []
        for rng, (_, below, above), shape in zip(rngs[:-1], nodes[:-1], shapes[:-1], strict=True):
            start = [constants[wire] for wire in below]
            if len(above) == 1:
                arrays.append(initializer.merge(rng, start, shape[-1], fan))
                constants[above[0]] = np.eye(shape[-1])[0]
                continue
            rows, columns = prod(shape[:2]), prod(shape[2:])
            noise = initializer.noise(rng, (rows, 1, columns), fan).reshape(shape)
            identity = np.einsum("ac,bd->abcd", np.eye(*shape[::2]), np.eye(*shape[1::2]))
            # Over the root of its length, a row of noise is as large as one of its entries was.
            arrays.append(identity + noise / np.sqrt(columns))
            for wire, constant, size in zip(above, start, shape[2:], strict=True):
                constants[wire] = np.pad(constant, (0, size - len(constant)))
        start = [constants[wire] for wire in nodes[-1][1]]
        top = rngs[-1].normal(size=(*shapes[-1], n_outputs or 1))
        top *= output_std / np.sqrt(prod(shapes[-1]))
        if n_outputs is None:
            # An amplitude starts at 1, where nothing is known.
            output_bias = np.ones(1)
        if output_bias is not None:
            top += reduce(np.multiply.outer, [*start, np.asarray(output_bias, float)])
        arrays.append(top if n_outputs else top[..., 0])
        dtype = jnp.zeros(()).dtype
        arrays = [np.ascontiguousarray(array, dtype) for array in arrays]
        return cls(arrays, nsites, cyclic=cyclic, output_inds=("out",) if n_outputs else ())


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


def mera_shapes(phys_dims, bond_dim, cyclic):
    """Shapes of the arrays of `MERA.random`, that of the top without its outputs."""
    # The widest site decides everywhere, so that only inputs hang on the order of the sites.
    sizes = dict.fromkeys(range(len(phys_dims)), max(phys_dims))
    shapes = []
    for _, below, above in _nodes(len(phys_dims), cyclic):
        wide = [sizes[wire] for wire in below]
        up = wide if len(above) == 2 else [min(bond_dim, prod(wide))] * len(above)
        sizes |= dict(zip(above, up, strict=True))
        own = (phys_dims[wire] if wire < len(phys_dims) else sizes[wire] for wire in below)
        shapes.append((*own, *up))
    return shapes


@register("network", name="mera")
@dataclasses.dataclass(frozen=True)
class MERASpec(NetworkSpec):
    """A `MERA` yet to be made: what estimators take as ``network``.

    cyclic: whether disentanglers join the ends.

    >>> import jax
    >>> MERASpec(cyclic=True).random(4, bond_dim=2, key=jax.random.key(0)).num_tensors
    5
    """

    cyclic: bool = False

    def random(self, nsites, **options):
        """The network, see `MERA.random`."""
        return MERA.random(nsites, cyclic=self.cyclic, **options)
