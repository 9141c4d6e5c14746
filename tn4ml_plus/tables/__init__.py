"""Readers from tables as users have them to embedded samples."""

from ._columns import resolve_columns, told_once
from ._counts import Counts
from ._frames import Make
from ._kinds import is_missing
from ._reader import AVERAGED, TRACED, Reading, TableReader, padded_length
from ._scalers import (
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
from ._sources import Blocks, Source, TableSource, as_source, large_table, names_of
from ._table import Table, read_columns, read_floats, read_table, read_weight, unmasked

__all__ = [
    "AVERAGED", "TRACED", "Bijection", "Blocks", "CommonMinMax", "Counts", "Differentiable",
    "GaussianCDF", "LogisticCDF", "Make", "MinMax", "Passthrough", "PrincipalComponents",
    "ProbabilisticPCA", "QuantileSigmoid", "Reading", "Rotated", "Scaler", "Source", "Table",
    "TableReader", "TableSource", "as_source", "is_missing", "large_table", "names_of",
    "padded_length", "read_columns", "read_floats", "read_table", "read_weight", "resolve_columns",
    "told_once", "unmasked",
]  # fmt: skip
