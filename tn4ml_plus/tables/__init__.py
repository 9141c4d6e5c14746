"""Readers from tables as users have them to embedded samples."""

from ._principal import PrincipalComponents, ProbabilisticPCA, Rotated
from ._reader import AVERAGED, TRACED, Reading, TableReader, padded_length, resolve_columns
from ._scalers import (
    Bijection,
    CommonMinMax,
    Differentiable,
    GaussianCDF,
    LogisticCDF,
    MinMax,
    Passthrough,
    QuantileSigmoid,
    Scaler,
)
from ._table import Table, is_missing, read_table, read_weight

__all__ = [
    "AVERAGED",
    "TRACED",
    "Bijection",
    "CommonMinMax",
    "Differentiable",
    "GaussianCDF",
    "LogisticCDF",
    "MinMax",
    "Passthrough",
    "PrincipalComponents",
    "ProbabilisticPCA",
    "QuantileSigmoid",
    "Reading",
    "Rotated",
    "Scaler",
    "Table",
    "TableReader",
    "is_missing",
    "padded_length",
    "read_table",
    "read_weight",
    "resolve_columns",
]
