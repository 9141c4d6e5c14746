"""Tensorisations: the modes of a generated tensor as digits of a weight's indices.

A generated tensor has an even number of modes of one size, the radix. A weight is read as a tensor
of few sides (rows and columns, say), and a tensorisation assigns each mode to a digit of a side.
Sides whose sizes are not powers of the radix are padded, and the excess is cut off.
"""

import abc
import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from .._checks import int_tuple


def n_digits(size, radix):
    """Number of digits of the numbers below `size`.

    >>> n_digits(1000, 2), n_digits(1, 2)
    (10, 0)
    """
    n = 0
    while radix**n < size:
        n += 1
    return n


@dataclasses.dataclass(frozen=True)
class Modes:
    """Modes of a generated tensor as digits of the sides of a weight.

    Parameters
    ----------
    sizes : tuple of int, sizes of the sides, with the product of the weight's shape
    sides : tuple of int, the side of each mode; the most significant digit of a side comes first
    radix : int, size of a mode
    """

    sizes: tuple[int, ...]
    sides: tuple[int, ...]
    radix: int

    def padded(self, side):
        """Count of the numbers that the digits of a side can write."""
        return self.radix ** self.sides.count(side)

    def weight(self, flat):
        """The sides' tensor of a flat generated one; its shape is `sizes`."""
        tensor = parted(flat[None], self.sides, len(self.sizes), self.radix)[0]
        return tensor[tuple(map(slice, self.sizes))]

    def flat(self, weight):
        """The flat tensor with this `weight`, zero beyond it."""
        padding = [(0, self.padded(side) - size) for side, size in enumerate(self.sizes)]
        tensor = jnp.pad(weight.reshape(self.sizes), padding)
        tensor = tensor.reshape((self.radix,) * len(self.sides))
        return tensor.transpose(np.argsort(_sorted(self.sides, len(self.sizes)))).reshape(-1)

    def digits(self, index):
        """Values of the modes at flat positions of the weight, (..., n_modes)."""
        numbers = jnp.unravel_index(jnp.asarray(index), self.sizes)
        left = [self.sides.count(side) for side in range(len(self.sizes))]
        found = []
        for side in self.sides:
            left[side] -= 1
            found.append(numbers[side] // self.radix ** left[side] % self.radix)
        return jnp.stack(found, -1)


def _sorted(sides, n_sides):
    """Modes of the first side, then of the next, ..."""
    return [i for side in range(n_sides) for i, s in enumerate(sides) if s == side]


def parted(array, sides, n_sides, radix):
    """An array (n, radix**len(sides)) as (n, side 0, side 1, ...)."""
    # Neighbours of one side move together: fewer axes are faster to transpose.
    starts = [i for i, s in enumerate(sides) if i == 0 or sides[i - 1] != s]
    lengths = np.diff([*starts, len(sides)]).tolist()
    order = _sorted([sides[i] for i in starts], n_sides)
    tensor = array.reshape(len(array), *(radix**length for length in lengths))
    tensor = tensor.transpose(0, *(1 + axis for axis in order))
    return tensor.reshape(len(array), *(radix ** sides.count(s) for s in range(n_sides)))


def interleaved(counts):
    """Sides of modes: leftover digits of longer sides first, then one digit of each in turn.

    >>> interleaved([2, 4])
    (1, 1, 0, 1, 0, 1)
    """
    most = max(counts)
    return tuple(s for left in range(most, 0, -1) for s, n in enumerate(counts) if n >= left)


class Tensorisation(abc.ABC):
    """Assignment of the modes of a generated tensor to digits, a frozen dataclass."""

    def modes(self, shape: tuple[int, ...], radix: int) -> Modes:
        """Modes of a weight, an even number of them; see `TreeGenerator` for the parameters."""
        sizes = self.sizes(shape)
        counts = [n_digits(size, radix) for size in sizes]
        if sum(counts) % 2 or not sum(counts):
            counts[0] += 1 if sum(counts) else 2
        return Modes(sizes, self.order(counts), radix)

    @abc.abstractmethod
    def sizes(self, shape):
        """Sizes of the sides to which the weight is reshaped."""

    @abc.abstractmethod
    def order(self, counts):
        """The side of each mode, for sides with these counts of digits."""


@dataclasses.dataclass(frozen=True)
class RowMajor(Tensorisation):
    """Digits of an entry's place in the weight, row by row.

    The last layer of a generator is linear, and here its rows meet its columns in few places: a
    matrix of radix**N entries from a TTN has at most the rank radix**(N / 4). `Paired` has no such
    bound.

    >>> RowMajor().modes((3, 4), 2)
    Modes(sizes=(3, 4), sides=(0, 0, 1, 1), radix=2)
    """

    def modes(self, shape, radix):
        rows, columns = matrix_sizes(shape)
        if radix ** n_digits(columns, radix) == columns:
            return super().modes((rows, columns), radix)
        # Rows do not begin at a digit's turn, so the weight is one side, padded at its end.
        return super().modes((rows * columns,), radix)

    def sizes(self, shape):
        return shape

    def order(self, counts):
        return tuple(side for side, n in enumerate(counts) for _ in range(n))


@dataclasses.dataclass(frozen=True)
class Paired(Tensorisation):
    """Digits of the first index and of all others in turn, coarse ones first.

    Both ends of a matrix entry's address reach the tree in pairs, so the generated matrix can have
    full rank, and neighbouring entries share most of their path.

    >>> Paired().modes((4, 4), 2)
    Modes(sizes=(4, 4), sides=(0, 1, 0, 1), radix=2)
    """

    def sizes(self, shape):
        return matrix_sizes(shape)

    def order(self, counts):
        return interleaved(counts)


@dataclasses.dataclass(frozen=True)
class ChannelsApart(Tensorisation):
    """Digits of both channels in turn, then those of the kernel's place: for convolutions.

    For weights (n_out, n_in, *kernel). Source: arXiv 2606.00130, section 3 on convolutions.

    >>> ChannelsApart().modes((4, 4, 3, 3), 2)
    Modes(sizes=(4, 4, 9), sides=(0, 1, 0, 1, 2, 2, 2, 2), radix=2)
    """

    def sizes(self, shape):
        if len(shape) < 3:
            raise ValueError(
                f"ChannelsApart is for weights (n_out, n_in, *kernel), got the shape {shape}: "
                "use Paired() for matrices."
            )
        return (*shape[:2], math.prod(shape[2:]))

    def order(self, counts):
        return (*interleaved(counts[:2]), *(2,) * counts[2])


def matrix_sizes(shape):
    """Sizes of a weight read as a matrix: the first index, and all others."""
    return shape[0], math.prod(shape[1:])


def check_weight_shape(shape):
    """The shape as a tuple of integers; ValueError unless all are positive."""
    shape = (shape,) if np.ndim(shape) == 0 else tuple(shape)
    if not shape:
        raise ValueError("shape must have at least one size: a single number needs no generator.")
    return int_tuple("each size in shape", shape)
