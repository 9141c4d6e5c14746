"""Machine learning with tensor networks: quimb networks, JAX speed, scikit-learn manners."""

from .estimators import TNClassifier, TNRegressor, load

__version__ = "0.1.0"

__all__ = ["TNClassifier", "TNRegressor", "load"]
