"""Trees over the sites, orders of them, and both made from which features belong together."""

from collections.abc import Sequence
from functools import cached_property
from itertools import product

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from .._checks import check_int
from .._registry import variant
from .._types import ArrayLike

# Elements of the contingency tables that are made at a time.
_BLOCK = 2**24


@variant("tree")
class Tree:
    """A rooted tree over the leaves 0..nsites-1.

    Nodes are numbered as in `scipy.cluster.hierarchy`.

    Parameters
    ----------
    nsites : int, number of leaves
    nodes : tuple of tuples of int
        Children of node nsites, node nsites + 1, ..., each of a number below the node's own. Every
        leaf and every node but the last, the root, is the child of exactly one node.

    Examples
    --------
    >>> Tree.balanced(3).nodes
    ((0, 1), (3, 2))
    """

    nsites: int
    nodes: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        check_int("nsites", self.nsites, at_least=1)
        nodes = tuple(tuple(map(int, children)) for children in self.nodes)
        object.__setattr__(self, "nodes", nodes)
        used = sorted(child for children in nodes for child in children)
        # A list of as many numbers as a file says might not fit into memory.
        n_below = self.nsites + len(nodes) - 1
        if len(used) != n_below or used != list(range(n_below)):
            raise ValueError(
                f"Each of the {self.nsites} leaves and each node but the last must be a child of "
                f"exactly one node, got the children {nodes}."
            )
        for i, children in enumerate(nodes):
            if max(children, default=self.nsites + i) >= self.nsites + i:
                raise ValueError(
                    f"Node {self.nsites + i} must have children of smaller numbers, got {children}."
                )

    @classmethod
    def balanced(cls, nsites: int, arity: int = 2) -> "Tree":
        """Tree of neighbours joined layer by layer; leftovers of a layer take part in the next.

        Parameters
        ----------
        nsites, arity : int, number of leaves, and of children of a node, at least 2
        """
        check_int("nsites", nsites, at_least=1)
        check_int("arity", arity, at_least=2)
        return cls._layered({(i,): i for i in range(nsites)}, [(arity,)])

    @classmethod
    def image(
        cls, height: int, width: int, blocks: Sequence[tuple[int, int]] = ((2, 2),)
    ) -> "Tree":
        """Tree of neighbouring pixels joined layer by layer; leaves are pixels row by row.

        Parameters
        ----------
        height, width : int, size of the image
        blocks : sequence of (rows, columns)
            Blocks that a node joins, used in turn and cut off at the edges: ((2, 2),) is a quadtree
            and ((1, 2), (2, 1)) a binary tree.

        Examples
        --------
        >>> Tree.image(2, 3).nodes
        ((0, 1, 3, 4), (2, 5), (6, 7))
        """
        for name, value in (("height", height), ("width", width)):
            check_int(name, value, at_least=1)
        blocks = [tuple(block) for block in blocks]
        reach = [max(block[axis] for block in blocks) if blocks else 0 for axis in (0, 1)]
        if min(reach) < 2 or any(len(block) != 2 or min(block) < 1 for block in blocks):
            raise ValueError(
                f"blocks must be pairs (rows, columns) that join both rows and columns in their "
                f"turns, such as ((1, 2), (2, 1)), got {blocks}."
            )
        pixels = product(range(height), range(width))
        return cls._layered({place: i for i, place in enumerate(pixels)}, blocks)

    @classmethod
    def _layered(cls, layer, blocks):
        """Join the numbers at the places of a grid by blocks until one is left."""
        nsites, nodes, turn = len(layer), [], 0
        while len(layer) > 1 or not nodes:
            block, above = blocks[turn % len(blocks)], {}
            for place, number in layer.items():
                above.setdefault(tuple(x // b for x, b in zip(place, block)), []).append(number)
            layer = {}
            for place, children in above.items():
                if len(children) > 1 or nsites == 1:
                    nodes.append(tuple(children))
                    children = [nsites + len(nodes) - 1]
                layer[place] = children[0]
            turn += 1
        return cls(nsites, tuple(nodes))

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Parent of each leaf and of each node but the root, as an index of `nodes`."""
        found = {child: i for i, children in enumerate(self.nodes) for child in children}
        return tuple(found[child] for child in range(len(found)))

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Number of leaves under each node."""
        below = [1] * self.nsites
        for children in self.nodes:
            below.append(sum(below[child] for child in children))
        return tuple(below[self.nsites :])

    @cached_property
    def heights(self) -> tuple[int, ...]:
        """Length of the longest path from each node down to a leaf."""
        found = [0] * self.nsites
        for children in self.nodes:
            found.append(1 + max(found[child] for child in children))
        return tuple(found[self.nsites :])


@variant("arrangement")
class MutualInformation:
    """Arrangement of features by the mutual information between pairs of them.

    The methods take X (n_samples, n_features); a row where a feature is NaN counts in none of that
    feature's pairs.

    Parameters
    ----------
    bins : int, bins of equal frequency for the values of a feature, at least 2
    levels : int, features with at most as many different values (codes, say) keep them

    Examples
    --------
    >>> import numpy as np
    >>> a, b = np.random.default_rng(0).normal(size=(2, 500))
    >>> X = np.stack([a, b, -a, b**3], axis=1)
    >>> MutualInformation().order(X)
    (0, 2, 3, 1)
    >>> MutualInformation().tree(X).nodes
    ((0, 2), (1, 3), (4, 5))
    """

    bins: int = 8
    levels: int = 16

    def __post_init__(self):
        check_int("bins", self.bins, at_least=2)
        check_int("levels", self.levels, at_least=0)

    def matrix(self, X: ArrayLike) -> Float[np.ndarray, "n_features n_features"]:
        """Mutual information of all pairs in nats, (n_features, n_features), from their counts.

        Entropies are on the diagonal. ValueError unless X has two dimensions.
        """
        X = np.asarray(X, float)
        if X.ndim != 2:
            raise ValueError(f"X must be (n_samples, n_features), got the shape {X.shape}.")
        codes = np.stack([self._codes(column) for column in X.T])
        n_features, n_samples = codes.shape
        width = max(1, codes.max(initial=0) + 1)
        # Missing entries are columns of zeros. Floats of 32 bits count exactly up to 2**24.
        hot = (codes[:, None] == np.arange(width)[:, None]).astype(np.float32)
        n_log_n = np.arange(n_samples + 1) * np.log(np.maximum(np.arange(n_samples + 1), 1))
        found = np.zeros((n_features, n_features))
        block = max(1, _BLOCK // (n_features * width**2))
        for start in range(0, n_features, block):
            rows, rest = hot[start : start + block], hot[start:]
            joint = rows.reshape(-1, n_samples) @ rest.reshape(-1, n_samples).T
            joint = joint.reshape(len(rows), width, len(rest), width).astype(int)
            left, right = joint.sum(axis=3), joint.sum(axis=1)
            total = left.sum(axis=1)
            information = n_log_n[joint].sum(axis=(1, 3)) + n_log_n[total]
            information -= n_log_n[left].sum(axis=1) + n_log_n[right].sum(axis=2)
            information /= np.maximum(total, 1)
            found[start : start + block, start:] = information
            found[start:, start : start + block] = information.T
        return found

    def tree(self, X: ArrayLike) -> Tree:
        """Binary `Tree` of least depth: pairs joined layer by layer, the most informative first.

        The information between groups is the average of that between their halves.
        """
        shared = self.matrix(X)
        n_features = len(shared)
        if n_features == 1:
            return Tree.balanced(1)
        names, nodes = list(range(n_features)), []
        while len(names) > 1:
            left, right = np.triu_indices(len(names), 1)
            free, members, above = set(range(len(names))), [], []
            for pair in np.argsort(-shared[left, right], kind="stable"):
                children = {int(left[pair]), int(right[pair])}
                if children <= free:
                    free -= children
                    members.append(sorted(children))
                    nodes.append(tuple(names[child] for child in members[-1]))
                    above.append(n_features + len(nodes) - 1)
            members += [[child] for child in free]
            above += [names[child] for child in free]
            mean = np.zeros((len(members), len(names)))
            for row, group in zip(mean, members, strict=True):
                row[group] = 1 / len(group)
            shared, names = mean @ shared @ mean.T, above
        return Tree(n_features, tuple(nodes))

    def order(self, X: ArrayLike) -> tuple[int, ...]:
        """Order of the features in which related ones are neighbours.

        Leaves of the average linkage in the order of Bar-Joseph, Gifford and Jaakkola,
        Bioinformatics 17 (2001) S22, which makes neighbours as close as the linkage allows.
        """
        shared = self.matrix(X)
        if len(shared) == 1:
            return (0,)
        distance = squareform(shared.max() - shared, checks=False)
        ordered = leaves_list(linkage(distance, "average", optimal_ordering=True))
        return tuple(ordered.tolist())

    def _codes(self, column):
        """Bin of every entry, -1 where it is missing."""
        present = column[~np.isnan(column)]
        values = np.unique(present)
        if len(values) > self.levels:
            edges = np.quantile(present, np.arange(1, self.bins) / self.bins)
            codes = np.searchsorted(edges, column, side="right")
        else:
            codes = np.searchsorted(values, column)
        return np.where(np.isnan(column), -1, codes)


def check_sites(X, nsites):
    """`X` itself; ValueError unless it has one feature per site."""
    if X.shape[1] != nsites:
        raise ValueError(
            f"MutualInformation arranges single features, but {nsites} sites read {X.shape[1]} of "
            "them: give an order or a tree of the sites, or use an embedding of single features."
        )
    return X
