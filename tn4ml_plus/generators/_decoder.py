"""The arithmetic of decoders: a small state, layer after layer of more modes.

States are flat vectors of bond_dim**n numbers. A layer is two matrices, Kronecker products of half
its cores each. The last layer is linear, so it is three matrices, into which its disentanglers are
absorbed: only one product touches the large tensor, and none where the tensor meets an input.

Source: arXiv 2606.00130, section 3, for what is computed.
"""

import math
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import _precise as precise
from ._tensorisations import parted

# Rows of a Kronecker product, at most, that takes the place of its factors: one pass over the state
# for all of them, and few arithmetic operations still.
FUSED_ROWS = 32


class Layer(eqx.Module):
    """Cores that take n modes to more: the first of them split in two, the others pass on.

    split: (n_split, bond_in, bond_out**2); keep: (n - n_split, bond_in, bond_out); gates:
    disentanglers (n_gates, bond_out**2, bond_out**2) of the pairs (1, 2), (3, 4), ..., or None.
    """

    split: jax.Array
    keep: jax.Array
    gates: jax.Array | None

    #: Matrices (bond_in, what follows) of all cores in the order of modes.
    cores = property(lambda self: [*self.split, *self.keep])
    #: Number of modes that each core makes.
    n_made = property(lambda self: [2] * len(self.split) + [1] * len(self.keep))


def kron(matrices, dtype):
    """Kronecker product of matrices; of none, the number one."""
    return reduce(jnp.kron, matrices, jnp.ones((1, 1), dtype))


def mixed(state, matrix, before):
    """A flat state with a matrix on its modes that follow the first `before` numbers."""
    state = state.reshape(before, len(matrix), -1)
    if before == 1:
        return (matrix.T @ state[0]).reshape(-1)
    if state.shape[-1] == 1:
        return (state[..., 0] @ matrix).reshape(-1)
    return jnp.einsum("lir,io->lor", state, matrix).reshape(-1)


def fused(n, size):
    """Cuts of n matrices of `size` rows each into parts whose products have few rows."""
    return pairwise(round(i) for i in np.linspace(0, n, -(-n // _most(size, FUSED_ROWS)) + 1))


def _most(size, rows):
    """Number of matrices of `size` rows whose product has at most `rows`; one or more."""
    return max(m for m in range(1, 7) if m == 1 or size**m <= rows)


def absorbed(matrix, gates, first, bond):
    """A matrix (rows, bond**n) with gates on its columns' modes (first, first + 1), and so on."""
    state = matrix.reshape(-1)
    for start, end in fused(len(gates), bond * bond):
        gate = kron(gates[start:end], matrix.dtype)
        state = mixed(state, gate, len(matrix) * bond ** (first + 2 * start))
    return state.reshape(matrix.shape)


def expanded(state, cores, n_made, gates, bond, before=1):
    """A flat state with cores on the modes after the first `before` numbers, then gates.

    n_made: modes of size bond that each core makes; gates: on their pairs (1, 2), (3, 4), ..., or
    None.
    """
    place, across = 0, []
    for start, end in fused(len(cores), len(cores[0])):
        matrix, n = kron(cores[start:end], state.dtype), sum(n_made[start:end])
        if gates is not None:
            if place and place % 2 == 0:
                across.append(place)
            first = 1 - place % 2
            gate = (place + first) // 2
            matrix = absorbed(matrix, gates[gate : gate + (n - first) // 2], first, bond)
        state = mixed(state, matrix, before * bond**place)
        place += n
    for place in across:
        state = mixed(state, gates[place // 2 - 1], before * bond ** (place - 1))
    return state


def hidden(state, layer, bond):
    """The state after a hidden layer, before its activation."""
    return expanded(state, layer.cores, layer.n_made, layer.gates, bond)


class Factors(NamedTuple):
    """The last layer and its state as three factors of the generated tensor.

    tensor[a b c] = sum over l, r of left[l, a] centre[l, b, r] right[r, c], where a, b, c are its
    first, middle and last modes, n_modes of them. left, right: all cores beyond the
    split with their gates, next to an identity that carries the mode which a gate shares; centre:
    the state times the cores and gates between.
    """

    left: jax.Array
    centre: jax.Array
    right: jax.Array

    def n_modes(self, radix):
        """Numbers of first, middle and last modes."""
        sizes = self.left.shape[1], self.centre.shape[1], self.right.shape[1]
        return tuple(round(math.log(size, radix)) for size in sizes)

    def tensor(self):
        """The generated tensor, flat."""
        centre = self.centre.reshape(-1, len(self.right)) @ self.right
        return (self.left.T @ centre.reshape(len(self.left), -1)).reshape(-1)

    def weight(self, modes):
        """The weight of these modes: the tensor by its sides, cut off at their sizes.

        Sides are put in order in the factors, which are small; of the tensor only blocks move.
        """
        n_sides, n_first = len(modes.sizes), self.n_modes(modes.radix)[0]
        left = parted(self.left, modes.sides[:n_first], n_sides, modes.radix)
        rest = self.centre.reshape(-1, len(self.right)) @ self.right
        rest = parted(rest.reshape(len(left), -1), modes.sides[n_first:], n_sides, modes.radix)
        blocks = left.reshape(len(left), -1).T @ rest.reshape(len(rest), -1)
        blocks = blocks.reshape(*left.shape[1:], *rest.shape[1:])
        order = [axis for side in range(n_sides) for axis in (side, n_sides + side)]
        weight = blocks.transpose(order).reshape([modes.padded(side) for side in range(n_sides)])
        return weight[tuple(map(slice, modes.sizes))]

    def rms(self):
        """Root mean square of the tensor's entries, without the tensor."""
        left, right = (precise.matmul(each, each.T) for each in (self.left, self.right))
        squares = precise.einsum("lk,lbr,kbs,rs->", left, self.centre, self.centre, right)
        size = self.left.shape[1] * self.centre.shape[1] * self.right.shape[1]
        return jnp.sqrt(squares / size)

    def entries(self, digits, radix):
        """Entries of the tensor at digits (..., n_modes), without the tensor."""
        place = []
        for part in _parts(digits, self.n_modes(radix)):
            powers = radix ** jnp.arange(part.shape[-1])[::-1]
            place.append(part @ powers.astype(part.dtype))
        left, right = self.left.T[place[0]], self.right.T[place[2]]
        centre = jnp.moveaxis(self.centre, 1, 0)[place[1]]
        return jnp.einsum("...l,...lr,...r->...", left, centre, right)

    def product(self, x, modes):
        """x (batch, rows) times the matrix (rows, columns) of these modes, without the matrix."""
        radix, batch = modes.radix, len(x)
        x = jnp.pad(x, [(0, 0), (0, modes.padded(0) - modes.sizes[0])])
        first, middle, last = _parts(modes.sides, self.n_modes(radix))
        left = parted(self.left, first, 2, radix)
        if 0 in last:
            centre = self.centre.reshape(-1, len(self.right)) @ self.right
            centre = parted(centre.reshape(len(left), -1), middle + last, 2, radix)
        else:
            # All rows are summed over before the right factor is met, which is then small work.
            numbers = self.centre.reshape(len(left), -1, len(self.right))
            centre = jnp.moveaxis(numbers, 2, 1).reshape(-1, numbers.shape[1])
            centre = parted(centre, middle, 2, radix)
            centre = centre.reshape(len(left), len(self.right), *centre.shape[1:])
            centre = jnp.moveaxis(centre, 1, 3)
            centre = centre.reshape(len(left), centre.shape[1], -1)
        # One small product per sample, so that the result need not be put in order.
        each = left.transpose(2, 0, 1).reshape(-1, left.shape[1])
        y = jnp.broadcast_to(each, (batch, *each.shape)) @ x.reshape(batch, left.shape[1], -1)
        y = y.reshape(batch * left.shape[2], -1) @ centre.reshape(-1, centre.shape[2])
        if 0 not in last:
            y = y.reshape(-1, len(self.right)) @ self.right
        return y.reshape(batch, -1)[:, : modes.sizes[1]]


def _parts(sequence, lengths):
    """A sequence, or the last axis of an array, in three."""
    first, middle, _ = lengths
    if isinstance(sequence, tuple):
        return sequence[:first], sequence[first : first + middle], sequence[first + middle :]
    return jnp.split(sequence, [first, first + middle], -1)


def last(state, layer, bond, radix, left_rows=8, right_rows=16):
    """`Factors` of the last layer, about so many rows of bonds left and columns of them right.

    Every gate goes to exactly one factor. The sizes are what measured fastest at 2**24 entries.
    """
    cores, gates, dtype = layer.cores, layer.gates, state.dtype
    n = len(cores)
    # The centre keeps one node or more.
    k, from_end = (min(_most(max(bond, 2), rows), (n - 1) // 2) for rows in (left_rows, right_rows))
    j = n - from_end
    left, right = cores[:k], cores[j:]
    if gates is None:
        inner, left, right = None, kron(left, dtype), kron(right, dtype)
    else:
        one = jnp.eye(radix, dtype=dtype)
        left = absorbed(kron([*left, one], dtype), gates[:k], 1, radix)
        right = absorbed(kron([one, *right], dtype), gates[j - 1 :], 0, radix)
        inner = gates[k : j - 1]
    centre = expanded(state, cores[k:j], layer.n_made[k:j], inner, radix, bond**k)
    return Factors(left, centre.reshape(len(left), -1, len(right)), right)
