"""Work as one program each, which compiles sooner than every operation of it."""

import equinox as eqx
import jax

KEY = jax.random.key(0)


@eqx.filter_jit
def call(function, *arguments, **options):
    """What a function returns; the same function and static arguments are compiled once."""
    return function(*arguments, **options)


def make(generator, shape, key=KEY, **options):
    """Generator of a shape."""
    return call(generator, shape, key=key, **options)


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
