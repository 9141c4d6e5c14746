"""Names of variants: the one table from the strings in estimators and saved files to classes.

A variant (embedding, initializer, loss, trainer, ...) is a frozen dataclass whose fields are JSON
values, tuples of them or other variants. Once it is registered under its kind, its snake_case name
is valid in estimators and its instances can be stored.

>>> from tn4ml_plus._registry import resolve, to_json, from_json
>>> import tn4ml_plus.embeddings
>>> legendre = resolve("embedding", "legendre")
>>> from_json(to_json(legendre)) == legendre
True
"""

import dataclasses
import difflib
import importlib
import re
import typing
from collections.abc import Callable

from ._schema import check_fields

_CLASSES: dict[str, dict[str, type]] = {}
# Kinds that a room adds once it is imported, which needs an optional package.
_ROOMS = dict.fromkeys(("variant", "block", "merge"), "image")


def snake_case(name):
    """Turn a class name into its registry name.

    >>> snake_case("GaussianRBF"), snake_case("LinearComplement"), snake_case("MPS")
    ('gaussian_rbf', 'linear_complement', 'mps')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def register(kind: str, name: str | None = None) -> Callable[[type], type]:
    """Class decorator that makes a variant known by its name.

    Instances with a name of their own may be registered too, as ``register(kind, name)(instance)``.

    >>> @register("example")
    ... @dataclasses.dataclass(frozen=True)
    ... class SmallExample:
    ...     size: int = 1
    >>> resolve("example", "small_example")
    SmallExample(size=1)

    Parameters
    ----------
    kind : str
        Such as "embedding", "initializer", "loss", "trainer" or "network".
    name : str, optional, the name; by default that of the class in snake_case
    """

    def decorate(cls):
        _CLASSES.setdefault(kind, {})[name or snake_case(cls.__name__)] = cls
        return cls

    return decorate


@typing.dataclass_transform(frozen_default=True)
def variant(kind, name=None, **options):
    """Class decorator of a variant: a frozen dataclass that is registered by its name."""
    options = {"frozen": True} | options
    return lambda cls: register(kind, name)(dataclasses.dataclass(**options)(cls))


def _known(kind):
    """Registered classes and objects of one kind, by name."""
    if kind in _ROOMS:
        importlib.import_module(f".{_ROOMS[kind]}", __package__)
    return _CLASSES.get(kind, {})


def names(kind):
    """Sorted registry names of one kind."""
    return sorted(_known(kind))


def lookup(kind, name):
    """Class or object registered as `name`; ValueError listing the valid names otherwise."""
    known = _known(kind)
    try:
        return known[name]
    except KeyError:
        valid = [n for n in names(kind) if not _required(known[n])]
        close = difflib.get_close_matches(str(name), valid, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"Unknown {kind} {name!r}.{hint} Valid names: {', '.join(map(repr, valid))}."
        ) from None


def registered(cls):
    """Kind and name of a class, None if it is not registered."""
    for kind, classes in _CLASSES.items():
        for name, known in classes.items():
            if known is cls:
                return kind, name
    return None


def _required(cls):
    """Names of the fields without a default, of a class that has fields."""
    if not (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.init):
        return []
    fields, none = dataclasses.fields(cls), dataclasses.MISSING
    return [field.name for field in fields if field.default is field.default_factory is none]


def resolve(kind, spec):
    """Turn a string into the default instance of the class it names; pass instances through.

    Raises ValueError for an unknown name or an object that is not of this kind.
    """
    if isinstance(spec, str):
        cls = lookup(kind, spec)
        if missing := _required(cls):
            raise ValueError(
                f"The {kind} {spec!r} needs {', '.join(missing)}: pass an object, "
                f"{cls.__name__}({', '.join(f'{name}=...' for name in missing)})."
            )
        return cls() if isinstance(cls, type) else cls
    classes = tuple(known for known in _known(kind).values() if isinstance(known, type))
    if isinstance(spec, classes):
        return spec
    if spec in classes:
        raise ValueError(
            f"{kind} must be an instance, not the class {spec.__name__}: write {spec.__name__}()."
        )
    raise ValueError(
        f"{kind} must be one of {', '.join(map(repr, names(kind)))} or an instance of such a "
        f"class, got {type(spec).__name__}."
    )


#: Options of `dataclasses.field` for what is set by hand alone: no file has it, or is believed if
#: it has, and it does not count when objects are compared.
UNSTORED = {"compare": False, "metadata": {"stored": False}}


def is_stored(field):
    """Whether files have this field of a dataclass, unless it is `UNSTORED`."""
    return field.metadata.get("stored", True)


def to_json(value):
    """JSON form of a variant, or of a tuple, list, dict, number, string, bool or None.

    Fields that are `UNSTORED` are left out. Raises TypeError for anything else, since only
    registered classes can be rebuilt.
    """
    if known := registered(type(value)):
        fields = dataclasses.fields(value)
        names = [field.name for field in fields if field.init and is_stored(field)]
        fields = {name: to_json(getattr(value, name)) for name in names}
        return {"kind": known[0], "class": known[1], "fields": fields}
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [to_json(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[to_json(k), to_json(v)] for k, v in value.items()]}
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"A {type(value).__module__}.{type(value).__name__} cannot be stored without running code; "
        "use one of the library's own objects or its name."
    )


def from_json(data):
    """Inverse of `to_json`; builds registered classes only, of what their fields may hold.

    What is `UNSTORED` is dropped.
    """
    if not isinstance(data, dict):
        return data
    if "class" in data:
        if data["kind"] == "state":  # Its `from_state` would not be asked.
            raise ValueError(f"a state {data['class']!r} stands where none can be")
        cls = lookup(data["kind"], data["class"])
        if not (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.init):
            raise ValueError(f"a {data['kind']} {data['class']!r} is never stored")
        dropped = {field.name for field in dataclasses.fields(cls) if not is_stored(field)}
        given = data["fields"].items()
        fields = {name: from_json(value) for name, value in given if name not in dropped}
        check_fields(cls, fields)
        return cls(**fields)
    if "dict" in data:
        return {from_json(k): from_json(v) for k, v in data["dict"]}
    if "tuple" in data:
        return tuple(from_json(v) for v in data["tuple"])
    return [from_json(v) for v in data["list"]]
