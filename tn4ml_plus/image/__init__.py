"""Image models of antisymmetric interaction modules: deep tree tensor networks (DTTN).

Everything here is an equinox module, so this room needs the extra ``image``.
"""

try:
    import equinox  # noqa: F401
except ImportError as error:
    raise ImportError(
        "Image models are equinox modules: pip install 'tn4ml_plus[image]'."
    ) from error

from .._registry import register
from ._blocks import AIM, Interaction, NoProduct, SIMConv, SIMLinear, TokenMixing
from ._dttn import DTTN, VARIANTS, Variant
from ._folding import fold_batchnorm
from ._merges import BatchNormProduct, BatchNormSum, LayerNormProduct, Merge, Product, Sum
from ._unfolding import layer_core, polynomial_degree

#: Blocks and merges by the names that estimators take.
BLOCKS = {
    "aim": AIM,
    "sim_conv": SIMConv,
    "sim_linear": SIMLinear,
    "no_product": NoProduct,
    "token_mixing": TokenMixing,
}
MERGES = {"batch_norm_product": BatchNormProduct, "layer_norm_product": LayerNormProduct}
for _kind, _table in (("block", BLOCKS), ("merge", MERGES), ("variant", VARIANTS)):
    for _name, _value in _table.items():
        register(_kind, _name)(_value)

__all__ = [
    "AIM", "BLOCKS", "DTTN", "MERGES", "VARIANTS", "BatchNormProduct", "BatchNormSum",
    "Interaction", "LayerNormProduct", "Merge", "NoProduct", "Product", "SIMConv", "SIMLinear",
    "Sum", "TokenMixing", "Variant", "fold_batchnorm", "layer_core", "polynomial_degree",
]  # fmt: skip
