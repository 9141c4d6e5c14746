"""Shapes and dtypes as annotations promise them, checked while tests run."""

import sys
import types
from functools import partial
from typing import Any, get_args

import jaxtyping
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

# Numbers of NumPy do as well as Python's, and integers where floats are asked for.
_numbers = {int: int | np.integer, float: float | int | np.number}
_beartype = beartype(conf=BeartypeConf(hint_overrides=FrozenDict(_numbers)))
ROOMS = ("contraction", "embeddings", "initializers", "losses", "networks")


def check_shapes():
    """Have jaxtyping check these rooms; call it before the package is imported."""
    # jaxtyping imports what checks by its name.
    module = types.ModuleType("tn4ml_plus_shape_checks")
    module.checked = checked
    sys.modules[module.__name__] = module
    rooms = [f"tn4ml_plus.{room}" for room in ROOMS]
    jaxtyping.install_import_hook(rooms, f"{module.__name__}.checked")
    # It wraps every function, which costs more than what there is to check.
    jaxtyping.jaxtyped = partial(where_arrays_are, jaxtyping.jaxtyped)


def where_arrays_are(jaxtyped, *context, **options):
    """Decorator of jaxtyping for what has arrays in its annotations; the rest stays as it is.

    Its context, which has no annotations, is jaxtyping's own.
    """
    if context:
        return jaxtyped(*context)
    return lambda each: jaxtyped(each, **options) if _has_arrays(each) else each


def checked(function):
    """Function with its arrays checked by beartype, arguments and result, once it has returned.

    What it refuses it still refuses in its own words: jaxtyping's first look at the arguments, by a
    stand-in that returns Any, is left out.
    """
    is_whole = function.__annotations__.get("return") is not Any
    return _beartype(function) if is_whole and _has_arrays(function) else function


def _has_arrays(each):
    # Classes have those of their fields, which dataclasses take.
    function = getattr(each, "fget", getattr(each, "__func__", each))
    return any(map(_has_array, function.__annotations__.values()))


def _has_array(annotation):
    is_array = isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or any(map(_has_array, get_args(annotation)))
