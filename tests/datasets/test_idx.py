import gzip

import numpy as np
import pytest

from tn4ml_plus.datasets import load_idx
from tn4ml_plus.errors import MissingDataError


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), ()])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_reads_what_was_encoded(tmp_path, encode_idx, dtype, shape, compress):
    # Values whose bytes differ, so that a wrong byte order or axis order shows.
    array = np.arange(3, 3 + np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    path = tmp_path / "file"
    path.write_bytes(compress(encode_idx(array)))
    loaded = load_idx(path)
    assert loaded.dtype == np.dtype(dtype)
    assert loaded.dtype.isnative
    np.testing.assert_array_equal(loaded, array)


def test_the_array_can_be_written_to(tmp_path, encode_idx):
    path = tmp_path / "file"
    path.write_bytes(encode_idx(np.zeros(3, np.uint8)))
    loaded = load_idx(path)
    loaded[0] = 1
    assert loaded.tolist() == [1, 0, 0]


GOOD = bytes([0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 4, *range(12)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"\1" + GOOD[1:], "not an IDX file"),
        (GOOD[:2] + b"\x0a" + GOOD[3:], "not an IDX file"),
        (GOOD[:9], "inside its header"),
        (GOOD[:-1], "holds 11"),
        (GOOD + b"\0", "holds 13"),
        (GOOD[:4] + b"\xff" * 8, "holds 0"),
        (gzip.compress(GOOD)[:-9], "damaged gzip"),
        (gzip.compress(GOOD)[:12] + b"\xff" * 30, "damaged gzip"),
        (b"\x1f\x8b", "damaged gzip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_corrupt_files_are_refused(tmp_path, content, message):
    path = tmp_path / "corrupt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_idx(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(MissingDataError, match="nothing"):
        load_idx(tmp_path / "nothing")
