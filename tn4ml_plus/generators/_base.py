"""The base of generators, modules that are called for their weight, and of their activations."""

import abc
import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_number
from .._forks import unforked


def one_program(function):
    """Decorator of what is one program where nothing else is being compiled."""
    return unforked(eqx.filter_jit(function, inline=True))


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
        return sum(p.nbytes for p in parameters(self))

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
    if not any(map(is_generator, jax.tree.leaves(tree, is_leaf=is_generator))):
        raise ValueError("There are no generators here: compress the model first.")
    apply = lambda leaf: function(leaf) if is_generator(leaf) else leaf  # noqa: E731
    return jax.tree.map(apply, tree, is_leaf=is_generator)


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
    made, wanted = _sized(made, weight, rms)
    if not isinstance(wanted, jax.core.Tracer) and not math.isfinite(wanted):
        raise ValueError("A weight to replace is not finite: remove its NaN and infinities first.")
    return made


@one_program
def _sized(made, weight, rms):
    """A generator scaled to a root mean square, that of a weight if None, which comes with it."""
    wanted = jnp.sqrt(jnp.mean(weight**2)) if rms is None else rms
    factor = wanted / jnp.sqrt(jnp.mean(made() ** 2))
    return made.scaled(jnp.where(factor > 0, factor, 1)), wanted


class Activation(eqx.Module):
    """Elementwise function of the state of a layer; each layer has one of its own."""

    #: Root mean square of the states that a calibrated layer passes to it.
    rms: ClassVar[float] = 1.0

    @abc.abstractmethod
    def __call__(self, state):
        """The activated state."""


class Identity(Activation):
    """No activation: the generator is multilinear, a tensor network that `to_quimb` returns.

    (`tn4ml_plus.initializers.Identity` makes initial cores.)
    """

    def __call__(self, state):
        return state


class ELU(Activation):
    """x where positive, exp(x) - 1 elsewhere (Clevert et al. 2016)."""

    def __call__(self, state):
        return jax.nn.elu(state)


class GELU(Activation):
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016)."""

    def __call__(self, state):
        return jax.nn.gelu(state, approximate=False)


class SiLU(Activation):
    """x times the logistic function of x."""

    def __call__(self, state):
        return jax.nn.silu(state)


class PReLU(Activation):
    """x where positive, slope times x elsewhere, with a trained slope (He et al. 2015)."""

    slope: jax.Array

    def __init__(self, slope=0.25):
        check_number("slope", slope)
        self.slope = jnp.asarray(slope, float)

    def __call__(self, state):
        return jnp.where(state > 0, state, self.slope.astype(state.dtype) * state)


class Sine(Activation):
    """sin(frequency x) with x of root mean square 1 / frequency (SIREN, Sitzmann et al. 2020).

    The frequency, above 0, decides how fast a core changes what it generates.
    """

    frequency: float = eqx.field(static=True)

    def __init__(self, frequency=30.0):
        check_number("frequency", frequency, above=0)
        self.frequency = float(frequency)

    rms = property(lambda self: 1 / self.frequency)

    def __call__(self, state):
        return jnp.sin(self.frequency * state)


class Rational(Activation):
    """A cubic over 1 + |a quadratic without constant|, all coefficients trained: no poles.

    Starts near a leaky ReLU of slope 0.01 for |x| <= 2. Source: Molina, Schramowski
    and Kersting 2020, eq. 3.
    """

    numerator: jax.Array
    denominator: jax.Array

    def __init__(self):
        self.numerator = jnp.asarray([0.087, 0.505, 0.583, 0.179], float)
        self.denominator = jnp.asarray([0.0, 0.355], float)

    def __call__(self, state):
        over = jnp.polyval(self.numerator[::-1].astype(state.dtype), state)
        under = state * jnp.polyval(self.denominator[::-1].astype(state.dtype), state)
        return over / (1 + jnp.abs(under))
