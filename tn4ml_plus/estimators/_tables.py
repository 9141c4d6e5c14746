"""From tables to embedded samples: what all estimators share, trained by gradients or not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils.validation import (
    _check_feature_names_in,
    _check_sample_weight,
    check_is_fitted,
)

from .._registry import resolve
from ..embeddings import Legendre
from ..training import bucket
from ._columns import ColumnEncoder, read_table
from ._parameters import NestedParameters
from ._principal import PrincipalComponents
from ._scalers import Passthrough

# Rows that are evaluated at a time.
BLOCK = 1024
# The floor of w . phi, by which vectors are divided.
LEAST_DIVISOR = 0.1


class TableEstimator(NestedParameters):
    """Base of what learns from tables: resolves embedding and scaler, encodes and embeds rows."""

    #: The scaler of columns that are scaled one by one.
    _default_scaler = "quantile_sigmoid"
    #: Weights (nsites, phys_dim) w by which vectors phi are divided, as phi / (w . phi).
    _divisors = None
    #: What stands for a missing feature, (nsites, phys_dim).
    _neutral = None
    #: How many samples trainers have seen, an epoch after another.
    _n_seen = 0

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = False
        return tags

    def _default_embedding(self, n_samples, n_features):
        """Legendre polynomials of the degree that the amount of data supports."""
        if n_samples < 500 or n_features > 10:
            return Legendre(2)
        return Legendre(7 if n_features <= 5 else 4)

    def _resolve_columns(self, n_samples, n_features):
        """Embedding and scaler, from what may be strings."""
        embedding = self.embedding
        if embedding is None:
            embedding = self._default_embedding(n_samples, n_features)
        embedding = resolve("embedding", embedding)
        scaler = self.scaler
        unbounded = not np.isfinite(embedding.domain).all()
        if scaler is None and unbounded:
            scaler = "passthrough"
        elif scaler is None:
            scaler = self._default_scaler if embedding.columnwise else "common_min_max"
        scaler = resolve("scaler", scaler)
        if unbounded and not isinstance(scaler, Passthrough):
            raise ValueError(
                f"{type(embedding).__name__} has no finite domain that {type(scaler).__name__} "
                "could scale to: leave scaler=None."
            )
        return embedding, scaler

    def _fit_columns(self, table, weight, embedding, scaler):
        """Fit what reads the columns of a table from `read_table`; returns `_transform` of it."""
        self._encoder = ColumnEncoder.fit(*table, weight, embedding, scaler)
        self.embedding_ = self._encoder.embedding
        U = self._transform(table)
        self.embedding_ = self._encoder.embedding = self.embedding_.for_data(U, weight)
        return U

    def _transform(self, table):
        """Numbers in the embedding's domain, NaN where missing, from what `read_table` gives."""
        U = self._encoder.transform(*table, getattr(self, "feature_names_in_", None))
        if np.isnan(U).any() and self.embedding_.site_features > 1:
            raise ValueError(
                f"Input X contains NaN, and {type(self.embedding_).__name__} sees several features "
                "at a site, so that none of them can be left out: impute them first."
            )
        return U

    def _neutral_of(self, phi, missing, weight):
        """What stands for a missing feature: each site's weighted mean vector where present."""
        present = present_weight(phi, missing, weight)
        return np.einsum("bi,bis->is", present / present.sum(axis=0), phi)

    def _embed(self, U):
        """Embedded rows on the device, (padded length, nsites, phys_dim)."""
        # An unbounded domain has its middle at 0.
        middle = np.clip(self.embedding_.domains(U.shape[1]), -1e6, 1e6).mean(axis=1)
        dtype = jnp.zeros(()).dtype
        padded = np.empty((padded_length(len(U)), U.shape[1]), dtype)
        padded[: len(U)] = U
        padded[len(U) :] = middle
        arrays = (self._divisors, self._neutral)
        arrays = [None if a is None else a.astype(dtype) for a in arrays]
        embedding, learned = self.embedding_.split()
        learned = [array.astype(dtype) for array in learned]
        return _embed(embedding, learned, padded, middle.astype(dtype), *arrays)

    # What inspection reads -----------------------------------------------------------------------

    def embed(self, X):
        """The vectors that the networks read, (n_samples, nsites, phys_dim), sites as columns.

        Member m has site orders_[m, i] of them as its own site i.
        """
        check_is_fitted(self, "_encoder")
        U = self._transform(read_table(self, X, reset=False))
        return np.asarray(self._embed(U))[: len(U)]

    def site_names(self):
        """What each site of `embed` reads: a column by its name, or "site 0", "component 0", ..."""
        check_is_fitted(self, "_encoder")
        width = self._encoder.width
        nsites = self.embedding_.nsites(width)
        if isinstance(self._encoder.scaler, PrincipalComponents):
            return [f"component {i}" for i in range(nsites)]
        if nsites != self.n_features_in_ or not self.embedding_.columnwise:
            return [f"site {i}" for i in range(nsites)]
        return list(_check_feature_names_in(self))

    def grams(self, X=None):
        """Inner products of the functions that a site's entries are, (nsites, d, d) float64.

        Integrals over the domain of the embedding, or, with X, means over its rows. Raises
        ValueError where the former are not known.
        """
        check_is_fitted(self, "_encoder")
        if X is not None:
            phi = np.asarray(self.embed(X), float).transpose(1, 2, 0)
            return phi @ phi.swapaxes(1, 2) / phi.shape[2]
        width = self._encoder.width
        if not np.isfinite(self.embedding_.domains(width)).all():
            raise ValueError(
                f"{type(self.embedding_).__name__} has no finite domain to integrate over: give X, "
                "whose rows take its place."
            )
        if self._divisors is None:
            try:
                return self.embedding_.site_grams(width)
            except ValueError as error:
                raise ValueError(
                    f"{error} Or give X, whose rows take the domain's place."
                ) from None
        embeddings = getattr(self.embedding_, "embeddings", (self.embedding_,) * width)
        grams = np.zeros((len(self._divisors), *(self._divisors.shape[1:] * 2)))
        for gram, embedding, divisor in zip(grams, embeddings, self._divisors):
            phi, weights = embedding.quadrature()
            size = phi.shape[1]
            phi = phi / np.maximum(phi @ divisor[:size], LEAST_DIVISOR)[:, None]
            gram[:size, :size] = (phi.T * weights) @ phi
        return grams


def read_weight(sample_weight, X):
    """Validated sample weights, (n_samples,); ValueError if negative or all zero."""
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not (weight > 0).any():
        raise ValueError("All sample weights are zero: at least one must be positive.")
    return weight


def padded_length(n_samples):
    """Bucketed number of rows, a multiple of the prediction block where it is larger."""
    length = bucket(n_samples)
    return length if length <= BLOCK else -(-length // BLOCK) * BLOCK


@partial(jax.jit, static_argnums=0)
def _embed(embedding, learned, U, middle, divisors, neutral):
    missing = jnp.isnan(U)
    phi = embedding.join(learned).embed(jnp.where(missing, middle, U))
    if divisors is not None:
        # A positive scalar a sample and site; the floor keeps it so where w . phi would vanish.
        phi = phi / jnp.maximum(jnp.einsum("bis,is->bi", phi, divisors), LEAST_DIVISOR)[..., None]
    if neutral is not None and embedding.site_features == 1:
        phi = jnp.where(missing[..., None], neutral, phi)
    return phi


def present_weight(phi, missing, weight):
    """Weight of every row at every site, zero where it is missing (but not in all rows)."""
    if missing.shape[1] != phi.shape[1]:
        missing = np.zeros(phi.shape[:2], bool)
    present = weight[:, None] * ~missing
    return np.where(present.sum(axis=0) > 0, present, weight[:, None])
