"""Initial cores of networks."""

from ._base import Initializer, Noiseless, generators, identity_core
from ._cores import (
    GramSchmidt,
    HaarUnitary,
    Identity,
    LeastSquaresIdentity,
    RandomNormal,
    least_squares_weights,
)

__all__ = [
    "GramSchmidt", "HaarUnitary", "Identity", "Initializer", "LeastSquaresIdentity", "Noiseless",
    "RandomNormal", "generators", "identity_core", "least_squares_weights",
]  # fmt: skip
