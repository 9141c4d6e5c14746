"""Merges of the two branches of an interaction into one map."""

import abc
from typing import ClassVar

import equinox as eqx
import jax

from ._maps import BatchNorm, LayerNorm


class Merge(eqx.Module):
    """Built for a number of channels, called with the maps of the two branches."""

    @abc.abstractmethod
    def __call__(self, left: jax.Array, right: jax.Array, moments: list | None = None) -> jax.Array:
        """Maps merged from those of the branches; see `Interaction.__call__` for the parameters."""


class _Plain(Merge):
    def __init__(self, channels=None):
        pass


class Product(_Plain):
    """The product alone, which folding leaves of `BatchNormProduct`."""

    def __call__(self, left, right, moments=None):
        return left * right


class Sum(_Plain):
    """The sum alone, which folding leaves of `BatchNormSum`."""

    def __call__(self, left, right, moments=None):
        return left + right


class BatchNormMerge(Merge):
    """A plain merge of the branches, each normalised over the batch before."""

    left: BatchNorm
    right: BatchNorm

    plain: eqx.AbstractClassVar[type[Merge]]

    def __init__(self, channels):
        self.left, self.right = BatchNorm(channels), BatchNorm(channels)

    def __call__(self, left, right, moments=None):
        return self.plain()(self.left(left, moments), self.right(right, moments))


class BatchNormProduct(BatchNormMerge):
    """The product of the branches, each normalised over the batch: that of DTTN."""

    plain: ClassVar[type[Merge]] = Product


class BatchNormSum(BatchNormMerge):
    """The sum of the normalised branches, without any interaction."""

    plain: ClassVar[type[Merge]] = Sum


class LayerNormProduct(Merge):
    """The product of the branches, normalised over the channels: that of DTTN-dagger.

    It learns better, but divides by numbers that depend on the image, so that the network is
    neither a tree tensor network nor a polynomial.
    """

    norm: LayerNorm

    def __init__(self, channels):
        self.norm = LayerNorm(channels)

    def __call__(self, left, right, moments=None):
        return self.norm(left * right)
