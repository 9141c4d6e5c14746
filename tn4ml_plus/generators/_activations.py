"""Functions between the layers of a generator, some with parameters that are trained."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_number


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

    @property
    def rms(self):
        return 1 / self.frequency

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
