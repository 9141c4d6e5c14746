"""Tables of the make that others had."""

import datetime
import decimal
import json
import re

import narwhals.stable.v2 as nw
import numpy as np

from .._registry import variant
from ._kinds import BOOLEAN, BYTES, CATEGORY, CLOCK, DAY, DECIMAL, INTEGER, MOMENT, NUMBER

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
_QUOTED = re.compile(r"'([^']*)'")
_UNIT = re.compile(r"time_unit='(\w+)'")


@variant("state")
class Make:
    """Make of a table: the library of a frame, and the names, kinds and dtypes of its columns.

    Parameters
    ----------
    library : str or None, such as ``"pandas"``; None for arrays
    kinds : tuple of str, per column what its entries are
    dtypes : tuple of str, per column of a frame its dtype in the words of the library
    zones : tuple of str or None, per column of a frame its time zone
    names : tuple, of the columns of a frame
    """

    library: str | None
    kinds: tuple[str, ...]
    dtypes: tuple[str, ...] = ()
    zones: tuple = ()
    names: tuple = ()

    def chosen(self, columns) -> "Make":
        """Make of some of the columns, by their numbers."""
        fields = self.kinds, self.dtypes, self.zones, self.names
        return Make(self.library, *(f and tuple(f[j] for j in columns) for f in fields))

    def build(self, columns, like=None, gaps=None):
        """A table of this make.

        Parameters
        ----------
        columns : ndarray of shape (n_samples, n_features)
            Floats, or objects where there are categories; seconds for times.
        like : table or None, whose index it gets, and whose entries where there are no gaps
        gaps : ndarray of shape (n_samples, n_features) or None, where entries of `like` are missing
        """
        dtypes = self.dtypes or ("",) * len(self.kinds)
        values = list(map(_natural, columns.T, self.kinds, dtypes))
        if self.library is None:
            if {v.dtype.kind for v in values} <= set("biuf"):
                out = np.stack(values, axis=1).astype(np.result_type(*values), copy=False)
            else:
                out = np.stack([v.astype(object) for v in values], axis=1)
            if gaps is not None and isinstance(like, np.ndarray):
                # Floats would round large integers.
                out = np.where(gaps, out, like) if gaps.any() else np.array(like)
            return out
        own = type(like).__module__.partition(".")[0] == self.library and hasattr(like, "columns")
        series = [self._series(*parts) for parts in zip(values, self.kinds, dtypes, self.zones)]
        if own and gaps is not None:
            whole = nw.from_native(like).iter_columns()
            series = list(map(_filled, whole, series, gaps.T))
        named = {f"{j}": column for j, column in enumerate(series)}
        if self.library == "pandas":
            named = {name: column.reset_index(drop=True) for name, column in named.items()}
            frame = nw.from_dict(named, backend="pandas").to_native()
            frame.columns = self.names
            if own:
                frame.index = like.index
                frame.columns = like.columns if gaps is not None else frame.columns
            return frame
        frame = nw.from_dict(named, backend=self.library)
        return frame.rename(dict(zip(named, self.names, strict=True))).to_native()

    def _series(self, values, kind, dtype, zone):
        """One column of a frame; of its own dtype where floats and text can be turned to that."""
        series = nw.new_series(
            "", values.tolist() if values.dtype == object else values, backend=self.library
        )
        unit = _UNIT.search(dtype)
        try:
            if zone:
                series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
            if dtype.startswith("category{"):
                return _categorical(values, **json.loads(dtype.removeprefix("category")))
            if self.library == "pandas":
                return series.to_native().astype(dtype)
            known = getattr(nw, dtype.partition("(")[0])
            if known is nw.Enum:
                known = nw.Enum(_QUOTED.findall(dtype))
            elif known is nw.Datetime:
                known = nw.Datetime(unit[1], zone)
            elif known is nw.Duration:
                known = nw.Duration(unit[1])
            return series.cast(known).to_native()
        except Exception:  # Every library has errors of its own for what it cannot cast.
            return series.to_native()


def dtype_of(native):
    """Dtype of a column of pandas as text, with the categories that it allows."""
    categories = getattr(native.dtype, "categories", None)
    if categories is None:
        return str(native.dtype)
    known = {"labels": categories.tolist(), "ordered": bool(native.dtype.ordered)}
    if closed := getattr(categories, "closed", None):
        ends = zip(categories.left.tolist(), categories.right.tolist(), strict=True)
        known |= {"labels": list(ends), "closed": closed}
    try:
        return f"category{json.dumps(known, allow_nan=False)}"
    except (TypeError, ValueError):  # of dates and other labels
        return str(native.dtype)


def _categorical(values, labels, ordered, closed=None):
    """A column of pandas with the categories that `dtype_of` told."""
    pandas = nw.dependencies.get_pandas()
    if closed:
        labels = pandas.IntervalIndex.from_tuples(list(map(tuple, labels)), closed)
    codes = {str(label): code for code, label in enumerate(labels)}
    if closed:  # Beside gaps, pandas makes floats of integers.
        floats = labels.astype(f"interval[float64, {closed}]")
        codes |= {str(label): code for code, label in enumerate(floats)}
    found = [codes.get(str(value), -1) for value in values]
    return pandas.Series(pandas.Categorical.from_codes(found, labels, ordered=ordered))


def _filled(whole, values, gaps):
    """A column with what is missing from another, whole entries as they are."""
    if not gaps.any():
        return whole.to_native()
    new = nw.from_native(values, series_only=True)
    try:
        rows = np.flatnonzero(gaps).tolist()
        return whole.scatter(rows, new.filter(gaps.tolist())).to_native()
    except Exception:  # Every library has errors of its own for what does not suit a column.
        entries = [n if gap else w for gap, n, w in zip(gaps, new.to_list(), whole.to_list())]
        return nw.new_series("", entries, backend=whole.implementation).to_native()


def _natural(values, kind, dtype=""):
    """Entries of a column as NumPy has them: of floats, or categories as they are."""
    if kind == BYTES:
        return np.array([None if v is None else v.encode() for v in values], object)
    if kind == CATEGORY:
        return values
    values = values.astype(float)
    if kind == NUMBER:
        return values
    if kind == INTEGER:
        low, high = _BOUNDS.get(dtype.lower().partition("[")[0], (-(2.0**63), _BOUNDS["uint64"][1]))
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
    whole = np.rint((values if is_span else np.clip(values, *_CALENDAR)) * 1e6)
    unit = "timedelta64[us]" if is_span else "datetime64[us]"
    times = np.nan_to_num(whole).astype("i8").view(unit)
    times = np.where(np.isnan(whole), np.array("NaT", unit), times)
    return times.astype("datetime64[D]").astype(object) if kind == DAY else times
