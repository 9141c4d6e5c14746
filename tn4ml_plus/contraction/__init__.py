"""Networks as numbers: packing, batched evaluation, norms."""

from .._amplitude import Amplitude
from ._chain import ChainStructure
from ._density import BornDensity, as_tree
from ._generic import GenericStructure, MERAStructure
from ._operator import LayeredStructure, OperatorStructure
from ._pack import calibrate, contract, khatri_rao, log_norm_squared, pack, transform, unpack
from ._structure import END, OPEN, SHUT, Rooted, SquaredNorm, Structure
from ._tree import TreeStructure

__all__ = [
    "END", "OPEN", "SHUT", "Amplitude", "BornDensity", "ChainStructure", "GenericStructure",
    "LayeredStructure", "MERAStructure", "OperatorStructure", "Rooted", "SquaredNorm", "Structure",
    "TreeStructure", "as_tree", "calibrate", "contract", "khatri_rao", "log_norm_squared", "pack",
    "transform", "unpack",
]  # fmt: skip
