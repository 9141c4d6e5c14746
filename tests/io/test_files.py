"""Round trips, atomicity and refusals of the file format."""

import json
import math
import os
import pickle
import stat

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tn4ml_plus.io import labels_from_json, labels_to_json, read, write

ARRAYS = {"core": np.arange(6.0).reshape(2, 3), "count": np.array(3)}
METADATA = {"class": "TNClassifier", "nested": {"list": [1, 2.5, None, True, "é"]}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.any_suffix"


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "int32", "int64", "uint8", "uint64", "float16", "float32", "float64"],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_arrays_return_bit_for_bit(path, dtype, shape):
    rng = np.random.default_rng(0)
    array = (
        rng.normal(scale=10, size=shape).astype(dtype) if dtype != "bool" else np.ones(shape, "?")
    )
    write(path, {"a": array}, {})
    (name, result), *others = read(path)[0].items()
    assert (name, others) == ("a", [])
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    assert result.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(10)[::-2],
        np.broadcast_to(np.float32(2), (2, 2)),
        np.arange(3, dtype=">f8"),
        np.array([math.nan, math.inf, -0.0]),
        jnp.arange(4.0),
    ],
    ids=["transposed", "reversed", "broadcast", "big-endian", "not finite", "jax"],
)
def test_memory_layout_does_not_matter(path, array):
    write(path, {"a": array}, {})
    np.testing.assert_array_equal(read(path)[0]["a"], array)


def test_metadata_returns_unchanged(path):
    write(path, ARRAYS, METADATA)
    assert read(path)[1] == METADATA
    write(path, {}, {"loss": [math.nan, math.inf]})
    nan, inf = read(path)[1]["loss"]
    assert math.isnan(nan)
    assert inf == math.inf


def test_arrays_read_are_independent_of_the_file(path):
    write(path, ARRAYS, METADATA)
    arrays, _ = read(path)
    write(path, {"core": np.zeros((2, 3))}, {})
    arrays["core"] += 1
    np.testing.assert_array_equal(arrays["core"], ARRAYS["core"] + 1)


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.array([object()]), np.array([1j]), np.array(["2020"], "M8")]
)
def test_other_dtypes_are_refused(path, array):
    with pytest.raises(ValueError, match="'a' has dtype"):
        write(path, {"a": array}, {})
    assert not path.exists()


def test_metadata_that_is_not_json_is_refused(path):
    with pytest.raises(TypeError):
        write(path, {}, {"a": object()})
    assert not path.exists()


def fail(*_, **__):
    raise OSError("disk full")


@pytest.mark.parametrize(
    ("module", "function"),
    [(os, "replace"), (os, "fsync"), (np, "ascontiguousarray")],
)
def test_a_failed_write_leaves_the_old_file_and_no_debris(path, monkeypatch, module, function):
    write(path, ARRAYS, METADATA)
    with monkeypatch.context() as patch:
        patch.setattr(module, function, fail)
        with pytest.raises(OSError, match="disk full"):
            write(path, ARRAYS, {})
    assert read(path)[1] == METADATA
    assert os.listdir(path.parent) == [path.name]


def test_the_file_is_complete_before_it_takes_its_name(path, monkeypatch):
    write(path, ARRAYS, METADATA)
    replace = os.replace

    def check_then_replace(source, target):
        assert os.path.dirname(source) == os.path.dirname(target)
        assert read(source)[1] == {"new": True}
        assert read(target)[1] == METADATA
        replace(source, target)

    monkeypatch.setattr(os, "replace", check_then_replace)
    write(path, {}, {"new": True})
    assert read(path)[1] == {"new": True}


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions_are_those_of_any_new_file(path):
    other = path.with_name("other")
    other.touch()
    write(path, {}, {})
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_an_absent_file(path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read(path)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read(path.parent)


def test_a_pickle_is_refused_and_not_executed(path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(path.with_name("executed")),)

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="not a safetensors file"):
        read(path)
    assert os.listdir(path.parent) == [path.name]


def test_damaged_files_are_refused(path):
    write(path, ARRAYS, METADATA)
    data = path.read_bytes()
    for size in (0, 4, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="damaged"):
            read(path)
    path.write_bytes(b"\xff" * len(data))
    with pytest.raises(ValueError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    "header",
    [
        None,
        {"format": "pt"},
        {"tn4ml_plus": "not json"},
        {"tn4ml_plus": "[]"},
        {"tn4ml_plus": "{}"},
        {"tn4ml_plus": '{"format_version": "one", "content": {}}'},
        {"tn4ml_plus": "[" * 100_000},
    ],
    ids=["none", "other", "no json", "list", "empty", "no version", "deep"],
)
def test_files_of_other_libraries_are_refused(path, header):
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(2)}, metadata=header))
    with pytest.raises(ValueError, match="did not write"):
        read(path)


def test_a_newer_format_asks_for_an_upgrade(path):
    text = json.dumps({"format_version": 4, "content": {}})
    path.write_bytes(safetensors.numpy.save({}, metadata={"tn4ml_plus": text}))
    with pytest.raises(ValueError, match="upgrade tn4ml_plus"):
        read(path)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([False, True]),
        np.array([-3, 7], dtype=np.int32),
        np.array([2**64 - 1], dtype=np.uint64),
        np.array([0.1, np.pi, np.inf]),
        np.array([0.1], dtype=np.float32),
        np.array(["no", "yés"]),
        np.array(["no", "yes"], dtype=object),
        np.array([], dtype=np.int64),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_labels_keep_values_and_dtype(labels):
    result = labels_from_json(json.loads(json.dumps(labels_to_json(labels))))
    assert result.dtype == labels.dtype
    np.testing.assert_array_equal(result, labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a", 1], dtype=object),
        np.array([None, "a"], dtype=object),
        np.array([1j]),
        np.array(["2020"], "M8[D]"),
        np.array([b"a"]),
        np.eye(2),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_other_labels_are_refused(labels):
    with pytest.raises(ValueError, match="cannot be stored"):
        labels_to_json(labels)
