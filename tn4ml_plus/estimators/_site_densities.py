"""Densities of single features from density matrices."""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..embeddings import Orthonormal, PerFeature

_CELLS = 512
# Rows that are drawn together, which bounds the memory of their distribution functions.
_ROWS = 4096


def orthonormal(embedding):
    """The embedding itself if its Gram matrices are identities, otherwise one that spans the same.

    Raises ValueError for embeddings of several features per site, whose integrals are not known.
    """
    if isinstance(embedding, PerFeature):
        return PerFeature(tuple(map(orthonormal, embedding.embeddings)))
    if np.allclose(embedding.gram(), np.eye(embedding.phys_dim), rtol=0, atol=1e-12):
        return embedding
    return Orthonormal(embedding)


@lru_cache(maxsize=256)
class SiteDensity:
    """One feature with an orthonormal embedding, where x has the density phi(x) rho phi(x).

    rho: (batch, phys_dim, phys_dim), positive with unit trace. values: where the domain is looked
    at, the nodes of a quadrature, or all values of a discrete domain.
    """

    def __init__(self, embedding):
        self.embedding = embedding
        if embedding.discrete:
            self.values, weights = embedding._grid(), 1.0
        else:
            breaks = np.asarray(embedding._breakpoints, float)
            cells = -(-_CELLS // (len(breaks) - 1))
            parts = [np.linspace(a, b, cells + 1)[:-1] for a, b in pairwise(breaks)]
            self._edges = np.append(np.concatenate(parts), breaks[-1])
            self._phi_edges = embedding._evaluate(self._edges)
            half = np.diff(self._edges)[:, None] / 2
            nodes, weights = np.polynomial.legendre.leggauss(3)
            self.values = (self._edges[:-1, None] + half * (1 + nodes)).ravel()
            weights = (half * weights).reshape(-1, 1, 1)
        phi = embedding._evaluate(self.values)
        outer = phi[:, :, None] * phi[:, None, :] * weights
        self._products = outer.reshape(len(outer), -1).T
        self._cells = self._products
        if not embedding.discrete:
            self._cells = self._products.reshape(len(self._products), -1, 3).sum(axis=2)

    def masses(self, rho):
        """Probabilities around `values`, (batch, len(values))."""
        return np.maximum(rho.reshape(len(rho), -1) @ self._products, 0)

    def draw(self, rho, rng):
        """One value per row, (batch,), by inversion of the distribution function.

        It is exact at the edges of 512 or more cells of a continuous domain; inside of one the
        density is taken as linear.
        """
        parts = [rho[i : i + _ROWS] for i in range(0, len(rho), _ROWS)]
        return np.concatenate([self._draw(part, rng) for part in parts])

    def _draw(self, rho, rng):
        masses = np.maximum(rho.reshape(len(rho), -1) @ self._cells, 0)
        cumulative = np.cumsum(masses, axis=1)
        level = rng.uniform(size=(len(rho), 1)) * cumulative[:, -1:]
        cell = np.minimum((cumulative <= level).sum(axis=1), masses.shape[1] - 1)
        if self.embedding.discrete:
            return self.values[cell]
        rows = np.arange(len(rho))
        left, right = (
            np.einsum("bi,bij,bj->b", phi, rho, phi)
            for phi in (self._phi_edges[cell], self._phi_edges[cell + 1])
        )
        mass = np.maximum(masses[rows, cell], np.finfo(float).tiny)
        share = 1 - (cumulative[rows, cell] - level[:, 0]) / mass
        # t solves left t + (right - left) t^2 / 2 = share (left + right) / 2.
        area = np.clip(share, 0, 1) * (left + right)
        root = np.sqrt(np.maximum(left**2 + (right - left) * area, 0))
        t = np.divide(area, left + root, out=share, where=left + root > 0)
        return self._edges[cell] + np.clip(t, 0, 1) * np.diff(self._edges)[cell]

    def embed(self, values):
        """Vectors (n, phys_dim), float64, in a padded length so that few shapes are compiled."""
        padded = np.resize(values, 1 << max(0, len(values) - 1).bit_length())
        return self.embedding._evaluate(padded)[: len(values)]
