"""Generators of parts: brick walls for the powers of the radix, and blocks of rows."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_int, check_number
from ._base import Generator, check_dtype, one_program
from ._decoder import Factors, Layer, last
from ._tensorisations import check_weight_shape, n_digits
from ._trees import ATTNGenerator, near_identity, signed


class BrickWall(eqx.Module):
    """A tensor of n modes: one vector per pair of them, then gates on (1, 2), (3, 4), ...

    Where n is odd the last mode starts as the unit vector (1, 0, ...). Fewer than two modes are
    free numbers, as there is no pair.
    """

    vectors: jax.Array  # (n, 1, radix**2): cores without a bond
    gates: jax.Array
    n_modes: int = eqx.field(static=True)
    radix: int = eqx.field(static=True)

    def __init__(self, n_modes, radix, noise, key, dtype):
        vectors, gates = jax.random.split(key)
        shape = (n_modes // 2, 1, radix**2) if n_modes > 1 else (1, 1, radix**n_modes)
        self.vectors = jax.random.normal(vectors, shape, dtype)
        shape = max(0, (n_modes - 1) // 2), radix**2, radix**2
        self.gates = near_identity(noise, jax.random.normal(gates, shape, dtype))
        self.n_modes, self.radix = n_modes, radix

    def scaled(self, factor):
        each = jnp.asarray(jnp.abs(factor) ** (1 / len(self.vectors)), self.vectors.dtype)
        vectors = signed(each * self.vectors, factor)
        return eqx.tree_at(lambda b: b.vectors, self, vectors)

    def factors(self):
        if self.n_modes < 2:
            one = jnp.ones((1, 1), self.vectors.dtype)
            return Factors(one, jnp.moveaxis(self.vectors, 1, 2), one)
        unit = jnp.eye(1, self.radix, dtype=self.vectors.dtype)
        layer = Layer(self.vectors, unit[None][: self.n_modes % 2], self.gates)
        return last(jnp.ones(1, self.vectors.dtype), layer, 1, self.radix)


class BrickWallGenerator(Generator):
    """Circuits of gates on a product state, one for each power of the radix that adds up to P.

    The P entries of the weight are filled row by row, without padding; a circuit of radix**Q
    entries has Q // 2 vectors and (Q - 1) // 2 gates. It is multilinear. Source: ADTN, Qing et al.,
    arXiv 2305.06058.

    >>> import jax
    >>> sizes = [(512, 4096), (4096, 4096)]
    >>> sum(BrickWallGenerator(size, key=jax.random.key(0)).n_parameters for size in sizes)
    424

    Parameters
    ----------
    shape, key, radix, rms, gate_noise, dtype : as in `TreeGenerator`
    """

    circuits: tuple[BrickWall, ...]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, shape, *, key, radix=2, rms=None, gate_noise=0.3, dtype=jnp.float32):
        self.shape = check_weight_shape(shape)
        check_int("radix", radix, 2)
        check_number("rms", rms, above=0, optional=True)
        check_number("gate_noise", gate_noise, at_least=0)
        check_dtype(dtype)
        powers = []
        size = math.prod(self.shape)
        while size:
            powers.append(n_digits(size + 1, radix) - 1)
            size -= radix ** powers[-1]
        rms = math.sqrt(2 / self.shape[0]) if rms is None else rms
        circuits = []
        for power, each in zip(powers, jax.random.split(key, len(powers)), strict=True):
            circuits.append(_of_rms(BrickWall(power, radix, gate_noise, each, dtype), rms))
        self.circuits = tuple(circuits)

    @one_program
    def __call__(self):
        parts = [circuit.factors().tensor() for circuit in self.circuits]
        return jnp.concatenate(parts).reshape(self.shape)

    @one_program
    def entries(self, index):
        index = jnp.asarray(index)
        start, found = 0, 0
        for circuit in self.circuits:
            radix, n = circuit.radix, circuit.n_modes
            place = index - start
            inside = (place >= 0) & (place < radix**n)
            places = np.expand_dims(radix ** np.arange(n)[::-1], (*range(place.ndim),))
            digits = jnp.where(inside, place, 0)[..., None] // places % radix
            found = jnp.where(inside, circuit.factors().entries(digits, radix), found)
            start += radix**n
        return found

    def scaled(self, factor):
        circuits = tuple(circuit.scaled(factor) for circuit in self.circuits)
        return eqx.tree_at(lambda g: g.circuits, self, circuits)


@one_program
def _of_rms(circuit, rms):
    return circuit.scaled(rms / circuit.factors().rms())


class GroupedGenerator(Generator):
    """Blocks of rows, each with a generator of its own, all evaluated at once.

    >>> import jax
    >>> grouped = GroupedGenerator((10, 4), n_groups=3, key=jax.random.key(0))
    >>> grouped().shape, grouped.n_parameters == 3 * ATTNGenerator(
    ...     (4, 4), key=jax.random.key(0)
    ... ).n_parameters
    ((10, 4), True)

    Parameters
    ----------
    shape : tuple of int, that of the weight; the last block is cut off where it overhangs
    n_groups : int, number of blocks, at most the number of rows
    key : jax.Array, key of the initial generators
    generator : type, class of the blocks' generators, or a partial of it
    rms, **options : as in `TreeGenerator`, for the class
    """

    groups: Generator
    n_groups: int = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, shape, *, n_groups, key, generator=ATTNGenerator, rms=None, **options):
        self.shape = check_weight_shape(shape)
        check_int("n_groups", n_groups, 1)
        if n_groups > self.shape[0]:
            raise ValueError(
                f"n_groups is {n_groups}, but there are only {self.shape[0]} rows to share out."
            )
        self.n_groups = n_groups
        rms = math.sqrt(2 / self.shape[0]) if rms is None else rms
        block = (-(-self.shape[0] // n_groups), *self.shape[1:])
        keys = jax.random.split(key, n_groups)
        self.groups = eqx.filter_vmap(lambda k: generator(block, key=k, rms=rms, **options))(keys)

    @one_program
    def __call__(self):
        blocks = eqx.filter_vmap(lambda g: g())(self.groups)
        return blocks.reshape(-1, *self.shape[1:])[: self.shape[0]]

    @one_program
    def product(self, x):
        rows = self.groups.shape[0]
        x = jnp.pad(x, [(0, 0), (0, self.n_groups * rows - x.shape[1])])
        x = jnp.moveaxis(x.reshape(len(x), self.n_groups, rows), 1, 0)
        return eqx.filter_vmap(lambda g, x: g.product(x))(self.groups, x).sum(0)

    @one_program
    def entries(self, index):
        size, index = math.prod(self.groups.shape), jnp.asarray(index)
        found = eqx.filter_vmap(lambda g: g.entries(index % size))(self.groups)
        return jnp.take_along_axis(found, (index // size)[None], 0)[0]

    def scaled(self, factor):
        groups = eqx.filter_vmap(lambda g: g.scaled(factor))(self.groups)
        return eqx.tree_at(lambda g: g.groups, self, groups)
