"""Tables of the make that others had."""

import datetime
import re

import narwhals.stable.v2 as nw
import numpy as np

from .._registry import variant
from ._kinds import CATEGORY, CLOCK, INTEGER, MOMENT, NUMBER, SPAN

_MIDNIGHT = datetime.datetime.min
_QUOTED = re.compile(r"'([^']*)'")
_ZONE = re.compile(r"UTC|[A-Z]\w+/[\w/+-]+")


@variant("state")
class Make:
    """Make of a table: the library of a frame, and the kinds and dtypes of its columns.

    Parameters
    ----------
    library : str or None, such as ``"pandas"``; None for arrays
    kinds : tuple of str, per column what its entries are
    dtypes : tuple of str, per column its dtype in the words of the library
    """

    library: str | None
    kinds: tuple[str, ...]
    dtypes: tuple[str, ...]

    def chosen(self, columns) -> "Make":
        """Make of some of the columns, by their numbers."""
        kinds, dtypes = (tuple(values[j] for j in columns) for values in (self.kinds, self.dtypes))
        return Make(self.library, kinds, dtypes)

    def build(self, columns, names=None, like=None):
        """A table of this make.

        Parameters
        ----------
        columns : ndarray of shape (n_samples, n_features)
            Floats, or objects where there are categories; seconds for times.
        names : sequence of str or None
        like : frame or None, whose index it gets
        """
        values = [_natural(c, kind) for c, kind in zip(columns.T, self.kinds, strict=True)]
        if self.library is None:
            if {v.dtype.kind for v in values} <= set("biuf"):
                return np.stack(values, axis=1).astype(np.result_type(*values), copy=False)
            return np.stack([v.astype(object) for v in values], axis=1)
        series = {
            name: self._series(name, *parts)
            for name, *parts in zip(names, values, self.kinds, self.dtypes, strict=True)
        }
        frame = nw.from_dict(series, backend=self.library).to_native()
        if self.library == "pandas" and hasattr(like, "index"):
            frame.index = like.index
        return frame

    def _series(self, name, values, kind, dtype):
        """One column of a frame; of its own dtype where floats and text can be turned to that."""
        values = values.tolist() if kind in (CATEGORY, CLOCK) else values
        series = nw.new_series(name, values, backend=self.library)
        zone = _ZONE.search(dtype) if kind == MOMENT else None
        if zone:
            series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone[0])
        try:
            if self.library == "pandas":
                return series.to_native().astype(dtype)
            known = getattr(nw, dtype.partition("(")[0])
            if known is nw.Enum:
                known = nw.Enum(_QUOTED.findall(dtype))
            return (series if zone else series.cast(known)).to_native()
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
        whole = np.rint(values * 1e6)
        unit = "datetime64[us]" if kind == MOMENT else "timedelta64[us]"
        times = np.nan_to_num(whole).astype("i8").view(unit)
        return np.where(np.isnan(whole), np.array("NaT", unit), times)
    if kind == CLOCK:
        clock = [
            None if v != v else (_MIDNIGHT + datetime.timedelta(seconds=v % 86400)).time()
            for v in values
        ]
        return np.array(clock, object)
    if np.isnan(values).any():
        return np.rint(values) if kind == INTEGER else values
    return np.rint(values).astype(int) if kind == INTEGER else values >= 0.5
