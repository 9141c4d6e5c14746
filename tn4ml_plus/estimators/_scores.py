"""Log-densities of rows, and what each column adds to them, from a reader and an ensemble."""

import abc
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from .._amplitude import Amplitude
from .._registry import register
from ..contraction import BornDensity, log_norm_squared, pack


@dataclasses.dataclass(frozen=True)
class Score(abc.ABC):
    """Normality of rows; unseen_log_density stands for a category never seen in fitting."""

    unseen_log_density: float

    @abc.abstractmethod
    def of_rows(self, reader, ensemble, table) -> np.ndarray:
        """Scores of the rows of a table, (n_samples,)."""

    @abc.abstractmethod
    def surprises(self, reader, ensemble, table) -> np.ndarray:
        """Score without a feature minus that with it, (n_samples, n_features)."""


@register("state")
class BornScore(Score):
    """Log-density by the Born rule, missing values traced out."""

    def of_rows(self, reader, ensemble, table):
        """Log-densities in nats."""
        U, unseen = reader.encode(table)
        members = born_members(reader, ensemble, U)
        log = logsumexp(log_densities(members), axis=0) - np.log(len(members))
        log += unseen.sum(axis=1) * self.unseen_log_density
        return log + reader.log_derivatives(table.floats).sum(axis=1)

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
        phi = reader.vectors(U)
    missing = np.isnan(U)
    return [
        (BornDensity(network), order, phi[:, order], missing[:, order])
        for network, order in zip(ensemble.networks, ensemble.orders, strict=True)
    ]


def log_densities(members):
    """Log-densities of `born_members` on the embedding's domain, (n_members, n_samples)."""
    return np.stack([density.log_density(*vectors) for density, _, *vectors in members])


@register("state")
class NormScore(Score):
    """Minus the loss of squared norms, of networks of any geometry."""

    def of_rows(self, reader, ensemble, table):
        """Minus the losses, plus the log of the derivative where the loss is of densities."""
        U, unseen = reader.encode(table)
        logs = _log_weights(ensemble, reader.blocks(U))
        score = self._of_logs(reader, ensemble, logs, table)
        return score + unseen.sum(axis=1) * self.unseen_log_density

    def surprises(self, reader, ensemble, table):
        """A density's feature is integrated out, others are averaged over values in fitting."""
        U, unseen = reader.encode(table)
        phi, n_samples = reader.embed(U), len(U)
        of_logs = partial(self._of_logs, reader, ensemble, table=table)
        score = of_logs(_log_weights(ensemble, [(phi, n_samples)]))
        moments, derivatives = reader.second_moments, 0.0
        if ensemble.loss.normalized:
            moments = np.broadcast_to(np.eye(phi.shape[2]), moments.shape)
            derivatives = reader.log_derivatives(table.floats)
        out = np.zeros((n_samples, phi.shape[1]))
        for site, second in enumerate(moments):
            shares, axes = np.linalg.eigh(second)
            kept = shares > 1e-9 * shares[-1]
            axes = axes.T[kept].astype(phi.dtype)
            logs = [
                _log_weights(ensemble, [(phi.at[:, site].set(axis), n_samples)]) + np.log(share)
                for share, axis in zip(shares[kept], axes, strict=True)
            ]
            out[:, site] = of_logs(logsumexp(logs, axis=0)) - score
        out = np.where(np.isnan(U), 0, out)
        return out - derivatives - unseen * self.unseen_log_density

    def _of_logs(self, reader, ensemble, log_weights, table):
        """Mean of all members' scores, from log w (n_members, n_samples)."""
        loss = ensemble.loss
        exponent = np.floor(log_weights / np.log(2))
        value = np.exp(log_weights - exponent * np.log(2))
        amplitude = Amplitude(jnp.asarray(value), jnp.asarray(exponent, jnp.int32))
        one = jnp.ones(log_weights.shape[1])
        losses = np.stack(
            [loss(Amplitude(*member), one) for member in zip(*amplitude, strict=True)]
        ).astype(float)
        if not loss.normalized:
            return -losses.mean(axis=0)
        log_norms = np.array([_log_norm(*pack(network)) for network in ensemble.networks])
        losses = loss.with_log_norm(losses, log_norms[:, None])
        return reader.log_derivatives(table.floats).sum(axis=1) - losses.mean(axis=0)


def _log_weights(ensemble, blocks):
    return ensemble.evaluate(blocks, Amplitude.log_abs)


@partial(jax.jit, static_argnums=1)
def _log_norm(packed, structure):
    return log_norm_squared(packed, structure)
