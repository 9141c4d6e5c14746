"""Members of a committee that detects anomalies: densities that say what each feature adds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn
from scipy.special import logsumexp
from sklearn.utils.validation import check_is_fitted

from .._registry import register
from .._typing import Amplitude
from ..contraction import log_norm_squared, pack
from ..embeddings import Legendre
from ._born import TNBornMachine
from ._columns import read_table
from ._density import DensityEstimator
from ._principal import PrincipalComponents
from ._scalers import Differentiable


class _View:
    """What a member of the committee offers: scores, and scores without a feature."""

    _scalers = Differentiable, "GaussianCDF(), LogisticCDF(), Rotated() or ProbabilisticPCA()"

    def _default_embedding(self, n_samples, n_features):
        del n_samples, n_features
        # A given network fits one embedding only.
        given = isinstance(self.network, qtn.TensorNetwork)
        fine = isinstance(self.scaler, PrincipalComponents) and not given
        return Legendre(6 if fine else 4, orthonormal=True)


@register("estimator")
class BornView(_View, TNBornMachine):
    """A Born machine whose columns may be mixed."""

    def fit(self, X, y=None, sample_weight=None):
        """As `TNBornMachine.fit`."""
        del y
        return super().fit(X, sample_weight=sample_weight)


@register("estimator")
class NormView(_View, DensityEstimator):
    """A network of any geometry, scored by minus its loss."""

    def _resolve(self, n_samples, n_features):
        resolved = _, scaler, *others = super()._resolve(n_samples, n_features)
        if not others[2].loss.normalized and scaler.n_outputs(n_features) < n_features:
            raise ValueError(
                f"{type(others[2].loss).__name__} would not see what {type(scaler).__name__} "
                "leaves out: train a likelihood, or put scikit-learn's PCA before the detector."
            )
        return resolved

    def _basis(self, embedding, loss):
        # Only a density needs an orthonormal basis; the norms of a given one weigh components.
        return super()._basis(embedding, loss) if loss.normalized else embedding

    def fit(self, X, y=None, sample_weight=None):
        """Train on X; y: 1 for inliers, -1 for outliers, read by semi-supervised losses."""
        return self._fit_density(X, y, sample_weight)

    def score_samples(self, X):
        """Minus the losses of the rows of X, (n_samples,)."""
        check_is_fitted(self, "networks_")
        return self._score(read_table(self, X, reset=False))

    def _score(self, table):
        U, unseen = self._encode(table)
        score = self._score_logs(self._log_weights(self._embed(U), len(U)), table)
        return score + unseen.sum(axis=1) * self.unseen_log_density_

    def _log_weights(self, phi, n_samples):
        return np.stack(self._evaluate(phi, n_samples, _log_weight))

    def _score_logs(self, log_weights, table):
        """Mean of all members' scores, from log w (n_members, n_samples)."""
        exponent = np.floor(log_weights / np.log(2))
        value = np.exp(log_weights - exponent * np.log(2))
        amplitude = Amplitude(jnp.asarray(value), jnp.asarray(exponent, jnp.int32))
        one = jnp.ones(log_weights.shape[1])
        losses = np.stack(
            [self._loss(Amplitude(*member), one) for member in zip(*amplitude, strict=True)]
        ).astype(float)
        if not self._loss.normalized:
            return -losses.mean(axis=0)
        losses += np.array([_log_norm(*pack(network)) for network in self.networks_])[:, None]
        return self._encoder.log_derivatives(table[0]).sum(axis=1) - losses.mean(axis=0)

    def _surprises(self, table):
        """Score without a feature minus that with it, (n_samples, n_features).

        From a density the feature is integrated out, else averaged over its values in fitting.
        """
        U, unseen = self._encode(table)
        phi = self._embed(U)
        score = self._score_logs(self._log_weights(phi, len(U)), table)
        moments, derivatives = self.second_moments_, 0.0
        if self._loss.normalized:
            moments = np.broadcast_to(np.eye(phi.shape[2]), moments.shape)
            derivatives = self._encoder.log_derivatives(table[0])
        out = np.zeros((len(U), phi.shape[1]))
        for site, second in enumerate(moments):
            shares, axes = np.linalg.eigh(second)
            kept = shares > 1e-9 * shares[-1]
            logs = [
                self._log_weights(phi.at[:, site].set(axis), len(U)) + np.log(share)
                for share, axis in zip(shares[kept], axes.T[kept], strict=True)
            ]
            out[:, site] = self._score_logs(logsumexp(logs, axis=0), table) - score
        out = np.where(np.isnan(U), 0, out)
        return out - derivatives - unseen * self.unseen_log_density_


def _log_weight(amplitude):
    return amplitude.log_abs()


@partial(jax.jit, static_argnums=1)
def _log_norm(packed, structure):
    return log_norm_squared(packed, structure)
