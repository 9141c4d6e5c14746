"""From networks to numbers: packing, batched evaluation, norms."""

from . import _chain, _generic, _layered, _tree  # noqa: F401, each registers its methods
from ._calibrate import calibrate
from ._density import BornDensity, as_tree
from ._khatri_rao import khatri_rao
from ._operator import transform
from ._pack import contract, log_norm_squared, pack, unpack
from ._rooted import END, OPEN, SHUT, Rooted, from_nodes, rooted, to_nodes
from ._squared import SquaredNorm

__all__ = [
    "END",
    "OPEN",
    "SHUT",
    "BornDensity",
    "Rooted",
    "SquaredNorm",
    "as_tree",
    "calibrate",
    "contract",
    "from_nodes",
    "khatri_rao",
    "log_norm_squared",
    "pack",
    "rooted",
    "to_nodes",
    "transform",
    "unpack",
]
