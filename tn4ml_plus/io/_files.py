"""Files of arrays and JSON metadata, written atomically."""

import contextlib
import hashlib
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
from ..errors import ModelFileError

FORMAT_VERSION = 3
_CHECKSUM_VERSION = 3
_KEY, _CHECKSUM = "tn4ml_plus", "tn4ml_plus_sha256"


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
    arrays = {
        name: array.astype(array.dtype.newbyteorder("=")) if not array.dtype.isnative else array
        for name, array in arrays.items()
    }
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.itemsize > 8:
            raise ValueError(
                f"Array {name!r} has dtype {array.dtype}, which a file of arrays cannot hold; "
                "convert it to booleans, integers or floats, or put labels in the metadata with "
                "labels_to_json."
            )
    text = json.dumps({"format_version": FORMAT_VERSION, "content": metadata})
    header = {_KEY: text, _CHECKSUM: _checksum(text, arrays)}
    data = safetensors.numpy.save(arrays, metadata=header)

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

    Nothing is executed, and no more memory is taken than what the file holds.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        Where there is no file, or a folder.
    ModelFileError
        For a file that was changed or damaged, of another kind (a pickle, a safetensors file of
        another library) or of a newer format.
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
    except (safetensors.SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(
            f"{str(path)!r} is damaged or not a safetensors file ({error}): save the model again."
        ) from error
    with checked(path):
        try:
            text = header[_KEY]
            document = json.loads(text)
            version, content = document["format_version"], document["content"]
            if type(version) is not int or version < 1:
                raise ValueError(f"format_version is {version!r}")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                "tn4ml_plus did not write it, load it with the library that did"
            ) from error
        if version > FORMAT_VERSION:
            raise ValueError(
                f"its format version {version} is newer than {FORMAT_VERSION}, the newest one "
                "known here: upgrade tn4ml_plus"
            )
        # Earlier versions have none.
        has_one = version >= _CHECKSUM_VERSION or _CHECKSUM in header
        if has_one and header.get(_CHECKSUM) != _checksum(text, arrays):
            raise ValueError("its checksum differs, it was changed or damaged: save it again")
    return arrays, content


@contextlib.contextmanager
def checked(path):
    """Context in which what a file holds is used for the first time: errors are `ModelFileError`s.

    Those of packages that are missing and of memory that the machine lacks stay what they are.

    >>> with checked("model.safetensors"):
    ...     int("a word")
    Traceback (most recent call last):
        ...
    tn4ml_plus.errors.ModelFileError: 'model.safetensors' cannot be loaded: invalid literal for ...
    """
    try:
        yield
    except (ModelFileError, ImportError):
        raise
    except Exception as error:
        found = str(error)
        if not isinstance(error, ValueError):
            found = f"something is missing or of another kind, {type(error).__name__}: {found}"
        raise ModelFileError(f"{str(path)!r} cannot be loaded: {found.rstrip('.')}.") from error


def _checksum(text, arrays):
    """SHA-256 of metadata and arrays with their names, dtypes and shapes, in hexadecimal."""
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()
