"""Files of arrays and JSON metadata, written atomically."""

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from .._types import AnyArray

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
