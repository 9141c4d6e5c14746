"""Tree tensor networks and multi-scale entanglement renormalization."""

import dataclasses
from collections.abc import Sequence
from functools import reduce
from itertools import count
from math import prod

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from .._registry import variant
from .._types import AnyArray, ArrayLike
from ..initializers import generators
from ._arrangements import MutualInformation, Tree, check_sites
from ._base import NamedOutputs, NetworkSpec, Orders, as_floats, named_tensors, phys_dims_of, start


class TTN(NamedOutputs, qtn.TensorNetworkGenVector):
    """Tree tensor network: a tensor at each node, inputs at the leaves, outputs at the root.

    Inputs are the indices ``k0, k1, ...``; the node i carries the tag ``N{i}`` and the tags of the
    sites that are its leaves.

    Parameters
    ----------
    arrays : sequence of arrays
        One per node of the tree, with one axis per child, in order, and a last one up, in place of
        which the root has one axis per output.
    tree : Tree, the tree
    output_inds, site_ind_id, site_tag_id : as in `MPS`
    node_tag_id : str, format of the tags of nodes
    **tn_opts : as in `MPS`

    Examples
    --------
    >>> import numpy as np
    >>> ttn = TTN([np.ones((2, 2, 3)), np.ones((3, 2, 5))], Tree.balanced(3), output_inds=("out",))
    >>> ttn.outer_inds(), ttn.bond_sizes()
    (('k0', 'k1', 'k2', 'out'), (3,))
    """

    _EXTRA_PROPS = qtn.TensorNetworkGenVector._EXTRA_PROPS
    _EXTRA_PROPS += ("_tree", "_output_inds", "_node_tag_id")

    def __init__(
        self,
        arrays,
        tree=None,
        *,
        output_inds=(),
        site_ind_id="k{}",
        site_tag_id="I{}",
        node_tag_id="N{}",
        **tn_opts,
    ):
        if isinstance(arrays, qtn.TensorNetwork):
            super().__init__(arrays)
            return
        arrays, output_inds = list(arrays), tuple(output_inds)
        if len(arrays) != len(tree.nodes):
            raise ValueError(f"The tree has {len(tree.nodes)} nodes, got {len(arrays)} arrays.")
        names = [site_ind_id.format(i) for i in range(tree.nsites)]
        names += [qtn.rand_uuid() for _ in tree.nodes[:-1]]
        above = [*((name,) for name in names[tree.nsites :]), output_inds]
        inds = [(*(names[i] for i in below), *up) for below, up in zip(tree.nodes, above)]
        tags = []
        for i, children in enumerate(tree.nodes):
            sites = (child for child in children if child < tree.nsites)
            tags.append([node_tag_id.format(i), *map(site_tag_id.format, sites)])
        expected = "one per child, then the bond up, at the root one per output index"
        tensors = named_tensors(arrays, inds, tags, "node", expected)
        self._sites, self._tree = tuple(range(tree.nsites)), tree
        self._site_ind_id, self._site_tag_id = site_ind_id, site_tag_id
        self._node_tag_id, self._output_inds = node_tag_id, output_inds
        qtn.TensorNetwork.__init__(self, tensors, virtual=True, **tn_opts)

    @property
    def tree(self) -> Tree:
        """The `Tree` by which the nodes are joined."""
        return self._tree

    @property
    def node_tag_id(self) -> str:
        """Format string of the tags of the nodes."""
        return self._node_tag_id

    def node(self, i: int) -> qtn.Tensor:
        """Tensor of node `i`, counted from the first above the leaves; the root is the last."""
        return self._nodes()[i][0]

    def up_ind(self, i: int) -> str:
        """Name of the bond from node `i` to its parent."""
        return self._nodes()[i][1][-1]

    def bond_sizes(self) -> tuple[int, ...]:
        """Size of the bond above each node but the root."""
        return tuple(tensor.ind_size(inds[-1]) for tensor, inds in self._nodes()[:-1])

    def cores(self) -> list | None:
        """Arrays of the nodes, (*children, up) each, at the root (*children, *outputs).

        None where the tensors no longer form the tree.
        """
        nodes = self._nodes(checked=False)
        return nodes and [tensor.transpose(*inds).data for tensor, inds in nodes]

    def _nodes(self, checked=True):
        """Tensor and indices (*children, *up) of every node, found by the inputs, not by tags.

        Where the tensors no longer form the tree: ValueError if checked, else None.
        """
        tree, found = self.tree, []
        up = [(self.site_ind(i),) for i in range(tree.nsites)]
        owners = {ind: set(tids) for ind, tids in self.ind_map.items()}
        for i, children in enumerate(tree.nodes):
            below = tuple(ind for child in children for ind in up[child])
            # What carries the bonds of all children, and is no child itself.
            tids = set.intersection(*(owners.get(ind, set()) for ind in below)) if below else set()
            tids -= {tid for tid, _ in found}
            if len(tids) != 1 or len(below) != len(children):
                break
            (tid,) = tids
            above = tuple(ind for ind in self.tensor_map[tid].inds if ind not in below)
            if i == len(tree.nodes) - 1 and sorted(above) == sorted(self.output_inds):
                above = self.output_inds
            elif len(above) != 1 or len(owners[above[0]]) != 2:
                break
            up.append(above)
            found.append((tid, below + above))
        if len(found) == len(tree.nodes) == self.num_tensors and up[-1] == self.output_inds:
            return [(self.tensor_map[tid], inds) for tid, inds in found]
        if checked:
            raise ValueError("The tensors of this network no longer form its tree.")
        return None

    def layout(self) -> np.ndarray | None:
        """Positions of the tensors in a drawing, (n_tensors, 2), None where they are no tree."""
        nodes, tree = self._nodes(checked=False), self.tree
        if nodes is None:
            return None
        # Leaves from left to right as the tree has them, not as they are numbered.
        below = [[leaf] for leaf in range(tree.nsites)]
        for children in tree.nodes:
            below.append([leaf for child in children for leaf in below[child]])
        x = np.argsort(below[-1]).tolist()
        for children in tree.nodes:
            x.append(np.mean([x[child] for child in children]))
        step = max(1.0, tree.nsites / 12)
        numbers = {id(tensor): i for i, (tensor, _) in enumerate(nodes)}
        places = [numbers[id(tensor)] for tensor in self]
        return np.array([(x[tree.nsites + i], step * tree.heights[i]) for i in places])

    @classmethod
    def random(
        cls,
        nsites: int,
        *,
        tree: Tree | None = None,
        bond_dim: int = 8,
        n_outputs: int | None = None,
        output_std: float = 0.1,
        output_bias: ArrayLike | None = None,
        key: jax.Array,
        **options,
    ) -> "TTN":
        """TTN filled by an initializer, with at most one output index, ``"out"``.

        Parameters
        ----------
        nsites : int, number of sites
        tree : Tree, optional, a tree over nsites leaves, by default a balanced binary one
        bond_dim : int, size of the bonds, less where the leaves below span less
        n_outputs, output_std, output_bias, key : as in `MPS.random`
        **options : phys_dim, initializer and weights as in `MPS.random`

        Examples
        --------
        >>> import jax
        >>> ttn = TTN.random(8, bond_dim=5, n_outputs=3, key=jax.random.key(0))
        >>> ttn.bond_sizes(), ttn.ind_size("out")
        ((4, 4, 4, 4, 5, 5), 3)
        """
        begun = start(nsites, bond_dim, n_outputs, **options)
        tree = Tree.balanced(nsites) if tree is None else tree
        if tree.nsites != nsites:
            raise ValueError(f"The tree has {tree.nsites} leaves, but there are {nsites} sites.")
        # The widest site decides everywhere, so that no shape depends on the order of sites.
        widest = max(map(len, begun[1]))
        ups = [(min(bond_dim, widest ** min(leaves, 64)),) for leaves in tree.leaves]
        nodes = [(children, (nsites + i,)) for i, children in enumerate(tree.nodes)]
        arrays = tree_arrays(begun, nodes, ups, (n_outputs, output_std, output_bias), key)
        return cls(arrays, tree, output_inds=("out",) if n_outputs else ())


@variant("network", "ttn")
class TTNSpec(NetworkSpec):
    """A `TTN` yet to be made: the ``network`` of an estimator.

    Parameters
    ----------
    tree : Tree or MutualInformation, optional
        A tree over the sites, or how to find one from the data; all networks share it, as it names
        their leaves. By default a balanced one.
    arity : int, number of children of a node of the balanced tree, at least 2

    Examples
    --------
    >>> import jax
    >>> TTNSpec(arity=4).random(16, bond_dim=2, key=jax.random.key(0)).num_tensors
    5
    """

    tree: Tree | MutualInformation | None = None
    arity: int = 2

    has_exact_marginals = True

    def __post_init__(self):
        check_int("arity", self.arity, at_least=2)

    def for_data(self, X: AnyArray, nsites: int) -> "TTNSpec":
        """The spec with a tree from the data, if that is asked for."""
        if not isinstance(self.tree, MutualInformation):
            return self
        return dataclasses.replace(self, tree=self.tree.tree(check_sites(X, nsites)))

    def orders(self, nsites: int, n_members: int, rng: np.random.RandomState) -> Orders:
        """As in `NetworkSpec`, but the given order for all members where there is a tree."""
        if self.tree is None:
            return super().orders(nsites, n_members, rng)
        return np.tile(np.arange(nsites), (n_members, 1))

    def random(self, nsites: int, **options) -> TTN:
        """The network, see `TTN.random` for the parameters; ValueError before the tree is found."""
        if isinstance(self.tree, MutualInformation):
            raise ValueError("The tree depends on the data: call for_data(X, nsites) first.")
        tree = Tree.balanced(nsites, self.arity) if self.tree is None else self.tree
        return TTN.random(nsites, tree=tree, **options)


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
        begun = start(nsites, bond_dim, n_outputs, **options)
        phys_dims = list(map(len, begun[1]))
        shapes = cls.shapes(nsites, cyclic=cyclic, bond_dim=bond_dim, phys_dim=phys_dims)
        nodes, ups = [node[1:] for node in _nodes(nsites, cyclic)], [shape[2:] for shape in shapes]
        arrays = tree_arrays(begun, nodes, ups, (n_outputs, output_std, output_bias), key)
        return cls(arrays, nsites, cyclic=cyclic, output_inds=("out",) if n_outputs else ())

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


@variant("network", "mera")
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


def tree_arrays(begun, nodes, ups, outputs, key):
    """Arrays of a tree or a MERA: isometries, disentanglers and last the top, (*below, *above).

    begun: result of `start`; nodes: wires (below, above) of each tensor, the wires 0..nsites-1
    being the sites; ups: sizes of the wires above; outputs: n_outputs, output_std, output_bias.
    """
    (initializer, weights, fan), (n_outputs, output_std, output_bias) = begun, outputs
    # One vector per wire that stands for "nothing known": w . phi = 1, or the first channel.
    known = {i: initializer.unit(w) for i, w in enumerate(weights)}
    *rngs, last = generators(key, len(nodes))
    arrays = []
    for rng, (below, above), up in zip(rngs, nodes, ups):
        vectors = [known[wire] for wire in below]
        if len(above) == 1:
            arrays.append(initializer.merge(rng, vectors, *up, fan))
            known[above[0]] = np.eye(*up)[0]
            continue
        rows, columns = [len(vector) for vector in vectors], prod(up)
        noise = initializer.noise(rng, (prod(rows), 1, columns), fan).reshape(*rows, *up)
        identity = np.einsum("ac,bd->abcd", *map(np.eye, rows, up))
        # Over the root of its length, a row of noise is as large as one of its entries was.
        arrays.append(identity + noise / np.sqrt(columns))
        for wire, vector, size in zip(above, vectors, up, strict=True):
            known[wire] = np.pad(vector, (0, size - len(vector)))
    vectors = [known[wire] for wire in nodes[-1][0]]
    top = last.normal(size=(*map(len, vectors), n_outputs or 1))
    top *= output_std / np.sqrt(prod(top.shape[:-1]))
    if n_outputs is None:
        # An amplitude starts at 1, where nothing is known.
        output_bias = np.ones(1)
    if output_bias is not None:
        top += reduce(np.multiply.outer, [*vectors, np.asarray(output_bias, float)])
    return as_floats([*arrays, top if n_outputs else top[..., 0]])
