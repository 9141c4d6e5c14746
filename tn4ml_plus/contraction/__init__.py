"""From networks to numbers: packing, batched evaluation, norms."""

from . import _chain
from ._pack import contract, log_norm_squared, pack, unpack

__all__ = ["contract", "log_norm_squared", "pack", "unpack"]
