"""Image models of antisymmetric interaction modules: deep tree tensor networks (DTTN).

Everything here is an equinox module, so this room needs the extra ``image``.
"""

try:
    import equinox  # noqa: F401
except ImportError as error:
    raise ImportError(
        "Image models are equinox modules: pip install 'tn4ml_plus[image]'."
    ) from error

from .._registry import register, snake_case
from ._blocks import AIM, Interaction, NoProduct, SIMConv, SIMLinear, TokenMixing, fold_batchnorm
from ._dttn import DTTN, VARIANTS, Variant, layer_core, polynomial_degree
from ._merges import BatchNormProduct, BatchNormSum, LayerNormProduct, Merge, Product, Sum

#: Blocks and merges by the names that estimators take.
_BLOCKS = AIM, SIMConv, SIMLinear, NoProduct, TokenMixing
BLOCKS = {snake_case(block.__name__): block for block in _BLOCKS}
MERGES = {snake_case(merge.__name__): merge for merge in (BatchNormProduct, LayerNormProduct)}
for _kind, _table in (("block", BLOCKS), ("merge", MERGES), ("variant", VARIANTS)):
    for _name, _value in _table.items():
        register(_kind, _name)(_value)

__all__ = [
    "AIM", "BLOCKS", "DTTN", "MERGES", "VARIANTS", "BatchNormProduct", "BatchNormSum",
    "Interaction", "LayerNormProduct", "Merge", "NoProduct", "Product", "SIMConv", "SIMLinear",
    "Sum", "TokenMixing", "Variant", "fold_batchnorm", "layer_core", "polynomial_degree",
]  # fmt: skip
