"""Normalisation by fixed moments, as a part of the linear maps before it."""

import equinox as eqx
import jax

from ._blocks import ConvFirst, Interaction, TokenMixing
from ._maps import BatchNorm
from ._merges import BatchNormMerge


def fold_batchnorm(model: eqx.Module) -> eqx.Module:
    """The model for inference: each normalisation over the batch is part of the map before it.

    Outputs stay the same and cost less. Normalisations over the channels, which depend on the
    image, stay. Source: arXiv 2502.09928, section 3; Ding et al. 2021, section 3.3.

    >>> import jax
    >>> from tn4ml_plus.image import DTTN, Variant
    >>> model = DTTN(Variant((8,), (2,)), (8, 8), 10, key=jax.random.key(0))
    >>> fold_batchnorm(model).moments
    []
    """
    is_block = lambda part: isinstance(part, Interaction | TokenMixing)  # noqa: E731
    return jax.tree.map(lambda b: fold_block(b) if is_block(b) else b, model, is_leaf=is_block)


def fold_block(block):
    """`fold_batchnorm` of one block; a folded one stays unchanged."""
    block = _folded(block, "project", "norm")
    if isinstance(block, TokenMixing):
        return _folded(_folded(block, "key", "key_norm"), "value", "value_norm")
    if not isinstance(block.merge, BatchNormMerge):
        return block
    left, right = (
        eqx.tree_at(_last_map, branch, _scaled(_last_map(branch), norm))
        for branch, norm in ((block.left, block.merge.left), (block.right, block.merge.right))
    )
    parts = (left, right, block.merge.plain())
    return eqx.tree_at(lambda block: (block.left, block.right, block.merge), block, parts)


def _folded(block, linear, norm):
    """The block with one normalisation None and the map before it changed, by their names."""
    if getattr(block, norm) is None:
        return block
    new = _scaled(getattr(block, linear), getattr(block, norm)), None
    return eqx.tree_at(lambda block: (getattr(block, linear), getattr(block, norm)), block, new)


def _last_map(branch):
    return branch.pointwise if isinstance(branch, ConvFirst) else branch.depthwise


def _scaled(linear, norm):
    """The linear map followed by the normalisation: W <- s W, b <- s (b - mean) + shift."""
    factor = norm.scale * jax.lax.rsqrt(norm.variance + BatchNorm.EPSILON)
    weight = linear.weight * factor.reshape(-1, *(1,) * (linear.weight.ndim - 1))
    bias = factor * (linear.bias - norm.mean) + norm.shift
    return eqx.tree_at(lambda linear: (linear.weight, linear.bias), linear, (weight, bias))
