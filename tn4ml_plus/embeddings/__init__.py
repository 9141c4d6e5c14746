"""Embeddings: feature maps from the columns of X to one vector for each site of a network."""

from ._base import Embedding
from ._bumps import GaussianRBF, Hat
from ._combined import Orthonormal, PerFeature, UnitNorm, UnitSum
from ._discrete import OneHot, QuantumBasis
from ._embedded import Embedded
from ._patches import PatchAmplitude, Patches, PatchFRQI, PrincipalPatches
from ._polynomial import Hermite, Laguerre, Legendre, LinearComplement, Polynomial
from ._trigonometric import (
    Fourier,
    SpinCoherent,
    Trigonometric,
    TrigonometricAverage,
    TrigonometricChain,
)

__all__ = [
    "Embedded", "Embedding", "Fourier", "GaussianRBF", "Hat", "Hermite", "Laguerre", "Legendre",
    "LinearComplement", "OneHot", "Orthonormal", "PatchAmplitude", "PatchFRQI", "Patches",
    "PerFeature", "Polynomial", "PrincipalPatches", "QuantumBasis", "SpinCoherent", "Trigonometric",
    "TrigonometricAverage", "TrigonometricChain", "UnitNorm", "UnitSum",
]  # fmt: skip
