"""Tables as users have them, validated: numbers, and categories with their missing entries."""

import dataclasses
import numbers
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import narwhals.stable.v2 as nw
import numpy as np
from scipy import sparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from ._dtypes import dtype_of
from ._frames import Make
from ._kinds import BOOLEAN, INTEGER, NUMBER, check_apart, read_values
from ._sources import Source

_MOMENTS = re.compile("date|time|duration|period")


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Rows of validated columns.

    Parameters
    ----------
    floats : ndarray of shape (n_samples, n_features), NaN where missing and for categories
        Seconds for moments, times of day and spans of time.
    raw : tuple
        Per column None for numbers, else an array (n_samples,): objects for categories, datetime64
        for moments in the time of their place, timedelta64 for times of day.
    names : tuple of str or None, names of the columns
    make : Make or None, what the rows came in
    text : ndarray or None, the array of text that numbers were read from
    """

    floats: np.ndarray
    raw: tuple
    names: tuple | None = None
    make: Make | None = None
    text: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.floats)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_samples, n_features)."""
        return self.floats.shape

    def rows(self, chosen) -> "Table":
        """The rows that a slice, row numbers or a boolean mask choose."""
        if getattr(chosen, "dtype", None) == np.bool_ and chosen.all():
            return self
        raw = tuple(None if values is None else values[chosen] for values in self.raw)
        text = None if self.text is None else self.text[chosen]
        return dataclasses.replace(self, floats=self.floats[chosen], raw=raw, text=text)

    @classmethod
    def joined(cls, tables: Sequence["Table"]) -> "Table":
        """The rows of all tables; ValueError where a column is of several kinds."""
        first = tables[0]
        if len(tables) == 1:
            return first
        floats = np.concatenate([table.floats for table in tables])
        raw = tuple(
            _joined_column(first.names[j] if first.names else j, tables, j)
            for j in range(floats.shape[1])
        )
        texts = [table.text for table in tables]
        text = None if any(t is None for t in texts) else np.concatenate(texts)
        return dataclasses.replace(first, floats=floats, raw=raw, text=text)


def _joined_column(name, tables, j):
    """Entries of a column of several tables that are no numbers, None for numbers."""
    parts = [table.raw[j] for table in tables]
    kinds = {part.dtype.kind for part in parts if part is not None}
    empty = [
        part is None and np.isnan(table.floats[:, j]).all() for part, table in zip(parts, tables)
    ]
    if not kinds:
        return None
    if len(kinds) == 1 and all(
        is_empty or part is not None for part, is_empty in zip(parts, empty)
    ):
        like = next(part for part in parts if part is not None)
        gap = None if like.dtype == object else np.array("NaT", like.dtype)
        filled = [
            np.full(len(table), gap, like.dtype) if part is None else part
            for part, table in zip(parts, tables, strict=True)
        ]
        return np.concatenate(filled)
    raise ValueError(
        f"Column {name!r} holds entries of several kinds, numbers, text or moments, in different "
        "blocks: convert it."
    )


def read_table(estimator, X, reset: bool) -> Table:
    """Validated columns of X: numbers, categories and moments.

    ValueError as in scikit-learn's `validate_data`, and TypeError for columns of no known kind.

    Parameters
    ----------
    estimator : object with `n_features_in_` and `feature_names_in_`
    X : array or frame of shape (n_samples, n_features)
    reset : bool, whether these attributes are set, otherwise X is compared with them
    """
    # scikit-learn knows nothing of the names of narwhals' own frames.
    X = nw.to_native(_framed(X), pass_through=True)
    table = read_columns(X, estimator)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    names = getattr(estimator, "feature_names_in_", None)
    return dataclasses.replace(table, names=None if names is None else tuple(names))


def read_columns(X, estimator=None) -> Table:
    """Table of a frame or an array, whose columns have no names yet.

    ValueError for infinities, duplicate names, no rows or no columns, and for lazy frames;
    TypeError for columns of no known kind.

    Parameters
    ----------
    X : array or frame of shape (n_samples, n_features)
    estimator : object or None, named in messages
    """
    if isinstance(X, dict) and not sparse.issparse(X):
        raise ValueError("X is a dict: make a frame of it, such as pandas.DataFrame(X).")
    if isinstance(X, Iterator):
        raise ValueError(
            f"X is a {type(X).__name__}, which can be read once: give an array of its rows, or "
            "Blocks of tn4ml_plus.tables, which are made anew for each pass."
        )
    if isinstance(X, str | os.PathLike | Source) or hasattr(X, "get_fragments"):
        raise ValueError(
            f"X is a {type(X).__name__}. Files, datasets and Blocks are read by fit and by "
            "predictions of tensor networks; this takes a table in memory: read some rows."
        )
    if hasattr(type(X), "collect"):
        raise ValueError(f"X is a {type(X).__name__}, which holds no rows yet: pass X.collect().")
    names = getattr(X, "columns", ()) if hasattr(X, "dtypes") else getattr(X, "column_names", ())
    twice = [str(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"Columns appear twice: {', '.join(sorted(twice))}. Rename them.")
    if np.ma.isMaskedArray(X):
        X = _without_mask(X)
    if getattr(getattr(X, "dtype", None), "names", None):
        raise ValueError(
            "X is a structured array: make a frame of it, such as pandas.DataFrame(X)."
        )
    options = {"ensure_all_finite": "allow-nan", "estimator": estimator, "input_name": "X"}
    X = _framed(X)
    frame, library = nw.from_native(X, pass_through=True), None
    if isinstance(frame, nw.DataFrame):
        library = frame.implementation.value
        columns = [(c.name, *_of_series(c)) for c in frame.iter_columns()]
    elif sparse.issparse(X) or np.asarray(X).dtype.kind not in "OUSTMm":
        with np.errstate(over="ignore", invalid="ignore"):  # of sums that find infinities
            floats = check_array(X, dtype=np.float64, **options)
        kind = {"b": BOOLEAN, "i": INTEGER, "u": INTEGER}.get(np.asarray(X).dtype.kind, NUMBER)
        if kind == INTEGER:
            for j, column in enumerate(np.asarray(X).T):
                check_apart(j, column, floats[:, j])
        n_features = floats.shape[1]
        dtype = str(getattr(X, "dtype", np.asarray(X).dtype))
        make = Make(None, (kind,) * n_features, (dtype,) * n_features)
        return Table(floats, (None,) * n_features, make=make)
    else:
        # A list of numbers and text would be all text as an array.
        text = np.asarray(X).dtype.kind == "T"
        array = X if hasattr(X, "__array__") and not text else np.array(X, object)
        array = check_array(array, dtype=None, **options | {"ensure_all_finite": False})
        dtype = str(array.dtype) if array.dtype.kind in "mM" else ""
        columns = [(j, *read_values(j, column), dtype, None) for j, column in enumerate(array.T)]
    if not columns:
        check_array(np.zeros(frame.shape), **options)
    names, floats, raw, kinds, dtypes, zones = zip(*columns, strict=True)
    floats = np.stack(floats, axis=1)
    if np.isinf(floats).any():
        bad = [str(n) for n, column in zip(names, floats.T) if np.isinf(column).any()]
        raise ValueError(
            f"Input X contains infinity in column(s) {', '.join(bad)}: replace it by a finite "
            "number, or by NaN if the value is missing."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        floats = check_array(floats, **options)
    axis = tuple(getattr(getattr(X, "columns", None), "names", ()))
    axis = axis if any(level is not None for level in axis) else ()
    make = Make(library, kinds, dtypes, zones, names if library else (), axis)
    text = None if library or array.dtype == object else array
    return Table(floats, raw, make=make, text=text)


def _framed(X):
    """A frame of what has columns, in Arrow's memory, but is none; anything else as it is."""
    bare = hasattr(X, "__arrow_c_stream__") and hasattr(X, "schema")
    if bare and isinstance(nw.from_native(X, pass_through=True), type(X)):
        return nw.to_native(nw.from_arrow(X, backend="pyarrow"))
    return X


def _of_series(series):
    """Floats, entries, kind, dtype as text and time zone, of one column of a frame."""
    name, dtype, own = series.name, series.dtype, series
    if dtype in (nw.Int128, nw.UInt128):
        series = series.cast(nw.Float64)
    if dtype.is_nested():
        raise TypeError(
            f"Column {name!r} has dtype {dtype}: an argument must be a table of strings, numbers, "
            "dates or other labels, one in each entry. Take its parts as columns."
        )
    native, wall, zone = series.to_native(), None, getattr(dtype, "time_zone", None)
    tz = getattr(getattr(native, "dtype", None), "tz", None)
    if tz is not None:  # of pandas, not all of which narwhals knows
        wall, zone = native.dt.tz_localize(None).to_numpy(), str(tz)
    elif dtype == nw.Datetime:
        wall = series.dt.replace_time_zone(None).to_numpy()
    categorical = dtype in (nw.Categorical, nw.Enum)
    if categorical and hasattr(native, "cat") and hasattr(native.cat, "codes"):
        # Of categories with gaps pandas makes others: floats of integers, also within intervals.
        labels = np.array([*native.cat.categories, None], object)
        values = labels[native.cat.codes.to_numpy()]
    else:
        values = np.array(series.to_list(), object) if categorical else series.to_numpy()
    if values.dtype.kind in "US":
        # What a frame calls text is text, even where it reads as numbers.
        values = values.astype(object)
    if str(getattr(native, "dtype", "")).startswith("period["):
        values = native.dt.start_time.to_numpy()
    *parts, kind = read_values(name, values, categorical, wall)
    if kind == NUMBER and (dtype.is_integer() or dtype == nw.Boolean):
        kind = INTEGER if dtype.is_integer() else BOOLEAN
    return *parts, kind, dtype_of(own), zone


def _without_mask(X):
    """Plain array of a masked one, hidden entries missing: they are no data."""
    hidden = np.ma.getmaskarray(X)
    if not hidden.any():
        return X.data
    if X.dtype.kind in "fMm":
        return np.where(hidden, np.array("NaN" if X.dtype.kind == "f" else "NaT", X.dtype), X.data)
    out = np.array(X.data, object)
    out[hidden] = None
    return out


def unmasked(values, name):
    """Values of an array; ValueError for a masked array that hides some of them.

    Parameters
    ----------
    values : array
    name : str, of the argument
    """
    if np.ma.is_masked(values):
        hidden = int(np.ma.getmaskarray(values).sum())
        raise ValueError(f"{name} is masked in {hidden} places: leave out these samples.")
    return values


def read_floats(values, name, example) -> np.ndarray:
    """Finite floats of an array, a list or a frame; ValueError for what is no number.

    Parameters
    ----------
    values : array or frame, not masked
    name : str, of the argument
    example : str, numbers that could be given, in words
    """
    dtypes = np.atleast_1d(getattr(values, "dtypes", getattr(values, "dtype", ())))
    try:
        array = np.asarray(values)
        entries = array.flat if array.dtype == object else ()
        dtypes = (
            *dtypes,
            array.dtype,
            *{type(v).__name__ for v in entries if isinstance(v, np.generic)},
        )
        moments = {str(d) for d in dtypes if _MOMENTS.search(str(d).lower())}
        if not moments:
            with np.errstate(over="ignore", invalid="ignore"):  # of sums that find infinities
                return check_array(values, ensure_2d=False, dtype=np.float64, input_name=name)
    # Libraries of frames have errors of their own.
    except Exception as error:
        if name in str(error).split():
            raise
        raise ValueError(f"{name} must hold numbers that are floats: {error}.") from error
    raise ValueError(
        f"{name} has dtype {' and '.join(sorted(moments))}: give numbers, such as {example}."
    )


def read_weight(sample_weight, n_samples: int) -> np.ndarray:
    """Validated sample weights, (n_samples,) float64; ValueError if negative or all zero.

    The largest of weights that are all tiny or huge becomes one of order one.

    Parameters
    ----------
    sample_weight : array of shape (n_samples,), number or None
    n_samples : int
    """
    if sample_weight is None or isinstance(sample_weight, numbers.Number):
        sample_weight = np.full(n_samples, 1.0 if sample_weight is None else sample_weight)
    unmasked(sample_weight, "sample_weight")
    weight = read_floats(sample_weight, "sample_weight", "numbers of repetitions")
    if weight.shape != (n_samples,):
        raise ValueError(
            f"sample_weight.shape == {weight.shape}, expected {(n_samples,)}: sample weights must "
            "be a 1D array, one for each sample."
        )
    if (weight < 0).any():
        raise ValueError("Negative values in sample_weight: weights must be at least 0.")
    if not (weight > 0).any():
        raise ValueError("All sample weights are zero: at least one must be positive.")
    # Their sums and squares shall neither overflow nor vanish, in single precision either.
    exponent = np.frexp(weight.max())[1]
    return weight if abs(exponent) <= 64 else np.ldexp(weight, -exponent)
