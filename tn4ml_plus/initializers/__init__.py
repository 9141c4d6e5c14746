"""Initial cores of networks."""

from ._initializers import (
    GramSchmidt,
    HaarUnitary,
    Identity,
    Initializer,
    LeastSquaresIdentity,
    Noiseless,
    RandomNormal,
    generators,
    identity_core,
    least_squares_weights,
)  # fmt: skip

__all__ = [
    "GramSchmidt", "HaarUnitary", "Identity", "Initializer", "LeastSquaresIdentity", "Noiseless",
    "RandomNormal", "generators", "identity_core", "least_squares_weights",
]  # fmt: skip
