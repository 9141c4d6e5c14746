"""Tensor networks with named inputs and outputs, all of them quimb TensorNetworks."""

from ._generic import Network, as_network, from_quimb
from ._layered import LayeredMPS, MPOSpec, SMPOSpec
from ._mera import MERA, MERASpec
from ._mpo import MPO, SMPO
from ._mps import MPS, MPSSpec
from ._spec import NetworkSpec
from ._statistics import MutualInformation
from ._tree_graph import Tree
from ._ttn import TTN, TTNSpec

__all__ = [
    "MERA",
    "MPO",
    "MPS",
    "SMPO",
    "TTN",
    "LayeredMPS",
    "MERASpec",
    "MPOSpec",
    "MPSSpec",
    "MutualInformation",
    "Network",
    "NetworkSpec",
    "SMPOSpec",
    "TTNSpec",
    "Tree",
    "as_network",
    "from_quimb",
]
