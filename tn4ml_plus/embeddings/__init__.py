"""Embeddings: feature maps from the columns of X to one vector for each site of a network."""

from ._base import Embedding
from ._combined import Orthonormal, PerFeature, UnitNorm, UnitSum, WithMissing
from ._patches import PatchAmplitude, Patches, PatchFRQI, PrincipalPatches
from ._places import Embedded, GaussianRBF, Hat, OneHot, QuantumBasis
from ._polynomial import Hermite, Laguerre, Legendre, LinearComplement, Polynomial
from ._waves import (
    Fourier,
    Periodic,
    SpinCoherent,
    Trigonometric,
    TrigonometricAverage,
    TrigonometricChain,
)

__all__ = [
    "Embedded", "Embedding", "Fourier", "GaussianRBF", "Hat", "Hermite", "Laguerre", "Legendre",
    "LinearComplement", "OneHot", "Orthonormal", "PatchAmplitude", "PatchFRQI", "Patches",
    "PerFeature", "Periodic", "Polynomial", "PrincipalPatches", "QuantumBasis", "SpinCoherent",
    "Trigonometric", "TrigonometricAverage", "TrigonometricChain", "UnitNorm", "UnitSum",
    "WithMissing",
]  # fmt: skip
