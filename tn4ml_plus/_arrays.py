"""Small choices about arrays that must be the same everywhere."""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
import numpy as np

from ._forks import check_process, unforked


def one_program(function, **options):
    """Decorator: one program where nothing else is compiled, and no call within one otherwise.

    Parameters
    ----------
    function : callable
    **options : those of `jax.jit`
    """
    return unforked(jax.jit(function, inline=True, **options))


def namespace(x):
    """`jax.numpy` for arrays of JAX; NumPy, which compiles nothing, for all others."""
    return jnp if isinstance(x, jax.Array) else np


def with_columns(x, chosen, values):
    """An array with these values in the chosen columns, in place where it is of NumPy."""
    if namespace(x) is jnp:
        return x.at[:, chosen].set(values)
    x[:, chosen] = values
    return x


def rounded(x):
    """The array itself, which XLA does not simplify together with what follows."""
    return jax.lax.optimization_barrier(x) if namespace(x) is jnp else x


def rounded_product(x, y):
    """x * y, which XLA does not fuse with a sum that follows: NumPy rounds each operation.

    The largest floats stand for infinities of JAX.
    """
    xp, product = namespace(x), x * y
    if xp is np:
        return product
    largest = jnp.finfo(product.dtype).max
    return jnp.clip(product, -largest, largest)


def quotient(x, divisor):
    """x / divisor; XLA would multiply by a reciprocal, which rounds twice."""
    xp = namespace(x)
    return rounded(x) / rounded(xp.broadcast_to(xp.asarray(divisor, x.dtype), x.shape))


def mean_over_members(values):
    """Mean over the first axis, added up in its order, so that NumPy and XLA round alike.

    >>> mean_over_members(np.array([[1.0, 2.0], [3.0, 6.0]])).tolist()
    [2.0, 4.0]
    """
    return quotient(reduce(add, values), len(values))


def evenly_spaced(length, most):
    """At most `most` different row numbers, evenly over range(length), the first and last included.

    >>> evenly_spaced(10, 4).tolist(), evenly_spaced(3, 100).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.unique(np.linspace(0, length - 1, most).astype(int))


def served_length(n_rows):
    """The power of two, at least 64, that this number of rows is padded to, to share programs.

    >>> list(map(served_length, (0, 64, 65, 1000)))
    [64, 64, 128, 1024]
    """
    return max(64, 1 << max(0, n_rows - 1).bit_length())


def with_fixed_signs(columns):
    """Eigenvectors as columns, each with the sign that makes its largest entry positive.

    >>> with_fixed_signs(np.array([[1.0, -3.0], [2.0, 1.0]])).tolist()
    [[1.0, 3.0], [2.0, -1.0]]
    """
    largest = np.argmax(np.abs(columns), axis=0)
    return columns * np.sign(columns[largest, np.arange(columns.shape[1])])


def on_device(x, dtype=None):
    """An array of JAX, made without a program where `x` is none yet.

    `jax.numpy.asarray` compiles one for every shape that it is given.

    >>> on_device(np.arange(3), float).tolist()
    [0.0, 1.0, 2.0]
    """
    check_process()
    if isinstance(x, jax.Array):
        return jnp.asarray(x, dtype)
    # A copy, as JAX may go on with the memory that it is given.
    return jax.device_put(np.array(x, dtype))


def key_of(seed):
    """The random key of JAX, of the kind threefry2x32, that a seed below 2**32 stands for.

    `jax.random.key` compiles two programs.

    >>> bool((jax.random.key_data(key_of(5)) == jax.random.key_data(jax.random.key(5))).all())
    True
    """
    return jax.random.wrap_key_data(np.array([0, seed], np.uint32), impl="threefry2x32")
