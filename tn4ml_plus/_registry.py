"""Names for variants: the one table between the strings of estimators and saved files, and classes.

A variant (embedding, initializer, loss, trainer, ...) is a frozen dataclass whose fields are JSON
values, tuples of them or other variants. Registering it under its kind is what makes its snake_case
name valid in estimators and its instances storable.

>>> from tn4ml_plus._registry import resolve, to_json, from_json
>>> import tn4ml_plus.embeddings
>>> legendre = resolve("embedding", "legendre")
>>> from_json(to_json(legendre)) == legendre
True
"""

import dataclasses
import difflib
import re

_CLASSES: dict[str, dict[str, type]] = {}


def snake_case(name):
    """Turn a class name into its registry name.

    >>> snake_case("GaussianRBF"), snake_case("LinearComplement"), snake_case("MPS")
    ('gaussian_rbf', 'linear_complement', 'mps')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def register(kind, name=None):
    """Class decorator that makes a variant known under `kind` as `name`, its snake_case default."""

    def decorate(cls):
        _CLASSES.setdefault(kind, {})[name or snake_case(cls.__name__)] = cls
        return cls

    return decorate


def names(kind):
    """Sorted registry names of one kind."""
    return sorted(_CLASSES.get(kind, {}))


def lookup(kind, name):
    """Class registered as `name`; ValueError listing the valid names otherwise."""
    try:
        return _CLASSES[kind][name]
    except KeyError:
        valid = [n for n in names(kind) if not _required(_CLASSES[kind][n])]
        close = difflib.get_close_matches(str(name), valid, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"Unknown {kind} {name!r}.{hint} Valid names: {', '.join(map(repr, valid))}."
        ) from None


def _required(cls):
    """Names of the fields without a default, of a class that has fields."""
    if not dataclasses.is_dataclass(cls):
        return []
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is field.default_factory is dataclasses.MISSING
    ]


def resolve(kind, spec):
    """Turn a string into the default instance of the class it names; pass instances through.

    Raises ValueError for an unknown name or an object that is not of this kind.
    """
    if isinstance(spec, str):
        cls = lookup(kind, spec)
        missing = _required(cls)
        if missing:
            raise ValueError(
                f"The {kind} {spec!r} needs {', '.join(missing)}: pass an object, "
                f"{cls.__name__}({', '.join(f'{name}=...' for name in missing)})."
            )
        return cls()
    if isinstance(spec, tuple(_CLASSES.get(kind, {}).values())):
        return spec
    if isinstance(spec, type) and spec in _CLASSES.get(kind, {}).values():
        raise ValueError(
            f"{kind} must be an instance, not the class {spec.__name__}: write {spec.__name__}()."
        )
    raise ValueError(
        f"{kind} must be one of {', '.join(map(repr, names(kind)))} or an instance of such a "
        f"class, got {type(spec).__name__}."
    )


def to_json(value):
    """JSON form of a variant, or of a tuple, list, dict, number, string, bool or None.

    Raises TypeError for anything else, since only registered classes can be rebuilt.
    """
    for kind, classes in _CLASSES.items():
        for name, cls in classes.items():
            if type(value) is cls:
                fields = dataclasses.fields(cls)
                fields = {f.name: to_json(getattr(value, f.name)) for f in fields if f.init}
                return {"kind": kind, "class": name, "fields": fields}
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
    """Inverse of `to_json`; builds registered classes only."""
    if not isinstance(data, dict):
        return data
    if "class" in data:
        fields = {name: from_json(value) for name, value in data["fields"].items()}
        return lookup(data["kind"], data["class"])(**fields)
    if "dict" in data:
        return {from_json(k): from_json(v) for k, v in data["dict"]}
    if "tuple" in data:
        return tuple(from_json(v) for v in data["tuple"])
    return [from_json(v) for v in data["list"]]
