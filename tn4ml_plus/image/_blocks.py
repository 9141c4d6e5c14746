"""Interaction modules, residual blocks without any activation, and their folded form."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_int, check_number
from .._forks import unforked
from ._maps import BatchNorm, Depthwise, LinearMap, Pointwise, check_floating, constant, normed
from ._merges import BatchNormMerge, BatchNormProduct, BatchNormSum, Merge


class Branch(eqx.Module):
    """A depthwise convolution and a linear map of the channels, in either sequence."""

    first: LinearMap
    last: LinearMap

    def __call__(self, x):
        return self.last(self.first(x))


def conv_first(channels, expansion, key):
    """Branch of channels c -> h: a depthwise convolution, then a linear map h -> h."""
    depthwise, pointwise = jax.random.split(key)
    width = expansion * channels
    return Branch(Depthwise(channels, expansion, depthwise), Pointwise(width, width, pointwise))


def linear_first(channels, expansion, key):
    """Branch of channels c -> h: a linear map c -> h, then a depthwise convolution."""
    depthwise, pointwise = jax.random.split(key)
    width = expansion * channels
    return Branch(Pointwise(channels, width, pointwise), Depthwise(width, 1, depthwise))


def _check(channels, expansion, alpha):
    check_int("channels", channels, 1)
    check_int("expansion", expansion, 1)
    check_number("alpha", alpha)


class Interaction(eqx.Module):
    """x + alpha BN(P(merge(left(x), right(x)))), maps (channels, height, width, batch).

    Weights are Kaiming normal, biases start at 0.

    Parameters
    ----------
    channels, expansion : int, channels of x, and those of the branches over them
    merge, alpha : class of the `Merge` that joins the branches, start of the trained number alpha
    key : jax.Array, key of the weights
    """

    left: eqx.Module
    right: eqx.Module
    merge: Merge
    project: Pointwise
    norm: BatchNorm | None
    alpha: jax.Array

    branches: ClassVar[tuple[Callable, Callable]]
    #: Degree of the block's output in its input.
    degree: ClassVar[int] = 2

    def __init__(
        self,
        channels: int,
        expansion: int = 1,
        *,
        merge: type[Merge] = BatchNormProduct,
        alpha: float = 1.0,
        key: jax.Array,
    ):
        _check(channels, expansion, alpha)
        left, right, project = jax.random.split(key, 3)
        self.left = self.branches[0](channels, expansion, left)
        self.right = self.branches[1](channels, expansion, right)
        self.merge = merge(expansion * channels)
        self.project = Pointwise(expansion * channels, channels, project)
        self.norm = BatchNorm(channels)
        self.alpha = constant(alpha)

    def __call__(self, x: jax.Array, moments: list | None = None) -> jax.Array:
        """Maps of the shape of x.

        Parameters
        ----------
        x : (channels, height, width, batch), maps
        moments : list, optional, as in `DTTN.__call__`
        """
        check_floating(x)
        merged = self.merge(self.left(x), self.right(x), moments)
        change = normed(self.norm, self.project(merged), moments)
        return x + self.alpha.astype(x.dtype) * change


class AIM(Interaction):
    """Antisymmetric interaction module: one branch convolves first, the other last.

    See `Interaction` for the parameters. Source: arXiv 2502.09928, section 3.

    >>> import jax
    >>> block = AIM(8, 3, key=jax.random.key(0))
    >>> block(jax.numpy.ones((8, 7, 7, 2))).shape
    (8, 7, 7, 2)
    """

    branches = (conv_first, linear_first)


class SIMConv(Interaction):
    """Symmetric interaction module, both branches convolve first: an ablation of `AIM`."""

    branches = (conv_first, conv_first)


class SIMLinear(Interaction):
    """Symmetric interaction module, both branches convolve last: an ablation of `AIM`."""

    branches = (linear_first, linear_first)


class NoProduct(Interaction):
    """`AIM` with the sum of its branches in place of `merge`: an affine map once trained.

    See `Interaction` for the parameters.
    """

    branches = (conv_first, linear_first)

    def __init__(self, channels, expansion=1, *, merge=None, alpha=1.0, key):
        super().__init__(channels, expansion, merge=BatchNormSum, alpha=alpha, key=key)


class TokenMixing(eqx.Module):
    """x + alpha BN(P(q . mean over pixels of k v^T)): attention that is multilinear in x.

    Every pixel reads the same matrix of each head, so the cost is linear in the pixels. q, k and v
    are linear in x, so the change of x has degree 3.

    >>> import jax
    >>> TokenMixing(32, key=jax.random.key(0))(jax.numpy.ones((32, 7, 7, 2))).shape
    (32, 7, 7, 2)

    Parameters
    ----------
    channels, expansion, merge, alpha : as in `Interaction`; merge is not used
    head_dim : int, channels of a head; there is one head where they are fewer or no multiple of it
    key : as in `Interaction`
    """

    query: Pointwise
    key: Pointwise
    value: Pointwise
    key_norm: BatchNorm | None
    value_norm: BatchNorm | None
    project: Pointwise
    norm: BatchNorm | None
    alpha: jax.Array
    n_heads: int = eqx.field(static=True)
    degree: ClassVar[int] = 3

    def __init__(self, channels, expansion=1, *, merge=None, alpha=1.0, head_dim=16, key):
        _check(channels, expansion, alpha)
        check_int("head_dim", head_dim, 1)
        width = expansion * channels
        query, keys, value, project = jax.random.split(key, 4)
        self.query = Pointwise(channels, width, query)
        self.key = Pointwise(channels, width, keys)
        self.value = Pointwise(channels, width, value)
        self.key_norm, self.value_norm = BatchNorm(width), BatchNorm(width)
        self.project = Pointwise(width, channels, project)
        self.norm = BatchNorm(channels)
        self.alpha = constant(alpha)
        self.n_heads = 1 if width % head_dim else width // head_dim

    def __call__(self, x: jax.Array, moments: list | None = None) -> jax.Array:
        """Maps of the shape of x; see `Interaction.__call__` for the parameters."""
        _, height, width, batch = x.shape
        shape = (self.n_heads, -1, height * width, batch)
        query = self.query(x).reshape(shape)
        key = normed(self.key_norm, self.key(x), moments).reshape(shape)
        value = normed(self.value_norm, self.value(x), moments).reshape(shape)
        read = jnp.einsum("hdpb,hepb->hdeb", key, value) / (height * width)
        mixed = jnp.einsum("hdpb,hdeb->hepb", query, read).reshape(-1, height, width, batch)
        change = normed(self.norm, self.project(mixed), moments)
        return x + self.alpha.astype(x.dtype) * change


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
        eqx.tree_at(lambda branch: branch.last, branch, _scaled(branch.last, norm))
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


@unforked
@eqx.filter_jit
def _scaled(linear, norm):
    """The linear map followed by the normalisation: W <- s W, b <- s (b - mean) + shift."""
    factor = norm.scale * jax.lax.rsqrt(norm.variance + BatchNorm.EPSILON)
    weight = linear.weight * factor.reshape(-1, *(1,) * (linear.weight.ndim - 1))
    bias = factor * (linear.bias - norm.mean) + norm.shift
    return eqx.tree_at(lambda linear: (linear.weight, linear.bias), linear, (weight, bias))
