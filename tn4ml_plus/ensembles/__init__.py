"""Several networks trained together: how they are made, trained, evaluated and compressed."""

from ._ensemble import Batch, Ensemble, Fitting
from ._recipe import Candidate, Recipe, resolve_objective, resolve_trainer

__all__ = [
    "Batch", "Candidate", "Ensemble", "Fitting", "Recipe", "resolve_objective", "resolve_trainer",
]  # fmt: skip
