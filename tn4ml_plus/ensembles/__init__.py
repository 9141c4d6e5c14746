"""Several networks trained together: how they are made, trained, evaluated and compressed."""

from ._ensemble import Batch, Ensemble
from ._recipe import Candidate, Recipe, resolve_objective, resolve_trainer

__all__ = ["Batch", "Candidate", "Ensemble", "Recipe", "resolve_objective", "resolve_trainer"]
