"""Trees: a scan over the nodes of one shape, with its own backward pass."""

import dataclasses
from functools import partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

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
        """Node by node, from the leaves up."""
        leaves = phi.transpose(1, 2, 0).astype(packed[0].dtype)
        value, exponent = climb(self.tree, packed, leaves)
        return Amplitude(value.T.reshape(phi.shape[0], *self.output_dims), exponent)

    def log_norm_squared(self, packed):
        grams, exponent = {}, jnp.zeros((), jnp.int32)
        for number, (cores, slots) in enumerate(zip(packed, _sources(self.tree), strict=True)):
            below = tuple(
                None if slot is None else _gather(grams, slot, size)
                for slot, size in zip(slots, cores.shape[1:-1])
            )
            grams[number], exponents = overlaps(cores, below)
            exponent = exponent + jnp.sum(exponents, dtype=jnp.int32)
        norm = jnp.trace(grams[len(packed) - 1][0])
        return jnp.log(norm) + Amplitude(norm, exponent).log_scale

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


class _Run(NamedTuple):
    """Nodes that one scan visits: cores of one shape, leaves in the same places.

    kind: numbers of all layers of such nodes, whose cores are stacked; places: which of these cores
    the nodes have, (n,); nodes: their numbers, (n,); children: numbers of leaves and of nodes,
    (n, k); leafy: whether each child is a leaf, (k,).
    """

    kind: tuple[int, ...]
    places: np.ndarray
    nodes: np.ndarray
    children: np.ndarray
    leafy: tuple[bool, ...]


@bounded_cache(256)
def _runs(tree, shapes):
    """Few runs that visit every node but the root, and that after its children.

    XLA compiles each for a tenth of a second or two, so layers of one shape share theirs. Next is
    always the kind of which the largest share can be visited. shapes: of a core of every layer.
    """
    kinds = {}
    for number, (layer, shape) in enumerate(zip(_layers(tree)[:-1], shapes)):
        leafy = tuple(child < tree.nsites for child in tree.nodes[layer[0]])
        kinds.setdefault((leafy, shape), []).append(number)
    nodes = {
        kind: [i for n in numbers for i in _layers(tree)[n]] for kind, numbers in kinds.items()
    }
    waiting, known, runs = dict(nodes), set(range(tree.nsites)), []

    def ready(kind):
        reached, found = set(known), []
        for i in waiting[kind]:
            if reached.issuperset(tree.nodes[i]):
                reached.add(tree.nsites + i)
                found.append(i)
        return found

    while waiting:
        visited = {kind: ready(kind) for kind in waiting}
        kind = max(waiting, key=lambda kind: len(visited[kind]) / len(waiting[kind]))
        now = visited[kind]
        known.update(tree.nsites + i for i in now)
        runs.append(_run(tree, tuple(kinds[kind]), nodes[kind], now))
        waiting[kind] = [i for i in waiting[kind] if i not in now]
        if not waiting[kind]:
            del waiting[kind]
    return tuple(runs)


def _run(tree, kind, nodes, visited):
    """The run that visits some of the nodes of a kind."""
    places = np.array([nodes.index(i) for i in visited])
    children = np.array([tree.nodes[i] for i in visited])
    leafy = children[0] < tree.nsites
    children = np.where(leafy, children, children - tree.nsites)
    # Unsigned numbers spare a program the question whether they count from the end.
    numbers = np.array(visited, np.uint32), children.astype(np.uint32)
    return _Run(kind, places, *numbers, tuple(leafy.tolist()))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def climb(tree, packed, leaves):
    """Outputs of a tree from the vectors at its leaves.

    tree: a Tree; packed: the cores of its layers, (nodes, *children, up) each; leaves: (nsites,
    phys_dim, batch). Returns the outputs (up, batch) and the exponents (batch,) of the powers of
    two by which they have to be multiplied, which are constant under differentiation. A node costs
    one GEMM on the Khatri-Rao product of its children, forward; two, backward.
    """
    return _climb_forward(tree, packed, leaves)[0]


def _climb_forward(tree, packed, leaves):
    *runs, top = _with_cores(tree, packed)
    # Every vector has rows enough for the longest, and zeros in those that it does not need: more
    # memory than layer by layer, for few loops.
    width = max((cores.shape[-1] for cores in packed[:-1]), default=1)
    below = leaves, jnp.zeros((len(tree.nodes) - 1, width, leaves.shape[2]), leaves.dtype)

    def vector_above(below, core, children, run, sizes):
        u = lax.dot_general(core, khatri_rao(*_vectors(below, children, run, sizes)), _FIRST)
        e = exponent_of(u)
        return times_power_of_two(u, -e), e

    exponents = []
    for run, cores, sizes in runs:

        def node(vectors, inputs, run=run, sizes=sizes):
            core, children, own = inputs
            u, e = vector_above((leaves, vectors), core, children, run, sizes)
            return _put(vectors, own, u), e

        vectors, e = lax.scan(node, below[1], (cores, run.children, run.nodes))
        below = leaves, vectors
        exponents.append(e)
    run, (core,), sizes = top
    u, e = vector_above(below, core, run.children[0], run, sizes)
    exponents.append(e[None])
    total = jnp.sum(jnp.concatenate(exponents), axis=0, dtype=jnp.int32)
    return (u, total), (packed, below, exponents)


def _climb_backward(tree, residuals, cotangent):
    packed, below, exponents = residuals
    *runs, top = _with_cores(tree, packed)
    # Cotangents of the leaves have an array of their own, which is dropped where nobody asks.
    above = jax.tree.map(jnp.zeros_like, below)

    def descend(above, g, core, e, children, run, sizes):
        """Cotangents with those of the children of a node put in place, and that of its core."""
        vectors = _vectors(below, children, run, sizes)
        g = times_power_of_two(g, -e)
        d_core = lax.dot_general(khatri_rao(*vectors), g, _LAST)
        # From the last child to the first: the product of those before it stays an array.
        d, d_vectors = core @ g, []
        for j in range(len(vectors) - 1, 0, -1):
            before = khatri_rao(*vectors[:j])
            d = d.reshape(len(before), len(vectors[j]), -1)
            d_vectors.append(jnp.sum(d * before[:, None], axis=0))
            d = jnp.sum(d * vectors[j][None], axis=1)
        above = list(above)
        for leaf, i, vector in zip(run.leafy, children, (d, *reversed(d_vectors)), strict=True):
            part = 0 if leaf else 1
            above[part] = _put(above[part], i, vector)
        return tuple(above), d_core

    run, (core,), sizes = top
    above, d_core = descend(
        above, cotangent[0], core, exponents[-1][0], run.children[0], run, sizes
    )
    found = {run.kind: [(run.places, d_core[None])]}
    for (run, cores, sizes), e in reversed([*zip(runs, exponents)]):

        def node(above, inputs, run=run, sizes=sizes, rank=cores.shape[-1]):
            core, e, children, own = inputs
            return descend(above, _get(above[1], own, rank), core, e, children, run, sizes)

        inputs = cores, e, run.children, run.nodes
        above, d_cores = lax.scan(node, above, inputs, reverse=True)
        found.setdefault(run.kind, []).append((run.places, d_cores))
    d_packed = [None] * len(packed)
    for kind, parts in found.items():
        places, d_cores = zip(*parts)
        d_cores = _ordered(jnp.concatenate(d_cores), np.argsort(np.concatenate(places)))
        d_cores = d_cores.reshape(-1, *packed[kind[0]].shape[1:])
        ends = np.cumsum([len(packed[number]) for number in kind])[:-1]
        for number, part in zip(kind, jnp.split(d_cores, ends)):
            d_packed[number] = part
    return tuple(d_packed), above[0]


climb.defvjp(_climb_forward, _climb_backward)

_ZERO = np.uint32(0)
# Contracted axes of the products of two matrices.
_FIRST, _LAST = ((((axis,), (axis,)), ((), ())) for axis in (0, 1))


def _with_cores(tree, packed):
    """Runs, that of the root last, with their cores as matrices and the sizes of their children."""
    last, root = len(packed) - 1, len(tree.nodes) - 1
    runs = _runs(tree, tuple(cores.shape[1:] for cores in packed[:-1]))
    runs = *runs, _run(tree, (last,), [root], [root])
    parts = {}
    for kind in dict.fromkeys(run.kind for run in runs):
        # In the order of the visits, so that a run's are a slice.
        places = [run.places for run in runs if run.kind == kind]
        stack = jnp.concatenate([packed[number] for number in kind])
        stack = stack.reshape(len(stack), -1, stack.shape[-1])
        stack = _ordered(stack, np.concatenate(places))
        parts[kind] = iter(jnp.split(stack, np.cumsum([*map(len, places)])[:-1]))
    return [(run, next(parts[run.kind]), packed[run.kind[0]].shape[1:-1]) for run in runs]


def _ordered(stack, places):
    """stack[places], the stack itself where these are all in order."""
    return stack if np.array_equal(places, np.arange(len(stack))) else stack[places]


def _get(vectors, i, size):
    """First `size` rows of a vector, (size, batch)."""
    return lax.dynamic_slice(vectors, (i, _ZERO, _ZERO), (1, size, vectors.shape[2]))[0]


@jax.custom_jvp
def _put(vectors, i, vector):
    """Vectors of which number i begins with these rows."""
    return _put_of_members(vectors, i, vector)


def _put_plainly(vectors, i, vector):
    return lax.dynamic_update_slice(vectors, vector[None], (i, _ZERO, _ZERO))


@_put.defjvp
def _(primals, tangents):
    # What JAX maps by rules of its own it cannot transpose, as second derivatives want it.
    return _put(*primals), _put_plainly(tangents[0], primals[1], tangents[2])


_put_of_members = custom_vmap(_put_plainly)


@_put_of_members.def_vmap
def _(axis_size, batched, vectors, i, vector):
    # JAX would scatter, with a look whether i is in bounds: steps would take a fifth longer.
    vectors, vector = (
        x if own else jnp.broadcast_to(x, (axis_size, *x.shape))
        for x, own in zip((vectors, vector), (batched[0], batched[2]))
    )
    return lax.dynamic_update_slice(vectors, vector[:, None], (_ZERO, i, _ZERO, _ZERO)), True


def _vectors(below, children, run, sizes):
    """Vectors of the children of a node, from those of leaves and those of nodes."""
    leaves, nodes = below
    places = zip(run.leafy, children, sizes, strict=True)
    return [_get(leaves if leaf else nodes, i, size) for leaf, i, size in places]


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
        g = (g + g.T) / 2 * power_of_two(-e, g.dtype)
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

    None for a slot of leaves. Nodes of one slot may come from several layers, which are read one
    after the other; the last entry of a slot puts them into order, None where they are.
    """
    layers, place = _layers(tree), {}
    for number, layer in enumerate(layers):
        place |= {tree.nsites + i: (number, position) for position, i in enumerate(layer)}
    return tuple(
        tuple(_parts(slot, place) for slot in zip(*(tree.nodes[i] for i in layer), strict=True))
        for layer in layers
    )


def _parts(slot, place):
    """Parts that the nodes of a slot are read from, and their order."""
    if slot[0] not in place:
        return None
    places = [place[child] for child in slot]
    parts, order = [], []
    for source in sorted({source for source, _ in places}):
        mine = [i for i, (where, _) in enumerate(places) if where == source]
        parts.append((source, tuple(places[i][1] for i in mine)))
        order += mine
    back = tuple(np.argsort(order).tolist())
    return tuple(parts), None if back == tuple(range(len(back))) else back


def _read(grams, positions):
    """grams[positions], as a slice where the positions are evenly spaced."""
    steps = set(np.diff(positions).tolist())
    if len(steps) <= 1 and min(steps, default=1) > 0:
        return grams[positions[0] : positions[-1] + 1 : min(steps, default=1)]
    return grams[np.array(positions)]


def _gather(grams, slot, size):
    """Gram matrices of the children in one slot of a layer, (nodes, size, size)."""
    parts, order = slot
    found = []
    for source, positions in parts:
        # What a layer is padded to may be more or less than what these children need.
        part = _read(grams[source], positions)[:, :size, :size]
        missing = (0, size - part.shape[1])
        found.append(jnp.pad(part, [(0, 0), missing, missing]))
    gathered = jnp.concatenate(found) if len(found) > 1 else found[0]
    return gathered if order is None else gathered[np.array(order)]
