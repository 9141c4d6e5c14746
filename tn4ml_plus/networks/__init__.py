"""Tensor networks with named inputs and outputs, all of them quimb TensorNetworks."""

from ._generic import Network, from_quimb
from ._mps import MPS, MPSSpec
from ._tree import Tree
from ._ttn import TTN, TTNSpec

__all__ = ["MPS", "TTN", "MPSSpec", "Network", "TTNSpec", "Tree", "from_quimb"]
