"""Kinds of columns, by what their entries are, whatever holds them."""

import datetime
import decimal
import numbers
import types

import numpy as np

from .._checks import warn
from ..errors import InformationWarning

_EPOCH, _SECOND = np.datetime64(0, "us"), np.timedelta64(1, "s")
_NUMBERS = numbers.Number, np.bool_, decimal.Decimal
# Values of these differ in text from one process to the next, or are no labels at all.
_NO_LABELS = (
    complex, np.complexfloating, tuple, frozenset, types.FunctionType, types.BuiltinFunctionType,
)  # fmt: skip
_NEVER_MISSING = {str, int, bool, bytes, datetime.date, datetime.datetime}
_MOST_YEARS = 290_000
# Share of different values below which it is told that floats are the same.
_TOLD_APART = 0.9
# More different numbers than these are no names of categories, whatever text is beside them.
_MANY_NUMBERS = 16
_DATES = datetime.date, np.datetime64
_SPANS = datetime.timedelta, np.timedelta64

#: Kinds of columns: numbers, which may be integers, booleans, decimals or spans of time in seconds;
#: moments, days and times of day; categories, which may be bytes.
NUMBER, INTEGER, BOOLEAN, DECIMAL, SPAN = "number", "integer", "boolean", "decimal", "span"
MOMENT, DAY, CLOCK, CATEGORY, BYTES = "moment", "day", "time of day", "category", "bytes"
#: What moments are read as: the time since 1970, and phases of periods.
TIME = "time"
_DAY = np.timedelta64(1, "D")
_YEAR = np.timedelta64(31_556_952, "s")
_PERIODS = "time of year", "day of week", "time of day"


def is_missing(value) -> bool:
    """Whether an entry is None, NaN, or a gap of pandas."""
    if type(value) in _NEVER_MISSING:
        return False
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    # Comparing pandas' NA with itself gives no boolean.
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def read_values(name, values, categorical=False, wall=None):
    """Floats of one column, its entries where these are no numbers, and its kind.

    Entries are plain Python values of categories, None where missing; moments in the time of their
    place, as datetime64; times of day as timedelta64. Floats are seconds, of moments since 1970.
    TypeError for entries that are none of these, ValueError for many numbers beside text.

    Parameters
    ----------
    name : name or number of the column
    values : ndarray of shape (n_samples,)
    categorical : bool, whether numbers are names of categories, too
    wall : ndarray of datetime64 or None, moments in the time of their place, None for the same
    """
    kind = values.dtype.kind
    if kind in "biuf" and not categorical:
        floats = values.astype(float)
        if kind in "iu":
            check_apart(name, values, floats)
        return floats, None, {"b": BOOLEAN, "f": NUMBER}.get(kind, INTEGER)
    if kind == "m":
        seconds = values / _SECOND
        check_apart(name, values, seconds)
        return seconds, None, SPAN
    if kind == "M":
        _check_years(name, values)
        seconds = _seconds(values)
        check_apart(name, values, seconds)
        return seconds, (values if wall is None else wall).astype("datetime64[us]"), MOMENT
    if kind in "US":
        try:  # NumPy makes text of numbers that are beside text.
            return values.astype(float), None, NUMBER
        except ValueError:
            plain = _plain(name, values.astype(object))
            return np.full(len(values), np.nan), plain, CATEGORY if kind == "U" else BYTES
    return _read_objects(name, values.astype(object), categorical)


def phase(values, period):
    """Where moments, or times of day, are in a period, in [0, 1), (n_samples,); NaN where missing.

    Parameters
    ----------
    values : ndarray of datetime64 or timedelta64, (n_samples,)
    period : str, ``"time of year"``, ``"day of week"`` or ``"time of day"``
    """
    if values.dtype.kind == "m":
        return values / _DAY
    days = values.astype("datetime64[D]")
    if period == "time of day":
        return (values - days) / _DAY
    if period == "time of year":
        return (values - values.astype("datetime64[Y]")) / _YEAR % 1
    # The first of January 1970 was a Thursday; weeks begin on Mondays.
    return ((days - _EPOCH) / _DAY + 3) % 7 / 7


def parts_of(values):
    """Names of what moments are read as: the time, and the phases that differ between rows."""
    if values.dtype.kind == "m":
        return ("time of day",)
    phases = {period: phase(values, period) for period in _PERIODS}
    return TIME, *(period for period, u in phases.items() if len(set(u[~np.isnan(u)])) > 1)


def _read_objects(name, values, categorical):
    """`read_values` of Python objects."""
    for cls in {type(value) for value in values}:
        if cls.__hash__ is None or issubclass(cls, _NO_LABELS):
            raise TypeError(
                f"Column {name!r} holds a {cls.__name__}: an argument must be a table of strings, "
                "numbers, dates or other labels."
            )
    present = np.array([not is_missing(value) for value in values], bool)
    floats, kinds = np.full(len(values), np.nan), {type(value) for value in values[present]}

    def all_are(*classes):
        return kinds and all(issubclass(cls, classes) for cls in kinds) and not categorical

    if not kinds and not categorical:
        return floats, None, NUMBER
    # NumPy calls its spans integers.
    if all_are(*_SPANS):
        floats[present] = [_in_seconds(value) for value in values[present]]
        return floats, None, SPAN
    if all_are(*_NUMBERS):
        floats[present] = [_number(value) for value in values[present]]
        if all_are(bool, np.bool_):
            return floats, None, BOOLEAN
        check_apart(name, values[present], floats[present])
        if all_are(decimal.Decimal):
            return floats, None, DECIMAL
        return floats, None, INTEGER if all_are(numbers.Integral) else NUMBER
    if all_are(datetime.time):
        clock = np.full(len(values), "NaT", "timedelta64[us]")
        clock[present] = [_since_midnight(value) for value in values[present]]
        return clock / _SECOND, clock, CLOCK
    are_periods = kinds and all(hasattr(cls, "start_time") for cls in kinds) and not categorical
    if all_are(*_DATES) or are_periods:
        wall, universal = (np.full(len(values), "NaT", "datetime64[us]") for _ in range(2))
        try:
            wall[present], universal[present] = zip(*map(_moment, values[present]), strict=True)
        except OverflowError:
            raise ValueError(
                f"Column {name!r} holds moments at the ends of the calendar, which have no "
                "universal time: put NaN in place of what stands for no date."
            ) from None
        return _seconds(universal), wall, DAY if kinds == {datetime.date} else MOMENT
    entries = _plain(name, values, present)
    figures = {v for v in entries if isinstance(v, int | float)}
    texts = {v for v in entries if isinstance(v, str)}
    if len(figures) > _MANY_NUMBERS and texts and not categorical:
        raise ValueError(
            f"Column {name!r} holds {len(figures)} different numbers, and text such as "
            f"{min(texts)!r}: put NaN in place of the text, or make all of the column text."
        )
    return floats, entries, BYTES if kinds == {bytes} else CATEGORY


def _seconds(moments):
    return (moments - _EPOCH) / _SECOND


def check_apart(name, values, floats):
    """A warning where many different values of a column are the same as floats.

    Parameters
    ----------
    name : name or number of the column
    values, floats : ndarrays of shape (n_samples,)
    """
    present, kind = np.isfinite(floats), values.dtype.kind
    exact = kind in "iu" and np.abs(floats[present]).max(initial=0) < 2**53
    whole = kind in "mM" and (values == values.astype(f"{kind}8[us]"))[present].all()
    if exact or whole:
        return
    n_values, n_floats = (len(set(x[present].tolist())) for x in (values, floats))
    if n_floats < _TOLD_APART * n_values:
        warn(
            f"Column {name!r} holds {n_values} different numbers or moments, of which 64-bit "
            f"floats tell {n_floats} apart: subtract what they share, or make the column text.",
            InformationWarning,
        )


def _check_years(name, moments):
    """ValueError for years that 64 bits of microseconds do not hold."""
    years = moments.astype("datetime64[Y]").astype(int)[~np.isnat(moments)]
    if len(years) and np.abs(years).max() > _MOST_YEARS:
        raise ValueError(
            f"Column {name!r} holds a moment in the year {1970 + years[np.abs(years).argmax()]}: "
            "put NaT in place of what stands for no date."
        )


def _in_seconds(span):
    return span / _SECOND if isinstance(span, np.timedelta64) else span.total_seconds()


def _number(value):
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def _since_midnight(time):
    return datetime.datetime.combine(datetime.date.min, time.replace(tzinfo=None)) - (
        datetime.datetime.min
    )


def _moment(value):
    """A moment in the time of its place, and in universal time."""
    value = getattr(value, "start_time", value)
    if getattr(value, "tzinfo", None) is None:
        return value, value
    return value.replace(tzinfo=None), value.astimezone(datetime.UTC).replace(tzinfo=None)


def _plain(name, values, present=None):
    """Categories as plain Python values, so that they survive storage; None where missing."""
    classes = {type(value) for value in values}
    if classes == {str}:
        return values
    if all(any(issubclass(cls, known) for cls in classes) for known in (str, bytes)):
        raise TypeError(
            f"Column {name!r} holds text and bytes, which are the same category if they read the "
            "same: decode the bytes."
        )
    out = np.full(len(values), None, object)
    for i in range(len(values)) if present is None else np.flatnonzero(present):
        value = values[i]
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bytes):
            value = text_of(value)
        elif not isinstance(value, str | bool | int | float):
            if type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__:
                raise TypeError(
                    f"Column {name!r} holds a {type(value).__name__}, which has no text of its "
                    "own to tell it by: an argument must be a table of strings, numbers or dates."
                )
            value = _of_interval(value) if hasattr(value, "closed_left") else str(value)
        out[i] = value
    return out


def _of_interval(value):
    """Text of an interval of pandas, which makes floats of integers beside gaps."""
    ends = (value.left, value.right)
    left, right = (int(x) if isinstance(x, float) and x.is_integer() else x for x in ends)
    return f"{'(['[value.closed_left]}{left}, {right}{')]'[value.closed_right]}"


def plain_labels(labels) -> list:
    """Labels as the plain values that `read_values` has for them."""
    values = np.empty(len(labels), object)
    values[:] = list(labels)
    return _plain("", values).tolist()


def text_of(value: bytes) -> str:
    """Text that tells bytes apart, which `bytes_of` turns back."""
    return value.decode(errors="surrogateescape")


def bytes_of(text: str) -> bytes:
    """Inverse of `text_of`."""
    return text.encode(errors="surrogateescape")
