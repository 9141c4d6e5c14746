"""Processes that were forked after JAX had run, where it would hang without its threads."""

import functools
import os

from jax._src import xla_bridge

from .errors import ForkedProcessError

_forked = False


def _look():
    global _forked
    # Nothing public tells whether JAX has run.
    _forked = _forked or bool(getattr(xla_bridge, "_backends", None))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_look)


def is_forked() -> bool:
    """Whether JAX had run when this process, or one that it comes from, was forked."""
    return _forked


def check_process():
    """ForkedProcessError where JAX would hang."""
    if _forked:
        raise ForkedProcessError(
            "This process was forked after JAX had run, and JAX would hang here, without its "
            'threads. Start processes in another way: multiprocessing.get_context("spawn") or '
            '"forkserver", and joblib\'s backend "loky"; or fork before anything uses JAX.'
        )


def unforked(function):
    """Decorator of compiled programs, which are refused where they would hang.

    >>> unforked(max)(1, 2)
    2
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        check_process()
        return function(*args, **kwargs)

    return call
