"""Networks of any geometry: a pairwise path found once, with the batch as a hyper-index."""

import dataclasses
from functools import lru_cache
from math import log2, log10, prod

import cotengra
import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn
from jax import lax

from .._errors import ContractionTooLargeError
from .._registry import register
from .._typing import Amplitude, exponent_of, power_of_two
from ..networks import Network, from_quimb
from ._pack import _contract, _log_norm_squared, _unpack, pack, real_dtype

# Elements of the largest intermediate of a contraction: 1 GiB of float32.
MAX_INTERMEDIATE = 2**28
_BATCH = -1


@register("structure", name="generic")
@dataclasses.dataclass(frozen=True)
class GenericStructure:
    """What a packed network of any geometry is besides its arrays, one a tensor.

    inds: those of every tensor, inputs and outputs by name, bonds numbered in order of appearance,
    so that networks of one geometry have equal structures whatever their bonds are called; shapes,
    tags, left_inds (None, or the inputs of an isometry): one a tensor.
    """

    inds: tuple[tuple[int | str, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    tags: tuple[tuple[str, ...], ...]
    left_inds: tuple[tuple[int | str, ...] | None, ...]
    nsites: int
    output_inds: tuple[str, ...] = ()
    site_ind_id: str = "k{}"

    @property
    def dims(self):
        """Size of every index, a dict."""
        return {
            ind: size
            for inds, shape in zip(self.inds, self.shapes)
            for ind, size in zip(inds, shape)
        }

    @property
    def input_inds(self):
        """Names of the inputs, one a site."""
        return tuple(self.site_ind_id.format(i) for i in range(self.nsites))

    @property
    def output_dims(self):
        """Sizes of the outputs."""
        return tuple(map(self.dims.get, self.output_inds))

    @property
    def phys_dims(self):
        """Sizes of the inputs, one a site."""
        return tuple(map(self.dims.get, self.input_inds))

    @property
    def phys_dim(self):
        """Largest phys_dim, that of the embedded samples."""
        return max(self.phys_dims)

    def padded(self):
        """The structure itself: its arrays are not padded."""
        return self

    def with_bias(self, packed, bias):
        """`packed` plus the tensors with outputs of another packed network of this structure."""
        has_output = [bool({*inds} & {*self.output_inds}) for inds in self.inds]
        return tuple(a + b if out else a for a, b, out in zip(packed, bias, has_output))

    def rescale(self, packed, log_factor):
        """Multiply the whole network by exp(log_factor), all tensors alike."""
        factor = np.exp(log_factor / len(packed))
        return tuple(array * array.dtype.type(factor) for array in packed)


@pack.register
def _pack_any(network: qtn.TensorNetwork):
    return pack(from_quimb(network))


@pack.register
def _pack_generic(network: Network):
    tensors = list(network)
    names = {network.site_ind(i) for i in range(network.nsites)} | set(network.output_inds)
    bonds = dict.fromkeys(ind for t in tensors for ind in t.inds if ind not in names)
    number = {ind: ind for ind in names} | {ind: i for i, ind in enumerate(bonds)}

    def numbered(inds):
        return None if inds is None else tuple(number[ind] for ind in inds)

    structure = GenericStructure(
        tuple(numbered(t.inds) for t in tensors),
        tuple(tuple(t.shape) for t in tensors),
        tuple(tuple(t.tags) for t in tensors),
        tuple(numbered(t.left_inds) for t in tensors),
        network.nsites,
        network.output_inds,
        network.site_ind_id,
    )
    arrays = [t.data for t in tensors]
    dtype = real_dtype(jnp.result_type(jnp.float32, *arrays))
    # Spread over the tensors, the scale of the whole network overflows none of them.
    scale = 10.0 ** (network.exponent / len(tensors))
    return tuple(jnp.asarray(array, dtype) * dtype.type(scale) for array in arrays), structure


@_unpack.register
def _unpack_generic(structure: GenericStructure, packed):
    number = {ind: ind for ind in structure.dims}
    number |= {ind: qtn.rand_uuid() for ind in number if isinstance(ind, int)}

    def named(inds):
        return None if inds is None else [number[ind] for ind in inds]

    tensors = [
        qtn.Tensor(np.asarray(array), named(inds), tags, left_inds=named(left_inds))
        for array, inds, tags, left_inds in zip(
            packed, structure.inds, structure.tags, structure.left_inds
        )
    ]
    network = qtn.TensorNetwork(tensors, virtual=True)
    return from_quimb(network, structure.output_inds, structure.site_ind_id)


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
        """The step in the words of einsum."""
        letter = {}
        for ind in self.inds_i + self.inds_j:
            letter.setdefault(ind, cotengra.get_symbol(len(letter)))
        a, b, c = ("".join(letter[ind] for ind in x) for x in (self.inds_i, self.inds_j, self.out))
        return f"{a},{b}->{c}"


@lru_cache(maxsize=1024)
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
    tree = min((refined(*start) for start in starts), key=lambda tree: tree.combo_cost())
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


def _plan(inputs, output, dims):
    """The steps of a contraction, found for the next power of two of its batch.

    Raises ContractionTooLargeError when one would need more than MAX_INTERMEDIATE elements.
    """
    batch = dims.get(_BATCH, 1)
    bucket = dims | ({_BATCH: 1 << (batch - 1).bit_length()} if _BATCH in dims else {})
    steps = _find_steps(inputs, output, tuple(bucket.items()))
    sizes = [prod(dims[ind] for ind in step.out) for step in steps]
    if max(sizes) > MAX_INTERMEDIATE:
        work = sum(prod(dims[ind] for ind in {*step.inds_i, *step.inds_j}) for step in steps)
        fixed = max((s for s, step in zip(sizes, steps) if _BATCH not in step.out), default=0)
        fitting = 0 if fixed > MAX_INTERMEDIATE else MAX_INTERMEDIATE * batch // max(sizes)
        remedy = (
            f"use batches of at most {fitting} samples"
            if fitting
            else "use a smaller bond_dim, fewer outputs or a geometry with fewer loops"
        )
        raise ContractionTooLargeError(
            f"Contracting this network takes 10^{log10(work):.1f} multiplications and an array of "
            f"2^{log2(max(sizes)):.1f} elements (its width) for {batch} samples, and "
            f"2^{log2(MAX_INTERMEDIATE):.0f} elements are allowed: {remedy}."
        )
    return steps


def _rescale(x, inds):
    """Divide by the power of two next to the largest modulus, of every sample where it has them."""
    columns = x.reshape(x.shape[0] if _BATCH in inds else 1, -1).T
    exponent = exponent_of(lax.stop_gradient(columns))
    scale = power_of_two(-exponent, x.dtype)
    return x * scale.reshape(-1, *[1] * (x.ndim - 1)) if x.ndim else x * scale[0], exponent


def _execute(steps, arrays, inputs):
    """Value of the last step and its exponents, (batch,) or (1,)."""
    operands, exponents = zip(*map(_rescale, arrays, inputs))
    operands, total = list(operands), sum(exponents)
    for step in steps:
        b, a = operands.pop(step.j), operands.pop(step.i)
        x, exponent = _rescale(jnp.einsum(step.equation, a, b), step.out)
        operands.append(x)
        total = total + exponent
    return operands[0], total


@_contract.register
def _contract_generic(structure: GenericStructure, packed, phi):
    batch = phi.shape[0]
    inputs = structure.inds + tuple((_BATCH, ind) for ind in structure.input_inds)
    output = (_BATCH, *structure.output_inds)
    steps = _plan(inputs, output, structure.dims | {_BATCH: batch})
    vectors = [phi[:, i, :dim] for i, dim in enumerate(structure.phys_dims)]
    value, exponent = _execute(steps, [*packed, *vectors], inputs)
    return Amplitude(value, exponent)


@_log_norm_squared.register
def _log_norm_squared_generic(structure: GenericStructure, packed):
    dims = structure.dims
    shift = sum(isinstance(ind, int) for ind in dims)

    def primed(ind):
        return ind + shift if isinstance(ind, int) else ind

    bra = tuple(tuple(map(primed, inds)) for inds in structure.inds)
    inputs = structure.inds + bra
    steps = _plan(inputs, (), dims | {primed(ind): size for ind, size in dims.items()})
    value, exponent = _execute(steps, [*packed, *packed], inputs)
    return jnp.log(value) + exponent[0] * np.log(2.0).astype(value.dtype)
