"""Trees: a scan over the nodes of a layer, with its own backward pass."""

import dataclasses
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _precise as precise
from .._amplitude import Amplitude, exponent_of, power_of_two, times_power_of_two
from .._compiled import bounded_cache
from .._registry import variant
from ..networks import TTN, Tree, as_network
from ._pack import common_dtype, khatri_rao, pack, spread, stacked
from ._structure import Rooted, Structure, attributes

_NAMES = "output_inds", "site_ind_id", "site_tag_id", "node_tag_id"


@variant("structure", "tree")
class TreeStructure(Structure):
    """A packed tree besides its arrays.

    The arrays are one per layer, (nodes, *children, up): a layer holds the nodes of one height
    whose children are leaves and nodes in the same pattern. The last holds the root, outputs
    flattened.

    Parameters
    ----------
    tree : Tree, which nodes join which
    bond_dims : tuple of int, size of the bond above each node but the root
    phys_dims : tuple of int, one per site
    output_inds, output_dims : tuple, names and sizes of the outputs
    site_ind_id, site_tag_id, node_tag_id : str, those of the `TTN`
    """

    tree: Tree
    bond_dims: tuple[int, ...]
    phys_dims: tuple[int, ...]
    output_inds: tuple[str, ...] = ()
    output_dims: tuple[int, ...] = ()
    site_ind_id: str = "k{}"
    site_tag_id: str = "I{}"
    node_tag_id: str = "N{}"

    n_tensors = property(lambda self: len(self.tree.nodes))

    @property
    def max_degree(self):
        """Largest number of bonds of a node, to nodes below it and, but at the root, up."""
        *below, root = (sum(i >= self.nsites for i in node) for node in self.tree.nodes)
        return max([root, *(1 + n for n in below)])

    rooted_needs = None
    # The root is alone in the last layer.
    output_tensors = property(lambda self: (*[0] * (len(_layers(self.tree)) - 1), 1))

    def unpack(self, packed):
        tree, sizes = self.tree, self.phys_dims + self.bond_dims
        arrays = self.to_nodes(packed)[0]
        for i, core in enumerate(arrays):
            below = [sizes[child] for child in tree.nodes[i]]
            up = self.output_dims if i == len(arrays) - 1 else (self.bond_dims[i],)
            core = core[tuple(map(slice, (*below, prod(up))))]
            arrays[i] = np.ascontiguousarray(core.reshape(*below, *up))
        return TTN(arrays, tree, **attributes(self, *_NAMES))

    def contract(self, packed, phi):
        """Layer by layer, from the leaves up."""
        states = {-1: phi.transpose(1, 2, 0).astype(packed[0].dtype)}
        total = jnp.zeros(phi.shape[0], jnp.int32)
        for number, (cores, slots) in enumerate(zip(packed, _sources(self.tree), strict=True)):
            sizes = cores.shape[1:-1]
            children = tuple(_gather(states, slot, (size,)) for slot, size in zip(slots, sizes))
            states[number], exponents = merge(cores, children)
            total = total + jnp.sum(exponents, axis=0, dtype=jnp.int32)
        value = states[len(packed) - 1][0].T
        return Amplitude(value.reshape(phi.shape[0], *self.output_dims), total)

    def log_norm_squared(self, packed):
        grams, exponent = {}, jnp.zeros((), jnp.int32)
        for number, (cores, slots) in enumerate(zip(packed, _sources(self.tree), strict=True)):
            below = tuple(
                None if slot[0][0][0] < 0 else _gather(grams, slot, (size, size))
                for slot, size in zip(slots, cores.shape[1:-1])
            )
            grams[number], exponents = overlaps(cores, below)
            exponent = exponent + jnp.sum(exponents, dtype=jnp.int32)
        return Amplitude(jnp.trace(grams[len(packed) - 1][0]), exponent).log_abs()

    def rooted(self):
        """The tree itself."""
        return Rooted(self.nsites, self.tree.nodes, tuple(range(len(self.tree.nodes) - 1)))

    def to_nodes(self, packed):
        cores = [None] * len(self.tree.nodes)
        for layer, stack in zip(_layers(self.tree), packed, strict=True):
            for i, core in zip(layer, np.asarray(stack), strict=True):
                cores[i] = core
        return cores, self.bond_dims

    def from_nodes(self, cores, ranks):
        structure = dataclasses.replace(self, bond_dims=tuple(ranks))
        return _stacked(structure, cores, cores[-1].dtype), structure


@pack.register
def _(ttn: TTN):
    tree, cores = ttn.tree, ttn.cores()
    if cores is None:
        return pack(as_network(ttn, ttn.output_inds, ttn.site_ind_id))
    dtype = common_dtype(cores)
    below = len(tree.nodes[-1])
    output_dims = cores[-1].shape[below:]
    cores[-1] = cores[-1].reshape(*cores[-1].shape[:below], prod(output_dims))
    cores = spread(cores, ttn.exponent)
    bond_dims = tuple(core.shape[-1] for core in cores[:-1])
    phys_dims = tuple(ttn.ind_size(ttn.site_ind(i)) for i in range(tree.nsites))
    names = attributes(ttn, *_NAMES)
    structure = TreeStructure(tree, bond_dims, phys_dims, output_dims=output_dims, **names)
    return _stacked(structure, cores, dtype), structure


def _stacked(structure, cores, dtype):
    """Packed layers of the cores of all nodes."""
    tree, packed = structure.tree, []
    for layer in _layers(tree):
        shape = np.max([cores[i].shape for i in layer], axis=0)
        leaves = [axis for axis, child in enumerate(tree.nodes[layer[0]]) if child < tree.nsites]
        shape[leaves] = structure.phys_dim
        packed.append(stacked([cores[i] for i in layer], shape, dtype))
    return tuple(packed)


@bounded_cache(256)
def _layers(tree):
    """Numbers of the nodes of every layer, from the leaves up; the root is alone in the last."""
    layers = {}
    for i, (children, height) in enumerate(zip(tree.nodes, tree.heights, strict=True)):
        pattern = tuple(child < tree.nsites for child in children)
        layers.setdefault((height, len(children), pattern), []).append(i)
    return tuple(tuple(layers[key]) for key in sorted(layers))


@jax.custom_vjp
def merge(cores, children):
    """States above the nodes of a layer from the states below them.

    cores: (nodes, *children, up); children: one (nodes, size, batch) a child. Returns the states
    (nodes, up, batch) and the exponents (nodes, batch) of the powers of two by which they have to
    be multiplied. A node costs one GEMM on the Khatri-Rao product of its children, forward; two,
    backward. The exponents are constant under differentiation.
    """
    return _merge_forward(cores, children)[0]


def _merge_forward(cores, children):
    def node(_, inputs):
        core, vectors = inputs
        u = lax.dot_general(core, khatri_rao(*vectors), (((0,), (0,)), ((), ())))
        e = exponent_of(u)
        return None, (times_power_of_two(u, -e), e)

    flat = cores.reshape(len(cores), -1, cores.shape[-1])
    _, result = lax.scan(node, None, (flat, children))
    return result, (cores, children, result[1])


def _merge_backward(residuals, cotangent):
    cores, children, exponents = residuals

    def node(_, inputs):
        core, vectors, e, g = inputs
        g = times_power_of_two(g, -e)
        d_core = lax.dot_general(khatri_rao(*vectors), g, (((1,), (1,)), ((), ())))
        # From the last child to the first: the product of those before it stays an array.
        d, d_vectors = core @ g, []
        for j in range(len(vectors) - 1, 0, -1):
            before = khatri_rao(*vectors[:j])
            d = d.reshape(len(before), len(vectors[j]), -1)
            d_vectors.append(jnp.sum(d * before[:, None], axis=0))
            d = jnp.sum(d * vectors[j][None], axis=1)
        d_vectors = (d, *reversed(d_vectors))
        return None, (d_core, d_vectors)

    flat = cores.reshape(len(cores), -1, cores.shape[-1])
    _, (d_cores, d_children) = lax.scan(node, None, (flat, children, exponents, cotangent[0]))
    return d_cores.reshape(cores.shape), d_children


merge.defvjp(_merge_forward, _merge_backward)


@jax.custom_vjp
def overlaps(cores, grams):
    """Gram matrices of the states above the nodes of a layer from those of the states below them.

    cores: (nodes, *children, up); grams: one (nodes, size, size), symmetric, a child, None for a
    site. Returns the matrices (nodes, up, up) and the exponents (nodes,) of the powers of two by
    which they have to be multiplied, constant under differentiation. Both layers' gradients are
    equal, so that one of them is computed.
    """
    return _overlaps_forward(cores, grams)[0]


def _overlaps_forward(cores, grams):
    @jax.vmap
    def node(core, grams):
        half = _applied(core, *grams)
        gram = _overlap(half, core, core.ndim - 1)
        # No overlap is larger than the largest of a state with itself.
        e = exponent_of(jnp.diagonal(gram)[:, None])[0]
        return (gram * power_of_two(-e, gram.dtype), e), half

    result, halves = node(cores, grams)
    return result, (cores, grams, halves, result[1])


def _overlaps_backward(residuals, cotangent):
    @jax.vmap
    def node(core, grams, half, e, g):
        # A cotangent may lack the symmetry of the matrices; the rest of it changes nothing.
        g = (g + g.T) * power_of_two(-e - 1, g.dtype)
        nothing = [None] * len(grams)
        above = _applied(core, *nothing, g)
        d_grams = list(nothing)
        for j, gram in enumerate(grams):
            if gram is not None:
                d_grams[j] = _overlap(_applied(above, *grams[:j], None, *grams[j + 1 :]), core, j)
        return 2 * _applied(half, *nothing, g), tuple(d_grams)

    return node(*residuals, cotangent[0])


overlaps.defvjp(_overlaps_forward, _overlaps_backward)


def _applied(core, *matrices):
    """A core after a symmetric matrix, or None for the identity, at each of its first axes."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            core = jnp.moveaxis(precise.tensordot(core, matrix, (axis, 0)), -1, axis)
    return core


def _overlap(half, core, axis):
    """Sum over all axes but one."""
    others = [i for i in range(core.ndim) if i != axis]
    return precise.tensordot(half, core, (others, others))


@bounded_cache(256)
def _sources(tree):
    """For each layer and child slot, which parts of which layers to read: (layer, positions).

    Layer -1 are the leaves. Nodes of one slot may come from several layers, which are read one
    after the other; the last entry of a slot puts them into order, None where they are.
    """
    layers = _layers(tree)
    place = {i: (-1, i) for i in range(tree.nsites)}
    for number, layer in enumerate(layers):
        place |= {tree.nsites + i: (number, position) for position, i in enumerate(layer)}
    found = []
    for layer in layers:
        slots = []
        for slot in zip(*(tree.nodes[i] for i in layer), strict=True):
            places = [place[child] for child in slot]
            parts, order = [], []
            for source in sorted({source for source, _ in places}):
                mine = [i for i, (where, _) in enumerate(places) if where == source]
                parts.append((source, tuple(places[i][1] for i in mine)))
                order += mine
            back = tuple(np.argsort(order).tolist())
            slots.append((tuple(parts), None if back == tuple(range(len(back))) else back))
        found.append(tuple(slots))
    return tuple(found)


def _read(states, positions):
    """states[positions], as a slice where the positions are evenly spaced."""
    steps = set(np.diff(positions).tolist())
    if len(steps) <= 1 and min(steps, default=1) > 0:
        return states[positions[0] : positions[-1] + 1 : min(steps, default=1)]
    return states[np.array(positions)]


def _gather(states, slot, sizes):
    """States of the children in one slot of a layer, (nodes, *sizes, ...)."""
    parts, order = slot
    found = []
    for source, positions in parts:
        # What a layer is padded to may be more or less than what these children need.
        part = _read(states[source], positions)[(slice(None), *map(slice, sizes))]
        missing = [(0, size - have) for size, have in zip(sizes, part.shape[1:])]
        found.append(jnp.pad(part, [(0, 0), *missing, *[(0, 0)] * (part.ndim - 1 - len(sizes))]))
    gathered = jnp.concatenate(found) if len(found) > 1 else found[0]
    return gathered if order is None else gathered[np.array(order)]
