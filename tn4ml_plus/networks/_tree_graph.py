"""Rooted trees: which nodes join which."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from itertools import product

from .._checks import check_int
from .._registry import register


@register("tree")
@dataclasses.dataclass(frozen=True)
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
        if used != list(range(self.nsites + len(nodes) - 1)):
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
