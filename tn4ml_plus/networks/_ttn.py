"""Tree tensor networks."""

import dataclasses
from functools import reduce
from math import prod

import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from .._registry import register
from ..initializers import LeastSquaresIdentity, generators
from ._information import MutualInformation, check_sites
from ._sizes import phys_dims_of, weights_of
from ._spec import NetworkSpec
from ._tree import Tree


class TTN(qtn.TensorNetworkGenVector):
    """Tree tensor network: a tensor a node, inputs at the leaves, outputs at the root.

    arrays: one a node of `tree`, with one axis a child, in their order, and a last one up; the
    root has one axis per name in `output_inds` instead. Inputs are the indices ``k0, k1, ...``; the
    node i carries the tag ``N{i}`` and the tags of the sites that are its leaves. Raises ValueError
    when arrays and tree do not fit together.

    >>> import numpy as np
    >>> ttn = TTN([np.ones((2, 2, 3)), np.ones((3, 2, 5))], Tree.balanced(3), output_inds=("out",))
    >>> ttn.outer_inds(), ttn.bond_sizes()
    (('k0', 'k1', 'k2', 'out'), (3,))
    """

    _EXTRA_PROPS = (
        *qtn.TensorNetworkGenVector._EXTRA_PROPS,
        "_tree",
        "_output_inds",
        "_node_tag_id",
    )

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
        arrays = list(arrays)
        if len(arrays) != len(tree.nodes):
            raise ValueError(f"The tree has {len(tree.nodes)} nodes, got {len(arrays)} arrays.")
        inds = [site_ind_id.format(i) for i in range(tree.nsites)]
        inds += [qtn.rand_uuid() for _ in tree.nodes[:-1]]
        tensors, sizes = [], {}
        for i, (array, children) in enumerate(zip(arrays, tree.nodes, strict=True)):
            is_root = i == len(arrays) - 1
            up = tuple(output_inds) if is_root else (inds[tree.nsites + i],)
            own = (*(inds[child] for child in children), *up)
            if np.ndim(array) != len(own):
                raise ValueError(
                    f"The array of node {i} has {np.ndim(array)} axes where {len(own)} are "
                    "expected: one a child, then the bond up, at the root one per output index."
                )
            for ind, size in zip(own, np.shape(array), strict=True):
                if sizes.setdefault(ind, size) != size:
                    raise ValueError(
                        f"Node {i} and a child share a bond, but one has size {sizes[ind]} there "
                        f"and the other {size}."
                    )
            tags = [site_tag_id.format(child) for child in children if child < tree.nsites]
            tensors.append(qtn.Tensor(array, own, [node_tag_id.format(i), *tags]))
        self._sites = tuple(range(tree.nsites))
        self._site_ind_id = site_ind_id
        self._site_tag_id = site_tag_id
        self._tree = tree
        self._output_inds = tuple(output_inds)
        self._node_tag_id = node_tag_id
        qtn.TensorNetwork.__init__(self, tensors, virtual=True, **tn_opts)

    @property
    def tree(self):
        """The `Tree` that says which nodes join which."""
        return self._tree

    @property
    def output_inds(self):
        """Names of the output indices, in the order of the axes of the outputs."""
        return self._output_inds

    @property
    def node_tag_id(self):
        """Format string of the tags of the nodes."""
        return self._node_tag_id

    def node(self, i):
        """Tensor of node `i`, counted from the first above the leaves; the root is the last."""
        return self[self.node_tag_id.format(i)]

    def up_ind(self, i):
        """Name of the bond from node `i` to its parent."""
        parent = self.tree.parents[self.tree.nsites + i]
        (ind,) = qtn.bonds(self.node(i), self.node(parent))
        return ind

    def bond_sizes(self):
        """Size of the bond above each node but the root, a tuple."""
        return tuple(self.ind_size(self.up_ind(i)) for i in range(len(self.tree.nodes) - 1))

    @classmethod
    def random(
        cls,
        nsites,
        *,
        tree=None,
        bond_dim=8,
        phys_dim=2,
        n_outputs=None,
        initializer=None,
        weights=None,
        output_std=0.1,
        output_bias=None,
        key,
    ):
        """TTN filled by an initializer, with at most one output index, ``"out"``.

        tree: a `Tree` over nsites leaves, None for a balanced binary one; bond_dim: size of the
        bonds, less where the leaves below span less; the rest as in `MPS.random`.

        >>> import jax
        >>> ttn = TTN.random(8, bond_dim=5, n_outputs=3, key=jax.random.key(0))
        >>> ttn.bond_sizes(), ttn.ind_size("out")
        ((4, 4, 4, 4, 5, 5), 3)
        """
        initializer = LeastSquaresIdentity() if initializer is None else initializer
        check_int("bond_dim", bond_dim, at_least=1)
        check_int("n_outputs", n_outputs, at_least=1, optional=True)
        phys_dims = phys_dims_of(phys_dim, nsites)
        weights = weights_of(weights, phys_dims)
        tree = Tree.balanced(nsites) if tree is None else tree
        if tree.nsites != nsites:
            raise ValueError(f"The tree has {tree.nsites} leaves, but there are {nsites} sites.")
        # The widest site decides everywhere, so that the shapes do not hang on the order of sites.
        span = [min(bond_dim, max(phys_dims) ** min(leaves, 64)) for leaves in tree.leaves]
        # One number a node that stands for "nothing known": w . phi = 1, or the first channel.
        constants = [initializer.unit(w[:d]) for w, d in zip(weights, phys_dims, strict=True)]
        rngs, arrays = generators(key, len(tree.nodes)), []
        for rng, children, size in zip(rngs[:-1], tree.nodes[:-1], span):
            below = [constants[child] for child in children]
            arrays.append(initializer.merge(rng, below, size, nsites * bond_dim))
            constants.append(np.eye(size)[0])
        below = [constants[child] for child in tree.nodes[-1]]
        root = rngs[-1].normal(size=(*map(len, below), n_outputs or 1))
        root *= output_std / np.sqrt(prod(root.shape[:-1]))
        if n_outputs is None:
            # An amplitude starts at 1, where nothing is known.
            output_bias = np.ones(1)
        if output_bias is not None:
            root += reduce(np.multiply.outer, [*below, np.asarray(output_bias, float)])
        arrays.append(root if n_outputs else root[..., 0])
        dtype = jnp.zeros(()).dtype
        arrays = [np.ascontiguousarray(array, dtype) for array in arrays]
        return cls(arrays, tree, output_inds=("out",) if n_outputs else ())


@register("network", name="ttn")
@dataclasses.dataclass(frozen=True)
class TTNSpec(NetworkSpec):
    """A `TTN` yet to be made: what estimators take as ``network``.

    tree: a `Tree` over the sites or what makes one from the data, which all networks then share as
    it names their leaves; None for a balanced one; arity: how many a node of that joins.

    >>> import jax
    >>> TTNSpec(arity=4).random(16, bond_dim=2, key=jax.random.key(0)).num_tensors
    5
    """

    tree: Tree | MutualInformation | None = None
    arity: int = 2

    def __post_init__(self):
        check_int("arity", self.arity, at_least=2)

    def for_data(self, X, nsites):
        """With a tree from the data, if that is asked for."""
        if not isinstance(self.tree, MutualInformation):
            return self
        return dataclasses.replace(self, tree=self.tree.tree(check_sites(X, nsites)))

    def orders(self, nsites, n_members, rng):
        """See `NetworkSpec`; as they come for all members where there is a tree."""
        if self.tree is None:
            return super().orders(nsites, n_members, rng)
        return np.tile(np.arange(nsites), (n_members, 1))

    def random(self, nsites, **options):
        """The network, see `TTN.random`; raises ValueError for a tree that wants data first."""
        if isinstance(self.tree, MutualInformation):
            raise ValueError("The tree is made from data: call for_data(X, nsites) first.")
        tree = Tree.balanced(nsites, self.arity) if self.tree is None else self.tree
        return TTN.random(nsites, tree=tree, **options)
