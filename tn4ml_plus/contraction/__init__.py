"""From networks to numbers: packing, batched evaluation, norms."""

from . import _chain, _generic, _tree  # noqa: F401, each registers its methods
from ._calibrate import calibrate
from ._pack import contract, log_norm_squared, pack, unpack

__all__ = ["calibrate", "contract", "log_norm_squared", "pack", "unpack"]
