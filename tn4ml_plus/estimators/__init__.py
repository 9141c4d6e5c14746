"""Estimators with the manners of scikit-learn."""

from ..tables import (
    Bijection,
    CommonMinMax,
    Differentiable,
    GaussianCDF,
    LogisticCDF,
    MinMax,
    Passthrough,
    PrincipalComponents,
    ProbabilisticPCA,
    QuantileSigmoid,
    Rotated,
    Scaler,
)
from ._anomaly import TNAnomalyDetector
from ._born import Marginal, TNBornMachine
from ._classifier import TNClassifier
from ._image_classifier import DTTNClassifier
from ._loading import load
from ._regressor import TNRegressor
from ._selection import Selection
from ._transformer import TNTransformer

__all__ = [
    "Bijection", "CommonMinMax", "DTTNClassifier", "Differentiable", "GaussianCDF", "LogisticCDF",
    "Marginal", "MinMax", "Passthrough", "PrincipalComponents", "ProbabilisticPCA",
    "QuantileSigmoid", "Rotated", "Scaler", "Selection", "TNAnomalyDetector", "TNBornMachine",
    "TNClassifier", "TNRegressor", "TNTransformer", "load",
]  # fmt: skip
