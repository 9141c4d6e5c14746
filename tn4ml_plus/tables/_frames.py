"""Tables of the make that others had."""

from collections.abc import Hashable

import narwhals.stable.v2 as nw
import numpy as np

from .._checks import warn
from .._registry import variant
from ..errors import InformationWarning
from ._dtypes import column_of, converted, objects_of, series_of, type_of, wrapped
from ._kinds import MOMENT, SPAN

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
    zones: tuple[str | None, ...] = ()
    names: tuple[Hashable, ...] = ()
    axis: tuple[Hashable, ...] = ()

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

    def by_column(self) -> dict:
        """Fields with one entry for each column, those of arrays empty."""
        return {name: getattr(self, name) for name in ("kinds", "dtypes", "zones", "names")}

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
        libraries = (self.library,) * len(self.kinds)
        parts = list(map(column_of, columns.T, *fields, libraries))
        if gaps is not None:
            parts = list(map(_filled, parts, _columns_of(like), gaps.T))
        if self.library is None:
            return _stacked(parts)
        named = {f"{j}": wrapped(column).to_native() for j, column in enumerate(parts)}
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


def _plain_name(name):
    if isinstance(name, tuple):
        return tuple(map(_plain_name, name))
    return name if isinstance(name, str | int | float | np.generic | None) else str(name)


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
    new = drawn[gaps] if isinstance(drawn, np.ndarray) else _chosen(wrapped(drawn), gaps)
    new = nw.to_native(new, pass_through=True)
    own, other = (type_of(column) for column in (drawn, held))
    for dtype in (own, other):
        found = [converted(part, dtype, exact=True) for part in (held, new)]
        if all(part is not None for part in found):
            break
    else:
        found = held, new
    order = np.argsort(np.r_[np.flatnonzero(~gaps), np.flatnonzero(gaps)])
    if isinstance(drawn, np.ndarray):
        same = found[0].dtype.kind == found[1].dtype.kind
        found = found if same else list(map(objects_of, found))
        return np.concatenate(found)[order]
    parts = [wrapped(part) for part in found]
    if type_of(found[0]) == type_of(found[1]):
        frames = [part.alias("").to_frame() for part in parts]
        return nw.concat(frames)[""][order.tolist()].to_native()
    entries = [entry for part in parts for entry in part.to_list()]
    return series_of([entries[i] for i in order], parts[0].implementation).to_native()


def _of_library(whole, chosen, drawn):
    """Entries of a column without gaps, as an array or series of the library of `drawn`."""
    if isinstance(whole, nw.Series):
        whole = _chosen(whole, chosen)
    if isinstance(drawn, np.ndarray):
        return whole.to_numpy() if isinstance(whole, nw.Series) else whole
    library = wrapped(drawn).implementation
    if isinstance(whole, nw.Series):
        if whole.implementation is library:
            return wrapped(whole.to_native()).to_native()
        try:  # Moments keep their nanoseconds on the way.
            frame = getattr(whole.alias("a").to_frame(), _WAYS[library.value])()
            return nw.from_native(frame)["a"].alias("").to_native()
        except Exception:  # Every library has errors of its own for mixed objects.
            whole = whole.to_list()
    return series_of(whole, library).to_native()


def _chosen(series, mask):
    """Entries of a series."""
    try:
        return series.filter(mask.tolist())
    except NotImplementedError:  # of text of pyarrow that is a view
        entries = [entry for entry, here in zip(series.to_list(), mask, strict=True) if here]
        return series_of(entries, series.implementation)


def _stacked(columns):
    """An array of columns, of objects where no dtype holds all of them as they are."""
    kinds = {column.dtype.kind for column in columns}
    if kinds <= set("biuf") or (len(kinds) == 1 and kinds <= set("mM")):
        dtype = np.result_type(*columns)
        found = [converted(column, dtype, exact=True) for column in columns]
        if all(column is not None for column in found):
            return np.stack(found, axis=1)
    return np.stack(list(map(objects_of, columns)), axis=1)
