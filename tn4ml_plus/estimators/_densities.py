"""Densities of rows, from a reader and an ensemble, and of single features in them."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from .._amplitude import Amplitude
from .._arrays import mean_over_members, namespace, on_device, rounded, served_length
from .._compiled import bounded_cache, compiled
from .._registry import variant
from ..contraction import BornDensity, log_norm_squared, pack
from ..deployment import density_loss, traced_members, view_tree
from ..embeddings import Orthonormal, PerFeature

_CELLS = 512
# Rows that are drawn together, which bounds the memory of their distribution functions.
_ROWS = 4096


@partial(compiled, static_argnums=0)
def _losses(loss, amplitude, target):
    """Losses of each member, (n_members, n_samples)."""
    return jax.vmap(loss, (0, None))(amplitude, target)


def log_of_unseen(data) -> float:
    """Log-probability that stands for a category never seen among rows of `Data`.

    Their weights may be frequencies; rows count once at least.
    """
    return -float(np.log1p(max(data.total_weight, data.shape[0])))


@variant("state")
class BornScore:
    """Log-density by the Born rule, missing values traced out.

    unseen_log_density stands for a category never seen in fitting.
    """

    unseen_log_density: float

    def of_rows(self, reader, ensemble, table):
        """Log-densities of the rows of a table in nats, (n_samples,)."""
        U, unseen = reader.encode(table)
        members = born_members(reader, ensemble, U)
        log = logsumexp(log_densities(members), axis=0) - np.log(len(members))
        log += unseen.sum(axis=1) * self.unseen_log_density
        return log + reader.log_derivatives(table.floats).sum(axis=1)

    def traced(self, reader, ensemble):
        """Traceable function of float64 rows that computes `of_rows`."""
        embed = _in_x64(lambda: reader.vector_map)
        members = list(zip(map(BornDensity, ensemble.networks), ensemble.orders, strict=True))

        def scores(X):
            U, unseen = reader.encode_numbers(X)
            phi, missing = embed(U), jnp.isnan(U)
            logs = [d.log_density(phi[:, order], missing[:, order]) for d, order in members]
            log = jax.nn.logsumexp(jnp.stack(logs), axis=0) - np.log(len(members))
            log += unseen.sum(axis=1) * self.unseen_log_density
            return log + reader.log_derivatives(X).sum(axis=1)

        return scores

    def tree(self, reader, ensemble):
        """Fields of a predictor's view that computes `of_rows`."""
        loss = {"kind": "born"}
        tree = view_tree(reader, ensemble, traces=True, is_born=True, loss=loss)
        return tree | {"unseen": self.unseen_log_density}

    def surprises(self, reader, ensemble, table):
        """Minus the log-density of each column given all others; 0 where it is missing."""
        U, unseen = reader.encode(table)
        without, logs = np.full((len(ensemble.networks), *U.shape), -np.inf), []
        for m, (density, order, phi, missing) in enumerate(born_members(reader, ensemble, U)):
            logs.append(density.log_density(phi, missing))
            rho = density.conditionals(phi, missing)
            conditional = np.einsum("bis,bist,bit->bi", phi, rho, phi, optimize=True)
            conditional = np.where(missing, 1, np.maximum(conditional, np.finfo(float).tiny))
            without[m][:, order] = logs[m][:, None] - np.log(conditional)
        surprises = logsumexp(without, axis=0) - logsumexp(logs, axis=0)[:, None]
        surprises -= unseen * self.unseen_log_density
        return surprises - reader.log_derivatives(table.floats)


def born_members(reader, ensemble, U):
    """For every member its density, its order, and vectors and missing sites in that order."""
    # What is exact for the network would end at the vectors' single precision.
    with jax.enable_x64(True):
        phi = reader.embed(U)
    missing = np.isnan(U)
    return [
        (BornDensity(network), order, phi[:, order], missing[:, order])
        for network, order in zip(ensemble.networks, ensemble.orders, strict=True)
    ]


def log_densities(members):
    """Log-densities of `born_members` on the embedding's domain, (n_members, n_samples)."""
    return np.stack([density.log_density(*vectors) for density, _, *vectors in members])


@variant("state")
class NormScore:
    """Minus the loss of squared norms, of networks of any geometry."""

    unseen_log_density: float

    def of_rows(self, reader, ensemble, table):
        """Minus the losses, plus the log of the derivative where the loss is of densities."""
        U, unseen = reader.encode(table)
        logs = ensemble.evaluate(reader.vector_map, reader.blocks(U), Amplitude.log_abs)
        score = self._of_logs(reader, ensemble, logs, table)
        return score + unseen.sum(axis=1) * self.unseen_log_density

    def traced(self, reader, ensemble):
        """Traceable function of float64 rows that computes `of_rows`."""
        members = traced_members(reader, ensemble, Amplitude.log_abs)
        loss, x64 = ensemble.loss, jax.config.jax_enable_x64
        log_norms = _log_norms(ensemble) if loss.normalized else None

        def scores(X):
            value, exponent = _split(members(X))
            with jax.enable_x64(x64):
                dtype = jnp.result_type(float)
                amplitude = Amplitude(rounded(value.astype(dtype)), exponent.astype(np.int32))
                one = jnp.ones(value.shape[1], dtype)
                losses = rounded(jax.vmap(loss, (0, None))(amplitude, one))
            losses = losses.astype(np.float64)
            score = -mean_over_members(losses)
            if loss.normalized:
                losses = loss.with_log_norm(losses, log_norms)
                score = reader.log_derivatives(X).sum(axis=1) - mean_over_members(losses)
            unseen = reader.encode_numbers(X)[1]
            return score + unseen.sum(axis=1) * self.unseen_log_density

        return scores

    def tree(self, reader, ensemble):
        """Fields of a predictor's view that computes `of_rows`."""
        tree = view_tree(reader, ensemble, traces=True, loss=density_loss(ensemble.loss))
        return tree | {"unseen": self.unseen_log_density}

    def surprises(self, reader, ensemble, table):
        """A density's feature is integrated out, others are averaged over values in fitting."""
        U, unseen = reader.encode(table)
        phi, n_samples = reader.embed(U, served_length(len(U))), len(U)
        of_logs = partial(self._of_logs, reader, ensemble, table=table)

        def log_weights(phi):
            return ensemble.evaluate(None, [(phi, n_samples)], Amplitude.log_abs)

        score = of_logs(log_weights(phi))
        moments, derivatives = reader.second_moments, 0.0
        if ensemble.loss.normalized:
            moments = np.broadcast_to(np.eye(phi.shape[2]), moments.shape)
            derivatives = reader.log_derivatives(table.floats)
        out = np.zeros((n_samples, phi.shape[1]))
        for site, second in enumerate(moments):
            shares, axes = np.linalg.eigh(second)
            kept = shares > 1e-9 * shares[-1]
            axes = axes.T[kept].astype(phi.dtype)
            own, logs = phi[:, site].copy(), []
            for share, axis in zip(shares[kept], axes, strict=True):
                phi[:, site] = axis
                logs.append(log_weights(phi) + np.log(share))
            phi[:, site] = own
            out[:, site] = of_logs(logsumexp(logs, axis=0)) - score
        out = np.where(np.isnan(U), 0, out)
        return out - derivatives - unseen * self.unseen_log_density

    def _of_logs(self, reader, ensemble, log_weights, table):
        """Mean of all members' scores, from log w (n_members, n_samples)."""
        loss, n_samples = ensemble.loss, log_weights.shape[1]
        padding = [(0, 0), (0, served_length(n_samples) - n_samples)]
        log_weights = np.pad(log_weights, padding)
        value, exponent = _split(log_weights)
        amplitude = Amplitude(on_device(value), on_device(exponent, np.int32))
        one = on_device(np.ones(log_weights.shape[1]))
        losses = np.asarray(_losses(loss, amplitude, one), float)[:, :n_samples]
        if not loss.normalized:
            return -losses.mean(axis=0)
        losses = loss.with_log_norm(losses, _log_norms(ensemble))
        return reader.log_derivatives(table.floats).sum(axis=1) - losses.mean(axis=0)


def _split(log_weights):
    """Value and power of two of weights, from their logs."""
    xp = namespace(log_weights)
    exponent = xp.floor(log_weights / np.log(2))
    return xp.exp(log_weights - exponent * np.log(2)), exponent


def _log_norms(ensemble):
    """Logs of the networks' squared norms, (n_members, 1)."""
    return np.array([[log_norm_squared(*pack(network))] for network in ensemble.networks], float)


def _in_x64(function):
    with jax.enable_x64(True):
        return function()


def orthonormal(embedding):
    """The embedding itself if its Gram matrices are identities, otherwise one that spans the same.

    Raises ValueError for embeddings of several features per site, whose integrals are not known.
    """
    if isinstance(embedding, PerFeature):
        return PerFeature(tuple(map(orthonormal, embedding.embeddings)))
    if np.allclose(embedding.gram(), np.eye(embedding.phys_dim), rtol=0, atol=1e-12):
        return embedding
    return Orthonormal(embedding)


@bounded_cache(256)
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
        ends = self._phi_edges[cell], self._phi_edges[cell + 1]
        left, right = (np.einsum("bi,bij,bj->b", phi, rho, phi) for phi in ends)
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
