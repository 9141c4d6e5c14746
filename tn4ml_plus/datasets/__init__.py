"""Loaders of image data sets in their standard formats, from files that the user has.

Nothing here downloads: a missing file raises MissingDataError, which says how to get it.
"""

from ._loaders import load_cifar10, load_fashion_mnist, load_idx, load_mnist, pool_images

__all__ = ["load_cifar10", "load_fashion_mnist", "load_idx", "load_mnist", "pool_images"]
