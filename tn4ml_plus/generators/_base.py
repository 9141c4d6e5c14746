"""What every generator is: a module that is called for its weight."""

import abc
import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp


class Generator(eqx.Module):
    """Called without arguments it gives its weight, of shape `shape`; ``x @ generator`` works too.

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
        """Of the weight."""
        return jnp.result_type(*parameters(self))

    @property
    def n_parameters(self):
        """How many numbers generate the weight."""
        return sum(p.size for p in parameters(self))

    @property
    def n_bytes(self):
        """How many bytes these numbers take."""
        return sum(p.size * p.dtype.itemsize for p in parameters(self))

    @property
    def compression(self):
        """Entries of the weight for each number that generates it."""
        return math.prod(self.shape) / self.n_parameters


def parameters(tree):
    """The arrays of a pytree that learn: those of floating-point numbers."""
    return [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]


def built(cls, like=None, **fields):
    """A module of these fields past its constructor, the other fields those of another module."""
    module = object.__new__(cls)
    old = {} if like is None else {f.name: getattr(like, f.name) for f in dataclasses.fields(like)}
    for name, value in (old | fields).items():
        object.__setattr__(module, name, value)
    return module


def is_generator(x):
    return isinstance(x, Generator)


def in_place_of(weight, key, *, generator, rms=None):
    """A generator of the shape, the type and the root mean square of a weight.

    generator: called with a shape and key=; rms: another root mean square to start from.
    """
    made = generator(weight.shape, key=key)
    if not is_generator(made) or made.shape != weight.shape:
        raise ValueError(
            "generator must be a class of generators, or a partial of one, that is called with "
            f"(shape, key=key), got {generator!r}."
        )
    made = jax.tree.map(lambda p: p.astype(weight.dtype) if eqx.is_inexact_array(p) else p, made)
    wanted = jnp.sqrt(jnp.mean(weight**2)) if rms is None else rms
    factor = wanted / jnp.sqrt(jnp.mean(made() ** 2))
    return made.scaled(jnp.where(factor > 0, factor, 1))
