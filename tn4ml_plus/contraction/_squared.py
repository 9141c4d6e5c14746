"""Networks whose value is the squared norm of their outputs: what densities are trained on."""

import dataclasses
from functools import singledispatch
from typing import Any

import jax.numpy as jnp

from .._registry import register
from .._typing import Amplitude
from ._pack import Structure, _contract, _log_norm_squared, _unpack, contract


@register("structure", name="squared_norm")
@dataclasses.dataclass(frozen=True)
class SquaredNorm(Structure):
    """A packed network whose `contract` gives the squared norm of its outputs, one a sample.

    structure: that of the network itself, which `unpack` still gives back.

    >>> import jax, numpy as np
    >>> from tn4ml_plus.contraction import contract, pack
    >>> from tn4ml_plus.networks import MPS
    >>> packed, structure = pack(MPS.random(5, n_outputs=3, key=jax.random.key(0)))
    >>> phi = np.ones((2, 5, 2), "f4")
    >>> outputs = contract(packed, structure, phi).dense()
    >>> squares = contract(packed, SquaredNorm(structure), phi).dense()
    >>> bool(np.allclose(squares, (outputs**2).sum(axis=1)))
    True
    """

    structure: Any

    @property
    def phys_dims(self):
        """Sizes of the inputs, one a site."""
        return self.structure.phys_dims

    @property
    def output_dims(self):
        """None: a number a sample."""
        return ()

    def padded(self):
        """The same of the padded structure."""
        return SquaredNorm(self.structure.padded())

    def with_bias(self, packed, bias):
        """As for the network itself."""
        return self.structure.with_bias(packed, bias)

    def rescale(self, packed, log_factor):
        """Multiply the squared norms by exp(log_factor)."""
        return self.structure.rescale(packed, log_factor / 2)


@singledispatch
def contract_squared(structure, packed, phi):
    """Amplitude of the squared norm of the outputs, (batch,)."""
    value, exponent = contract(packed, structure, phi)
    return Amplitude(jnp.sum(value.reshape(len(value), -1) ** 2, axis=1), 2 * exponent)


@_contract.register
def _contract_squared_norm(structure: SquaredNorm, packed, phi):
    return contract_squared(structure.structure, packed, phi)


@_unpack.register
def _unpack_squared_norm(structure: SquaredNorm, packed):
    return _unpack(structure.structure, packed)


@_log_norm_squared.register
def _log_norm_squared_squared_norm(structure: SquaredNorm, packed):
    return _log_norm_squared(structure.structure, packed)
