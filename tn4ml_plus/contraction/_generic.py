"""Networks of any geometry: a pairwise path found once, with the batch as a hyper-index."""

import dataclasses
from bisect import bisect_left
from functools import partial
from itertools import chain
from math import log2, log10, prod

import cotengra
import jax
import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn
from jax import lax

from .. import _precise as precise
from .._amplitude import Amplitude, exponent_of, power_of_two
from .._arrays import on_device
from .._compiled import bounded_cache
from .._registry import variant
from ..errors import ContractionTooLargeError
from ..networks import MERA, Network, as_network, from_quimb
from ._pack import common_dtype, pack, padded, spread
from ._structure import Structure, attributes

# Elements of the largest intermediate of a contraction: 1 GiB of float32.
MAX_INTERMEDIATE = 2**28
_BATCH = -1


@variant("structure", "generic")
class GenericStructure(Structure):
    """A packed network of any geometry besides its arrays, one per tensor.

    The arrays are zero-padded to the largest phys_dim along the inputs.

    Parameters
    ----------
    inds : tuple of tuple
        Indices of each tensor: inputs and outputs by name, bonds numbered in order of appearance,
        so that networks of one geometry have equal structures whatever their bonds are called.
    shapes, tags : tuple of tuple, one per tensor
    left_inds : tuple, for each tensor None or the inputs of an isometry
    nsites : int, number of inputs
    output_inds : tuple of str, names of the outputs
    site_ind_id : str, format of the names of the inputs
    """

    inds: tuple[tuple[int | str, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    tags: tuple[tuple[str, ...], ...]
    left_inds: tuple[tuple[int | str, ...] | None, ...]
    nsites: int = dataclasses.field()
    output_inds: tuple[str, ...] = ()
    site_ind_id: str = "k{}"

    #: Size of every index, a dict; names of the inputs, one per site.
    dims = property(lambda self: dict(zip(chain(*self.inds), chain(*self.shapes))))
    input_inds = property(lambda self: tuple(map(self.site_ind_id.format, range(self.nsites))))
    output_dims = property(lambda self: tuple(map(self.dims.get, self.output_inds)))
    phys_dims = property(lambda self: tuple(map(self.dims.get, self.input_inds)))
    n_tensors = property(lambda self: len(self.inds))

    @property
    def output_tensors(self):
        """Those with outputs."""
        return tuple(int(not {*inds}.isdisjoint(self.output_inds)) for inds in self.inds)

    def padded(self, phys_dim=None):
        """Structure with every site's phys_dim that of the packed arrays."""
        return self._resized(dict.fromkeys(self.input_inds, phys_dim or self.phys_dim))

    def capped(self, bond_dim):
        """Structure with no bond larger than `bond_dim`."""
        bonds = {ind: n for ind, n in self.dims.items() if isinstance(ind, int)}
        return self._resized({ind: min(n, bond_dim) for ind, n in bonds.items()})

    def _resized(self, dims):
        dims = self.dims | dims
        shapes = tuple(tuple(map(dims.get, inds)) for inds in self.inds)
        return dataclasses.replace(self, shapes=shapes)

    @property
    def max_degree(self):
        """Largest number of bonds at one tensor."""
        return max(sum(isinstance(ind, int) for ind in inds) for inds in self.inds)

    @property
    def max_bond(self):
        """Size of the largest bond, 1 without one."""
        return max((n for ind, n in self.dims.items() if isinstance(ind, int)), default=1)

    def smaller(self, fits):
        """Words for the largest networks like this one that fit, a list; fits: of a structure."""
        bond_dim = largest_fitting(lambda b: fits(self.capped(b)), self.max_bond)
        return [f"a smaller bond_dim, at most {bond_dim}"] if bond_dim > 1 else []

    def view(self, network):
        """A quimb network of this structure as the class that was packed."""
        return from_quimb(network, self.output_inds, self.site_ind_id)

    def unpack(self, packed):
        """A `Network`, or the class that was packed."""
        number = {ind: ind for ind in self.dims}
        number |= {ind: qtn.rand_uuid() for ind in number if isinstance(ind, int)}

        def named(inds):
            return None if inds is None else [number[ind] for ind in inds]

        tensors, fields = [], (self.shapes, self.inds, self.tags, self.left_inds)
        for array, shape, inds, tags, left_inds in zip(packed, *fields):
            data = np.asarray(array)[(*map(slice, shape), ...)]
            tensors.append(qtn.Tensor(data, named(inds), tags, left_inds=named(left_inds)))
        return self.view(qtn.TensorNetwork(tensors, virtual=True))

    def contract(self, packed, phi):
        def terms(structure):
            """Indices of the arrays and the embedded samples, indices of the result, sizes."""
            inputs = structure.inds + tuple((_BATCH, ind) for ind in structure.input_inds)
            dims = structure.padded().dims | {_BATCH: len(phi)}
            return inputs, (_BATCH, *structure.output_inds), dims

        inputs, steps = _plan(terms, self)
        vectors = [phi[:, i].astype(packed[0].dtype) for i in range(self.nsites)]
        value, exponent = _execute(steps, [*packed, *vectors], inputs)
        return Amplitude(value, exponent)

    def log_norm_squared(self, packed):
        inputs, steps = _plan(_norm_terms, self)
        value, exponent = _execute(steps, [*packed, *packed], inputs, precise.einsum)
        return jnp.log(value) + exponent[0].astype(value.dtype) * np.log(2.0).astype(value.dtype)


def largest_fitting(fits, limit):
    """Largest of 1, 2, ..., limit - 1 that fits, where all below fit too; 0 if none does."""
    return bisect_left(range(1, limit), True, key=lambda n: not fits(n))


@pack.register
def _(network: qtn.TensorNetwork):
    found = from_quimb(network)
    # A class with inputs and outputs, but with no kernel of its own.
    if found is network:
        found = as_network(found, found.output_inds, getattr(found, "site_ind_id", "k{}"))
    return pack(found)


@pack.register
def _(network: Network):
    return pack_as(GenericStructure, network)


def pack_as(cls, network, **fields):
    """Pack a network of any geometry as a `GenericStructure` or a subclass with more fields."""
    found = as_network(network, network.output_inds, network.site_ind_id)
    if found.nsites != network.nsites:
        return pack(found)
    structure, arrays = cls(**fields_of(found), **fields), [t.data for t in found]
    dtype = common_dtype(arrays)
    arrays = map(padded, spread(arrays, found.exponent), structure.padded().shapes)
    return tuple(on_device(array, dtype) for array in arrays), structure


def fields_of(network):
    """Those of `GenericStructure`."""
    tensors = list(network)
    names = {network.site_ind(i) for i in range(network.nsites)} | set(network.output_inds)
    bonds = dict.fromkeys(ind for t in tensors for ind in t.inds if ind not in names)
    number = {ind: ind for ind in names} | {ind: i for i, ind in enumerate(bonds)}

    def numbered(inds):
        return None if inds is None else tuple(number[ind] for ind in inds)

    return {
        "inds": tuple(numbered(t.inds) for t in tensors),
        "shapes": tuple(tuple(t.shape) for t in tensors),
        "tags": tuple(tuple(t.tags) for t in tensors),
        "left_inds": tuple(numbered(t.left_inds) for t in tensors),
        **attributes(network, "nsites", "output_inds", "site_ind_id"),
    }


@dataclasses.dataclass(frozen=True)
class _Step:
    """Operands `i` < `j` leave the list of operands and their product joins its end."""

    i: int
    j: int
    inds_i: tuple
    inds_j: tuple
    out: tuple

    @property
    def equation(self):
        """The step in the words of einsum, for stacks of operands."""
        letter = {None: cotengra.get_symbol(0)}
        for ind in self.inds_i + self.inds_j:
            letter.setdefault(ind, cotengra.get_symbol(len(letter)))
        terms = ((None, *inds) for inds in (self.inds_i, self.inds_j, self.out))
        a, b, c = ("".join(map(letter.get, inds)) for inds in terms)
        return f"{a},{b}->{c}"


@bounded_cache(1024)
def _find_steps(inputs, output, dims):
    """Pairwise steps of little work and memory traffic, each result with the batch in front.

    inputs: the indices of every operand; output: those of the result; dims: (index, size) pairs.
    """
    symbol = {ind: cotengra.get_symbol(i) for i, (ind, _) in enumerate(dims)}
    sizes = {symbol[ind]: size for ind, size in dims}

    def terms(without=None):
        *operands, result = ([symbol[i] for i in t if i != without] for t in (*inputs, output))
        return operands, result

    def refined(operands, result):
        search = cotengra.RandomGreedyOptimizer(32, seed=0, accel=False, parallel=False)
        path = search.ssa_path(operands, result, sizes)
        tree = cotengra.ContractionTree.from_path(*terms(), sizes, ssa_path=path)
        return tree.subtree_reconfigure(4, minimize="combo", seed=0)

    # A greedy search is easily lost where one index, the batch, joins all inputs; left out, the
    # batch seems to cost nothing. Either start may win, once refined at the true cost.
    starts = [terms(), terms(without=_BATCH)] if _BATCH in symbol else [terms()]
    try:
        tree = min((refined(*start) for start in starts), key=lambda tree: tree.combo_cost())
    except OverflowError:
        raise ContractionTooLargeError(
            "Contracting this network takes arrays beyond 10^308 elements: use far fewer sites, a "
            "far smaller bond_dim or a geometry with fewer loops."
        ) from None
    operands, steps = list(inputs), []
    for pair in tree.get_path():
        i, j = sorted(pair)
        inds_j, inds_i = operands.pop(j), operands.pop(i)
        wanted = {*output, *(ind for inds in operands for ind in inds)}
        out = [ind for ind in dict.fromkeys(inds_i + inds_j) if ind in wanted]
        out = tuple(sorted(out, key=lambda ind: ind != _BATCH)) if operands else output
        operands.append(out)
        steps.append(_Step(i, j, inds_i, inds_j, out))
    return tuple(steps)


def _cost(inputs, output, dims):
    """Steps of a contraction and their sizes, found for the next power of two of its batch."""
    batch = dims.get(_BATCH, 1)
    bucket = dims | ({_BATCH: 1 << (batch - 1).bit_length()} if _BATCH in dims else {})
    steps = _find_steps(inputs, output, tuple(bucket.items()))
    return steps, [prod(dims[ind] for ind in step.out) for step in steps]


def _plan(terms, structure):
    """Inputs and steps of the contraction ``(inputs, output, dims) = terms(structure)``.

    Raises ContractionTooLargeError when one would need more than MAX_INTERMEDIATE elements.
    """
    inputs, output, dims = terms(structure)
    steps, sizes = _cost(inputs, output, dims)
    if max(sizes) > MAX_INTERMEDIATE:
        batch = dims.get(_BATCH, 1)
        work = sum(prod(dims[ind] for ind in {*step.inds_i, *step.inds_j}) for step in steps)
        fixed = max((s for s, step in zip(sizes, steps) if _BATCH not in step.out), default=0)
        fitting = 0 if fixed > MAX_INTERMEDIATE else MAX_INTERMEDIATE * batch // max(sizes)
        remedies = [f"batches of at most {fitting} samples"] if fitting else []
        remedies += structure.smaller(lambda s: max(_cost(*terms(s))[1]) <= MAX_INTERMEDIATE)
        remedies = remedies or ["a smaller bond_dim, fewer outputs or a geometry with fewer loops"]
        raise ContractionTooLargeError(
            f"Contracting this network takes 10^{log10(work):.1f} multiplications and an array of "
            f"2^{log2(max(sizes)):.1f} elements (its width) for {batch} samples, and "
            f"2^{log2(MAX_INTERMEDIATE):.0f} elements are allowed: use {', or '.join(remedies)}."
        )
    return inputs, steps


def _rescale(stack, batched):
    """Divide each by the power of two next to its largest modulus, of every sample if batched.

    stack: (n, *shape), or (n, batch, *shape). Returns the exponents, (n, batch) or (n, 1), too.
    """
    axes = tuple(range(1 + batched, stack.ndim))
    largest = lax.reduce_max(lax.abs(lax.stop_gradient(stack)), axes)
    exponents = exponent_of(largest[None])
    scaled = stack * lax.expand_dims(power_of_two(-exponents, stack.dtype), axes)
    return scaled, exponents if batched else exponents[:, None]


def _execute(steps, arrays, inputs, einsum=jnp.einsum):
    """Value of the last step and its exponents, (batch,) or (1,).

    Like arrays are one stack, like steps one step of stacks, and products are rescaled where the
    next might leave the floats: XLA takes its time for every operation.
    """
    kinds = [(array.shape, _BATCH in inds) for array, inds in zip(arrays, inputs)]
    rounds = _rounds(steps, tuple(kinds))
    relay, exponents, lost = _Relay(rounds), [], {}

    def finish(stack, numbers, batched, bits):
        """Rescale if need be, note the bits that may be lost by then, and hand over."""
        is_last = numbers[-1] == len(arrays) + len(steps) - 1
        if is_last or not 0 < bits <= _LOST:
            stack, own = _rescale(stack, batched)
            exponents.append(own)
            bits = 0
        lost.update(dict.fromkeys(numbers, bits))
        if not is_last:
            relay.put(stack, numbers)
        return stack

    for kind in dict.fromkeys(kinds):
        numbers = [i for i, other in enumerate(kinds) if other == kind]
        stack = jnp.concatenate([jnp.atleast_1d(arrays[i]) for i in numbers])
        last = finish(stack.reshape(len(numbers), *kind[0]), numbers, kind[1], 0)
    for number, (equation, batched, triples) in enumerate(rounds):
        i, j, made = zip(*triples)
        stack = einsum(equation, relay.take(number, 0), relay.take(number, 1))
        bits = max(lost[a] + lost[b] for a, b in zip(i, j)) + _BITS
        last = finish(stack, made, batched, bits)
    totals = {}
    for own in exponents:
        totals.setdefault(own.shape[1], []).append(own)
    return last[0], sum(jnp.sum(jnp.concatenate(x), 0, jnp.int32) for x in totals.values())


# Bits that a product may be smaller by than its factors: those of a float, since what is smaller
# still is rounding, unless it cancels or is sparse. Operands that lost so much twice leave 2**-120
# at least, within single precision.
_BITS = 24
_LOST = 2 * _BITS


class _Relay:
    """Operands on their way to the rounds that read them, each once.

    They are put in the order in which they are read: what a round takes from a stack is a slice of
    it, and gradients are put back as slices.
    """

    def __init__(self, rounds):
        self.readers = {
            i: (number, slot, place)
            for number, (_, _, triples) in enumerate(rounds)
            for place, (*pair, _) in enumerate(triples)
            for slot, i in enumerate(pair)
        }
        self.parts = {}

    def put(self, stack, numbers):
        """Operands of these numbers."""
        readers = [self.readers[i] for i in numbers]
        order = sorted(range(len(readers)), key=readers.__getitem__)
        places = {}
        for number, slot, place in sorted(readers):
            places.setdefault((number, slot), []).append(place)
        ends = np.cumsum([*map(len, places.values())])[:-1]
        parts = jnp.split(_ordered(stack, order), ends)
        for (reader, found), part in zip(places.items(), parts, strict=True):
            self.parts.setdefault(reader, []).append((found, part))

    def take(self, number, slot):
        """Stack of the operands that stand first (0) or second (1) in the products of a round."""
        places, parts = zip(*self.parts.pop((number, slot)))
        return _ordered(jnp.concatenate(parts), np.argsort(np.concatenate(places)))


def _ordered(stack, order):
    order = tuple(map(int, order))
    return stack if order == tuple(range(len(stack))) else _permuted(stack, order)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _permuted(stack, order):
    """stack[order] for a permutation, whose gradient is another and no sum."""
    return stack[np.array(order)]


_permuted.defvjp(
    lambda stack, order: (_permuted(stack, order), None),
    lambda order, _, g: (_permuted(g, tuple(np.argsort(order).tolist())),),
)


@bounded_cache(256)
def _rounds(steps, kinds):
    """Rounds of like steps: (equation of stacks, whether products have a batch, triples).

    A triple (i, j, k) makes operand k of two others, counted on from the arrays. Next is always the
    kind of step of which the largest share can be taken. kinds: shape of every array, and whether
    it has a batch.
    """
    kinds, operands, waiting = dict(enumerate(kinds)), list(range(len(kinds))), {}
    known = set(operands)
    for k, step in enumerate(steps, len(kinds)):
        j, i = operands.pop(step.j), operands.pop(step.i)
        operands.append(k)
        sizes = dict(zip(step.inds_i + step.inds_j, kinds[i][0] + kinds[j][0]))
        kinds[k] = tuple(map(sizes.get, step.out)), _BATCH in step.out
        like = step.equation, kinds[i], kinds[j], kinds[k]
        waiting.setdefault(like, []).append((i, j, k))
    found = []
    while waiting:
        ready = {
            like: [triple for triple in triples if known.issuperset(triple[:2])]
            for like, triples in waiting.items()
        }
        like = max(waiting, key=lambda like: len(ready[like]) / len(waiting[like]))
        found.append((like[0], like[-1][1], tuple(ready[like])))
        known.update(k for *_, k in ready[like])
        waiting[like] = [triple for triple in waiting[like] if triple[2] not in known]
        if not waiting[like]:
            del waiting[like]
    return tuple(found)


def _norm_terms(structure):
    """Indices of the arrays, those of their copies, of the result, none, and sizes."""
    dims = structure.padded().dims
    shift = sum(isinstance(ind, int) for ind in dims)

    def primed(ind):
        return ind + shift if isinstance(ind, int) else ind

    bra = tuple(tuple(map(primed, inds)) for inds in structure.inds)
    return structure.inds + bra, (), dims | {primed(ind): size for ind, size in dims.items()}


@variant("structure", "mera")
class MERAStructure(GenericStructure):
    """A packed `MERA` besides its arrays, one per tensor.

    Parameters
    ----------
    inds, shapes, tags, left_inds, nsites, output_inds, site_ind_id : as in `GenericStructure`
    cyclic : bool, whether disentanglers join the ends
    site_tag_id : str, format of the tags of sites
    """

    cyclic: bool = False
    site_tag_id: str = "I{}"

    def capped(self, bond_dim):
        """Structure made with this bond_dim, which leaves the bonds over the inputs as they are."""
        return super().capped(max(bond_dim, self.phys_dim))

    def first_sites(self, nsites):
        """Structure of a MERA of the first `nsites` sites and the same bond_dim."""
        options = {"bond_dim": self.max_bond, "phys_dim": self.phys_dims[:nsites]}
        *shapes, top = MERA.shapes(nsites, cyclic=self.cyclic, **options)
        arrays = [np.broadcast_to(0.0, shape) for shape in (*shapes, top + self.output_dims)]
        mera = MERA(arrays, nsites, cyclic=self.cyclic, output_inds=self.output_inds)
        return MERAStructure(**fields_of(mera), cyclic=self.cyclic)

    def smaller(self, fits):
        if by_bond_dim := super().smaller(fits):
            return by_bond_dim
        nsites = largest_fitting(lambda n: fits(self.first_sites(n)), self.nsites)
        return [f"at most {nsites} sites"] if nsites else []

    def view(self, network):
        """A quimb network of this structure as a `MERA`."""
        names = attributes(self, "output_inds", "site_ind_id", "site_tag_id", "cyclic")
        return network.view_as(MERA, L=self.nsites, **names)


@pack.register
def _(network: MERA):
    return pack_as(MERAStructure, network, **attributes(network, "cyclic", "site_tag_id"))
