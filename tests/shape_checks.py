"""Shapes and dtypes as annotations promise them, checked while tests run."""

import sys
import types
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


def checked(function):
    """Function with its arrays checked by beartype, arguments and result, once it has returned.

    What it refuses it still refuses in its own words: jaxtyping's first look at the arguments, by a
    stand-in that returns Any, is left out.
    """
    annotations = getattr(function, "__annotations__", {})
    arrays = annotations.get("return") is not Any and any(map(_has_array, annotations.values()))
    return _beartype(function) if arrays else function


def _has_array(annotation):
    is_array = isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or any(map(_has_array, get_args(annotation)))
