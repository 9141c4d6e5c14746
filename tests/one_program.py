"""Generators made and read by one program each, which compiles sooner than every operation."""

from functools import partial

import equinox as eqx
import jax

KEY = jax.random.key(0)


def make(generator, shape, key=KEY, **options):
    """Generator of a shape."""
    return eqx.filter_jit(partial(generator, shape, **options))(key=key)


@eqx.filter_jit
def form(generator):
    """The whole weight."""
    return generator()


@eqx.filter_jit
def product(x, generator):
    """Product without the weight."""
    return x @ generator


@eqx.filter_jit
def entries(generator, index):
    """Entries by their numbers."""
    return generator.entries(index)
