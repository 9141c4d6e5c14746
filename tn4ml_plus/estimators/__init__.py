"""Estimators with the manners of scikit-learn."""

from ._classifier import TNClassifier
from ._regressor import TNRegressor
from ._scalers import CommonMinMax, MinMax, Passthrough, QuantileSigmoid, Scaler
from ._state import load

__all__ = [
    "CommonMinMax",
    "MinMax",
    "Passthrough",
    "QuantileSigmoid",
    "Scaler",
    "TNClassifier",
    "TNRegressor",
    "load",
]
