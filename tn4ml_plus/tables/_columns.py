"""The fitted map from tables to numbers in the domain of an embedding, and back."""

import dataclasses

import numpy as np

from .._checks import warn
from .._registry import resolve
from ..embeddings import Embedding, OneHot, PerFeature
from ..errors import DomainWarning
from ._scalers import Passthrough, Scaler
from ._table import Table, is_missing

#: Rows that networks are evaluated on at a time.
BLOCK = 1024
MAX_LEVELS = 16
# Numbers that a block of rows may take, in columns or in embedded vectors.
_NUMBERS = 1 << 26


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
    levels: tuple
    names: tuple | None = None
    unseen_is_missing: bool = False

    @classmethod
    def fit(cls, table: Table, weight, embedding, scaler, **others):
        """Fitted to a table; ValueError for columns that do not suit the embedding or scaler."""
        n_features = table.shape[1]
        if isinstance(embedding, PerFeature) and scaler.n_outputs(n_features) < n_features:
            raise ValueError(
                f"{type(scaler).__name__} mixes columns, so that none has an embedding of its own: "
                "take one embedding for all instead of PerFeature."
            )
        embedding.nsites(n_features)
        levels = tuple(None if values is None else _levels(values, weight) for values in table.raw)
        self = cls(embedding, scaler, {}, levels, table.names, **others)
        numeric, scaled = self.numeric, self.scaled
        if not embedding.columnwise and not numeric.all():
            raise ValueError(
                f"{type(embedding).__name__} takes numeric columns only: encode the categorical "
                "columns first, or use an embedding of single features."
            )
        if isinstance(embedding, PerFeature) and not numeric.all():
            raise ValueError(
                "PerFeature cannot be combined with categorical columns of a frame: give their "
                "codes as numbers, with OneHot for them in PerFeature."
            )
        if self.width < n_features:
            if not scaled.all():
                raise ValueError(
                    f"{type(scaler).__name__} mixes all columns and takes numbers only: encode the "
                    "categorical columns first, or use another scaler."
                )
            embedding.nsites(self.width)
        codes = table.floats[:, numeric & ~scaled]
        low, high = self._limits(n_features)[:, numeric & ~scaled]
        if count := ((codes < low) | (codes > high) | (codes % 1 > 0)).sum():
            warn(
                f"{count} values are none of the integer codes that {type(embedding).__name__} "
                "knows and count as unknown: encode the columns as 0, 1, ... and give their "
                "number, or use an embedding of continuous features.",
                DomainWarning,
            )
        state = scaler.fit(table.floats[:, self._chosen], weight) if scaled.any() else {}
        if not numeric.all():
            embedding = PerFeature(
                tuple(embedding if lv is None else OneHot(max(2, len(lv))) for lv in levels)
            )
        return dataclasses.replace(self, embedding=embedding, scaler_state=state)

    @property
    def numeric(self) -> np.ndarray:
        """Whether columns hold numbers, (n_features,) bools."""
        return np.array([level is None for level in self.levels])

    @property
    def scaled(self) -> np.ndarray:
        """Whether the scaler scales columns, (n_features,) bools."""
        parts = getattr(self.embedding, "embeddings", None) or (self.embedding,) * self.n_features
        return self.numeric & ~np.array([part.discrete for part in parts])

    @property
    def _chosen(self):
        """Index of the columns that are scaled."""
        # Images make large tables: no copies where all columns are.
        return slice(None) if self.scaled.all() else self.scaled

    @property
    def n_features(self) -> int:
        """Number of columns."""
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
        one = self.embedding.columnwise and self.nsites == self.n_features
        return one and not self.scaler.mixes_columns

    def site_embeddings(self) -> tuple:
        """Embedding of each site that reads a single column of `transform`."""
        return getattr(self.embedding, "embeddings", (self.embedding,) * self.width)

    def site_names(self) -> list[str]:
        """Name of the column that each site reads, or "site 0", "component 0", ..."""
        if self.explains_columns:
            return list(self.names or (f"x{i}" for i in range(self.n_features)))
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
        low, high = self._limits(U.shape[1])
        unseen = discrete & ((low > U) | (high < U) | (U % 1 > 0))
        return np.where(unseen, np.nan, U), unseen

    def _codes(self, table):
        for j, (values, level) in enumerate(zip(table.raw, self.levels, strict=True)):
            if (values is None) == (level is None):
                continue
            # A column without entries is of either kind.
            if not all(map(is_missing, table.floats[:, j] if values is None else values)):
                kinds = "numbers", "categories"
                expected, found = kinds if level is None else kinds[::-1]
                name = j if self.names is None else repr(self.names[j])
                raise ValueError(
                    f"Column {name} held {expected} when fitting and holds {found} now: convert it."
                )
        out, n_outside = np.empty((len(table), self.width)), 0
        for rows in blocks(len(table), table.shape[1]):
            n_outside += self._fill(out[rows], table.rows(rows))
        if n_outside:
            warn(
                f"{n_outside} values left the domain of {type(self.embedding).__name__} and were "
                "clipped to it: scale the columns into it, or use the default scaler.",
                DomainWarning,
            )
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
            u = self.scaler.transform(table.floats[:, chosen], self.scaler_state)
            low, high = self._limits(self.width)[:, chosen]
            if isinstance(self.scaler, Passthrough):
                n_outside = int(np.sum((u < low) | (u > high)))
                u = np.clip(u, low, high)
            elif (low != 0).any() or (high != 1).any():
                u = u * (high - low)
                u += low
            out[:, chosen] = u
        for j in np.flatnonzero(~self.numeric):
            codes = {level: code for code, level in enumerate(self.levels[j])}
            values = table.floats[:, j] if table.raw[j] is None else table.raw[j]
            out[:, j] = [np.nan if is_missing(v) else codes.get(_key(v), -1) for v in values]
        return n_outside

    def inverse(self, U) -> np.ndarray:
        """Raw columns of numbers in the embedding's domains: floats, or objects with categories."""
        out, scaled = U.copy(), self.scaled
        if scaled.any():
            u, (low, high) = U[:, scaled], self._limits(U.shape[1])[:, scaled]
            if not isinstance(self.scaler, Passthrough):
                u = (u - low) / (high - low)
            out[:, scaled] = self.scaler.inverse(u, self.scaler_state)
        if not self.numeric.all():
            out = out.astype(object)
        for j in np.flatnonzero(~self.numeric):
            known = dict(enumerate(self.levels[j]))
            out[:, j] = [None if u != u else known.get(int(u)) for u in U[:, j].astype(float)]
        return out

    def log_derivatives(self, floats) -> np.ndarray:
        """Logs of the factors of the derivative of `transform`, of floats' shape; 0 where missing.

        They sum to the log of its Jacobian determinant, times the density of what it leaves out.
        """
        out, scaled = np.zeros(floats.shape), self.scaled
        if scaled.any():
            X, (low, high) = floats[:, scaled], self._limits(floats.shape[1])[:, scaled]
            log = self.scaler.log_derivative(X, self.scaler_state)
            if isinstance(self.scaler, Passthrough):
                # Clipping there would make up a density.
                log = np.where((low > X) | (high < X), -np.inf, log)
            else:
                widths = np.log(high - low)
                widths[self.scaler.n_outputs(X.shape[1]) :] = 0
                log = log + widths
            out[:, scaled] = np.nan_to_num(log, nan=0, neginf=-np.inf)
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


def _key(value):
    """Plain Python form of a category, so that codes survive storage."""
    return value.item() if hasattr(value, "item") else value


def _levels(values, weight):
    """The most frequent categories first, at most MAX_LEVELS; ties in order of their text."""
    counts = {}
    for value, w in zip(values, weight, strict=True):
        if not is_missing(value):
            counts[_key(value)] = counts.get(_key(value), 0) + w
    return sorted(counts, key=lambda v: (-counts[v], str(v)))[:MAX_LEVELS]
