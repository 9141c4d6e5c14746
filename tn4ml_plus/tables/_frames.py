"""Tables of the make that others had."""

import ast
import datetime
import decimal
import importlib
import json
import numbers
import re
import warnings

import narwhals.stable.v2 as nw
import numpy as np

from .._checks import warn
from .._registry import variant
from ..errors import InformationWarning
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
    SPAN,
    bytes_of,
    plain_labels,
    text_of,
)  # fmt: skip

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
# Behind the words of types of pyarrow.
_ARROW = " of pyarrow"
_WAYS = {"pandas": "to_pandas", "polars": "to_polars", "pyarrow": "to_arrow"}


@variant("state")
class Make:
    """Make of a table: the library of a frame, and the names, kinds and dtypes of its columns.

    Parameters
    ----------
    library : str or None, such as ``"pandas"``; None for arrays
    kinds : tuple of str, per column what its entries are
    dtypes : tuple of str, per column its dtype in the words of the library, empty for objects
    zones : tuple of str or None, per column of a frame its time zone
    names : tuple, of the columns of a frame
    axis : tuple, of the levels of these names in pandas
    """

    library: str | None
    kinds: tuple[str, ...]
    dtypes: tuple[str, ...] = ()
    zones: tuple = ()
    names: tuple = ()
    axis: tuple = ()

    def to_state(self) -> dict:
        """Values that the registry can store: names that are no plain values are text."""
        names = tuple(map(_plain_name, self.names))
        if names != self.names:
            others = {str(own) for own, name in zip(self.names, names, strict=True) if own != name}
            warn(
                f"These names of columns are text in the file: {', '.join(sorted(others))}.",
                InformationWarning,
            )
        return vars(self) | {"names": names}

    def check_same(self, other, floats):
        """ValueError for columns in another order, of other time zones, or without their units.

        Parameters
        ----------
        other : Make, of a table of as many columns
        floats : ndarray of shape (n_samples, n_features), its `Table.floats`
        """
        # Of names that are text, scikit-learn has asked.
        if set(self.names) == set(other.names) and self.names != other.names:
            raise ValueError(
                f"Columns were in the order {', '.join(map(str, self.names))} when fitting and "
                f"are in the order {', '.join(map(str, other.names))} now: select them in the "
                "first."
            )
        for j, kinds in enumerate(zip(self.kinds, other.kinds, strict=True)):
            zones = self.zones and other.zones and self.zones[j] != other.zones[j]
            differ = (SPAN in kinds and len(set(kinds)) > 1) or (zones and MOMENT in kinds)
            # What is missing is of any kind.
            if differ and not np.isnan(floats[:, j]).all():
                name = repr(self.names[j]) if self.names else j
                raise ValueError(
                    f"Column {name} held {self._held(j)} when fitting and holds {other._held(j)} "
                    "now: convert it."
                )

    def _held(self, j):
        """Contents of a column in words."""
        zone = self.zones[j] if self.zones else None
        moments = f"moments of the time zone {zone}" if zone else "moments without a time zone"
        return {SPAN: "spans of time", MOMENT: moments}.get(self.kinds[j], "numbers")

    def chosen(self, columns) -> "Make":
        """Make of some of the columns, by their numbers."""
        fields = self.kinds, self.dtypes, self.zones, self.names
        parts = (f and tuple(f[j] for j in columns) for f in fields)
        return Make(self.library, *parts, axis=self.axis)

    def build(self, columns, like=None, gaps=None):
        """A table of this make.

        Parameters
        ----------
        columns : ndarray of shape (n_samples, n_features)
            Floats, or objects where there are categories; seconds for times.
        like : table or None, whose index it gets, and whose entries where there are no gaps
        gaps : ndarray of shape (n_samples, n_features) or None, where entries of `like` are missing
        """
        fields = self.kinds, *(f or ("",) * len(self.kinds) for f in (self.dtypes, self.zones))
        parts = list(map(self._column, columns.T, *fields))
        if gaps is not None:
            parts = list(map(_filled, parts, _columns_of(like), gaps.T))
        if self.library is None:
            return _stacked(parts)
        named = {f"{j}": _wrapped(column).to_native() for j, column in enumerate(parts)}
        if self.library == "pandas":
            frame = nw.from_dict(named, backend="pandas").to_native()
            frame.columns = self.names
            if type(like).__module__.partition(".")[0] == "pandas" and hasattr(like, "columns"):
                frame.index = like.index
                frame.columns = like.columns if gaps is not None else frame.columns
            elif self.axis:
                frame.columns = frame.columns.set_names(self.axis)
            return frame
        frame = nw.from_dict(named, backend=self.library)
        return frame.rename(dict(zip(named, self.names, strict=True))).to_native()

    def _column(self, values, kind, dtype, zone):
        """One column, of its own dtype where floats and text can be turned to that."""
        values = _natural(values, kind, dtype)
        if self.library is None:
            return _converted(values, np.dtype(dtype)) if dtype else values
        series = _series(values, self.library)
        try:
            if zone:
                series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
            if dtype.startswith("category{"):
                return _categorical(values, **json.loads(dtype.removeprefix("category")))
            if dtype.endswith(_ARROW):
                wanted = _arrow_type(dtype.removesuffix(_ARROW))
                if self.library == "pandas":
                    wanted = nw.dependencies.get_pandas().ArrowDtype(wanted)
                return _converted(series.to_native(), wanted)
            if self.library == "pandas":
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


def _plain_name(name):
    if isinstance(name, tuple):
        return tuple(map(_plain_name, name))
    return name if isinstance(name, str | numbers.Number | np.generic | None) else str(name)


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


def _columns_of(table):
    """Columns of any table, without names: series of a frame, or arrays."""
    frame = nw.from_native(table, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        return list(frame.iter_columns())
    # A list of large integers and fractions would be all floats as an array.
    return (np.asarray(table) if hasattr(table, "__array__") else np.array(table, object)).T


def _filled(drawn, whole, gaps):
    """A column whose entries are those of another where that has no gaps.

    Its dtype is that of `drawn` where that holds all of them, else that of the other, else objects.
    """
    if gaps.all():
        return drawn
    held = _of_library(whole[~gaps] if isinstance(whole, np.ndarray) else whole, ~gaps, drawn)
    new = drawn[gaps] if isinstance(drawn, np.ndarray) else _chosen(_wrapped(drawn), gaps)
    new = nw.to_native(new, pass_through=True)
    own, other = (_type_of(column) for column in (drawn, held))
    for dtype in (own, other):
        found = [_converted(part, dtype, exact=True) for part in (held, new)]
        if all(part is not None for part in found):
            break
    else:
        found = held, new
    order = np.argsort(np.r_[np.flatnonzero(~gaps), np.flatnonzero(gaps)])
    if isinstance(drawn, np.ndarray):
        same = found[0].dtype.kind == found[1].dtype.kind
        found = found if same else list(map(_objects, found))
        return np.concatenate(found)[order]
    parts = [_wrapped(part) for part in found]
    if _type_of(found[0]) == _type_of(found[1]):
        frames = [part.alias("").to_frame() for part in parts]
        return nw.concat(frames)[""][order.tolist()].to_native()
    entries = [entry for part in parts for entry in part.to_list()]
    return _series([entries[i] for i in order], parts[0].implementation).to_native()


def _of_library(whole, chosen, drawn):
    """Entries of a column without gaps, as an array or series of the library of `drawn`."""
    if isinstance(whole, nw.Series):
        whole = _chosen(whole, chosen)
    if isinstance(drawn, np.ndarray):
        return whole.to_numpy() if isinstance(whole, nw.Series) else whole
    library = _wrapped(drawn).implementation
    if isinstance(whole, nw.Series):
        if whole.implementation is library:
            return _wrapped(whole.to_native()).to_native()
        try:  # Moments keep their nanoseconds on the way.
            frame = getattr(whole.alias("a").to_frame(), _WAYS[library.value])()
            return nw.from_native(frame)["a"].alias("").to_native()
        except Exception:  # Every library has errors of its own for mixed objects.
            whole = whole.to_list()
    return _series(whole, library).to_native()


def _chosen(series, mask):
    """Entries of a series."""
    try:
        return series.filter(mask.tolist())
    except NotImplementedError:  # of text of pyarrow that is a view
        entries = [entry for entry, here in zip(series.to_list(), mask, strict=True) if here]
        return _series(entries, series.implementation)


def _series(values, library):
    """Series of an array or a list; of objects where a library has no other type for all."""
    is_array = isinstance(values, np.ndarray)
    values = values.tolist() if is_array and values.dtype == object else values
    try:
        return nw.new_series("", values, backend=library)
    except TypeError:
        return nw.new_series("", values, nw.Object, backend=library)


def _wrapped(native):
    """A native series, of pandas with the index 0, 1, ..."""
    return nw.maybe_reset_index(nw.from_native(native, series_only=True))


def _type_of(column):
    return column.type if hasattr(column, "type") else column.dtype


def _converted(column, dtype, exact=False):
    """An array or native series in another of its library's dtypes.

    With `exact`, None where that does not hold all entries as they are.
    """
    known = _type_of(column)
    if known == dtype:
        return column
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
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
        return _objects(column)
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


def _objects(values):
    """An array as one of Python's objects, which have no nanoseconds."""
    if values.dtype.kind in "mM" and np.datetime_data(values.dtype)[0] not in _OF_PYTHON:
        out = np.empty(len(values), object)
        out[:] = list(values)
        return out
    return values.astype(object)


def _stacked(columns):
    """An array of columns, of objects where no dtype holds all of them as they are."""
    kinds = {column.dtype.kind for column in columns}
    if kinds <= set("biuf") or (len(kinds) == 1 and kinds <= set("mM")):
        dtype = np.result_type(*columns)
        found = [_converted(column, dtype, exact=True) for column in columns]
        if all(column is not None for column in found):
            return np.stack(found, axis=1)
    return np.stack(list(map(_objects, columns)), axis=1)


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
