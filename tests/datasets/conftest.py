import struct

import numpy as np
import pytest

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


@pytest.fixture
def encode_idx():
    """The bytes of an IDX file that holds an array."""

    def encode(array):
        header = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim])
        shape = struct.pack(f">{array.ndim}I", *array.shape)
        return header + shape + array.astype(array.dtype.newbyteorder(">")).tobytes()

    return encode


@pytest.fixture
def rng():
    return np.random.default_rng(0)
