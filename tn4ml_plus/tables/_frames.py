"""Tables of the make that others had."""

import datetime
import re

import narwhals.stable.v2 as nw
import numpy as np

from .._registry import variant
from ._kinds import CATEGORY, CLOCK, INTEGER, MOMENT, NUMBER, SPAN

_MIDNIGHT = datetime.datetime.min
# Days of the calendar of Python, in seconds since 1970.
_CALENDAR = -62_135_596_800, 253_402_300_799
_BOUNDS = {
    f"{sign}int{bits}": (np.iinfo(f"{sign}int{bits}").min, np.iinfo(f"{sign}int{bits}").max)
    for sign in ("", "u") for bits in (8, 16, 32)
}  # fmt: skip
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
        like : table or None, whose index it gets, and whose columns without gaps
        gaps : ndarray of shape (n_features,) or None, whether columns of `like` have gaps
        """
        values = [_natural(c, kind) for c, kind in zip(columns.T, self.kinds, strict=True)]
        if self.library is None:
            if gaps is not None and not gaps.any() and isinstance(like, np.ndarray):
                return np.array(like)
            if {v.dtype.kind for v in values} <= set("biuf"):
                return np.stack(values, axis=1).astype(np.result_type(*values), copy=False)
            return np.stack([v.astype(object) for v in values], axis=1)
        own = type(like).__module__.partition(".")[0] == self.library and hasattr(like, "columns")
        if own and gaps is not None:
            # Floats would round large integers.
            whole = [column.to_native() for column in nw.from_native(like).iter_columns()]
        series = {}
        for j, parts in enumerate(zip(values, self.kinds, self.dtypes, self.zones, strict=True)):
            kept = own and gaps is not None and not gaps[j]
            series[f"{j}"] = whole[j] if kept else self._series(*parts)
        if self.library == "pandas":
            series = {name: column.reset_index(drop=True) for name, column in series.items()}
            frame = nw.from_dict(series, backend="pandas").to_native()
            frame.columns = self.names
            if own:
                frame.index = like.index
                frame.columns = like.columns if gaps is not None else frame.columns
            return frame
        frame = nw.from_dict(series, backend=self.library)
        return frame.rename(dict(zip(series, self.names, strict=True))).to_native()

    def _series(self, values, kind, dtype, zone):
        """One column of a frame; of its own dtype where floats and text can be turned to that."""
        if kind == INTEGER and values.dtype.kind == "i":
            low, high = _BOUNDS.get(dtype.lower().partition("[")[0], (None, None))
            values = np.clip(values, low, high)
        values = values.tolist() if kind in (CATEGORY, CLOCK) else values
        series = nw.new_series("", values, backend=self.library)
        unit = _UNIT.search(dtype)
        try:
            if zone:
                series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
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


def _natural(values, kind):
    """Entries of a column as NumPy has them: of floats, or categories as they are."""
    if kind == CATEGORY:
        return values
    values = values.astype(float)
    if kind == NUMBER:
        return values
    if kind in (MOMENT, SPAN):
        values = np.clip(values, *_CALENDAR) if kind == MOMENT else values
        whole = np.rint(values * 1e6)
        unit = "datetime64[us]" if kind == MOMENT else "timedelta64[us]"
        times = np.nan_to_num(whole).astype("i8").view(unit)
        return np.where(np.isnan(whole), np.array("NaT", unit), times)
    if kind == CLOCK:
        clock = [
            None
            if v != v
            else (_MIDNIGHT + datetime.timedelta(seconds=min(max(v, 0.0), 86399.999))).time()
            for v in values
        ]
        return np.array(clock, object)
    if np.isnan(values).any():
        return np.rint(values) if kind == INTEGER else values
    return np.rint(values).astype(int) if kind == INTEGER else values >= 0.5
