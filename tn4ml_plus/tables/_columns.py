"""The fitted map from tables to numbers in the domain of an embedding, and back."""

import contextlib
import contextvars
import dataclasses
from collections import Counter
from collections.abc import Hashable

import numpy as np

from .._arrays import namespace, with_columns
from .._checks import warn
from .._registry import resolve
from ..embeddings import Embedding, OneHot, PerFeature, Periodic, WithMissing
from ..errors import DomainWarning, InformationWarning
from ._counts import Counts, by_frequency
from ._frames import Make
from ._kinds import TIME, is_missing, phase
from ._scalers import (
    Bijection,
    CommonMinMax,
    Differentiable,
    Passthrough,
    PrincipalComponents,
    Scaler,
)
from ._table import Table

#: Rows that networks are evaluated on at a time.
BLOCK = 1024
# Bounds of the number of categories of a column, and rows for each between the two.
_FEW_LEVELS, _MANY_LEVELS, _ROWS_PER_LEVEL = 16, 128, 50
# Harmonics of each period of moments: seven points tell all days of a week.
_HARMONICS = {"time of year": 2, "day of week": 3, "time of day": 2}
_NUMERIC, _CATEGORICAL = "numbers", "categories"
_KINDS = {"M": "moments", "m": "times of day", "O": _CATEGORICAL}
_OUTSIDE = (
    "values left the domain of {} and were clipped to it: scale the columns into it, or use the "
    "default scaler."
)
_UNKNOWN = (
    "values are none of the integer codes that {} knows and count as unknown: encode the columns "
    "as 0, 1, ... and give their number, or use an embedding of continuous features."
)
_counts = contextvars.ContextVar("counts", default=None)
# Of numbers whose squares, and sums of these, are floats.
_LARGEST_EXPONENT = 256
# Numbers that a block of rows may take, in columns or in embedded vectors.
_NUMBERS = 1 << 26


@contextlib.contextmanager
def told_once():
    """Counts of values by what is said of them and by who says it.

    They become warnings where the outermost context ends.
    """
    if (outer := _counts.get()) is not None:
        yield outer
        return
    token = _counts.set(counts := Counter())
    try:
        yield counts
    finally:
        _counts.reset(token)
    for (text, _), count in counts.items():
        if count:
            warn(f"{count} {text}", DomainWarning)


def resolve_columns(embedding, scaler, default_scaler: str) -> tuple[Embedding, Scaler]:
    """Embedding and scaler as objects.

    Parameters
    ----------
    embedding : str or Embedding
    scaler : str, Scaler or None
    default_scaler : str, in place of None for bounded embeddings of single columns
    """
    embedding = resolve("embedding", embedding)
    unbounded = not np.isfinite(embedding.domain).all()
    if scaler is None and unbounded:
        scaler = "passthrough"
    elif scaler is None:
        scaler = default_scaler if embedding.columnwise else "common_min_max"
    scaler = resolve("scaler", scaler)
    if unbounded and not isinstance(scaler, Passthrough):
        raise ValueError(
            f"{type(embedding).__name__} has no finite domain that {type(scaler).__name__} "
            "could scale to: leave scaler=None."
        )
    return embedding, scaler


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """Numbers are scaled, categories become codes, codes stay; the fields are of `TableReader`."""

    embedding: Embedding
    scaler: Scaler
    scaler_state: dict[str, np.ndarray]
    levels: tuple[tuple[Hashable, ...] | None, ...]
    names: tuple[Hashable, ...] | None = None
    unseen_is_missing: bool = False
    kinds: tuple[str, ...] | None = None
    moments: tuple[tuple[str, ...] | None, ...] | None = None
    pooled: tuple[bool, ...] | None = None
    make: Make | None = None
    exponents: np.ndarray | None = None

    def check(self):
        """ValueError where fields contradict each other."""
        by_column, cyclic = {"names": self.names, "kinds": self.kinds}, self._cyclic
        if self.make is not None:
            by_column |= self.make.by_column()
        for name, values in by_column.items():
            if values and len(values) != self.n_columns:
                raise ValueError(f"{name} has {len(values)} entries for {self.n_columns} columns")
        if not len(cyclic) == len(self.pooled or cyclic) == self.n_features > 0:
            raise ValueError(f"moments and pooled are not those of {self.n_features} features")
        if not set(cyclic) <= {None, *_HARMONICS}:
            raise ValueError(f"moments are read as {cyclic}, of which some are unknown")
        for levels in self.levels:
            if len(set(levels or ())) < len(levels or ()):
                raise ValueError(f"categories occur twice among {levels[:5]}")
        for j, kind in enumerate(self.kinds or ()):
            plain = _NUMERIC if self._levels_of(j) is None else _CATEGORICAL
            is_moment = bool(self.moments and self.moments[j])
            if kind not in ((_KINDS["M"], _KINDS["m"]) if is_moment else (plain,)):
                raise ValueError(f"column {j} holds {kind}, which its other fields do not say")
        n_scaled = int(self.scaled.sum())
        if self.exponents is not None and self.exponents.shape != (n_scaled,):
            raise ValueError(f"{len(self.exponents)} exponents are not those of {n_scaled} columns")
        if not n_scaled:
            return
        shape = 1, self.scaler.n_outputs(n_scaled)
        with np.errstate(all="ignore"):
            found = self._middle_scaled(n_scaled)
        valid = all(values.shape == shape for values in found)
        # Of others nobody knows whether they are finite at zero.
        if isinstance(self.scaler, Differentiable):
            valid = valid and all(np.isfinite(values).all() for values in found)
        if not valid:
            raise ValueError(f"the state of {self.scaler} is not that of {n_scaled} columns")

    def _middle_scaled(self, n_columns):
        """Columns in the middle of their distributions, as far as it is known, and scaled."""
        X, state, scaler = np.zeros((1, n_columns)), self.scaler_state, self.scaler
        if isinstance(scaler, Bijection):
            X = scaler.inverse(np.full_like(X, 0.5), state)
        elif isinstance(scaler, PrincipalComponents):
            X = X + state["mean"]
        found = [scaler.transform(X, state)]
        if isinstance(scaler, Differentiable):
            found.append(scaler.log_derivative(X, state)[:, : scaler.n_outputs(n_columns)])
        return found

    @classmethod
    def fit(cls, table: Table, weight, embedding, scaler, reading, counts=None):
        """Fitted to a table; ValueError for columns that do not suit the embedding or scaler.

        counts: `Counts` of more rows, of which the table holds some.
        """
        n_columns = table.shape[1]
        if isinstance(embedding, PerFeature) and scaler.n_outputs(n_columns) < n_columns:
            raise ValueError(
                f"{type(scaler).__name__} mixes columns, so that none has an embedding of its own: "
                "take one embedding for all instead of PerFeature."
            )
        embedding.nsites(n_columns)
        kinds, moments = tuple(map(_kind, table.raw)), tuple(map(reading.moments, table.raw))
        self = cls(embedding, scaler, {}, (), table.names, kinds=kinds, moments=moments)
        features = self._spread(table)
        counts = Counts.of(table, weight) if counts is None else counts
        levels, pooled = self._levels(table, counts, reading)
        missing = [
            reading.learns_missing and gaps
            for gaps, parts in zip(counts.missing, moments, strict=True)
            for _ in parts or (None,)
        ]
        parts = self._parts(levels, pooled, missing, reading)
        if parts is not None:
            embedding = parts[0] if len(set(parts)) == 1 else PerFeature(parts)
        self = dataclasses.replace(
            self, embedding=embedding, levels=levels, pooled=pooled, make=table.make,
            unseen_is_missing=reading.unseen_is_missing,
        )  # fmt: skip
        scaled, n_features = self.scaled, self.n_features
        if self.width < n_features:
            if not scaled.all():
                raise ValueError(
                    f"{type(scaler).__name__} mixes all columns and takes numbers only: encode the "
                    "categorical columns first, or use another scaler."
                )
            embedding.nsites(self.width)
        if not scaled.any():
            return self
        X = features.floats[:, self._chosen]
        self = dataclasses.replace(self, exponents=_exponents(X, scaler))
        return dataclasses.replace(self, scaler_state=scaler.fit(self._in_range(X), weight))

    def _levels(self, table, counts, reading):
        """Categories of each feature, None for numbers, and whether others are pooled as one."""
        most = reading.max_categories
        if most is None:
            most = int(np.clip(counts.n_rows // _ROWS_PER_LEVEL, _FEW_LEVELS, _MANY_LEVELS))
        levels, pooled, dropped = [], [], []
        categories = [
            each
            for each, parts in zip(counts.categories, self.moments, strict=True)
            for each in ([each] if parts is None else [None] * len(parts))
        ]
        for name, weights in zip(self._feature_names(table.names), categories, strict=True):
            found = None if weights is None else by_frequency(weights)
            pooled.append(found is not None and len(found) > most)
            if pooled[-1]:
                # One place is for the others, where they are pooled.
                kept = most if reading.unseen_is_missing else most - 1
                share = sum(weights[value] for value in found[kept:]) / sum(weights.values())
                dropped.append(f"{name!r} keeps {kept} of {len(found)} ({share:.1%} of the rows")
                found = found[:kept]
            levels.append(None if found is None else tuple(found))
        if dropped:
            others = "unknown" if reading.unseen_is_missing else "one category"
            warn(
                f"Rare categories count as {others}: column "
                + "; ".join(f"{text} have others)" for text in dropped)
                + ". Raise max_categories, or encode the column in another way first, such as with "
                "scikit-learn's TargetEncoder.",
                InformationWarning,
            )
        return tuple(levels), tuple(p and not reading.unseen_is_missing for p in pooled)

    def _parts(self, levels, pooled, missing, reading):
        """Embedding of each feature; None where one is for all. ValueError where one is needed."""
        embedding, cyclic = self.embedding, self._cyclic
        special = [lv is not None or period for lv, period in zip(levels, cyclic, strict=True)]
        if any(special) and (isinstance(embedding, PerFeature) or not embedding.columnwise):
            kind = "categorical columns" if any(lv is not None for lv in levels) else "dates"
            if isinstance(embedding, PerFeature):
                raise ValueError(
                    f"PerFeature cannot be combined with {kind} of a frame: give their codes as "
                    "numbers, with OneHot for them in PerFeature."
                )
            raise ValueError(
                f"{type(embedding).__name__} takes numeric columns only: encode the {kind} first, "
                "or use an embedding of single features."
            )
        mixes = self.scaler.mixes_columns
        learns = [m and (not mixes or s) for m, s in zip(missing, special, strict=True)]
        single = embedding.columnwise and embedding.site_features == 1
        if not any(special) and not (single and any(learns)):
            return None
        given = getattr(embedding, "embeddings", (embedding,) * len(levels))
        parts = []
        for part, level, period, pool, gap in zip(given, levels, cyclic, pooled, learns):
            if level is not None:
                # A density would draw a category that there is not.
                least = 1 if reading.unseen_is_missing else 2
                part = OneHot(max(least, len(level) + pool))
            part = Periodic(_HARMONICS[period]) if period else part
            parts.append(WithMissing(part) if gap else part)
        return tuple(parts)

    def _spread(self, table):
        """The table of features: a column of moments gives several."""
        if not any(self.moments or ()):
            return table
        floats, raw = [], []
        for column, values, parts in zip(table.floats.T, table.raw, self.moments, strict=True):
            if parts is None:
                floats.append(column)
                raw.append(values)
            elif values is None or values.dtype == object:
                # Without entries, as those of another kind are refused.
                floats += [np.full(len(table), np.nan)] * len(parts)
                raw += [None] * len(parts)
            else:
                floats += [column if part == TIME else phase(values, part) for part in parts]
                raw += [None] * len(parts)
        return dataclasses.replace(table, floats=np.stack(floats, axis=1), raw=tuple(raw))

    @property
    def _cyclic(self):
        """Per feature the name of a period, None for those that are none."""
        moments = self.moments or (None,) * len(self.levels)
        return [None if part == TIME else part for parts in moments for part in parts or (None,)]

    def _feature_names(self, names):
        """Names of the features, of columns x0, x1, ... where these have none."""
        moments = self.moments or (None,) * len(self.levels)
        names = names or [f"x{i}" for i in range(len(moments))]
        return [
            name if part in (None, TIME) else f"{name}: {part}"
            for name, parts in zip(names, moments, strict=True)
            for part in parts or (None,)
        ]

    @property
    def numeric(self) -> np.ndarray:
        """Whether columns hold numbers, (n_features,) bools."""
        return np.array([level is None for level in self.levels])

    @property
    def _discrete(self):
        """Whether features are codes, (n_features,) bools."""
        parts = getattr(self.embedding, "embeddings", (self.embedding,) * self.n_features)
        return np.array([part.discrete for part in parts])

    @property
    def scaled(self) -> np.ndarray:
        """Whether the scaler scales features, bools."""
        parts = getattr(self.embedding, "embeddings", (self.embedding,) * self.n_features)
        return self.numeric & ~np.array([part.as_given for part in parts])

    @property
    def _chosen(self):
        """Index of the columns that are scaled."""
        # Images make large tables: no copies where all columns are.
        return slice(None) if self.scaled.all() else self.scaled

    @property
    def n_columns(self) -> int:
        """Number of columns of tables."""
        return len(self.moments or self.levels)

    @property
    def n_features(self) -> int:
        """Number of features, of which moments have several."""
        return len(self.levels)

    @property
    def width(self) -> int:
        """Number of columns of `transform`."""
        return self.scaler.n_outputs(self.n_features) if self.scaled.any() else self.n_features

    @property
    def nsites(self) -> int:
        """Number of sites."""
        return self.embedding.nsites(self.width)

    @property
    def explains_columns(self) -> bool:
        """Whether each site reads one column."""
        one = self.embedding.columnwise and self.nsites == self.n_columns == self.n_features
        return one and not self.scaler.mixes_columns

    def site_embeddings(self) -> tuple:
        """Embedding of each site that reads a single column of `transform`."""
        return getattr(self.embedding, "embeddings", (self.embedding,) * self.width)

    def site_names(self) -> list[str]:
        """Name of the column that each site reads, or "site 0", "component 0", ..."""
        if self.nsites == self.n_features and not self.scaler.mixes_columns:
            return self._feature_names(self.names)
        kind = "component" if self.scaler.mixes_columns else "site"
        return [f"{kind} {i}" for i in range(self.nsites)]

    def transform(self, table: Table) -> np.ndarray:
        """Numbers in the embedding's domain, NaN where missing, (n_samples, width) float64.

        ValueError for columns of another kind than in fitting, and for NaN where a site reads
        several features.
        """
        return self.encode(table)[0] if self.unseen_is_missing else self._codes(table)

    def encode(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """`transform` with categories never seen as missing, and which these are."""
        U = self._codes(table)
        discrete = np.array([embedding.discrete for embedding in self.site_embeddings()])
        unseen = discrete & self._unknown(U)
        return np.where(unseen, np.nan, U), unseen

    def _unknown(self, U):
        """Entries that are no codes within the limits of their columns, bools like U."""
        low, high = self._limits(U.shape[1])
        return (low > U) | (high < U) | (U % 1 > 0)

    def _codes(self, table):
        kinds = self._kinds
        if table.text is not None:
            # Text that reads as numbers is that of categories where there were some.
            raw = [
                text.astype(object) if values is None and kind == _CATEGORICAL else values
                for text, values, kind in zip(table.text.T, table.raw, kinds, strict=True)
            ]
            table = dataclasses.replace(table, raw=tuple(raw))
        for j, (expected, values) in enumerate(zip(kinds, table.raw, strict=True)):
            found, levels = _kind(values), None
            if found == expected != _CATEGORICAL:
                continue
            entries = table.floats[:, j] if values is None else values
            present = [value for value in entries.tolist() if not is_missing(value)]
            if expected == _CATEGORICAL and found in (_CATEGORICAL, _NUMERIC):
                levels = self._levels_of(j)
                # Categories may be numbers, and those of another kind are none that are known.
                known = {isinstance(level, str) for level in levels}
                if not known or not known.isdisjoint(isinstance(v, str) for v in present):
                    continue
                expected = f"{expected} such as {levels[0]!r}"
            # A column without entries is of any kind.
            if present:
                name = j if self.names is None else repr(self.names[j])
                example = f" such as {present[0]!r}" if values is None or levels else ""
                raise ValueError(
                    f"Column {name} held {expected} when fitting and holds {found}{example} now: "
                    "convert it."
                )
        if self.make is not None and table.make is not None:
            self.make.check_same(table.make, table.floats)
        table = self._spread(table)
        out, n_outside = np.empty((len(table), self.width)), 0
        for rows in blocks(len(table), table.shape[1]):
            n_outside += self._fill(out[rows], table.rows(rows))
        name, coded = type(self.embedding).__name__, self.numeric & self._discrete
        unknown = self._unknown(out)[:, coded].sum() if coded.any() else 0
        with told_once() as counts:
            counts[_OUTSIDE.format(name), id(self)] += n_outside
            counts[_UNKNOWN.format(name), id(self)] += int(unknown)
        if self.embedding.site_features > 1 and np.isnan(out).any():
            raise ValueError(
                f"Input X contains NaN, and {type(self.embedding).__name__} sees several features "
                "at a site, so that none of them can be left out: impute them first."
            )
        return out

    def _fill(self, out, table):
        """Put the numbers of a block of rows into `out`; returns how many left the domain."""
        chosen, n_outside = self._chosen, 0
        if not self.scaled.all():
            out[:] = table.floats
        if self.scaled.any():
            out[:, chosen], outside = self._in_domain(table.floats[:, chosen])
            n_outside = int(np.sum(outside))
        for j in np.flatnonzero(~self.numeric):
            codes = {level: code for code, level in enumerate(self.levels[j])}
            other = len(codes) if self.pooled and self.pooled[j] else -1
            values = table.floats[:, j] if table.raw[j] is None else table.raw[j]
            out[:, j] = [np.nan if is_missing(v) else codes.get(v, other) for v in values.tolist()]
        return n_outside

    def _in_domain(self, X):
        """Columns that are scaled, in their domain, and which of their numbers were outside."""
        u, outside = self.scaler.transform(self._in_range(X), self.scaler_state), False
        low, high = self._limits(self.width)[:, self._chosen]
        if isinstance(self.scaler, Passthrough):
            outside = (u < low) | (u > high)
            u = namespace(u).clip(u, low, high)
        elif (low != 0).any() or (high != 1).any():
            u = u * (high - low)
            u += low
        return u, outside

    def encode_numbers(self, X):
        """`encode` of numbers alone, (n_samples, n_columns), for exported programs.

        An array of JAX, of which nothing is checked and nothing told.
        """
        U = X
        if self.scaled.any():
            u, _ = self._in_domain(X[:, self._chosen])
            U = u if self.scaled.all() else with_columns(U, self.scaled, u)
        xp, discrete = namespace(U), np.array([e.discrete for e in self.site_embeddings()])
        unseen = discrete & self._unknown(U) & self.unseen_is_missing
        return xp.where(unseen, np.nan, U), unseen

    def check_numbers(self, remedy: str) -> None:
        """ValueError for columns that are not numbers.

        remedy: str, what to do, an end of the message.
        """
        for j, kind in enumerate(self._kinds):
            if kind != _NUMERIC:
                name = j if self.names is None else repr(self.names[j])
                raise ValueError(f"Column {name} holds {kind}, {remedy}")

    @property
    def _kinds(self):
        """Kinds of the columns, in words."""
        return self.kinds or tuple(_NUMERIC if lv is None else _CATEGORICAL for lv in self.levels)

    def _in_range(self, X):
        """Scaled columns without their powers of two."""
        return X if self.exponents is None else _ldexp(X, -self.exponents)

    def _levels_of(self, column):
        """Categories of a column."""
        before = (self.moments or (None,) * column)[:column]
        return self.levels[sum(len(parts or (None,)) for parts in before)]

    def inverse(self, U) -> np.ndarray:
        """Raw columns of numbers in the embedding's domains: floats, or objects with categories."""
        out, scaled = U.copy(), self.scaled
        if scaled.any():
            u, (low, high) = U[:, scaled], self._limits(U.shape[1])[:, scaled]
            if not isinstance(self.scaler, Passthrough):
                u = (u - low) / (high - low)
            raw = self.scaler.inverse(u, self.scaler_state)
            out[:, scaled] = raw if self.exponents is None else _ldexp(raw, self.exponents)
        if not self.numeric.all():
            out = out.astype(object)
        for j in np.flatnonzero(~self.numeric):
            known = dict(enumerate(self.levels[j]))
            out[:, j] = [None if u != u else known.get(int(u)) for u in U[:, j].astype(float)]
        return out

    def build(self, columns, chosen=None, like=None, gaps=None):
        """Raw columns as a table of the kind that was fitted; see `Make.build`.

        Parameters
        ----------
        columns : ndarray, floats, or objects where there are categories, as of `inverse`
        chosen : sequence of int or None, numbers of the columns where they are not all
        like, gaps : as in `Make.build`
        """
        if self.make is None:
            return columns
        make = self.make if chosen is None else self.make.chosen(chosen)
        return make.build(columns, like, gaps)

    def log_derivatives(self, floats) -> np.ndarray:
        """Logs of the factors of the derivative of `transform`, of floats' shape; 0 where missing.

        They sum to the log of its Jacobian determinant, times the density of what it leaves out.
        """
        xp, scaled = namespace(floats), self.scaled
        out = xp.zeros(floats.shape)
        if scaled.any():
            X, (low, high) = floats[:, scaled], self._limits(floats.shape[1])[:, scaled]
            X = self._in_range(X)
            log = self.scaler.log_derivative(X, self.scaler_state)
            if self.exponents is not None:
                log = log - np.log(2) * self.exponents
            if isinstance(self.scaler, Passthrough):
                # Clipping there would make up a density.
                log = xp.where((low > X) | (high < X), -np.inf, log)
            else:
                widths = np.log(high - low)
                widths[self.scaler.n_outputs(X.shape[1]) :] = 0
                log = log + widths
            out = with_columns(out, scaled, xp.nan_to_num(log, nan=0, neginf=-np.inf))
        return out

    def _limits(self, width):
        """Ends of the domain of each column that `transform` makes."""
        return np.array(self.embedding.domains(width)).T


def blocks(n_rows, width):
    """Slices of rows that hold at most `_NUMBERS` numbers, each a multiple of `BLOCK` but the last.

    There is always one, if an empty one.
    """
    size = BLOCK * max(1, _NUMBERS // (BLOCK * width))
    return [slice(start, start + size) for start in range(0, max(n_rows, 1), size)]


def _kind(values):
    """Kind of a column of a table, in words, from its entries that are no numbers."""
    return _NUMERIC if values is None else _KINDS[values.dtype.kind]


def _exponents(X, scaler):
    """Powers of two of columns whose squares no float holds, others 0; None where all are."""
    if isinstance(scaler, Passthrough):
        return None
    largest = np.nan_to_num(np.fmax.reduce(np.abs(X)))
    if scaler.mixes_columns or isinstance(scaler, CommonMinMax):
        largest = np.full_like(largest, largest.max())
    exponents = np.where(largest > 0, np.frexp(largest)[1], 0)
    exponents = np.where(np.abs(exponents) > _LARGEST_EXPONENT, exponents, 0)
    return exponents if exponents.any() else None


def _ldexp(X, exponents):
    """X times powers of two; the largest float stands for what is beyond."""
    xp, largest = namespace(X), np.finfo(float).max
    with np.errstate(over="ignore"):
        return xp.clip(xp.ldexp(X, exponents), -largest, largest)
