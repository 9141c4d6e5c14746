"""Dtypes of columns in words, and columns of these dtypes, for every library."""

import ast
import datetime
import decimal
import importlib
import json
import re
import threading
import warnings

import narwhals.stable.v2 as nw
import numpy as np

from ._kinds import (
    BOOLEAN,
    BYTES,
    CATEGORY,
    CLOCK,
    DAY,
    DECIMAL,
    INTEGER,
    MOMENT,
    NUMBER,
    bytes_of,
    plain_labels,
    text_of,
)

_MIDNIGHT = datetime.datetime.min
# Days of the calendar of Python, in seconds since 1970.
_CALENDAR = -62_135_596_800, 253_402_300_799
_BOUNDS = {
    name: (float(np.iinfo(name).min), float(np.iinfo(name).max))
    for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32")
}
# Floats that 64 bits hold.
_BOUNDS["int64"] = -(2.0**63), np.nextafter(2.0**63, 0)
_BOUNDS["uint64"] = 0.0, np.nextafter(2.0**64, 0)
_UNIT = re.compile(r"time_unit='(\w+)'")
# Units of what comes back that are coarser than microseconds, and how many a second has.
_COARSE = {"s": 1, "ms": 1e3}
_OF_UNIT = re.compile(r"(?:time_unit='|\[)(s|ms|ns)\b")
# Seconds since 1970 that 64 bits of nanoseconds hold.
_NANOSECONDS = -9.2e9, 9.2e9
_OF_PYTHON = "us", "ms", "s", "m", "h", "D"
# The filters of warnings are those of all threads: what two change at a time would stay changed.
_ALONE = threading.Lock()
# Behind the words of types of pyarrow.
_ARROW = " of pyarrow"


def dtype_of(series):
    """Dtype of a column of a frame as text, from which `Make.build` makes it again."""
    native = series.to_native()
    if series.implementation.is_pyarrow():
        return _arrow_text(native.type)
    if not series.implementation.is_pandas():
        return str(series.dtype)
    if arrow := getattr(native.dtype, "pyarrow_dtype", None):
        return _arrow_text(arrow)
    categories = getattr(native.dtype, "categories", None)
    if categories is None:
        return str(native.dtype)
    known = {"labels": categories.tolist(), "ordered": bool(native.dtype.ordered)}
    if closed := getattr(categories, "closed", None):
        ends = zip(categories.left.tolist(), categories.right.tolist(), strict=True)
        known |= {"labels": list(ends), "closed": closed}
    elif categories.dtype.kind in "mM" or categories.dtype.name.startswith("period["):
        known |= {"labels": categories.astype(str).tolist(), "dtype": str(categories.dtype)}
    elif len(categories) and all(isinstance(label, bytes) for label in known["labels"]):
        known |= {"labels": [text_of(label) for label in known["labels"]], "dtype": "bytes"}
    try:
        return f"category{json.dumps(known, allow_nan=False)}"
    except (TypeError, ValueError):  # of other labels
        return str(native.dtype)


def column_of(values, kind, dtype, zone, library):
    """One column, of its own dtype where floats and text can be turned to that.

    Parameters
    ----------
    values : ndarray of shape (n_samples,), floats, or objects of categories; seconds for times
    kind : str, what its entries are
    dtype : str, as `dtype_of` told it
    zone : str or None, the time zone of moments
    library : str or None, whose series it is, None for arrays
    """
    values = _natural(values, kind, dtype)
    if library is None:
        return converted(values, np.dtype(dtype)) if dtype else values
    series = series_of(values, library)
    try:
        if zone:
            series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        if dtype.startswith("category{"):
            return _categorical(values, **json.loads(dtype.removeprefix("category")))
        if dtype.endswith(_ARROW):
            wanted = _arrow_type(dtype.removesuffix(_ARROW))
            if library == "pandas":
                wanted = nw.dependencies.get_pandas().ArrowDtype(wanted)
            return converted(series.to_native(), wanted)
        if library == "pandas":
            return series.to_native().astype(dtype)
        known, unit = getattr(nw, dtype.partition("(")[0]), _UNIT.search(dtype)
        if known is nw.Enum:
            known = nw.Enum(ast.literal_eval(dtype.removeprefix("Enum(categories=")[:-1]))
        elif known is nw.Datetime:
            known = nw.Datetime(unit[1], zone)
        elif known is nw.Duration:
            known = nw.Duration(unit[1])
        return series.cast(known).to_native()
    except Exception:  # Every library has errors of its own for what it cannot cast.
        return series.to_native()


def _natural(values, kind, dtype=""):
    """Entries of a column as NumPy has them: of floats, or categories as they are."""
    if kind == BYTES:
        return np.array([None if v is None else bytes_of(v) for v in values], object)
    if kind == CATEGORY:
        return values
    values = values.astype(float)
    if kind == NUMBER:
        return values
    if kind == INTEGER:
        low, high = _BOUNDS.get(
            re.match(r"\w*", dtype.lower())[0], (-(2.0**63), _BOUNDS["uint64"][1])
        )
        whole = np.clip(np.rint(values), low, high)
        if np.isnan(whole).any():
            return whole
        return whole.astype(np.uint64 if len(whole) and whole.max() >= 2.0**63 else np.int64)
    if kind == BOOLEAN:
        return values if np.isnan(values).any() else values >= 0.5
    if kind == DECIMAL:
        return np.array([None if v != v else decimal.Decimal(str(v)) for v in values], object)
    if kind == CLOCK:
        clock = [
            None
            if v != v
            else (_MIDNIGHT + datetime.timedelta(seconds=min(max(v, 0.0), 86399.999))).time()
            for v in values
        ]
        return np.array(clock, object)
    is_span = kind not in (MOMENT, DAY)
    unit = (_OF_UNIT.search(dtype) or ["", ""])[1]
    low, high = _NANOSECONDS if unit == "ns" else _CALENDAR
    values = values if is_span and unit != "ns" else np.clip(values, low, high)
    whole = np.rint(values * _COARSE.get(unit, 1e6))
    unit = f"{'timedelta' if is_span else 'datetime'}64[{unit if unit in _COARSE else 'us'}]"
    times = np.nan_to_num(whole).astype("i8").view(unit)
    times = np.where(np.isnan(whole), np.array("NaT", unit), times)
    is_day = kind == DAY or dtype.startswith("date64")
    return times.astype("datetime64[D]").astype(object) if is_day else times


def _arrow_text(arrow):
    """A type of pyarrow in its own words, empty for those that it cannot choose from or order."""
    return "" if "view" in f"{arrow}" else f"{arrow}{_ARROW}"


def _arrow_type(text):
    """The type of pyarrow that has these words; ValueError for words of none."""
    pyarrow = importlib.import_module("pyarrow")
    if found := re.fullmatch(r"dictionary<values=(.*), indices=(\w+), ordered=([01])>", text):
        values, indices = map(_arrow_type, found.groups()[:2])
        return pyarrow.dictionary(indices, values, found[3] == "1")
    if found := re.fullmatch(r"timestamp\[(\w+), tz=(.*)\]", text):
        return pyarrow.timestamp(*found.groups())
    if found := re.fullmatch(r"(decimal\d+)\((\d+), (-?\d+)\)", text):
        return getattr(pyarrow, found[1])(int(found[2]), int(found[3]))
    if found := re.fullmatch(r"fixed_size_binary\[(\d+)\]", text):
        return pyarrow.binary(int(found[1]))
    return pyarrow.type_for_alias(text)


def _categorical(values, labels, ordered, closed=None, dtype=None):
    """A column of pandas with the categories that `dtype_of` told."""
    pandas = nw.dependencies.get_pandas()
    if closed:
        labels = pandas.IntervalIndex.from_tuples(list(map(tuple, labels)), closed)
    elif dtype == "bytes":
        labels = pandas.Index([bytes_of(label) for label in labels], dtype=object)
    elif dtype:
        labels = pandas.Index(labels).astype(dtype)
    codes = {label: code for code, label in enumerate(plain_labels(labels))}
    if closed:  # Beside gaps, pandas makes floats of integers.
        floats = labels.astype(f"interval[float64, {closed}]")
        codes |= {label: code for code, label in enumerate(plain_labels(floats))}
    found = [codes.get(value, -1) for value in plain_labels(values)]
    return pandas.Series(pandas.Categorical.from_codes(found, labels, ordered=ordered))


def series_of(values, library):
    """Series of an array or a list; of objects where a library has no other type for all."""
    is_array = isinstance(values, np.ndarray)
    values = values.tolist() if is_array and values.dtype == object else values
    try:
        return nw.new_series("", values, backend=library)
    except TypeError:
        return nw.new_series("", values, nw.Object, backend=library)


def wrapped(native):
    """A native series, of pandas with the index 0, 1, ..."""
    return nw.maybe_reset_index(nw.from_native(native, series_only=True))


def type_of(column):
    return column.type if hasattr(column, "type") else column.dtype


def converted(column, dtype, exact=False):
    """An array or native series in another of its library's dtypes.

    With `exact`, None where that does not hold all entries as they are.
    """
    known = type_of(column)
    if known == dtype:
        return column
    try:
        with _ALONE, np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            found = _cast(column, dtype)
            back = _cast(found, known) if exact else found
    except Exception:  # Every library has errors of its own for what it cannot cast.
        return None if exact else column
    if not exact:
        return found
    is_array = isinstance(column, np.ndarray)
    return found if (np.array_equal(back, column) if is_array else back.equals(column)) else None


def _cast(column, dtype):
    if isinstance(column, np.ndarray) and dtype.kind == "O":
        return objects_of(column)
    if not hasattr(column, "type"):
        return column.cast(dtype) if hasattr(column, "cast") else column.astype(dtype)
    pyarrow = importlib.import_module("pyarrow")
    if not pyarrow.types.is_dictionary(dtype):
        return column.cast(dtype, safe=False)
    # It makes dictionaries of some types and indices only.
    coded = column.cast(dtype.value_type, safe=False).combine_chunks().dictionary_encode()
    parts = coded.indices.cast(dtype.index_type), coded.dictionary
    made = pyarrow.DictionaryArray.from_arrays(*parts, ordered=dtype.ordered)
    return pyarrow.chunked_array([made])


def objects_of(values):
    """An array as one of Python's objects, which have no nanoseconds."""
    if values.dtype.kind in "mM" and np.datetime_data(values.dtype)[0] not in _OF_PYTHON:
        out = np.empty(len(values), object)
        out[:] = list(values)
        return out
    return values.astype(object)
