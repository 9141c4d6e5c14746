"""Rows that are read in parts: arrays on disk, datasets of Arrow, and blocks of any kind."""

import abc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
from sklearn.utils.validation import check_consistent_length

# Rows next to each other that are read together where the order is random.
_CHUNK = 1024
# Rows and numbers of tables in memory that are trained on in windows: more than one epoch's default
# steps pass over, so that reading them in parts costs no time and spares memory.
_MANY_ROWS, _MANY_NUMBERS = 1 << 18, 1 << 23
# Formats by the ends of names; files without one are taken for Parquet, as others write them.
_FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", "": "parquet", ".csv": "csv", ".feather": "feather",
    ".arrow": "feather", ".ipc": "feather", ".orc": "orc",
}  # fmt: skip
_COMPRESSED = {".gz", ".gzip", ".bz2", ".zst", ".zstd", ".lz4", ".snappy", ".br", ".brotli"}


class Part(NamedTuple):
    """Rows that were read together.

    Attributes
    ----------
    X : array or frame of shape (n_rows, n_features)
    y, weight : array of shape (n_rows, ...), or None where there are none
    numbers : int array (n_rows,), of the rows in the order of the source
    """

    X: Any
    y: Any
    weight: Any
    numbers: np.ndarray


class Source(abc.ABC):
    """Rows that are read in parts, as often as they are asked for."""

    @abc.abstractmethod
    def parts(self, numbers: int, rng=None) -> Iterator[Part]:
        """All rows, once.

        Parameters
        ----------
        numbers : int, of the entries that are read together, about
        rng : RandomState or None
            For another order, as random as reading neighbours together permits; None: that of the
            source.
        """

    def count(self) -> int | None:
        """The number of rows, None where only reading them tells."""
        return None

    def chosen(self, columns) -> "Source":
        """The source without columns of other names, where it can leave them unread."""
        return self


class ArraySource(Source):
    """Rows of an array of which slices can be read: a memory map, or one of HDF5 or zarr.

    Parameters
    ----------
    X : array of shape (n_rows, n_features)
    y, weight : array of shape (n_rows, ...), number or None
    """

    def __init__(self, X, y=None, weight=None):
        if len(X.shape) != 2:
            raise ValueError(
                f"Expected 2D array, got {len(X.shape)}D array of the shape {X.shape} instead: "
                "rows are samples, and columns are features."
            )
        kept = [None if a is None or np.ndim(a) == 0 else _sliceable(a) for a in (y, weight)]
        check_consistent_length(X, *kept)
        self.X, self.y, self.weight = X, *kept
        # One weight for all says nothing but that it must be one.
        self._one_weight = weight if kept[1] is None else None

    def count(self):
        return len(self.X)

    def parts(self, numbers, rng=None):
        size = max(1, numbers // (self.X.shape[1] * _CHUNK))
        starts = np.arange(0, len(self.X), _CHUNK)
        if rng is not None:
            starts = rng.permutation(starts)
        for first in range(0, len(starts), size):
            chosen = [slice(s, s + _CHUNK) for s in starts[first : first + size]]
            if rng is None:
                chosen = [slice(chosen[0].start, chosen[-1].stop)]
            X, y, weight = (_read(array, chosen) for array in (self.X, self.y, self.weight))
            rows = [np.arange(s.start, min(s.stop, len(self.X))) for s in chosen]
            weight = self._one_weight if weight is None else weight
            yield Part(X, y, weight, np.concatenate(rows))


class TableSource(Source):
    """Rows of a table in memory, whose copies and vectors would take many times as much.

    Parameters
    ----------
    X : array or narwhals DataFrame of shape (n_rows, n_features)
    y, weight : array of shape (n_rows, ...), or None
    """

    def __init__(self, X, y=None, weight=None):
        check_consistent_length(X, *(each for each in (y, weight) if each is not None))
        self.X, self.y, self.weight = X, y, weight

    def count(self):
        return len(self.X)

    def parts(self, numbers, rng=None):
        size, n_rows = max(1, numbers // self.X.shape[1]), len(self.X)
        order = np.arange(n_rows) if rng is None else rng.permutation(n_rows)
        for first in range(0, n_rows, size):
            rows = order[first : first + size]
            chosen = slice(first, first + size) if rng is None else rows
            X = nw.to_native(self.X[chosen], pass_through=True)
            y, weight = (None if a is None else a[chosen] for a in (self.y, self.weight))
            yield Part(X, y, weight, rows)


class DatasetSource(Source):
    """Rows of a dataset of Arrow: files of Parquet, CSV or Feather, or folders of them.

    Parameters
    ----------
    dataset : pyarrow.dataset.Dataset
    y, weight : str, sequence of str, or None
        Names of the columns with targets and weights.
    """

    def __init__(self, dataset, y=None, weight=None):
        self.columns = list(dataset.schema.names)
        for name, given in (("y", y), ("sample_weight", weight)):
            if not set(names_of(name, given)) <= {*self.columns}:
                raise ValueError(
                    f"{name} is {given!r}, and the dataset has the columns "
                    f"{', '.join(self.columns)}: give the name of one."
                )
        self.dataset, self.y, self.weight = dataset, y, weight

    def chosen(self, columns):
        found = DatasetSource(self.dataset, self.y, self.weight)
        found.columns = [name for name in columns if name in self.columns]
        return found

    def count(self):
        return self.dataset.count_rows()

    def parts(self, numbers, rng=None):
        import pyarrow

        pieces, start = [], 0
        for fragment in self.dataset.get_fragments():
            split = getattr(fragment, "split_by_row_group", lambda fragment=fragment: [fragment])
            for piece in split():
                pieces.append((piece, start))
                # Fragments count the rows of whole files.
                groups = getattr(piece, "row_groups", None)
                start += sum(g.num_rows for g in groups) if groups else piece.count_rows()
        if rng is not None:
            pieces = [pieces[i] for i in rng.permutation(len(pieces))]
        # Neither files nor batches ahead of their time, which take memory.
        size = max(1, numbers // len(self.columns))
        options = {"batch_size": size, "batch_readahead": 1, "fragment_readahead": 1}
        options["columns"] = self.columns
        for piece, start in pieces:
            for batch in piece.to_batches(schema=self.dataset.schema, **options):
                if batch.num_rows:
                    rows = np.arange(start, start + batch.num_rows)
                    table = pyarrow.Table.from_batches([batch])
                    yield _of_frame(table, self.y, self.weight, rows)
                    start += batch.num_rows


class Blocks(Source):
    """Rows in blocks that a function makes anew for each pass over them.

    Parameters
    ----------
    make : callable
        Returns an iterable of blocks: arrays or frames of rows; or tuples (X, y) or
        (X, y, sample_weight). In training they keep this order, and rows are shuffled within a
        window of some ten thousands: put them in no order that has to do with the target.

    Examples
    --------
    >>> import numpy as np
    >>> from tn4ml_plus import TNClassifier
    >>> def blocks():
    ...     for seed in range(4):
    ...         X = np.random.default_rng(seed).normal(size=(100, 3))
    ...         yield X, X[:, 0] * X[:, 1] > 0
    >>> clf = TNClassifier(random_state=0).fit(Blocks(blocks))
    >>> clf.predict(Blocks(lambda: (X for X, y in blocks()))).shape
    (400,)
    """

    def __init__(self, make: Callable):
        if not callable(make):
            raise ValueError(
                f"make must be a function that makes the blocks anew, got {make!r}: a generator "
                "can be read once, write Blocks(lambda: ...)."
            )
        self.make, self.y, self.weight = make, None, None

    def named(self, y, weight):
        """The same blocks, frames with columns of targets and weights.

        Parameters
        ----------
        y, weight : str, sequence of str, or None, names of these columns
        """
        found = Blocks(self.make)
        found.y, found.weight = y, weight
        return found

    def parts(self, numbers, rng=None):
        start = 0
        for block in self.make():
            block = block if isinstance(block, tuple) else (block,)
            X, y, weight = (*block, None, None)[:3]
            n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
            rows = np.arange(start, start + n_rows)
            start += n_rows
            if self.y is not None or self.weight is not None:
                yield _of_frame(X, self.y, self.weight, rows)
            else:
                yield Part(X, y, weight, rows)


def as_source(X, y=None, sample_weight=None) -> Source | None:
    """The source that rows are read from in parts; None for tables in memory.

    Parameters
    ----------
    X : table, memory map, array of HDF5 or zarr, `Blocks`, dataset of Arrow, or a path to its files
    y, sample_weight : arrays, or names of columns where X has some
    """
    if isinstance(X, Blocks):
        names = [*names_of("y", y), *names_of("sample_weight", sample_weight)]
        return X.named(y, sample_weight) if names else X
    if isinstance(X, str | os.PathLike):
        return DatasetSource(_dataset_at(Path(X).expanduser()), y, sample_weight)
    if hasattr(X, "get_fragments") and hasattr(X, "schema"):
        return DatasetSource(X, y, sample_weight)
    on_disk = isinstance(X, np.memmap) or hasattr(X, "chunks")
    if on_disk and all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__")):
        return ArraySource(X, y, sample_weight)
    return None


def large_table(X) -> Any | None:
    """Array of numbers or narwhals DataFrame of a table large enough for `TableSource`, or None.

    Frames with columns of objects are left out, whose kinds only all rows together show.

    Parameters
    ----------
    X : anything
    """
    if type(X) is np.ndarray:
        able = X.ndim == 2 and X.dtype.kind in "biuf"
        return X if able and _is_large(X) else None
    try:
        frame = nw.from_native(X, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError:
        # Columns are checked where tables are read.
        return None
    if not isinstance(frame, nw.DataFrame) or not _is_large(frame):
        return None
    # narwhals calls objects text by the first of them.
    kinds = map(str, getattr(nw.to_native(frame), "dtypes", ()))
    return None if nw.Object in frame.schema.dtypes() or "object" in kinds else frame


def _is_large(table):
    return len(table) >= _MANY_ROWS and np.prod(table.shape) >= _MANY_NUMBERS


def names_of(name: str, given) -> list[str]:
    """Names of columns that an argument gives; ValueError for anything else.

    Parameters
    ----------
    name : str, of the argument
    given : str, sequence of str, or None
    """
    listed = [given] if isinstance(given, str) else [] if given is None else given
    if isinstance(listed, list | tuple) and all(isinstance(each, str) for each in listed):
        return list(listed)
    raise ValueError(
        f"{name} must be the name of a column here, since rows come with their targets and "
        f"weights; got {type(given).__name__}. Blocks may also be tuples (X, y, sample_weight)."
    )


def _dataset_at(path):
    """Dataset of a file, or of all files in a folder, whose names tell their one format."""
    try:
        import pyarrow.dataset
    except ImportError as error:
        raise ImportError(
            "Files of tables are read by pyarrow, which is not installed: pip install pyarrow."
        ) from error
    if not path.exists():
        raise FileNotFoundError(f"{path} is no file or folder with a table.")
    files = [path] if path.is_file() else [p for p in path.rglob("*") if _is_data(p, path)]
    ends = {_end(file) for file in files}
    formats = {_FORMATS.get(end) for end in ends}
    if len(formats) != 1 or None in formats:
        found = f"files that end in {', '.join(sorted(ends))}" if files else "no files"
        raise ValueError(
            f"{path} has {found}: give files of one format, Parquet, CSV, Feather or ORC; for any "
            "other that Arrow reads, a dataset of pyarrow.dataset; or an array, such as "
            "numpy.load(path, mmap_mode='r')."
        )
    options = {"partitioning": "hive"} if path.is_dir() else {}
    return pyarrow.dataset.dataset(path, format=formats.pop(), **options)


def _end(file):
    """End of a name that tells the format, below that of its compression."""
    known = [end.lower() for end in file.suffixes if end.lower() not in _COMPRESSED]
    return known[-1] if known else ""


def _is_data(file, folder):
    """Whether Arrow reads a file of a folder."""
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden


def _sliceable(array):
    """An array of which slices are rows."""
    on_disk = isinstance(array, np.memmap) or hasattr(array, "chunks")
    if on_disk and hasattr(array, "shape"):
        return array
    # NumPy would make text of numbers beside text.
    mixed = isinstance(array, list | tuple) and any(isinstance(each, str) for each in array)
    return np.asarray(array, object if mixed else None)


def _read(array, slices):
    """Rows of an array in memory, None of None."""
    if array is None:
        return None
    parts = [np.asarray(array[each]) for each in slices]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _of_frame(frame, y, weight, numbers):
    """A part of a frame with columns of targets and weights."""
    frame = nw.from_native(frame, eager_only=True)
    targets, weights = names_of("y", y), names_of("sample_weight", weight)
    for name in (*targets, *weights):
        if name not in frame.columns:
            raise ValueError(f"A block has no column {name!r}, but {', '.join(frame.columns)}.")
    taken = [frame.get_column(name).to_numpy() for name in targets]
    target = None if y is None else taken[0] if isinstance(y, str) else np.stack(taken, axis=1)
    own = frame.get_column(*weights).to_numpy() if weights else None
    return Part(frame.drop(*targets, *weights).to_native(), target, own, numbers)
