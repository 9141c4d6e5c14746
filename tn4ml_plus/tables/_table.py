"""Tables as users have them, validated: numbers, and categories with their missing entries."""

import dataclasses
import numbers
from collections import Counter

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Rows of validated columns.

    Parameters
    ----------
    floats : ndarray of shape (n_samples, n_features), NaN where missing and for categories
    raw : tuple, per column None for numbers, else an object array (n_samples,) of categories
    names : tuple of str or None, names of the columns
    """

    floats: np.ndarray
    raw: tuple
    names: tuple | None = None

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
        return dataclasses.replace(self, floats=self.floats[chosen], raw=raw)


def read_table(estimator, X, reset: bool) -> Table:
    """Validated columns of X: numbers, and in pandas' and polars' frames also categories.

    ValueError as in scikit-learn's `validate_data`, and for columns of another kind.

    Parameters
    ----------
    estimator : object with `n_features_in_` and `feature_names_in_`
    X : array or frame of shape (n_samples, n_features)
    reset : bool, whether these attributes are set, otherwise X is compared with them
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
        raw = [values for _, values in columns]
    if all(values is None for values in raw):
        try:
            floats = validate_data(
                estimator, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan"
            )
        except ValueError as error:
            if "could not convert string" in str(error):
                raise ValueError(
                    f"{error}. Give categories as columns of a pandas or polars frame."
                ) from error
            raise
        raw = (None,) * floats.shape[1]
    else:
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        floats = np.stack([column for column, _ in columns], axis=1)
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
    names = getattr(estimator, "feature_names_in_", None)
    return Table(floats, tuple(raw), None if names is None else tuple(names))


def read_weight(sample_weight, n_samples: int) -> np.ndarray:
    """Validated sample weights, (n_samples,) float64; ValueError if negative or all zero.

    Parameters
    ----------
    sample_weight : array of shape (n_samples,), number or None
    n_samples : int
    """
    if sample_weight is None or isinstance(sample_weight, numbers.Number):
        sample_weight = np.full(n_samples, 1.0 if sample_weight is None else sample_weight)
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
    return weight


def is_missing(value) -> bool:
    """Whether an entry of a categorical column is None, NaN or pandas' NA."""
    # pandas' NA first: comparing it with itself gives no boolean.
    return value is None or str(value) == "<NA>" or value != value


def _read_column(name, column):
    """Floats of one column of a frame, and its categories or None."""
    dtype = column.dtype
    if hasattr(dtype, "is_numeric"):  # polars
        if dtype.is_numeric() or str(dtype) in ("Boolean", "Null"):
            return column.cast(type(column)([0.0]).dtype).to_numpy(), None
        categorical = str(dtype).startswith(("String", "Categorical", "Enum"))
        values = np.array(column.to_list(), dtype=object) if categorical else None
    else:  # pandas
        kind = getattr(dtype, "kind", "O")
        if kind in "biuf":
            return column.to_numpy(dtype=float, na_value=np.nan), None
        categorical = kind in "OU"
        values = column.to_numpy(dtype=object) if categorical else None
    if not categorical:
        raise ValueError(
            f"Column {name!r} has dtype {dtype}, which is neither numeric nor categorical: convert "
            "it to numbers, or to strings or categories."
        )
    present = [v for v in values if not is_missing(v)]
    if str(dtype) == "object" and present and all(isinstance(v, numbers.Real) for v in present):
        return np.array([np.nan if is_missing(v) else v for v in values], float), None
    strange = [v for v in present if not isinstance(v, str | numbers.Real)]
    if strange:
        raise ValueError(
            f"Column {name!r} holds a {type(strange[0]).__name__}: categories must be strings, "
            "numbers or booleans."
        )
    return np.full(len(values), np.nan), values
