"""Chains and trees seen alike: as nodes below a root that carries the outputs."""

import dataclasses
from functools import cached_property

#: What stands among the children of a node for the end of a chain, a bond of size 1; for an output
#: that is summed over as an index of its own; and for one that is not there, a bond of size 1 too.
END, OPEN, SHUT = -1, -2, -3


@dataclasses.dataclass(frozen=True)
class Rooted:
    """Nodes in an order in which children come first, the root last.

    Parameters
    ----------
    nsites : int, number of sites
    nodes : tuple of tuple of int
        Children of each node: a site 0 .. nsites - 1, a node nsites + i, `END`, `OPEN` or `SHUT`.
    bonds : tuple of int, the nodes below all bonds, in the order that users know
    """

    nsites: int
    nodes: tuple[tuple[int, ...], ...]
    bonds: tuple[int, ...]

    @classmethod
    def chain(cls, nsites, center, leaves=None):
        """Two arms, the left one first, both from the ends of a chain to its center, the root.

        Parameters
        ----------
        nsites, center : int, number of sites and the root's
        leaves : sequence of tuple, optional, other children of the sites, by default the inputs
        """
        n, c, last = nsites, center, nsites - 1
        leaves = [(i,) for i in range(n)] if leaves is None else leaves
        left = [(END if i == 0 else n + i - 1, *leaves[i]) for i in range(c)]
        right = [(END if i == last else 2 * n + c - 2 - i, *leaves[i]) for i in range(last, c, -1)]
        top = (n + c - 1 if c > 0 else END, *leaves[c], n + n - 2 if c < last else END)
        return cls(n, (*left, *right, top), arms(range(n - 1), c))

    @cached_property
    def parents(self):
        """Parent of every node but the root, and its place among the children of that."""
        found = {
            child - self.nsites: (i, slot)
            for i, children in enumerate(self.nodes)
            for slot, child in enumerate(children)
            if child >= self.nsites
        }
        return tuple(found[i] for i in range(len(self.nodes) - 1))

    @cached_property
    def heights(self):
        """Length of the longest way from each node down to a site, a tuple."""
        found = []
        for i in range(len(self.nodes)):
            found.append(1 + max((found[node] for node in self.below(i)), default=0))
        return tuple(found)

    @property
    def is_chain(self):
        """Whether it is a chain, with ends."""
        return END in self.nodes[0]

    @cached_property
    def is_open(self):
        """Whether there are outputs besides those of the root."""
        return any(OPEN in children for children in self.nodes)

    def below(self, node):
        """The nodes among the children of a node."""
        return [child - self.nsites for child in self.nodes[node] if child >= self.nsites]


def arms(bonds, center):
    """Values of a chain's bonds from left to right in the order of `Rooted.chain`, or back."""
    return (*bonds[:center], *bonds[center:][::-1])
