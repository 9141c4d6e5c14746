"""Sources: every row once, in one order or another, with the target and weight that it has."""

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tn4ml_plus.tables import Blocks, TableSource, as_source

N_ROWS = 5000
X = np.arange(2.0 * N_ROWS).reshape(N_ROWS, 2)
Y = np.arange(N_ROWS) % 7
FRAME = pd.DataFrame({"a": X[:, 0], "label": Y, "b": X[:, 1], "times": 1.0 + Y})
DATASET = ds.dataset(pa.Table.from_pandas(FRAME, preserve_index=False))


class Chunked:
    """An array of which slices are read, as those of HDF5 and zarr."""

    chunks, dtype, shape = (100, 2), X.dtype, X.shape

    def __init__(self):
        self.sizes = []

    def __len__(self):
        return len(X)

    def __getitem__(self, rows):
        self.sizes.append(len(X[rows]))
        return X[rows]


@pytest.fixture
def memory_map(tmp_path):
    mapped = np.memmap(tmp_path / "X", float, "w+", shape=X.shape)
    mapped[:] = X
    return mapped


@pytest.fixture
def folder(tmp_path):
    """Two files of Parquet, the first with row groups of its own."""
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    (tmp_path / "files").mkdir()
    pq.write_table(table[:3000], tmp_path / "files" / "0.parquet", row_group_size=800)
    pq.write_table(table[3000:], tmp_path / "files" / "1.parquet")
    return tmp_path / "files"


def halves():
    yield X[:2100], Y[:2100], 1.0 + Y[:2100]
    yield X[2100:], Y[2100:], 1.0 + Y[2100:]


def sources(memory_map, folder):
    yield as_source(memory_map, Y, 1.0 + Y)
    yield as_source(Chunked(), pd.Series(Y, index=Y), (1.0 + Y).tolist())
    yield as_source(folder, "label", "times")
    yield as_source(str(folder / ".." / "files"), "label", "times")
    yield as_source(ds.dataset(folder), "label", "times")
    yield as_source(Blocks(halves))
    yield from tables()
    for library in (pd.DataFrame, pl.DataFrame, pa.table):
        frames = [library({n: FRAME[n].to_numpy()[i::2] for n in FRAME}) for i in range(2)]
        yield as_source(Blocks(lambda frames=frames: frames), "label", "times")


def tables():
    """Tables in memory as sources of parts."""
    yield TableSource(X, Y, 1.0 + Y)
    yield TableSource(nw.from_native(FRAME[["a", "b"]]), Y, 1.0 + Y)


def test_rows_of_tables_in_memory_are_mixed():
    for table in tables():
        first, *_ = table.parts(2000, np.random.RandomState(0))
        assert len(first.numbers) == 1000
        assert len(np.unique(first.numbers)) == 1000
        # Uniform numbers have the deviation 5000 / sqrt(12).
        assert np.std(first.numbers) == pytest.approx(N_ROWS / 12**0.5, rel=0.1)
        assert np.mean(np.diff(first.numbers) == 1) < 0.01


@pytest.mark.parametrize("seed", [None, 0])
def test_every_row_comes_once_with_its_target_and_weight(memory_map, folder, seed):
    for source in sources(memory_map, folder):
        rng = None if seed is None else np.random.RandomState(seed)
        parts = list(source.parts(2048, rng))
        rows = np.concatenate([np.asarray(part.X) for part in parts])
        first = rows[:, 0] // 2
        np.testing.assert_array_equal(np.sort(first), np.arange(N_ROWS))
        np.testing.assert_array_equal(rows[:, 1], rows[:, 0] + 1)
        expected = Y[first.astype(int)]
        np.testing.assert_array_equal(np.concatenate([p.y for p in parts]), expected)
        np.testing.assert_array_equal(np.concatenate([p.weight for p in parts]), 1.0 + expected)
        numbers = np.concatenate([part.numbers for part in parts])
        if isinstance(source, Blocks):
            np.testing.assert_array_equal(numbers, np.arange(N_ROWS))
        else:
            np.testing.assert_array_equal(numbers, first)
            assert source.count() == N_ROWS
            assert (seed is None) == bool((np.diff(numbers) > 0).all())


def test_few_rows_are_read_at_a_time():
    for rng in (None, np.random.RandomState(0)):
        array = Chunked()
        parts = list(as_source(array, Y).parts(4096, rng))
        assert max(array.sizes) <= max(len(part.X) for part in parts) == 2048


def test_neighbours_are_read_in_another_order_each_time():
    rng = np.random.RandomState(0)
    orders = [next(as_source(Chunked()).parts(2048, rng)).numbers[0] for _ in range(9)]
    assert len(set(orders)) > 2


def test_columns_that_nobody_asks_for_are_not_read(folder):
    part = next(as_source(folder).chosen(["b", "a", "c"]).parts(10_000))
    assert part.X.column_names == ["b", "a"]
    assert (part.y, part.weight) == (None, None)


def test_one_weight_is_that_of_all_rows():
    assert next(as_source(Chunked(), Y, 2.0).parts(10_000)).weight == 2.0


@pytest.mark.parametrize("table", [X, X.tolist(), FRAME, pl.DataFrame(FRAME), {"a": [1]}, None])
def test_tables_in_memory_are_no_sources(table):
    assert as_source(table) is None


@pytest.mark.parametrize(
    ("X", "y", "weight", "words"),
    [
        (halves(), None, None, None),
        (Blocks(halves), Y, None, "y must be the name of a column here"),
        (Chunked(), Y[:-1], None, "inconsistent numbers of samples"),
        (Chunked(), Y, np.ones(3), "inconsistent numbers of samples"),
        (
            ds.dataset(pa.Table.from_pandas(FRAME)),
            "c",
            None,
            "y is .c., and the dataset has .* a, label",
        ),
        (DATASET, Y, None, "y must be the name of a column here"),
        (
            ds.dataset(pa.Table.from_pandas(FRAME)),
            "a",
            1.0,
            "sample_weight must be the name",
        ),
    ],
)
def test_what_cannot_be_read_is_told(X, y, weight, words):
    if words is None:
        with pytest.raises(ValueError, match="a generator can be read once"):
            Blocks(X)
        return
    with pytest.raises(ValueError, match=words):
        as_source(X, y, weight)


def test_blocks_lack_columns_in_words():
    source = as_source(Blocks(lambda: [FRAME, FRAME.drop(columns="label")]), "label")
    with pytest.raises(ValueError, match="A block has no column 'label'"):
        list(source.parts(100))


def test_files_that_are_not_there_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder with a table"):
        as_source(tmp_path / "none.parquet")


def test_files_of_text_are_read(tmp_path):
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    (part,) = as_source(tmp_path / "rows.csv", "label").parts(10**6)
    assert part.X.column_names == ["a", "b", "times"]
    np.testing.assert_array_equal(part.y, Y)


def test_formats_are_told_by_names(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    FRAME[:3000].to_csv(folder / "0.csv", index=False)
    FRAME[3000:].to_csv(folder / "1.csv.gz", index=False)
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.txt").touch()
    parts = list(as_source(folder, "label").parts(10**6))
    np.testing.assert_array_equal(np.concatenate([part.y for part in parts]), Y)
    for name in ("0000", "rows.parquet.gzip", "rows.v1.PARQUET"):
        FRAME.to_parquet(tmp_path / name)
        (part,) = as_source(tmp_path / name, "label").parts(10**6)
        np.testing.assert_array_equal(part.y, Y)


def test_names_of_folders_are_columns(tmp_path):
    for year in (2020, 2021):
        (tmp_path / f"year={year}").mkdir()
        FRAME[year - 2020 :: 2].to_parquet(tmp_path / f"year={year}" / "0.parquet", index=False)
    parts = list(as_source(tmp_path, "year").parts(10**6))
    assert [set(part.y.tolist()) for part in parts] == [{2020}, {2021}]
    assert parts[0].X.column_names == ["a", "label", "b", "times"]
    numbers = np.concatenate([part.numbers for part in parts])
    np.testing.assert_array_equal(numbers, np.arange(N_ROWS))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["X.npy"], r"X.npy has files that end in .npy: give files of one format.*numpy.load"),
        (["rows/0.csv", "rows/1.parquet"], "rows has files that end in .csv, .parquet: give files"),
        (["rows/.hidden"], "rows has no files"),
    ],
)
def test_files_of_no_table_are_told(names, words, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=words):
        as_source(tmp_path / names[0].split("/")[0])
