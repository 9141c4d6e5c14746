"""Network outputs with an exact scale: a value and an integer power of two."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Written in the primitives of `lax`: each function of `jax.numpy` would be traced as a program of
# its own, twice or more, wherever these few are in a loop.
from ._arrays import one_program


def power_of_two(exponent, dtype):
    """Exact 2**exponent for integer `exponent` within the normal range of the float `dtype`."""
    integer, mantissa, bias = {4: (np.int32, 23, 127), 8: (np.int64, 52, 1023)}[dtype.itemsize]
    bits = lax.add(lax.convert_element_type(exponent, integer), integer(bias))
    return lax.bitcast_convert_type(lax.shift_left(bits, integer(mantissa)), dtype)


# Exact arithmetic is one program where nothing else is being compiled.
@one_program
def scale_by_power_of_two(value, exponent):
    """value * 2**exponent, exact until it leaves the range of value's dtype (then 0 or inf)."""
    limit = 1000 if value.dtype == jnp.float64 else 124
    for _ in range(2):
        part = jnp.clip(exponent, -limit, limit)
        value = value * power_of_two(part, value.dtype)
        exponent = exponent - part
    return value


def times_power_of_two(value, exponent):
    """Exact value * 2**exponent for value (..., batch) and exponent (batch,) in normal range."""
    factor = power_of_two(exponent, value.dtype)
    return lax.mul(value, lax.broadcast_in_dim(factor, value.shape, (value.ndim - 1,)))


@one_program
def exponent_of(v):
    """Base-2 exponents of the largest moduli over the first axis, (D, batch) -> (batch,) int32."""
    integer, info = {4: np.int32, 8: np.int64}[v.dtype.itemsize], jnp.finfo(v.dtype)
    bits = lax.bitcast_convert_type(lax.reduce_max(lax.abs(v), (0,)), integer)
    field = lax.shift_right_logical(bits, integer(info.nmant))
    field = lax.convert_element_type(lax.bitwise_and(field, integer(2**info.nexp - 1)), np.int32)
    found = lax.min(lax.add(field, np.int32(info.minexp - 1)), np.int32(-info.minexp))
    # Zeros and subnormals keep their scale: 2**0.
    return lax.select(lax.eq(field, np.int32(0)), lax.full_like(field, 0), found)


class Amplitude(NamedTuple):
    """A batch of network outputs ``value * 2**exponent``, so that no scale under- or overflows.

    Attributes
    ----------
    value : (batch, *outputs), floats of moderate size
    exponent : (batch,), integers, int32
    """

    value: jax.Array
    exponent: jax.Array

    @property
    def log_scale(self):
        """Natural logarithm of the scale, (batch,)."""
        return self.exponent.astype(self.value.dtype) * np.log(2.0).astype(self.value.dtype)

    def dense(self):
        """Plain numbers, (batch, *outputs); 0 or inf beyond the range of the dtype."""
        return _dense(*self)

    def log_abs(self):
        """Natural logarithm of the modulus, (batch, *outputs); -inf where the value is zero."""
        return _log_abs(*self)


@one_program
def _dense(value, exponent):
    return scale_by_power_of_two(value, _by_output(value, exponent))


@one_program
def _log_abs(value, exponent):
    return jnp.log(jnp.abs(value)) + _by_output(value, Amplitude(value, exponent).log_scale)


def _by_output(value, x):
    return x.reshape(x.shape + (1,) * (value.ndim - x.ndim))
