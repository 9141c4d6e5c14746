"""The IDX format of the MNIST family: a typed, multi-dimensional array, big-endian."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ..errors import MissingDataError

_GZIP_MAGIC = b"\x1f\x8b"
_CODES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_DTYPES = {code: np.dtype(name) for code, name in _CODES.items()}


def load_idx(path: str | Path) -> np.ndarray:
    """Read one IDX file, plain or compressed with gzip, as an array of its own shape and dtype.

    The dtype is uint8, int8, int16, int32, float32 or float64, in the machine's byte order.
    Raises MissingDataError for an absent file, ValueError for one that is corrupt or not IDX.
    Format: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database", file formats.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 0x08, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     load_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"No IDX file at {path}; give the `path` of an existing file.")
    content = _read(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise ValueError(
            f"{path} is not an IDX file: it must start with two zero bytes, a type code in "
            f"{sorted(_DTYPES)} and the number of dimensions; got {list(content[:4])}."
        )
    dtype, n_dims = _DTYPES[content[2]], content[3]
    start = 4 + 4 * n_dims
    if len(content) < start:
        raise ValueError(f"{path} ends inside its header; get a complete copy of the file.")
    shape = tuple(np.frombuffer(content, ">u4", n_dims, offset=4).tolist())
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        raise ValueError(
            f"{path} announces shape {shape}, which takes {expected} bytes of data, but holds "
            f"{len(content) - start}; get a complete copy of the file."
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _read(path):
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is a damaged gzip file ({error}); get a complete copy of it."
        ) from error
