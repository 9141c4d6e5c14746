"""Checks of arguments: ValueErrors that name the argument, what it may be and what it was.

>>> from tn4ml_plus._checks import check_number
>>> check_number("decay", "much", at_least=0)
Traceback (most recent call last):
    ...
ValueError: decay must be a finite number of at least 0, got 'much'.
"""

import contextlib
import contextvars
import numbers
import sys
import warnings
from math import inf, isfinite

import numpy as np

_untold = contextvars.ContextVar("untold", default=())


def check_int(name, value, at_least, optional=False):
    """ValueError unless `value` is an integer >= `at_least`, or None where that is allowed."""
    valid = _is(numbers.Integral, value) and value >= at_least
    check(name, value, valid, f"an integer of at least {at_least}", optional)


def check_number(name, value, *, at_least=-inf, above=-inf, below=inf, at_most=inf, optional=False):
    """ValueError unless `value` is a finite number in range, or None where that is allowed."""
    valid = _is(numbers.Real, value) and at_least <= value <= at_most and above < value < below
    bounds = {"of at least": at_least, "above": above, "below": below, "at most": at_most}
    words = [f"{word} {bound}" for word, bound in bounds.items() if isfinite(bound)]
    check(name, value, valid, " ".join(["a finite number", " and ".join(words)]).strip(), optional)


def check_index(name, value, n, what):
    """ValueError unless `value` is an integer in [0, n), the number of one of n `what`."""
    valid = _is(numbers.Integral, value) and 0 <= value < n
    check(name, value, valid, f"the number of {what}, from 0 to {n - 1}")


def check_shape(shape, n, what):
    """The shape as a tuple (rows, columns), or None; ValueError unless rows * columns is n."""
    if shape is None:
        return None
    sizes = tuple(shape) if isinstance(shape, list | tuple | np.ndarray) else ()
    whole = len(sizes) == 2 and all(_is(numbers.Integral, size) and size > 0 for size in sizes)
    valid = whole and sizes[0] * sizes[1] == n
    check("shape", shape, valid, f"(rows, columns) of the {n} {what}")
    return tuple(map(int, sizes))


def check_instance(name, value, cls, optional=False):
    """ValueError unless `value` is an instance of `cls`, or None where that is allowed."""
    check(name, value, isinstance(value, cls), f"an instance of {cls.__name__}", optional)


def float_tuple(name, values):
    """Tuple of finite Python floats; ValueError for anything else."""
    try:
        values = tuple(np.asarray(values, object).tolist())
    except TypeError:
        raise ValueError(f"{name} must be a sequence of numbers, got {values!r}.") from None
    for value in values:
        check_number(f"each number in {name}", value)
    return tuple(map(float, values))


def int_tuple(name, values, at_least=1):
    """Tuple of Python integers; ValueError unless all of a sequence are integers >= `at_least`."""
    for value in values:
        check_int(name, value, at_least)
    return tuple(map(int, values))


def function_tuple(name, values):
    """Tuple of functions; ValueError for anything but a list or tuple of them."""
    valid = isinstance(values, list | tuple) and all(map(callable, values))
    check(name, values, valid, "a sequence of functions")
    return tuple(values)


def _is(number, value):
    return isinstance(value, number) and not isinstance(value, bool)


def check(name, value, valid, allowed, optional=False):
    """ValueError in words unless a value is `valid`, or None where that is allowed."""
    if not valid and not (optional and value is None):
        raise ValueError(f"{name} must be {allowed}{', or None' * optional}, got {value!r}.")


@contextlib.contextmanager
def untold(*categories):
    """Context in which `warn` leaves out these categories, for its thread and its `on_threads`.

    The filters of `warnings` are those of all threads, and stay changed where two threads change
    them at a time.
    """
    token = _untold.set((*_untold.get(), *categories))
    try:
        yield
    finally:
        _untold.reset(token)


def warn(message, category=UserWarning):
    """A warning at the line of the caller outside of this package, unless it is `untold`."""
    if issubclass(category, _untold.get()):
        return
    # The second since `told_once` warns where its context ends.
    inside, level = (__name__.partition(".")[0], "contextlib"), 1
    frame = sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
