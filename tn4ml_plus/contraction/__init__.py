"""Networks as numbers: packing, batched evaluation, norms."""

from .._amplitude import Amplitude
from ._calibrate import calibrate
from ._chain import ChainStructure
from ._density import BornDensity, as_tree
from ._generic import GenericStructure
from ._khatri_rao import khatri_rao
from ._layered import LayeredStructure
from ._mera import MERAStructure
from ._operator import OperatorStructure
from ._pack import contract, log_norm_squared, pack, transform, unpack
from ._rooted import END, OPEN, SHUT, Rooted
from ._squared import SquaredNorm
from ._structure import Structure
from ._tree import TreeStructure

__all__ = [
    "END",
    "OPEN",
    "SHUT",
    "Amplitude",
    "BornDensity",
    "ChainStructure",
    "GenericStructure",
    "LayeredStructure",
    "MERAStructure",
    "OperatorStructure",
    "Rooted",
    "SquaredNorm",
    "Structure",
    "TreeStructure",
    "as_tree",
    "calibrate",
    "contract",
    "khatri_rao",
    "log_norm_squared",
    "pack",
    "transform",
    "unpack",
]
