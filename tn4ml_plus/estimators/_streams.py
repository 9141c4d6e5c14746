"""Sources of more rows than memory holds: a pass that keeps some of them, and windows of all."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length
from tqdm import tqdm

from .._checks import untold
from ..errors import InformationWarning
from ..tables import (
    Blocks,
    Counts,
    Source,
    Table,
    TableSource,
    as_source,
    large_table,
    names_of,
    padded_length,
    read_table,
    read_weight,
    told_once,
    unmasked,
)
from ..training import Embedded, Samples, Windows, digest
from ._recipes import Data

# Rows that are kept, and the numbers in their columns.
_MOST_KEPT, _FEWEST_KEPT, _KEPT_NUMBERS = 30_000, 2048, 1 << 23
# Numbers in the columns of a window.
_NUMBERS = 1 << 21


class Labels(NamedTuple):
    """Labels of all rows of a source.

    Attributes
    ----------
    names : ndarray, sorted
    counts, weights : ndarray, how many rows have each, and the sum of their weights
    """

    names: np.ndarray
    counts: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Validated rows, with targets and weights; of many of a source, those that are kept.

    Parameters
    ----------
    table : Table
    y : array (n_rows, ...) or None, targets as they were given
    weight : array (n_rows,), number or None
    counts : Counts or None, of all rows of a source
    labels : Labels or None, of all rows of a source
    targets : (array, array) or None, targets and weights of all rows where memory holds them
    stream : Stream or None, all rows where these are but some
    """

    table: Table
    y: Any
    weight: Any
    counts: Counts | None = None
    labels: Labels | None = None
    targets: tuple | None = None
    stream: "Stream | None" = None

    def data(self, encode: Callable, **first) -> Data:
        """Data to train on, as encode(table, y, weight) makes them of any of the rows.

        first: arguments for the rows in memory, which come first.
        """
        data = encode(self.table, self.y, self.weight, **first)
        if self.stream is None:
            return data._replace(counts=self.counts)
        stream = dataclasses.replace(self.stream, encode=encode)
        return data._replace(counts=self.counts, stream=stream)


def read_rows(estimator, X, y, sample_weight, *, reset, read_y=None, labelled=False) -> Rows:
    """The rows of a table in memory, or those of a source, which is read once.

    Of more than 30,000 rows of a source, or fewer of many columns, a random sample of these is
    kept. Tables in memory of more rows than an epoch's worth are sources where the trainer can
    train on windows.

    Parameters
    ----------
    estimator : estimator, whose columns are set or compared with
    X, y, sample_weight : as `fit` was given them
    reset : bool, whether columns are set
    read_y : callable or None, which validates targets of a source; None: there are none
    labelled : bool, whether targets are labels, which are counted; others may all be different
    """
    for name, given in (("y", y), ("sample_weight", sample_weight)):
        unmasked(given, name)
    source = as_source(X, y, sample_weight) or _of_memory(estimator, X, y, sample_weight, read_y)
    if source is None:
        return Rows(read_table(estimator, X, reset=reset), y, sample_weight)
    rng, kept = check_random_state(estimator.random_state), _Kept()
    counts, labels, n_rows, total_weight = None, None, 0, 0.0
    # What says whether another training is one of the same rows takes time.
    told = [getattr(estimator.trainer, name, None) for name in ("checkpoint", "mesh")]
    identity = type(source).__name__ if any(each is not None for each in told) else None
    shown = {"desc": "rows read", "unit": " rows", "unit_scale": True, "leave": False}
    with tqdm(total=source.count(), disable=not estimator.verbose, **shown) as progress:
        for number, part in enumerate(source.parts(_NUMBERS)):
            with _told_of(source, number):
                rows = _validated(estimator, source, part, read_y, reset)
                reset = False
                if labelled:
                    labels = _with_labels(labels, *rows[1:3])
                table, y, weight, numbers = _of_weight(*rows)
                if not len(numbers):
                    continue
                if identity is not None:
                    identity = digest((identity, table.floats, table.raw, y, weight, numbers))
                found = Counts.of(table, weight)
                counts = found if counts is None else counts.plus(found)
                kept.add(table, y, weight, numbers, rng.random_sample(len(table)))
            n_rows, total_weight = n_rows + len(table), total_weight + weight.sum()
            progress.update(len(part.numbers))
    if not n_rows:
        raise ValueError("X has no rows, or none of a positive weight: give at least one.")
    table, y, weight, numbers = kept.rows()
    rows = Rows(table, y, weight, counts, labels)
    if len(table) == n_rows:
        return rows

    def read(part):
        return _of_weight(*_validated(estimator, source, part, read_y, reset=False))

    stream = Stream(source, read, n_rows, total_weight / n_rows, numbers, identity or "")
    targets = (source.y, source.weight) if isinstance(source, TableSource) else None
    return dataclasses.replace(rows, targets=targets, stream=stream)


class Scored:
    """Mixin of classifiers and regressors, before that of scikit-learn: `score` of sources, too."""

    #: Function of targets, predictions and weights.
    _metric = None

    def score(self, X, y=None, sample_weight=None) -> float:
        """Share of right labels, or the coefficient of determination, as in scikit-learn.

        Parameters
        ----------
        X : whatever `predict` takes
        y, sample_weight : arrays, names of columns of files and datasets, or what blocks bring
        """
        in_blocks, by_name = isinstance(X, Blocks), isinstance(y, str)
        named = isinstance(X, str | os.PathLike) or hasattr(X, "get_fragments")
        if y is None and not in_blocks:
            raise ValueError("score needs targets: give y, an array or the name of a column.")
        if hasattr(y, "__array__") or not (named or in_blocks):
            if by_name or isinstance(sample_weight, str):
                raise ValueError("y and sample_weight must both be arrays, or names of columns.")
            return super().score(X, y, sample_weight)
        source, columns = as_source(X, y, sample_weight), getattr(self, "feature_names_in_", None)
        if columns is not None:
            targets = names_of("y", y), names_of("sample_weight", sample_weight)
            source = source.chosen([*columns, *targets[0], *targets[1]])
        found = []
        with told_once():
            for number, part in enumerate(source.parts(_NUMBERS)):
                if part.y is None:
                    raise ValueError(
                        f"score needs targets: block {number} of X brings none. Make blocks of "
                        "tuples (X, y), or give y, the name of a column."
                    )
                weight = 1.0 if part.weight is None else part.weight
                weight = np.broadcast_to(np.asarray(weight, float), len(part.numbers))
                found.append((part.y, self.predict(part.X), weight))
        if not found:
            raise ValueError("X has no rows: give at least one.")
        targets, predictions, weights = map(np.concatenate, zip(*found, strict=True))
        return self._metric(targets, predictions, sample_weight=weights)


def _of_memory(estimator, X, y, sample_weight, read_y):
    """The source of a large table in memory, None of others and where all rows are needed."""
    trainer = estimator.trainer
    able = trainer == "gradient" or getattr(trainer, "trains_on_windows", False)
    if not able or (table := large_table(X)) is None or (y is None and read_y is not None):
        return None
    target = None if read_y is None else read_y(y)
    if target is not None:
        check_consistent_length(table, target)
    return TableSource(table, target, read_weight(sample_weight, len(table)))


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """All rows of a source, of which memory holds some.

    Parameters
    ----------
    source : Source
    read : callable, of a part of it makes a table, targets, weights and numbers of rows
    n_rows : int
    mean_weight : float
    kept : int array, numbers of the rows that memory holds
    identity : str, digest of all rows where a checkpoint or other processes ask for it
    encode : callable, of a table, targets and weights makes `Data`
    """

    source: Source
    read: Callable
    n_rows: int
    mean_weight: float
    kept: np.ndarray
    identity: str = ""
    encode: Callable | None = None

    def windows(self, reader, aside) -> "StreamWindows":
        """Windows of all rows but some, whose numbers are given, as a reader scales them."""
        return StreamWindows(self, reader, np.sort(aside))


class StreamWindows(Windows):
    """Windows of the rows of a `Stream`, scaled; see `Windows`."""

    def __init__(self, stream, reader, aside):
        self.stream, self.reader, self.aside = stream, reader, aside
        self.n_samples, self.mean_weight = stream.n_rows - len(aside), stream.mean_weight
        self.identity = stream.identity
        self.size = padded_length(max(1024, _NUMBERS // reader.width // 1024 * 1024))

    def lengths(self):
        full, rest = divmod(self.n_samples, self.size)
        return [self.size] * full + [rest] * (rest > 0)

    def epoch(self, seed):
        order = np.random.RandomState(seed)
        # Threads have precisions of their own.
        return self._windows(order, np.dtype(jnp.result_type(float)), self.reader.vector_map)

    def _windows(self, order, dtype, embed):
        sites, n_read, rows = (self.reader.nsites, self.reader.embedding.phys_dim), 0, None
        length = self.size if self.n_samples > self.size else padded_length(self.n_samples)

        def window(columns, target, weight):
            padding = (0, length - len(weight))
            target, weight = (
                np.pad(a, [padding] + [(0, 0)] * (a.ndim - 1)) for a in (target, weight)
            )
            columns = np.pad(columns, [padding, (0, 0)], mode="edge")
            return Samples(Embedded(columns, embed, sites), target, weight)

        for part in self._scaled(order, dtype):
            n_read += len(part[0])
            self._check(n_read, n_read > self.n_samples)
            rows = part if rows is None else [np.concatenate(p) for p in zip(rows, part)]
            while len(rows[0]) >= self.size:
                yield window(*(array[: self.size] for array in rows))
                rows = [array[self.size :] for array in rows]
        self._check(n_read, n_read < self.n_samples)
        if len(rows[0]):
            yield window(*rows)

    def _check(self, n_read, changed):
        if changed:
            raise ValueError(
                f"X had {self.n_samples} rows to train on when it was first read, and {n_read} "
                "now: a source must not change while it is read."
            )

    def _scaled(self, order, dtype) -> Iterator[list]:
        """Columns, targets and weights of the rows of each part."""
        source = self.stream.source
        for number, part in enumerate(source.parts(_NUMBERS, order)):
            # What the first pass has told.
            with _told_of(source, number), untold(InformationWarning):
                *rows, numbers = self.stream.read(part)
                if not len(numbers):
                    continue
                chosen = ~np.isin(numbers, self.aside)
                data = self.stream.encode(*rows).rows(chosen)
                columns = self.reader.transform(data.table).astype(dtype)
            target = data.target.astype(dtype if data.target.dtype.kind == "f" else np.int32)
            yield [columns, target, data.weight.astype(dtype)]


class _Kept:
    """A random sample of the rows that are added, all of them where they are few."""

    def __init__(self):
        self.parts, self.keys, self.most = [], [], None

    def add(self, table, y, weight, numbers, keys):
        """Consider more rows, each with a random number by which it is kept or not."""
        if self.most is None:
            self.most = int(np.clip(_KEPT_NUMBERS // table.shape[1], _FEWEST_KEPT, _MOST_KEPT))
        self.parts.append((table, y, weight, numbers))
        self.keys.append(keys)
        if sum(map(len, self.keys)) > 2 * self.most:
            self._cut()

    def _cut(self):
        keys = np.concatenate(self.keys)
        chosen = np.zeros(len(keys), bool)
        chosen[np.argsort(keys, kind="stable")[: self.most]] = True
        table, y, weight, numbers = self._joined()
        y = None if y is None else y[chosen]
        self.parts = [(table.rows(chosen), y, weight[chosen], numbers[chosen])]
        self.keys = [keys[chosen]]

    def _joined(self):
        tables, *arrays = zip(*self.parts, strict=True)
        arrays = (None if parts[0] is None else np.concatenate(parts) for parts in arrays)
        return Table.joined(tables), *arrays

    def rows(self):
        """Table, targets, weights and numbers of the rows that are kept, in their order."""
        if sum(map(len, self.keys)) > self.most:
            self._cut()
        return self._joined()


@contextlib.contextmanager
def _told_of(source, number):
    """Context whose errors name the block that is read, where the user knows of blocks."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if isinstance(source, TableSource):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"Block {number} of X: {error}") from error


def _validated(estimator, source, part, read_y, reset):
    """Table, targets, weights and numbers of the rows of a part."""
    table, weight, y = read_table(estimator, part.X, reset=reset), part.weight, None
    if read_y is not None:
        if part.y is None:
            raise ValueError(
                f"{type(estimator).__name__} requires y to be passed, but the target y is None."
            )
        y = read_y(part.y)
        check_consistent_length(table.floats, y)
    # Those of a table in memory were validated together, and a block may have zeros alone.
    if not isinstance(source, TableSource) and (weight is None or np.any(weight)):
        weight = read_weight(weight, len(table))
    return table, y, np.broadcast_to(weight, len(table)), part.numbers


def _of_weight(table, y, weight, numbers):
    """Table, targets, weights and numbers of those of `_validated` that have a weight."""
    chosen = weight > 0
    return table.rows(chosen), None if y is None else y[chosen], weight[chosen], numbers[chosen]


def _with_labels(before, y, weight):
    """`Labels` with those of more rows."""
    names, places = np.unique(y, return_inverse=True)
    found = Labels(names, np.bincount(places), np.bincount(places, weight))
    if before is None:
        return found
    kinds = {("text" if each.names.dtype.kind in "USO" else "numbers") for each in (before, found)}
    if len(kinds) > 1:
        raise ValueError("y holds text in some blocks and numbers in others: make all of one kind.")
    names, places = np.unique(np.concatenate([before.names, names]), return_inverse=True)
    counts, weights = (np.bincount(places, np.concatenate(b)) for b in zip(before[1:], found[1:]))
    return Labels(names, counts.astype(int), weights)
