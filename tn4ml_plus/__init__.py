"""Machine learning with tensor networks: quimb networks, JAX speed, scikit-learn manners."""

from ._compiled import cache_compilations, clear_compiled
from ._registry import register
from ._version import __version__ as __version__
from .estimators import (
    DTTNClassifier,
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    TNTransformer,
    load,
)

__all__ = [
    "DTTNClassifier", "TNAnomalyDetector", "TNBornMachine", "TNClassifier", "TNRegressor",
    "TNTransformer", "cache_compilations", "clear_compiled", "load", "register",
]  # fmt: skip
