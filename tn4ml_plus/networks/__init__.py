"""Tensor networks with named inputs and outputs, all of them quimb TensorNetworks."""

from ._arrangements import MutualInformation, Tree
from ._base import NetworkSpec
from ._generic import Network, as_network, from_quimb
from ._mpo import MPO, SMPO, LayeredMPS, MPOSpec, SMPOSpec
from ._mps import MPS, MPSSpec
from ._trees import MERA, TTN, MERASpec, TTNSpec

__all__ = [
    "MERA", "MPO", "MPS", "SMPO", "TTN", "LayeredMPS", "MERASpec", "MPOSpec", "MPSSpec",
    "MutualInformation", "Network", "NetworkSpec", "SMPOSpec", "TTNSpec", "Tree", "as_network",
    "from_quimb",
]  # fmt: skip
