"""Generators of blocks of rows."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_int
from ._base import Generator
from ._tensorisations import check_weight_shape
from ._trees import ATTNGenerator


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
        self.groups = eqx.filter_vmap(lambda k: generator(block, key=k, rms=rms, **options))(
            jax.random.split(key, n_groups)
        )

    def __call__(self):
        blocks = eqx.filter_vmap(lambda g: g())(self.groups)
        return blocks.reshape(-1, *self.shape[1:])[: self.shape[0]]

    def product(self, x):
        rows = self.groups.shape[0]
        x = jnp.pad(x, [(0, 0), (0, self.n_groups * rows - x.shape[1])])
        x = jnp.moveaxis(x.reshape(len(x), self.n_groups, rows), 1, 0)
        return eqx.filter_vmap(lambda g, x: g.product(x))(self.groups, x).sum(0)

    def entries(self, index):
        size, index = math.prod(self.groups.shape), jnp.asarray(index)
        found = eqx.filter_vmap(lambda g: g.entries(index % size))(self.groups)
        return jnp.take_along_axis(found, (index // size)[None], 0)[0]

    def scaled(self, factor):
        groups = eqx.filter_vmap(lambda g: g.scaled(factor))(self.groups)
        return eqx.tree_at(lambda g: g.groups, self, groups)
