"""Files of arrays and JSON metadata, written atomically, and nested values in these two parts."""

import contextlib
import dataclasses
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from .._registry import from_json, lookup, registered, to_json
from .._types import AnyArray, ArrayLike

FORMAT_VERSION = 2
_KEY = "tn4ml_plus"


def write(path: str | Path, arrays: Mapping[str, AnyArray], metadata: Any) -> None:
    """Write arrays and metadata to one file, complete or not at all.

    The file appears only once all of it is on disk; a failed write leaves an older one untouched.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     write(path, {"core": np.eye(2)}, {"bond_dim": 2})
    ...     read(path)
    ({'core': array([[1., 0.], [0., 1.]])}, {'bond_dim': 2})

    Parameters
    ----------
    path : str or Path, where to; any suffix
    arrays : mapping, names to arrays of booleans, integers or floats of at most 64 bits
    metadata : values that `json.dumps` keeps: string keys, no tuples; NaN and infinities pass
    """
    # safetensors reads raw memory, so the layout must be plain; ascontiguousarray would lift 0-d.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.itemsize > 8:
            raise ValueError(
                f"Array {name!r} has dtype {array.dtype}, which a file of arrays cannot hold; "
                "convert it to booleans, integers or floats, or put labels in the metadata with "
                "labels_to_json."
            )
    text = json.dumps({"format_version": FORMAT_VERSION, "content": metadata})
    data = safetensors.numpy.save(arrays, metadata={_KEY: text})

    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r}: make it first.")
    # In the same folder, so that the replacement is a rename within one file system.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def read(path: str | Path) -> tuple[dict[str, np.ndarray], Any]:
    """Arrays and metadata of a file that `write` made, ``(arrays, metadata)``.

    FileNotFoundError where there is none; ValueError for a file that is damaged, of another kind
    (a pickle, a safetensors file of another library) or of a newer format. Nothing is executed.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder; give the path passed to save().")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}; give the path passed to save().")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is damaged or not a safetensors file ({error}); save the model again."
        ) from error
    try:
        document = json.loads(header[_KEY])
        version, content = int(document["format_version"]), document["content"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} is a safetensors file that tn4ml_plus did not write; load it with the "
            "library that did."
        ) from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{str(path)!r} has format version {version}, newer than {FORMAT_VERSION}, the newest "
            "one known here: upgrade tn4ml_plus."
        )
    return arrays, content


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
    return {"dtype": labels.dtype.str, "values": labels.tolist()}


def labels_from_json(data: dict) -> np.ndarray:
    """Labels from `labels_to_json`: same values, same dtype.

    >>> labels_from_json({"dtype": "<i8", "values": [3, 7]})
    array([3, 7])
    """
    return np.array(data["values"], dtype=data["dtype"])


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
    """Inverse of `to_tree`, of registered classes only; see `to_tree` for the parameters."""
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]]
    if "labels" in tree:
        return labels_from_json(tree["labels"])
    if "state" in tree:
        cls = lookup("state", tree["state"])
        fields = {name: from_tree(value, arrays) for name, value in tree["fields"].items()}
        return cls.from_state(fields) if hasattr(cls, "from_state") else cls(**fields)
    if "dict" in tree:
        return {from_json(k): from_tree(v, arrays) for k, v in tree["dict"]}
    for kind in (tuple, list):
        if kind.__name__ in tree:
            return kind(from_tree(v, arrays) for v in tree[kind.__name__])
    return from_json(tree)
