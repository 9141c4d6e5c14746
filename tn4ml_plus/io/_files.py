"""Files of arrays and JSON metadata, written atomically."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from .._types import AnyArray
from ..errors import ForkedProcessError, ModelFileError
from ._replacing import replacing

FORMAT_VERSION = 3
_CHECKSUM_VERSION = 3
_KEY, _CHECKSUM = "tn4ml_plus", "tn4ml_plus_sha256"
_MAX_HEADER = 100_000_000


def write(path: str | Path, arrays: Mapping[str, AnyArray], metadata: Any) -> None:
    """Write arrays and metadata to one file, complete or not at all.

    The file appears only once all of it is on disk; a failed write leaves an older one untouched.
    `replacing` has the details: links, modes, errors, processes that are killed.

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
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.itemsize > 8:
            raise ValueError(
                f"Array {name!r} has dtype {array.dtype}, which a file of arrays cannot hold; "
                "convert it to booleans, integers or floats, or put labels in the metadata with "
                "labels_to_json."
            )
    text = json.dumps({"format_version": FORMAT_VERSION, "content": metadata})
    # Large items first, as safetensors does, so that every array is aligned in memory maps.
    names = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    metadata = {_KEY: text, _CHECKSUM: _checksum(text, arrays)}
    header = _header({name: arrays[name] for name in names}, metadata)
    # Array by array: safetensors would build all of the file in memory, or, in some versions, write
    # to a temporary of its own.
    with replacing(path) as file:
        file.write(header)
        for name in names:
            file.write(_plain(arrays[name]))


def _plain(array):
    """The array as it lies in a file: little-endian, row by row, of one axis at least."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _header(arrays, metadata):
    """The beginning of a safetensors file: length and JSON, which describes what follows."""
    entries, end = {}, 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        kind = "BOOL" if array.dtype == bool else f"{array.dtype.kind.upper()}{8 * array.itemsize}"
        entries[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
    if "__metadata__" in entries:
        raise ValueError("No array may be called '__metadata__', safetensors' own: rename it.")
    header = json.dumps({"__metadata__": metadata} | entries, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _MAX_HEADER:
        raise ValueError(
            f"The metadata take {len(header)} bytes, and safetensors files hold at most "
            f"{_MAX_HEADER}: put what is long into arrays."
        )
    return len(header).to_bytes(8, "little") + header


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
            f"{str(path)!r} is damaged or not a safetensors file ({error}): write it again."
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
    """Context in which what a file holds is used for the first time: errors are `ModelFileError`.

    Those of packages that are missing and of processes where JAX would hang stay what they are.

    >>> with checked("model.safetensors"):
    ...     int("a word")
    Traceback (most recent call last):
        ...
    tn4ml_plus.errors.ModelFileError: 'model.safetensors' cannot be loaded: invalid literal for ...
    """
    try:
        yield
    except (ModelFileError, ForkedProcessError, ImportError):
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
        plain = _plain(array)
        digest.update(f"\0{name}\0{plain.dtype.str}\0{array.shape}\0".encode())
        digest.update(plain.reshape(-1).view(np.uint8))
    return digest.hexdigest()
