"""How the cores of a network start."""

from ._base import Initializer, Noiseless, generators, identity_core
from ._identity import Identity, LeastSquaresIdentity, least_squares_weights
from ._random import GramSchmidt, HaarUnitary, RandomNormal

__all__ = [
    "GramSchmidt",
    "HaarUnitary",
    "Identity",
    "Initializer",
    "LeastSquaresIdentity",
    "Noiseless",
    "RandomNormal",
    "generators",
    "identity_core",
    "least_squares_weights",
]
