"""Tree tensor networks."""

import dataclasses

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from .._registry import register
from .._types import AnyArray, ArrayLike
from ..initializers import generators
from ._spec import NetworkSpec, Orders
from ._start import default_floats, start, top_tensor
from ._statistics import MutualInformation, check_sites
from ._tensors import NamedOutputs, named_tensors
from ._tree_graph import Tree


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
        inds = [
            (*(names[child] for child in children), *up) for children, up in zip(tree.nodes, above)
        ]
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
        x, leaves, waiting = [None] * tree.nsites, 0, [tree.nsites + len(tree.nodes) - 1]
        while waiting:
            number = waiting.pop()
            if number < tree.nsites:
                x[number] = float(leaves)
                leaves += 1
            else:
                waiting += reversed(tree.nodes[number - tree.nsites])
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
        initializer, weights = start(nsites, bond_dim, n_outputs, **options)
        tree = Tree.balanced(nsites) if tree is None else tree
        if tree.nsites != nsites:
            raise ValueError(f"The tree has {tree.nsites} leaves, but there are {nsites} sites.")
        # The widest site decides everywhere, so that no shape depends on the order of sites.
        widest = max(map(len, weights))
        span = [min(bond_dim, widest ** min(leaves, 64)) for leaves in tree.leaves]
        # One vector per node that stands for "nothing known": w . phi = 1, or the first channel.
        known = [initializer.unit(w) for w in weights]
        *rngs, last = generators(key, len(tree.nodes))
        arrays = []
        for rng, children, size in zip(rngs, tree.nodes, span):
            below = [known[child] for child in children]
            arrays.append(initializer.merge(rng, below, size, nsites * bond_dim))
            known.append(np.eye(size)[0])
        below = [known[child] for child in tree.nodes[-1]]
        arrays.append(top_tensor(last, below, n_outputs, output_std, output_bias))
        return cls(default_floats(arrays), tree, output_inds=("out",) if n_outputs else ())


@register("network", name="ttn")
@dataclasses.dataclass(frozen=True)
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
