"""How the two branches of an interaction become one map."""

import abc

import equinox as eqx

from ._maps import BatchNorm, LayerNorm


class Merge(eqx.Module):
    """Built for a number of channels, called with the maps of the two branches."""

    @abc.abstractmethod
    def __call__(self, left, right, moments=None):
        """One map; moments: as in `BatchNorm`."""


class BatchNormProduct(Merge):
    """The product of the branches, each normalised over the batch: that of DTTN."""

    left: BatchNorm
    right: BatchNorm

    def __init__(self, channels):
        self.left, self.right = BatchNorm(channels), BatchNorm(channels)

    def __call__(self, left, right, moments=None):
        return self.left(left, moments) * self.right(right, moments)


class LayerNormProduct(Merge):
    """The product of the branches, normalised over the channels: that of DTTN-dagger.

    Learns better, but divides by what depends on the image: the network is then no tree tensor
    network, nor a polynomial.
    """

    norm: LayerNorm

    def __init__(self, channels):
        self.norm = LayerNorm(channels)

    def __call__(self, left, right, moments=None):
        return self.norm(left * right)


class BatchNormSum(Merge):
    """The sum of the normalised branches, without any interaction."""

    left: BatchNorm
    right: BatchNorm

    def __init__(self, channels):
        self.left, self.right = BatchNorm(channels), BatchNorm(channels)

    def __call__(self, left, right, moments=None):
        return self.left(left, moments) + self.right(right, moments)


class Product(Merge):
    """The product alone: what `BatchNormProduct` becomes by folding."""

    def __init__(self, channels=None):
        pass

    def __call__(self, left, right, moments=None):
        return left * right


class Sum(Merge):
    """The sum alone: what `BatchNormSum` becomes by folding."""

    def __init__(self, channels=None):
        pass

    def __call__(self, left, right, moments=None):
        return left + right
