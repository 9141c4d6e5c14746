"""Nested values in two parts, arrays and JSON, as files hold them."""

import dataclasses

import numpy as np

from .._registry import from_json, lookup, registered, to_json
from .._schema import check_fields
from .._types import ArrayLike

_LABELS = bool | int | float | str
# Letters that a dtype of labels has room for, or as many as the longest has.
_LETTERS = 1024


def labels_to_json(labels: ArrayLike) -> dict:
    """JSON form of a 1-d array of class labels: booleans, integers, floats or strings.

    ValueError for other labels, such as objects that are not all strings.

    >>> labels_to_json(np.array(["no", "yes"]))
    {'dtype': '<U3', 'values': ['no', 'yes']}
    """
    labels = np.asarray(labels)
    strings = labels.dtype.kind == "U" or (
        labels.dtype == object and all(isinstance(label, str) for label in labels.flat)
    )
    if labels.ndim != 1 or not (strings or (labels.dtype.kind in "biuf" and labels.itemsize <= 8)):
        raise ValueError(
            f"Labels of dtype {labels.dtype} and shape {labels.shape} cannot be stored; use a "
            "1-d array of booleans, integers, floats or strings."
        )
    values = labels.tolist()
    if labels.dtype.kind == "U" and labels.dtype.itemsize // 4 > _letters(values):
        labels = labels.astype(f"U{_letters(values)}")
    return {"dtype": labels.dtype.str, "values": values}


def labels_from_json(data: dict) -> np.ndarray:
    """Labels from `labels_to_json`: same values, same dtype; ValueError for anything else.

    >>> labels_from_json({"dtype": "<i8", "values": [3, 7]})
    array([3, 7])
    """
    name, values = data["dtype"], data["values"]
    if not isinstance(values, list) or not all(isinstance(v, _LABELS) for v in values):
        raise ValueError("labels must be a list of booleans, numbers or strings")
    dtype = np.dtype(object if name == "|O" else name)
    text = dtype.kind in "OU"
    if dtype.kind not in "OUbiuf" or not all(isinstance(v, str) == text for v in values):
        raise ValueError(f"labels of dtype {name!r} are none of the kind of {values[:3]}")
    if dtype.kind == "U" and dtype.itemsize // 4 > _letters(values):
        raise ValueError(f"labels of dtype {name!r} are far longer than {values[:3]}")
    return np.array(values, dtype=dtype)


def _letters(values):
    """Most letters of the dtype of these strings."""
    return max(_LETTERS, *map(len, values)) if values else _LETTERS


def to_tree(value, path: str, arrays: dict):
    """JSON form of a value; its arrays are added to `arrays`.

    TypeError for anything but arrays, values that the registry can store, objects of classes
    registered as ``"state"``, and dicts, lists and tuples of these. Such objects are stored as
    their fields, or as what their method ``to_state`` says, from which ``from_state`` makes them.

    >>> arrays = {}
    >>> tree = to_tree({"core": np.eye(2), "bond_dim": 2}, "model", arrays)
    >>> list(arrays), from_tree(tree, arrays)["bond_dim"]
    (['model.core'], 2)

    Parameters
    ----------
    value, path : object and str, the value, and the beginning of the names of its arrays
    arrays : dict, arrays by name
    """
    kind, name = registered(type(value)) or (None, None)
    if kind == "state":
        if hasattr(value, "to_state"):
            state = value.to_state()
        else:
            state = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        fields = {name: to_tree(v, f"{path}.{name}", arrays) for name, v in state.items()}
        return {"state": name, "fields": fields}
    if isinstance(value, tuple | list):
        items = [to_tree(v, f"{path}.{i}", arrays) for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, dict):
        return {"dict": [[to_json(k), to_tree(v, f"{path}.{k}", arrays)] for k, v in value.items()]}
    if hasattr(value, "dtype") and not isinstance(value, np.generic):
        value = np.asarray(value)
        if value.dtype.kind in "OUS":
            return {"labels": labels_to_json(value)}
        arrays[path] = value
        return {"array": path}
    return to_json(value)


def from_tree(tree, arrays: dict):
    """Inverse of `to_tree`, of registered classes only; ValueError for what contradicts itself.

    Parameters
    ----------
    tree : JSON form of a value
    arrays : dict, arrays by name, from which those of the value are taken out
    """
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        if tree["array"] not in arrays:
            raise ValueError(f"there is no array {tree['array']!r}, or it is named twice")
        return arrays.pop(tree["array"])
    if "labels" in tree:
        return labels_from_json(tree["labels"])
    if "state" in tree:
        cls = lookup("state", tree["state"])
        fields = {name: from_tree(value, arrays) for name, value in tree["fields"].items()}
        if hasattr(cls, "from_state"):
            return cls.from_state(fields)
        check_fields(cls, fields)
        return cls(**fields)
    if "dict" in tree:
        return {from_json(k): from_tree(v, arrays) for k, v in tree["dict"]}
    for kind in (tuple, list):
        if kind.__name__ in tree:
            return kind(from_tree(v, arrays) for v in tree[kind.__name__])
    return from_json(tree)
