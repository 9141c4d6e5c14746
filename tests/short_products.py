"""Products of single precision that accelerators would cut to few digits by default."""

import contextlib

import jax
import jax.numpy as jnp
from jax import lax

HIGHEST = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
PRODUCTS = (lax.dot_general_p, lax.conv_general_dilated_p)


def equations(jaxpr):
    """All equations of a traced function, those of loops and of functions within it included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            if hasattr(value, "eqns"):
                yield from equations(value)


def short_products_of(function, *arguments, least=1):
    """Products in a function, of `least` or more, that do not ask for all digits."""
    found = equations(jax.make_jaxpr(function)(*arguments))
    products = [each for each in found if each.primitive in PRODUCTS]
    assert len(products) >= least
    return [str(each) for each in products if each.params["precision"] != HIGHEST]


@contextlib.contextmanager
def short_products():
    """Within it operands have mantissas of 10 bits, as on recent GPUs, unless products refuse."""
    plain = lax.dot_general_p.bind

    def bind(a, b, *, precision, **options):
        if precision != HIGHEST and a.dtype == b.dtype == jnp.float32:
            a, b = (lax.reduce_precision(operand, 8, 10) for operand in (a, b))
        return plain(a, b, precision=precision, **options)

    # What was traced outside is not rounded, and what is traced here must not be used outside.
    jax.clear_caches()
    lax.dot_general_p.bind = bind
    try:
        yield
    finally:
        del lax.dot_general_p.bind
        jax.clear_caches()
