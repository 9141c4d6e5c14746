"""Vectors that need no embedding."""

import math

import numpy as np

from .._checks import check_int
from .._registry import variant
from .._types import ArrayLike
from ._base import Embedding, Gram, Vectors, as_float


@variant("embedding")
class Embedded(Embedding):
    """Input that is embedded already: `phys_dim` consecutive columns are the vector of one site.

    `embed` takes (batch, nsites phys_dim) or (batch, nsites, phys_dim). `gram` is the identity, the
    sum over an orthonormal basis. ValueError unless phys_dim >= 1 and the input fits it.

    >>> Embedded(2).embed([[1.0, 2.0, 3.0, 4.0]]).tolist()
    [[[1.0, 2.0], [3.0, 4.0]]]
    """

    phys_dim: int = 2
    domain = (-math.inf, math.inf)
    columnwise = False
    site_features = property(lambda self: self.phys_dim)

    def __post_init__(self):
        check_int("phys_dim", self.phys_dim, 1)

    def __call__(self, x: ArrayLike) -> Vectors:
        return self._site_inputs(x)

    def embed(self, X: ArrayLike) -> Vectors:
        X = as_float(X)
        if X.ndim < 3:
            return super().embed(X)
        if X.shape[-1] != self.phys_dim:
            raise ValueError(
                f"X has vectors of size {X.shape[-1]}: use Embedded(phys_dim={X.shape[-1]})."
            )
        return X

    def gram(self) -> Gram:
        return np.eye(self.phys_dim)
