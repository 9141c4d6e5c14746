"""Fields of classes held to their annotations: kinds, and shapes that follow from each other.

>>> import dataclasses
>>> @dataclasses.dataclass
... class Sizes:
...     bond_dims: tuple[int, ...]
...     name: str = "chain"
>>> check_fields(Sizes, {"bond_dims": (2, 4)})
>>> check_fields(Sizes, {"bond_dims": (2, "four")})
Traceback (most recent call last):
    ...
ValueError: bond_dims of Sizes must be tuple[int, ...], got (2, 'four').
"""

import dataclasses
import math
import reprlib
import types
import typing
from typing import Any

import jaxtyping
import numpy as np

#: Marks an array, by ``Annotated``, whose numbers need not be finite.
UNBOUNDED = "may be infinite or no number"


def check_fields(cls: type, values: dict[str, Any], owner: str | None = None) -> None:
    """ValueError unless values are those of a class's fields, by name, kind and shape.

    Numbers must be finite, integers of 64 bits, and sizes of one name in jaxtyping's annotations
    the same.

    Parameters
    ----------
    cls : dataclass or TypedDict
    values : dict, values by name
    owner : str, optional, whose fields they are for the message, by default the class's
    """
    owner = owner or cls.__name__
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:  # Of a class of a function's own, names are known there only.
        hints = {field.name: Any for field in dataclasses.fields(cls)}
    if dataclasses.is_dataclass(cls):
        fields = [field for field in dataclasses.fields(cls) if field.init]
        hints = {field.name: hints[field.name] for field in fields}
        none = dataclasses.MISSING
        needed = {f.name for f in fields if f.default is f.default_factory is none}
    else:
        needed = cls.__required_keys__
    if unknown := sorted(map(str, values.keys() - hints.keys())):
        raise ValueError(f"{owner} has no {', '.join(unknown)}.")
    if missing := sorted(needed - values.keys()):
        raise ValueError(f"{owner} lacks {', '.join(missing)}.")
    with jaxtyping.jaxtyped("context"):
        for name, value in values.items():
            if not _conforms(value, hints[name]):
                expected = getattr(hints[name], "__name__", None)
                if typing.get_origin(hints[name]) or expected is None:
                    expected = str(hints[name]).replace("typing.", "")
                raise ValueError(f"{name} of {owner} must be {expected}, got {_words(value)}.")


def _conforms(value, hint):
    """Whether a value is of the kind that an annotation states."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (typing.Required, typing.NotRequired):
        return _conforms(value, arguments[0])
    if origin is typing.Annotated:
        kind = arguments[0]
        return isinstance(value, kind) if UNBOUNDED in arguments else _conforms(value, kind)
    if origin in (typing.Union, types.UnionType):
        return any(_conforms(value, each) for each in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin in (dict, tuple, list):
        # `typing.Tuple` has this origin, too, and says nothing of items.
        bare = not arguments and hint != tuple[()]
        return type(value) is origin and (bare or _items_conform(value, origin, arguments))
    if hint in (int, float):
        # Integers of JSON have any length.
        whole = isinstance(value, int) and type(value) is not bool and abs(value) < 2**63
        return whole or (hint is float and isinstance(value, float) and math.isfinite(value))
    if hint is bool:
        return isinstance(value, bool | int) and value in (0, 1)
    if hint is None:
        return value is None
    try:
        known = isinstance(value, origin or hint)
    except TypeError:  # What no object is an instance of, such as a NewType, says nothing.
        known = True
    if not known:
        return False
    floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return not floats or bool(np.isfinite(value).all())


def _items_conform(value, origin, arguments):
    if origin is dict:
        pairs = value.items()
        return all(_conforms(k, arguments[0]) and _conforms(v, arguments[1]) for k, v in pairs)
    if origin is tuple and arguments[-1:] != (...,):
        return len(value) == len(arguments) and all(map(_conforms, value, arguments))
    return all(_conforms(item, arguments[0]) for item in value)


def _words(value):
    if not isinstance(value, np.ndarray):
        return reprlib.repr(value)
    infinite = value.dtype.kind == "f" and not np.isfinite(value).all()
    numbers = " with numbers that are not finite" if infinite else ""
    return f"an array of {value.dtype} of shape {value.shape}{numbers}"
