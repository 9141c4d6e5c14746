"""Tensor networks with named inputs and outputs, all of them quimb TensorNetworks."""

from ._generic import Network, from_quimb
from ._mps import MPS, MPSSpec

__all__ = ["MPS", "MPSSpec", "Network", "from_quimb"]
