"""The fitted map from tables to the vectors that networks read."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._arrays import namespace, served_length
from .._registry import variant
from .._schema import check_fields
from ..embeddings import Embedding, WithMissing
from ..initializers import least_squares_weights
from ..training import bucket
from ._columns import BLOCK, Columns, blocks
from ._counts import Counts
from ._kinds import TIME, parts_of
from ._scalers import Scaler
from ._table import Table

# The floor of w . phi, by which vectors are divided.
_LEAST_DIVISOR = 0.1
# How many times `BLOCK` the largest block has.
_MANY_BLOCKS = 16
# Numbers of vectors that are made together, which a processor's cache holds.
_NEAR = 1 << 18


@dataclasses.dataclass(frozen=True)
class Reading:
    """Treatment of what is not known.

    Parameters
    ----------
    neutral : callable, `_mean_vector` or `_leading_axis`: the vector of a dropped feature
    divides : bool, whether to divide vectors by w . phi where the embedding has no unit weights w
    unseen_is_missing : bool, whether categories never seen in fitting count as missing
    learns_missing : bool
        Whether columns with missing entries in fitting have a vector for these.
    spreads : bool, whether moments are read as phases of the year, the week and the day, too
    max_categories : int or None, of a column; None for a number that grows with the rows
    """

    neutral: Callable
    divides: bool = False
    unseen_is_missing: bool = False
    learns_missing: bool = False
    spreads: bool = False
    max_categories: int | None = None

    def moments(self, values) -> tuple[str, ...] | None:
        """Names of what a column of moments or times of day is read as, None for others."""
        if values is None or values.dtype == object:
            return None
        return parts_of(values) if self.spreads else (TIME,)


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
AVERAGED = Reading(_mean_vector, divides=True, spreads=True)
#: They are traced out of squared amplitudes. Divided vectors would be no orthonormal basis.
TRACED = Reading(_leading_axis, unseen_is_missing=True)


@variant("state", eq=False)
class TableReader(Columns):
    """A fitted map from tables to embedded samples; `fit_transform` makes it.

    Numbers are scaled to the embedding's domain, categories become codes of one-hot sites, and
    columns of a discrete embedding are codes already.

    Parameters
    ----------
    embedding : Embedding, fitted; a `PerFeature` where there are categories
    scaler, scaler_state : Scaler, dict of arrays
    levels : tuple, per feature its categories by frequency, None for numbers
    names : tuple of str or None, names of the columns
    unseen_is_missing : bool, as in `Reading`
    kinds : tuple of str, what columns hold, in words
    moments : tuple, per column what moments are read as, None for others
    pooled : tuple of bool, per feature whether categories beyond `levels` are one more
    make : Make or None, what the table of fitting came in
    exponents : ndarray of int or None, powers of two that are taken out of the scaled columns
    unit_weights : ndarray of shape (nsites, phys_dim) or None, w with w . phi near 1
    neutral : ndarray of shape (nsites, phys_dim), vector of a dropped feature
        And of a missing one, where the embedding has none of its own for that.
    divides : bool, as in `Reading`
    second_moments : ndarray of shape (nsites, phys_dim, phys_dim) or None, of each site's vectors
    """

    unit_weights: Float[np.ndarray, "nsites phys_dim"] | None = None
    neutral: Float[np.ndarray, "nsites phys_dim"] | None = None
    divides: bool = False
    second_moments: Float[np.ndarray, "nsites phys_dim phys_dim"] | None = None

    @classmethod
    def from_state(cls, state: dict) -> "TableReader":
        """The reader of fields that were stored; ValueError where they contradict each other."""
        check_fields(cls, state)
        reader = cls(**state)
        reader.check()
        return reader

    def check(self):
        """ValueError where fields contradict each other."""
        super().check()
        shape = self.nsites, self.embedding.phys_dim
        if self.neutral is None or self.neutral.shape != shape:
            raise ValueError(f"the neutral vectors are not of the shape {shape} of the embedding")
        if self.divides and self.unit_weights is None:
            raise ValueError("unit_weights, by which vectors are divided, are missing")
        with np.errstate(over="ignore"):
            made = self.vector_map
        vectors = made(self._padded(np.empty((0, self.width)), 1))
        # In the precision of now, which has fewer numbers than files.
        if not all(np.isfinite(array).all() for array in (vectors, *jax.tree.leaves(made))):
            raise ValueError(f"the vectors of {self.embedding} are not finite")

    @classmethod
    def fit_transform(
        cls,
        table: Table,
        weight,
        columns: tuple[Embedding, Scaler],
        *,
        reading: Reading = AVERAGED,
        rows=slice(None),
        counts: Counts | None = None,
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
        counts : Counts of more rows, of which the table holds some
        """
        reader = cls.fit(table, weight, *columns, reading, counts)
        U = reader.transform(table)
        # Everything that learns from rows sees those before it at work.
        reader = dataclasses.replace(reader, embedding=reader.embedding.for_data(U, weight))
        reader._check_embedding()
        few, weight = U[rows], weight[rows]
        unit = reader.embedding.site_unit_weights(U.shape[1])
        if unit is None:
            unit = least_squares_weights(reader.embed(few), sample_weight=weight)
            reader = dataclasses.replace(reader, unit_weights=unit, divides=reading.divides)
        phi, missing = reader.embed(few), np.isnan(few)
        if missing.shape[1] == phi.shape[1]:
            missing &= ~reader._own_gaps.any(axis=1)
        else:
            missing = np.zeros(phi.shape[:2], bool)
        present = weight[:, None] * ~missing
        present = np.where(present.sum(axis=0) > 0, present, weight[:, None])
        neutral, moments = reading.neutral(phi, present)
        vectors = {"unit_weights": unit, "neutral": neutral, "second_moments": moments}
        return dataclasses.replace(reader, **vectors), U

    def embed(self, U, length: int | None = None) -> np.ndarray:
        """Embedded rows, (length, nsites, phys_dim), the domain's middle as padding.

        Parameters
        ----------
        U : ndarray of shape (n_samples, width), as from `transform`
        length : int or None, that of U
        """
        shape, length = (self.nsites, self.embedding.phys_dim), len(U) if length is None else length
        embed, size = self.vector_map, max(1, _NEAR // prod(shape))
        # Of few sizes, since embeddings may compile something for each.
        U = self._padded(U, bucket(length) if length <= size else -(-length // size) * size)
        phi = np.empty((len(U), *shape), U.dtype)
        for start in range(0, len(U), size):
            phi[start : start + size] = embed(U[start : start + size])
        return phi[:length]

    def __getstate__(self):
        # Without what is computed from the fields.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def vector_map(self) -> "VectorMap":
        """Map from rows of `transform` to their vectors, in the precision of now."""
        return jax.tree.map(partial(np.asarray, dtype=_dtype()), self._vector_map)

    @cached_property
    def _vector_map(self):
        middle, gaps = self._middle, self._own_gaps
        found = VectorMap(*self.embedding.split(), middle)
        if self.divides:
            found = dataclasses.replace(found, divisors=self.unit_weights)
        if self.embedding.site_features > 1:
            return found
        # What is missing has the middle's vector before another is learned.
        others = self.neutral
        if others is None:
            others = found(middle.astype(_dtype())[None])[0]
        return dataclasses.replace(found, gaps=np.where(gaps.any(axis=1)[:, None], gaps, others))

    def _check_embedding(self):
        """ValueError for an embedding that takes arrays of NumPy or those of JAX only."""
        try:
            row = self._padded(np.empty((0, self.width)), 1)
            self.vector_map(row)
            _vectors.eval_shape(self.vector_map, row)
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"{self.embedding!r} must take arrays of NumPy and, in compiled code, those of JAX "
                f"({error}): write it in jax.numpy, on jnp.asarray(x)."
            ) from error

    @property
    def _middle(self):
        """The middle of each column's domain, 0 of an unbounded one."""
        return np.clip(self.embedding.domains(self.width), -1e6, 1e6).mean(axis=1)

    def _padded(self, U, length):
        """Rows in the precision of now, and the domain's middle after them."""
        padded = np.full((length, U.shape[1]), self._middle, _dtype())
        padded[: len(U)] = U
        return padded

    @property
    def _own_gaps(self):
        """Vectors of missing features where the embedding has them, zeros elsewhere."""
        gaps = np.zeros((self.nsites, self.embedding.phys_dim))
        if self.embedding.site_features == 1 and self.nsites == self.width:
            for site, embedding in enumerate(self.site_embeddings()):
                if isinstance(embedding, WithMissing):
                    gaps[site, embedding.phys_dim - 1] = 1
        return gaps

    def blocks(self, U) -> Iterator[tuple[np.ndarray, int]]:
        """Blocks of rows for `vector_map`, padded, each with how many of its rows are real.

        Blocks have few lengths, since each has programs of its own.
        """
        n_rows, start = len(U), 0
        few = min(served_length(n_rows), BLOCK)
        many = min(blocks(1, self.width)[0].stop, _MANY_BLOCKS * BLOCK)
        while start < max(n_rows, 1):
            length = many if n_rows - start >= many else few
            part = U[start : start + length]
            yield self._padded(part, length), len(part)
            start += length

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VectorMap:
    """The map from rows of `TableReader.transform` to vectors, a pytree for compiled functions.

    Parameters
    ----------
    embedding : Embedding, the same for all data
    learned : tuple of arrays, what it has learned
    middle : array of shape (width,), stands for missing features in what is embedded
    divisors : array of shape (nsites, phys_dim) or None, weights w of w . phi, which divides phi
    gaps : array of shape (nsites, phys_dim) or None, vectors of missing features
    """

    embedding: Embedding = dataclasses.field(metadata={"static": True})
    learned: tuple
    middle: Any
    divisors: Any = None
    gaps: Any = None

    def __call__(self, U):
        """Vectors (n_samples, nsites, phys_dim) of rows (n_samples, width)."""
        xp = namespace(U)
        missing = xp.isnan(U)
        some = xp is not np or missing.any()
        given = xp.where(missing, self.middle[None], U) if some else U
        phi = xp.asarray(self.embedding.join(self.learned).embed(given), U.dtype)
        if self.divisors is not None:
            # A positive scalar per sample and site; the floor keeps it so where w . phi vanishes.
            divisor = (phi * self.divisors[None]).sum(axis=-1)
            phi = phi / xp.maximum(divisor, _LEAST_DIVISOR)[..., None]
        if self.gaps is not None and some:
            phi = xp.where(missing[..., None], self.gaps[None], phi)
        return phi


@jax.jit
def _vectors(vector_map, rows):
    return vector_map(rows)


def _dtype():
    """The floating dtype that JAX has at present."""
    return np.dtype(jnp.result_type(float))
