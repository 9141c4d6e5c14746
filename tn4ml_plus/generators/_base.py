"""The base of generators: modules that are called for their weight."""

import abc
import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp


class Generator(eqx.Module):
    """Module that returns a weight of shape `shape` when called; ``x @ generator`` works too.

    A generator is a pytree of its parameters, so that it can stand wherever the weight stood.
    """

    shape: eqx.AbstractVar[tuple[int, ...]]

    # Else NumPy would take a generator for a scalar object and multiply entry by entry.
    __array_ufunc__ = None

    @abc.abstractmethod
    def __call__(self):
        """The weight."""

    @abc.abstractmethod
    def entries(self, index):
        """Entries at flat positions of the weight, of any shape, without the other entries."""

    @abc.abstractmethod
    def scaled(self, factor):
        """The generator of `factor` times the weight."""

    def product(self, x):
        """x (batch, rows) times the weight (rows, columns)."""
        return x @ self()

    def __rmatmul__(self, x):
        x = jnp.asarray(x)
        if len(self.shape) != 2 or x.ndim == 0 or x.shape[-1] != self.shape[0]:
            raise ValueError(
                f"x @ generator needs a matrix and x (..., rows), got x {x.shape} and a weight of "
                f"shape {self.shape}: call the generator for its weight to multiply otherwise."
            )
        y = self.product(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], self.shape[1])

    @property
    def dtype(self):
        """Type of the weight's entries."""
        return jnp.result_type(*parameters(self))

    @property
    def n_parameters(self) -> int:
        """Count of the numbers that generate the weight."""
        return sum(p.size for p in parameters(self))

    @property
    def n_bytes(self) -> int:
        """Size of these numbers in bytes."""
        return sum(p.size * p.dtype.itemsize for p in parameters(self))

    @property
    def compression(self) -> float:
        """Entries of the weight per number that generates it."""
        return math.prod(self.shape) / self.n_parameters


def parameters(tree):
    """The trained arrays of a pytree: those of floating-point numbers."""
    return [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]


def built(cls, like=None, **fields):
    """A module made of fields without its constructor; missing fields are those of `like`."""
    module = object.__new__(cls)
    old = {} if like is None else {f.name: getattr(like, f.name) for f in dataclasses.fields(like)}
    for name, value in (old | fields).items():
        object.__setattr__(module, name, value)
    return module


def is_generator(x):
    return isinstance(x, Generator)


def mapped(function, tree):
    """A pytree with a function applied to its generators; ValueError where it has none."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_generator)
    if not any(map(is_generator, leaves)):
        raise ValueError("There are no generators here: compress the model first.")
    leaves = [function(leaf) if is_generator(leaf) else leaf for leaf in leaves]
    return jax.tree.unflatten(structure, leaves)


def check_dtype(dtype):
    """ValueError unless numbers of this type have the range that generators need."""
    if dtype not in (jnp.bfloat16, jnp.float32, jnp.float64):
        raise ValueError(
            f"dtype must be bfloat16, float32 or float64, got {jnp.dtype(dtype).name}: sums over a "
            "weight exceed the range of float16."
        )


def cast(tree, dtype):
    """A pytree whose floating-point arrays are of this type."""
    return jax.tree.map(lambda p: p.astype(dtype) if eqx.is_inexact_array(p) else p, tree)


def made_by(generator, shape, key):
    """The generator that a class, or a partial of one, makes; ValueError where it makes none."""
    is_made = is_generator(generator) or not callable(generator)
    made = None if is_made else generator(shape, key=key)
    if not is_generator(made) or made.shape != tuple(shape):
        raise ValueError(
            "generator must be a class of generators, or a partial of one, that is called with "
            f"(shape, key=key), got {generator!r}."
        )
    return made


def in_place_of(weight, key, *, generator, rms=None):
    """A generator of the shape, the type and the root mean square (or `rms`) of a weight."""
    check_dtype(weight.dtype)
    made = cast(made_by(generator, weight.shape, key), weight.dtype)
    wanted = jnp.sqrt(jnp.mean(weight**2)) if rms is None else rms
    if not isinstance(wanted, jax.core.Tracer) and not math.isfinite(wanted):
        raise ValueError("A weight to replace is not finite: remove its NaN and infinities first.")
    factor = wanted / jnp.sqrt(jnp.mean(made() ** 2))
    return made.scaled(jnp.where(factor > 0, factor, 1))
