"""From a table as users have it to numbers in the embedding's domain, NaN where missing."""

import numbers
import warnings
from collections import Counter

import numpy as np
from sklearn.utils.validation import validate_data

from .._errors import DomainWarning
from ..embeddings import OneHot, PerFeature
from ._scalers import Passthrough

MAX_LEVELS = 16


def read_table(estimator, X, reset):
    """Validated (n_samples, n_features) floats and, per column, its raw categories or None.

    Frames (pandas, polars) may have categorical columns; their entries in the floats are NaN.
    Arrays are numeric. Raises what scikit-learn's `validate_data` raises, and ValueError for
    columns that are neither numbers nor categories.
    """
    if hasattr(type(X), "collect"):
        raise ValueError(f"X is a {type(X).__name__}: pass X.collect().")
    names = getattr(X, "columns", None)
    raw = [None]
    if names is not None and hasattr(X, "dtypes"):
        twice = [str(name) for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"Columns appear twice: {', '.join(sorted(twice))}. Rename them.")
        columns = [_read_column(name, X[name]) for name in names]
        raw = [values if categorical else None for values, categorical in columns]
    if all(values is None for values in raw):
        try:
            X = validate_data(
                estimator, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan"
            )
        except ValueError as error:
            if "could not convert string" in str(error):
                raise ValueError(
                    f"{error}. Give categories as columns of a pandas or polars frame."
                ) from error
            raise
        return X, [None] * X.shape[1]
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    floats = [np.full(len(v), np.nan) if cat else v.astype(float) for v, cat in columns]
    floats = np.stack(floats, axis=1)
    if len(floats) == 0:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={floats.shape}) while a minimum of 1 is "
            f"required by {type(estimator).__name__}."
        )
    if np.isinf(floats).any():
        bad = [str(n) for n, column in zip(names, floats.T) if np.isinf(column).any()]
        raise ValueError(
            f"Input X contains infinity in column(s) {', '.join(bad)}: replace it by a finite "
            "number, or by NaN if the value is missing."
        )
    return floats, raw


def rows(table, kept):
    """The rows of a table from `read_table` that a boolean mask keeps."""
    if kept.all():
        return table
    floats, raw = table
    return floats[kept], [None if values is None else values[kept] for values in raw]


def _read_column(name, column):
    """Values of one column of a frame and whether they are categories."""
    dtype = column.dtype
    is_numeric = getattr(dtype, "is_numeric", None)
    if is_numeric is not None:  # polars
        if dtype.is_numeric() or str(dtype) in ("Boolean", "Null"):
            return column.cast(type(column)([0.0]).dtype).to_numpy(), False
        categorical = str(dtype).startswith(("String", "Categorical", "Enum"))
        values = np.array(column.to_list(), dtype=object) if categorical else None
    else:  # pandas
        kind = getattr(dtype, "kind", "O")
        if kind in "biuf":
            return column.to_numpy(dtype=float, na_value=np.nan), False
        categorical = kind in "OU"
        values = column.to_numpy(dtype=object) if categorical else None
        if categorical and str(dtype) == "object":
            present = [v for v in values if not is_missing(v)]
            if present and all(isinstance(v, numbers.Real) for v in present):
                return np.array([np.nan if is_missing(v) else v for v in values], float), False
    if values is None:
        raise ValueError(
            f"Column {name!r} has dtype {dtype}, which is neither numeric nor categorical: convert "
            "it to numbers, or to strings or categories."
        )
    strange = [v for v in values if not (is_missing(v) or isinstance(v, str | numbers.Real))]
    if strange:
        raise ValueError(
            f"Column {name!r} holds a {type(strange[0]).__name__}: categories must be strings, "
            "numbers or booleans."
        )
    return values, True


def is_missing(value):
    """Whether an entry of a categorical column is None, NaN or pandas' NA."""
    # pandas' NA first: comparing it with itself gives no boolean.
    return value is None or str(value) == "<NA>" or value != value


class ColumnEncoder:
    """Fitted map from tables to sites: scaling of numbers, codes of categories, domains.

    Columns of a discrete embedding are codes already and are not scaled. Attributes: embedding (the
    given one, or a `PerFeature` when there are categories), scaler, state (its arrays), levels (per
    column its categories by frequency, None for numbers).
    """

    def __init__(self, embedding, scaler, state, levels):
        self.embedding = embedding
        self.scaler = scaler
        self.state = state
        self.levels = levels

    @property
    def scaled(self):
        """Which columns the scaler scales, (n_features,) bools."""
        numeric = np.array([level is None for level in self.levels])
        return numeric & ~_discrete(self.embedding, len(numeric))

    @property
    def width(self):
        """How many columns `transform` makes."""
        n_columns = len(self.levels)
        return self.scaler.n_outputs(n_columns) if self.scaled.any() else n_columns

    @classmethod
    def fit(cls, floats, raw, weight, embedding, scaler):
        """Learn from the output of `read_table`."""
        if isinstance(embedding, PerFeature) and scaler.n_outputs(len(raw)) < len(raw):
            raise ValueError(
                f"{type(scaler).__name__} mixes columns, so that none has an embedding of its own: "
                "take one embedding for all instead of PerFeature."
            )
        embedding.nsites(floats.shape[1])
        levels = [None if values is None else _levels(values, weight) for values in raw]
        numeric = np.array([level is None for level in levels])
        scaled = numeric & ~_discrete(embedding, len(levels))
        if not embedding.columnwise and not numeric.all():
            raise ValueError(
                f"{type(embedding).__name__} takes numeric columns only: encode the categorical "
                "columns first, or use an embedding of single features."
            )
        if isinstance(embedding, PerFeature) and not numeric.all():
            raise ValueError(
                "PerFeature cannot be combined with categorical columns of a frame: give their "
                "codes as numbers, with OneHot for them in PerFeature."
            )
        state = {}
        width = scaler.n_outputs(len(levels)) if scaled.any() else len(levels)
        if width < len(levels):
            if not scaled.all():
                raise ValueError(
                    f"{type(scaler).__name__} mixes all columns and takes numbers only: encode the "
                    "categorical columns first, or use another scaler."
                )
            embedding.nsites(width)
        if scaled.any():
            state = scaler.fit(floats if scaled.all() else floats[:, scaled], weight)
        codes = floats[:, numeric & ~scaled]
        limits = np.array(embedding.domains(len(levels)))[numeric & ~scaled]
        strange = (codes < limits[:, 0]) | (codes > limits[:, 1]) | (codes % 1 > 0)
        if strange.any():
            warnings.warn(
                f"{strange.sum()} values are none of the integer codes that "
                f"{type(embedding).__name__} knows and count as unknown: encode the columns as 0, "
                "1, ... and give their number, or use an embedding of continuous features.",
                DomainWarning,
                stacklevel=6,
            )
        if not numeric.all():
            embedding = PerFeature(
                tuple(embedding if lv is None else OneHot(max(2, len(lv))) for lv in levels)
            )
        return cls(embedding, scaler, state, levels)

    def transform(self, floats, raw, names=None):
        """Floats inside the embedding's domains, NaN where missing.

        (n_samples, n_features), or with as many columns as a scaler makes that mixes them.
        """
        numeric = np.array([level is None for level in self.levels])
        for j, (values, level) in enumerate(zip(raw, self.levels, strict=True)):
            if (values is None) == (level is None):
                continue
            # A column without any entry is of either kind.
            if not (
                np.isnan(floats[:, j]).all() if values is None else all(map(is_missing, values))
            ):
                expected, found = ("numbers", "categories")[:: 1 if level is None else -1]
                name = j if names is None else repr(names[j])
                raise ValueError(
                    f"Column {name} held {expected} when fitting and holds {found} now: convert it."
                )
        scaled = self.scaled
        # Images make large tables: no copies where all columns are scaled.
        whole = scaled.all()
        out = None if whole else floats.copy()
        if scaled.any():
            u = self.scaler.transform(floats if whole else floats[:, scaled], self.state)
            low, high = np.array(self.embedding.domains(u.shape[1] if whole else len(numeric))).T
            if not whole:
                low, high = low[scaled], high[scaled]
            if isinstance(self.scaler, Passthrough):
                self._warn_outside(u, low, high)
                u = np.clip(u, low, high)
            elif (low != 0).any() or (high != 1).any():
                u = u * (high - low)
                u += low
            if whole:
                return u
            out[:, scaled] = u
        for j in np.flatnonzero(~numeric):
            codes = {level: code for code, level in enumerate(self.levels[j])}
            values = floats[:, j] if raw[j] is None else raw[j]
            out[:, j] = [np.nan if is_missing(v) else codes.get(_key(v), -1) for v in values]
        return out

    def inverse(self, U):
        """Raw columns of numbers in the embedding's domains: floats, or objects with categories."""
        low, high = np.array(self.embedding.domains(U.shape[1])).T
        numeric = np.array([level is None for level in self.levels])
        out, scaled = U.copy(), self.scaled
        if scaled.any():
            u, low, high = U[:, scaled], low[scaled], high[scaled]
            if not isinstance(self.scaler, Passthrough):
                u = (u - low) / (high - low)
            out[:, scaled] = self.scaler.inverse(u, self.state)
        if not numeric.all():
            out = out.astype(object)
        for j in np.flatnonzero(~numeric):
            known = dict(enumerate(self.levels[j]))
            out[:, j] = [None if u != u else known.get(int(u)) for u in U[:, j].astype(float)]
        return out

    def log_derivatives(self, floats):
        """Logs of the factors of the derivative of `transform`, of floats' shape; 0 where missing.

        They sum to the log of its Jacobian determinant, times the density of what it leaves out.
        """
        low, high = np.array(self.embedding.domains(floats.shape[1])).T
        out, scaled = np.zeros(floats.shape), self.scaled
        if scaled.any():
            X, low, high = floats[:, scaled], low[scaled], high[scaled]
            log = self.scaler.log_derivative(X, self.state)
            if isinstance(self.scaler, Passthrough):
                # Clipping there would make up a density.
                log = np.where((low > X) | (high < X), -np.inf, log)
            else:
                widths = np.log(high - low)
                widths[self.scaler.n_outputs(X.shape[1]) :] = 0
                log = log + widths
            out[:, scaled] = np.nan_to_num(log, nan=0, neginf=-np.inf)
        return out

    def _warn_outside(self, u, low, high):
        outside = np.nansum((u < low) | (u > high))
        if outside:
            warnings.warn(
                f"{outside} values left the domain of {type(self.embedding).__name__} and were "
                "clipped to it: scale the columns into it, or use the default scaler.",
                DomainWarning,
                stacklevel=5,
            )


def _discrete(embedding, n_features):
    """Which columns are codes of categories for their embedding, (n_features,) bools."""
    embeddings = getattr(embedding, "embeddings", None) or (embedding,) * n_features
    return np.array([each.discrete for each in embeddings])


def _key(value):
    """Plain Python form of a category, so that codes survive storage."""
    return value.item() if hasattr(value, "item") else value


def _levels(values, weight):
    """The most frequent categories first, at most MAX_LEVELS; ties in order of their text."""
    counts = {}
    for value, w in zip(values, weight, strict=True):
        if not is_missing(value):
            counts[_key(value)] = counts.get(_key(value), 0) + w
    return sorted(counts, key=lambda v: (-counts[v], str(v)))[:MAX_LEVELS]
