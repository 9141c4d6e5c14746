"""From networks to numbers: packing, batched evaluation, norms."""

from . import _chain, _generic, _layered, _tree  # noqa: F401, each registers its methods
from ._calibrate import calibrate
from ._density import BornDensity, as_tree
from ._operator import transform
from ._pack import contract, log_norm_squared, pack, unpack
from ._squared import SquaredNorm

__all__ = [
    "BornDensity",
    "SquaredNorm",
    "as_tree",
    "calibrate",
    "contract",
    "log_norm_squared",
    "pack",
    "transform",
    "unpack",
]
