"""The fitted map from tables to the vectors that networks read."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import warn
from .._registry import register, resolve
from ..embeddings import Embedding, OneHot, PerFeature
from ..errors import DomainWarning
from ..initializers import least_squares_weights
from ..training import bucket
from ._scalers import Passthrough, Scaler
from ._table import Table, is_missing

#: Rows that networks are evaluated on at a time.
BLOCK = 1024
MAX_LEVELS = 16
# The floor of w . phi, by which vectors are divided.
_LEAST_DIVISOR = 0.1
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


@dataclasses.dataclass(frozen=True)
class Reading:
    """Treatment of what is not known.

    Parameters
    ----------
    neutral : callable, `_mean_vector` or `_leading_axis`: the vector of a missing feature
    divides : bool, whether to divide vectors by w . phi where the embedding has no unit weights w
    unseen_is_missing : bool, whether categories never seen in fitting count as missing
    """

    neutral: Callable
    divides: bool = False
    unseen_is_missing: bool = False


def _mean_vector(phi, present):
    """Weighted mean of each site's vectors where present, which stands for a missing feature."""
    return np.einsum("bi,bis->is", present / present.sum(axis=0), phi), None


def _leading_axis(phi, present):
    """First principal axis of each site's vectors, and their second moments.

    The squared value on a unit vector is at most the marginal density, so that training on rows
    with missing values raises a lower bound of their likelihood.
    """
    weighted = (phi * (present / present.sum(axis=0))[..., None]).transpose(1, 2, 0)
    second_moments = weighted @ phi.transpose(1, 0, 2)
    return np.linalg.eigh(second_moments)[1][..., -1], second_moments


#: Features that are missing are averaged out.
AVERAGED = Reading(_mean_vector, divides=True)
#: They are traced out of squared amplitudes. Divided vectors would be no orthonormal basis.
TRACED = Reading(_leading_axis, unseen_is_missing=True)


@register("state")
@dataclasses.dataclass(frozen=True, eq=False)
class TableReader:
    """A fitted map from tables to embedded samples; `fit_transform` makes it.

    Numbers are scaled to the embedding's domain, categories become codes of one-hot sites, and
    columns of a discrete embedding are codes already.

    Parameters
    ----------
    embedding : Embedding, fitted; a `PerFeature` where there are categories
    scaler, scaler_state : Scaler, dict of arrays
    levels : tuple, per column its categories by frequency, None for numbers
    names : tuple of str or None, names of the columns
    unit_weights : ndarray of shape (nsites, phys_dim) or None, w with w . phi near 1
    neutral : ndarray of shape (nsites, phys_dim), vector of a missing feature
    divides, unseen_is_missing : bool, as in `Reading`
    second_moments : ndarray of shape (nsites, phys_dim, phys_dim) or None, of each site's vectors
    """

    embedding: Embedding
    scaler: Scaler
    scaler_state: dict[str, np.ndarray]
    levels: tuple
    names: tuple | None = None
    unit_weights: np.ndarray | None = None
    neutral: np.ndarray | None = None
    divides: bool = False
    unseen_is_missing: bool = False
    second_moments: np.ndarray | None = None

    @classmethod
    def fit_transform(
        cls,
        table: Table,
        weight,
        columns: tuple[Embedding, Scaler],
        *,
        reading: Reading = AVERAGED,
        rows=slice(None),
    ) -> tuple["TableReader", np.ndarray]:
        """Reader for tables like this one, and its `transform` of it.

        ValueError for columns that do not suit the embedding or the scaler.

        Parameters
        ----------
        table : Table
        weight : ndarray of shape (n_samples,), positive
        columns : (Embedding, Scaler)
        reading : Reading
        rows : index of the rows that neutral vectors and weights are learned from
        """
        unseen_is_missing = reading.unseen_is_missing
        reader = _fit_columns(table, weight, *columns, unseen_is_missing=unseen_is_missing)
        U = reader.transform(table)
        # Everything that learns from rows sees those before it at work.
        reader = dataclasses.replace(reader, embedding=reader.embedding.for_data(U, weight))
        few, weight = U[rows], weight[rows]
        unit = reader.embedding.site_unit_weights(U.shape[1])
        if unit is None:
            unit = least_squares_weights(reader.vectors(few), sample_weight=weight)
            reader = dataclasses.replace(reader, unit_weights=unit, divides=reading.divides)
        phi, missing = reader.vectors(few), np.isnan(few)
        if missing.shape[1] != phi.shape[1]:
            missing = np.zeros(phi.shape[:2], bool)
        present = weight[:, None] * ~missing
        present = np.where(present.sum(axis=0) > 0, present, weight[:, None])
        neutral, moments = reading.neutral(phi, present)
        vectors = {"unit_weights": unit, "neutral": neutral, "second_moments": moments}
        return dataclasses.replace(reader, **vectors), U

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
            self._check_kind(j, table.floats[:, j], values, level)
        out, n_outside = np.empty((len(table), self.width)), 0
        for rows in _blocks(len(table), table.shape[1]):
            out[rows], outside = self._transform(table.rows(rows))
            n_outside += outside
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

    def inverse(self, U) -> np.ndarray:
        """Raw columns of numbers in the embedding's domains: floats, or objects with categories."""
        low, high = self._limits(U.shape[1])
        out, scaled = U.copy(), self.scaled
        if scaled.any():
            u, low, high = U[:, scaled], low[scaled], high[scaled]
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
        low, high = self._limits(floats.shape[1])
        out, scaled = np.zeros(floats.shape), self.scaled
        if scaled.any():
            X, low, high = floats[:, scaled], low[scaled], high[scaled]
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

    def _check_kind(self, j, floats, values, level):
        """ValueError for a column of another kind than in fitting; without entries it is either."""
        if (values is None) == (level is None):
            return
        if not (np.isnan(floats).all() if values is None else all(map(is_missing, values))):
            expected, found = ("numbers", "categories")[:: 1 if level is None else -1]
            name = j if self.names is None else repr(self.names[j])
            raise ValueError(
                f"Column {name} held {expected} when fitting and holds {found} now: convert it."
            )

    def _transform(self, table):
        """`transform` of a block of rows, and how many values left the domain."""
        floats, scaled, n_outside = table.floats, self.scaled, 0
        # Images make large tables: no copies where all columns are scaled.
        whole = scaled.all()
        out = None if whole else floats.copy()
        if scaled.any():
            u = self.scaler.transform(floats if whole else floats[:, scaled], self.scaler_state)
            low, high = self._limits(u.shape[1] if whole else self.n_features)
            if not whole:
                low, high = low[scaled], high[scaled]
            if isinstance(self.scaler, Passthrough):
                n_outside = int(np.sum((u < low) | (u > high)))
                u = np.clip(u, low, high)
            elif (low != 0).any() or (high != 1).any():
                u = u * (high - low)
                u += low
            if whole:
                return u, n_outside
            out[:, scaled] = u
        for j in np.flatnonzero(~self.numeric):
            codes = {level: code for code, level in enumerate(self.levels[j])}
            values = floats[:, j] if table.raw[j] is None else table.raw[j]
            out[:, j] = [np.nan if is_missing(v) else codes.get(_key(v), -1) for v in values]
        return out, n_outside

    def embed(self, U, length: int | None = None) -> jax.Array:
        """Embedded rows on the device, (length, nsites, phys_dim), the domain's middle as padding.

        Parameters
        ----------
        U : ndarray of shape (n_samples, width), as from `transform`
        length : int or None, which takes `padded_length`
        """
        # An unbounded domain has its middle at 0.
        middle = np.clip(self.embedding.domains(U.shape[1]), -1e6, 1e6).mean(axis=1)
        dtype = jnp.zeros(()).dtype
        padded = np.empty((padded_length(len(U)) if length is None else length, U.shape[1]), dtype)
        padded[: len(U)] = U
        padded[len(U) :] = middle
        arrays = self.unit_weights if self.divides else None, self.neutral
        arrays = [None if a is None else a.astype(dtype) for a in arrays]
        embedding, learned = self.embedding.split()
        learned = [array.astype(dtype) for array in learned]
        return _embed(embedding, learned, padded, middle.astype(dtype), *arrays)

    def blocks(self, U) -> Iterator[tuple[jax.Array, int]]:
        """`embed` of blocks of rows of bounded memory, each with how many of its rows are real."""
        size = self.nsites * self.embedding.phys_dim
        for rows in _blocks(len(U), size):
            part = U[rows]
            # What is evaluated together shall not depend on where a block ends.
            length = None if len(part) == len(U) else -(-len(part) // BLOCK) * BLOCK
            yield self.embed(part, length), len(part)

    def vectors(self, U) -> np.ndarray:
        """Embedded rows, (n_samples, nsites, phys_dim), sites as columns."""
        return np.concatenate([np.asarray(phi)[:n] for phi, n in self.blocks(U)])

    def grams(self) -> np.ndarray:
        """Integrals of products of a site's entries over the domain, (nsites, d, d) float64.

        ValueError where they are not known.
        """
        if not np.isfinite(self.embedding.domains(self.width)).all():
            raise ValueError(
                f"{type(self.embedding).__name__} has no finite domain to integrate over: give X, "
                "whose rows take its place."
            )
        if not self.divides:
            try:
                return self.embedding.site_grams(self.width)
            except ValueError as error:
                hint = "Or give X, whose rows take the domain's place."
                raise ValueError(f"{error} {hint}") from None
        grams = np.zeros((*self.unit_weights.shape, self.unit_weights.shape[1]))
        for gram, embedding, divisor in zip(grams, self.site_embeddings(), self.unit_weights):
            phi, weights = embedding.quadrature()
            size = phi.shape[1]
            phi = phi / np.maximum(phi @ divisor[:size], _LEAST_DIVISOR)[:, None]
            gram[:size, :size] = (phi.T * weights) @ phi
        return grams


def padded_length(n_samples: int) -> int:
    """Bucketed number of rows, a multiple of the prediction block where it is larger."""
    length = bucket(n_samples)
    return length if length <= BLOCK else -(-length // BLOCK) * BLOCK


def _blocks(n_rows, width):
    """Slices of rows that hold at most `_NUMBERS` numbers, each a multiple of `BLOCK` but the last.

    There is always one, if an empty one.
    """
    size = BLOCK * max(1, _NUMBERS // (BLOCK * width))
    return [slice(start, start + size) for start in range(0, max(n_rows, 1), size)]


@partial(jax.jit, static_argnums=0)
def _embed(embedding, learned, U, middle, divisors, neutral):
    missing = jnp.isnan(U)
    phi = embedding.join(learned).embed(jnp.where(missing, middle[None], U))
    if divisors is not None:
        # A positive scalar per sample and site; the floor keeps it so where w . phi would vanish.
        phi = phi / jnp.maximum(jnp.einsum("bis,is->bi", phi, divisors), _LEAST_DIVISOR)[..., None]
    if neutral is not None and embedding.site_features == 1:
        phi = jnp.where(missing[..., None], neutral[None], phi)
    return phi


def _fit_columns(table, weight, embedding, scaler, **options):
    """Reader whose columns are fitted, but no vectors."""
    floats, n_features = table.floats, table.shape[1]
    if isinstance(embedding, PerFeature) and scaler.n_outputs(n_features) < n_features:
        raise ValueError(
            f"{type(scaler).__name__} mixes columns, so that none has an embedding of its own: "
            "take one embedding for all instead of PerFeature."
        )
    embedding.nsites(n_features)
    levels = tuple(None if values is None else _levels(values, weight) for values in table.raw)
    reader = TableReader(embedding, scaler, {}, levels, table.names, **options)
    numeric, scaled = reader.numeric, reader.scaled
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
    if reader.width < n_features:
        if not scaled.all():
            raise ValueError(
                f"{type(scaler).__name__} mixes all columns and takes numbers only: encode the "
                "categorical columns first, or use another scaler."
            )
        embedding.nsites(reader.width)
    state = {}
    if scaled.any():
        state = scaler.fit(floats if scaled.all() else floats[:, scaled], weight)
    codes = floats[:, numeric & ~scaled]
    low, high = reader._limits(n_features)[:, numeric & ~scaled]
    if count := ((codes < low) | (codes > high) | (codes % 1 > 0)).sum():
        warn(
            f"{count} values are none of the integer codes that {type(embedding).__name__} knows "
            "and count as unknown: encode the columns as 0, 1, ... and give their number, or use "
            "an embedding of continuous features.",
            DomainWarning,
        )
    if not numeric.all():
        embedding = PerFeature(
            tuple(embedding if lv is None else OneHot(max(2, len(lv))) for lv in levels)
        )
    return dataclasses.replace(reader, embedding=embedding, scaler_state=state)


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
