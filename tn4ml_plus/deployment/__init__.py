"""Fitted estimators where this package is not: StableHLO programs, and NumPy alone."""

from ._predictor import Classifier, Density, Predictor, Regressor, predictor
from ._program import as_numpy, traced_members, write_program
from ._translation import class_loss, density_loss, table_tree, view_tree

__all__ = [
    "Classifier", "Density", "Predictor", "Regressor", "as_numpy", "class_loss", "density_loss",
    "predictor", "table_tree", "traced_members", "view_tree", "write_program",
]  # fmt: skip
