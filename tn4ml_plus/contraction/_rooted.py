"""Chains and trees seen alike: as nodes below a root that carries the outputs."""

import dataclasses
from functools import cached_property, singledispatch

import jax.numpy as jnp
import numpy as np

from ._chain import ChainStructure
from ._operator import OperatorStructure
from ._squared import SquaredNorm
from ._tree import TreeStructure, _layers

#: What stands among the children of a node for the end of a chain, a bond of size 1; for an output
#: that is summed over as an index of its own; and for one that is not there, a bond of size 1 too.
END, OPEN, SHUT = -1, -2, -3


@dataclasses.dataclass(frozen=True)
class Rooted:
    """Nodes in an order in which children come first, the root last.

    nodes: the children of each: a site 0 .. nsites - 1, a node nsites + i, `END`, `OPEN` or `SHUT`;
    bonds: the nodes below all bonds, in the order that users know.
    """

    nsites: int
    nodes: tuple[tuple[int, ...], ...]
    bonds: tuple[int, ...]

    @cached_property
    def parents(self):
        """For every node but the root its parent and which child of that it is."""
        found = {
            child - self.nsites: (i, slot)
            for i, children in enumerate(self.nodes)
            for slot, child in enumerate(children)
            if child >= self.nsites
        }
        return tuple(found[i] for i in range(len(self.nodes) - 1))

    @cached_property
    def is_open(self):
        """Whether there are outputs besides those of the root."""
        return any(OPEN in children for children in self.nodes)

    def below(self, node):
        """The nodes among the children of a node."""
        return [child - self.nsites for child in self.nodes[node] if child >= self.nsites]


@singledispatch
def rooted(structure):
    """The `Rooted` form of a packed network's structure; ValueError for other geometries."""
    raise _refusal(structure)


def _refusal(structure):
    name = type(structure).__name__.removesuffix("Structure").lower()
    return ValueError(
        f"Sweeps need open chains or trees, this is a {name} network: train it by gradients."
    )


@singledispatch
def to_nodes(structure, packed):
    """Cores of the nodes, (*children, up) each, and the sizes of the bonds above all but the root.

    The root's last axis are its outputs, flattened. All in NumPy, which compiles nothing.
    """
    raise _refusal(structure)


@singledispatch
def from_nodes(structure, cores, ranks):
    """``(packed, structure)`` of cores as from `to_nodes`, bonds above nodes cut to `ranks`."""
    raise _refusal(structure)


# Chains -------------------------------------------------------------------------------------------


def _arms(n, c, leaves):
    """Nodes of a chain: the left arm and the right one, outermost first, and the center c."""
    left = [(END if i == 0 else n + i - 1, *leaves[i]) for i in range(c)]
    right = [(END if i == n - 1 else n + c + n - 2 - i, *leaves[i]) for i in range(n - 1, c, -1)]
    top = (n + c - 1 if c > 0 else END, *leaves[c], n + n - 2 if c < n - 1 else END)
    return (*left, *right, top)


def _bonds_of_arms(n, c):
    return (*range(c), *reversed(range(c, n - 1)))


@rooted.register
def _rooted_chain(structure: ChainStructure):
    if structure.cyclic:
        raise ValueError("Sweeps need open ends: use cyclic=False, or train by gradients.")
    n, c = structure.nsites, structure.center
    return Rooted(n, _arms(n, c, [(i,) for i in range(n)]), _bonds_of_arms(n, c))


@to_nodes.register
def _chain_to_nodes(structure: ChainStructure, packed):
    left, center, right = (np.asarray(packed[name]) for name in ("left", "center", "right"))
    bond, phys = center.shape[:2]
    center = np.moveaxis(center, -1, 2).reshape(bond, phys, bond, -1)
    ranks = structure.bond_dims[1:-1]
    c = structure.center
    return [*left, *right[::-1], center], (*ranks[:c], *ranks[c:][::-1])


@from_nodes.register
def _chain_from_nodes(structure: ChainStructure, cores, ranks):
    c, n = structure.center, structure.nsites
    bond = max(core.shape[-1] for core in cores[:-1]) if n > 1 else 1
    phys = structure.phys_dim
    center = cores[-1].reshape(*cores[-1].shape[:3], *structure.output_dims)

    def stack(part):
        return jnp.asarray(
            np.stack(part) if part else np.zeros((0, bond, phys, bond), center.dtype)
        )

    packed = {
        "left": stack(cores[:c]),
        "center": jnp.asarray(np.moveaxis(center, 2, -1)),
        "right": stack(cores[c : n - 1][::-1]),
    }
    bond_dims = (1, *ranks[:c], *ranks[c:][::-1], 1)
    return packed, dataclasses.replace(structure, bond_dims=bond_dims)


# Operators ----------------------------------------------------------------------------------------


@rooted.register
def _rooted_operator(structure: OperatorStructure):
    raise ValueError(
        "Sweeps see an operator's outputs through their squared norm, as losses of densities do: "
        "train it on another loss by gradients."
    )


def _rooted_squared_operator(structure):
    if structure.cyclic:
        raise ValueError("Sweeps need open ends: use cyclic=False, or train by gradients.")
    n = structure.nsites
    # Every node has a leaf for an output, so that all share compiled code.
    leaves = [(i, OPEN if i in structure.output_sites else SHUT) for i in range(n)]
    return Rooted(n, _arms(n, n // 2, leaves), _bonds_of_arms(n, n // 2))


@to_nodes.register
def _operator_to_nodes(structure: OperatorStructure, packed):
    c = structure.nsites // 2
    plain, output = (np.asarray(packed[name]) for name in ("plain", "output"))
    plain = np.pad(plain[:, :, :, None], [(0, 0)] * 3 + [(0, output.shape[3] - 1), (0, 0)])
    cores = np.concatenate([plain, output])[structure.order]
    found = [*cores[:c], *cores[:c:-1].swapaxes(1, -1), cores[c][..., None]]
    ranks = structure.bond_dims[1:-1]
    return found, (*ranks[:c], *ranks[c:][::-1])


@from_nodes.register
def _operator_from_nodes(structure: OperatorStructure, cores, ranks):
    n, c = structure.nsites, structure.nsites // 2
    bond = cores[0].shape[-1] if n > 1 else 1
    inner = [core.swapaxes(0, -1) for core in cores[c : n - 1][::-1]]
    cores = [*cores[:c], cores[-1][:bond, ..., :bond, 0], *inner]
    plain = [core[:, :, 0] for i, core in enumerate(cores) if i not in structure.output_sites]
    none = np.zeros((0, bond, structure.phys_dim, bond), cores[0].dtype)
    packed = {
        "plain": jnp.asarray(np.stack(plain) if plain else none),
        "output": jnp.asarray(np.stack([cores[i] for i in structure.output_sites])),
    }
    bond_dims = (1, *ranks[:c], *ranks[c:][::-1], 1)
    return packed, dataclasses.replace(structure, bond_dims=bond_dims)


# Trees --------------------------------------------------------------------------------------------


@rooted.register
def _rooted_tree(structure: TreeStructure):
    tree = structure.tree
    return Rooted(tree.nsites, tree.nodes, tuple(range(len(tree.nodes) - 1)))


@to_nodes.register
def _tree_to_nodes(structure: TreeStructure, packed):
    cores = [None] * len(structure.tree.nodes)
    for layer, stacked in zip(_layers(structure.tree), packed, strict=True):
        for i, core in zip(layer, np.asarray(stacked), strict=True):
            cores[i] = core
    return cores, structure.bond_dims


@from_nodes.register
def _tree_from_nodes(structure: TreeStructure, cores, ranks):
    packed = []
    for layer in _layers(structure.tree):
        shape = np.max([cores[i].shape for i in layer], axis=0)
        padded = [
            np.pad(cores[i], [(0, n - m) for n, m in zip(shape, cores[i].shape)]) for i in layer
        ]
        packed.append(jnp.asarray(np.stack(padded)))
    return tuple(packed), dataclasses.replace(structure, bond_dims=tuple(ranks))


# Squared norms ------------------------------------------------------------------------------------


@rooted.register
def _rooted_squared(structure: SquaredNorm):
    if isinstance(structure.structure, OperatorStructure):
        return _rooted_squared_operator(structure.structure)
    return rooted(structure.structure)


@to_nodes.register
def _squared_to_nodes(structure: SquaredNorm, packed):
    return to_nodes(structure.structure, packed)


@from_nodes.register
def _squared_from_nodes(structure: SquaredNorm, cores, ranks):
    packed, inner = from_nodes(structure.structure, cores, ranks)
    return packed, dataclasses.replace(structure, structure=inner)
