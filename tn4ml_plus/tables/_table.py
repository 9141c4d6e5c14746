"""Tables as users have them, validated: numbers, and categories with their missing entries."""

import dataclasses
import numbers
from collections import Counter

import narwhals.stable.v2 as nw
import numpy as np
from scipy import sparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from ._frames import Make, dtype_of
from ._kinds import BOOLEAN, INTEGER, NUMBER, read_values


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
    X = nw.to_native(X, pass_through=True)
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
    frame, library = nw.from_native(X, pass_through=True), None
    if isinstance(frame, nw.DataFrame):
        library = frame.implementation.value
        columns = [(c.name, *_of_series(c)) for c in frame.iter_columns()]
    elif sparse.issparse(X) or np.asarray(X).dtype.kind not in "OUSTMm":
        with np.errstate(over="ignore", invalid="ignore"):  # of sums that find infinities
            floats = check_array(X, dtype=np.float64, **options)
        kind = {"b": BOOLEAN, "i": INTEGER, "u": INTEGER}.get(np.asarray(X).dtype.kind, NUMBER)
        n_features = floats.shape[1]
        return Table(floats, (None,) * n_features, make=Make(None, (kind,) * n_features))
    else:
        # A list of numbers and text would be all text as an array.
        text = np.asarray(X).dtype.kind == "T"
        array = X if hasattr(X, "__array__") and not text else np.array(X, object)
        array = check_array(array, dtype=None, **options | {"ensure_all_finite": False})
        columns = [(j, *read_values(j, column), "", None) for j, column in enumerate(array.T)]
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
    make = Make(library, kinds, dtypes, zones, names) if library else Make(None, kinds)
    text = None if library or array.dtype == object else array
    return Table(floats, raw, make=make, text=text)


def _of_series(series):
    """Floats, entries, kind, dtype as text and time zone, of one column of a frame."""
    name, dtype = series.name, series.dtype
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
    # Of numbers with gaps NumPy would make floats.
    values = np.array(series.to_list(), object) if categorical else series.to_numpy()
    if str(getattr(native, "dtype", "")).startswith("period["):
        values = native.dt.start_time.to_numpy()
    *parts, kind = read_values(name, values, categorical, wall)
    if kind == NUMBER and (dtype.is_integer() or dtype == nw.Boolean):
        kind = INTEGER if dtype.is_integer() else BOOLEAN
    own = dtype_of(native) if series.implementation.is_pandas() else str(dtype)
    return *parts, kind, own, zone


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
    if np.asarray(sample_weight).dtype.kind in "mM":
        raise ValueError("sample_weight holds moments or spans of time: give numbers.")
    weight = check_array(
        sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight"
    )
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
