"""Densities by the Born rule."""

import jax
import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._checks import check_int
from .._registry import register
from ..contraction import BornDensity, as_tree
from ..losses import NegativeLogLikelihood
from ._columns import is_missing, read_table
from ._density import DensityEstimator
from ._sites import Site


@register("estimator")
class TNBornMachine(DensityMixin, DensityEstimator):
    """Density whose square root is a tensor network, with exact marginals, conditionals, samples.

    p(x) = psi(x)^2 / Z on the embedding's domain, carried over to raw columns by the scaler's
    derivative: it integrates to 1 over them. Categorical columns of a frame become one-hot sites.
    Missing values are traced out exactly, but for fitting, which raises a lower bound of the
    likelihood of incomplete rows. With several members p is the mean of their densities.
    Han et al. 2018, Phys. Rev. X 8, 031012; Cheng et al. 2019, Phys. Rev. B 99, 155131 for trees.

    Parameters
    ----------
    bond_dim : int
        Size of the bonds, at least 1.
    n_members : int
        Networks trained together, in the given and in random feature orders. With 1, `network_` is
        the model, a quimb network in an orthonormal basis.
    embedding : str or Embedding
        None takes Legendre polynomials of degree 8, or of degree 4 for more than 10 features and
        less than 500 samples; any other is made orthonormal. ``"one_hot"``,
        or ``OneHot(levels)``, makes a probability of codes 0, 1, ...
    network : str, spec or quimb TensorNetwork
        ``"mps"``, ``"ttn"``, their specs, or a network of these kinds without outputs.
    initializer, trainer : str or object
        See `tn4ml_plus.initializers` and `tn4ml_plus.training`.
    loss : NegativeLogLikelihood or Objective
        None takes the likelihood; penalties may be added to it.
    scaler : str or Scaler
        A bijection of the raw columns; None takes ``GaussianCDF()``, which has no edges.
    learning_rate, max_epochs, batch_size, feature_dropout, decay : number
        Override the trainer's own values where not None. An explicit max_epochs is taken exactly.
    early_stopping : bool
        Set a tenth of the samples aside and keep the weights that did best on it.
    warm_start, callbacks, random_state, verbose
        As in `TNClassifier`.

    Attributes
    ----------
    n_features_in_, feature_names_in_, n_iter_
        As in scikit-learn.
    networks_, network_, embedding_, history_
        As in `TNClassifier`; the loss is the mean of -log p in nats, on the embedding's domain.
    unseen_log_density_
        Log-probability that stands for a category never seen in fitting.

    Raises
    ------
    ValueError
        For input or options that do not fit, before training.
    NotFiniteError
        When the loss stops being finite; the last finite weights are kept.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> machine = TNBornMachine(random_state=0).fit(X)
    >>> machine.sample(3, random_state=0).shape
    (3, 4)
    """

    def fit(self, X, y=None, sample_weight=None):
        """Train on X (n_samples, n_features); y is ignored; returns self."""
        return self._fit_density(X, None, sample_weight)

    def partial_fit(self, X, y=None, sample_weight=None):
        """One epoch on more samples; the first call also fits the scaling; returns self."""
        return self._fit_density(X, None, sample_weight, partial_fit=True)

    def _resolve_objective(self):
        objective = super()._resolve_objective()
        if not isinstance(objective.loss, NegativeLogLikelihood):
            raise ValueError(
                f"Only the likelihood trains a density, got {objective.loss!r}: leave loss=None, "
                "or add penalties to NegativeLogLikelihood()."
            )
        return objective

    def _start(self, *arguments):
        super()._start(*arguments)
        try:
            for network in self.networks_:
                as_tree(network)
        except ValueError:
            del self.networks_
            raise

    def score_samples(self, X):
        """Log-densities in nats of the rows of X, (n_samples,), missing values traced out."""
        return self._score(self._read(X))

    def score(self, X, y=None):
        """Mean log-density of the rows of X, in nats."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples=1, *, given=None, random_state=None):
        """Exact samples, (n_samples, n_features) floats, or objects where there are categories.

        given: one row or several, with NaN (None for categories) where to draw; what they hold is
        kept, and the rest is drawn given that, n_samples times for each row.
        """
        check_is_fitted(self, "networks_")
        check_int("n_samples", n_samples, at_least=1)
        if given is None:
            table = self._nothing(n_samples)
        else:
            floats, raw = self._read(given if np.ndim(given) == 2 else np.atleast_2d(given))
            repeated = [None if values is None else np.repeat(values, n_samples) for values in raw]
            table = np.repeat(floats, n_samples, axis=0), repeated
        return self._complete(table, check_random_state(random_state))

    def impute(self, X):
        """X with missing numbers replaced by their conditional means, categories by their modes.

        Everything that a row holds is conditioned on. Returns (n_samples, n_features) floats, or
        objects where there are categories.
        """
        table = self._read(X)
        U = self._transform(table)
        missing, filled = np.isnan(U), U.copy()
        chosen = np.flatnonzero(missing.any(axis=1))
        masses, members = {}, self._members(U[chosen])
        weights = softmax(_log_densities(members), axis=0)
        for weight, (density, order, *vectors) in zip(weights, members, strict=True):
            rho = density.conditionals(*vectors)
            for site, j in enumerate(order):
                here = missing[chosen, j]
                if here.any():
                    d = density.phys_dims[site]
                    part = self._site(j).masses(rho[here, site, :d, :d]) * weight[here, None]
                    masses[j] = masses.get(j, 0) + part
        for j, mass in masses.items():
            site = self._site(j)
            if site.embedding.discrete:
                filled[missing[:, j], j] = site.values[np.argmax(mass, axis=1)]
        out = self._encoder.inverse(filled)
        for j, mass in masses.items():
            site = self._site(j)
            if not site.embedding.discrete:
                raw = self._encoder.inverse(np.tile(site.values[:, None], U.shape[1]))[:, j]
                out[missing[:, j], j] = mass @ raw.astype(float) / mass.sum(axis=1)
        return self._keep_given(out, table)

    def explain(self, X):
        """Log-density of each column given all others, (n_samples, n_features), in nats.

        The log-density falls by this much where the column is traced out; 0 where it is missing.
        """
        return -self._surprises(self._read(X))

    def marginal(self, features):
        """Density of some of the features, given by number or name, all others traced out.

        Returns a `Marginal` with `score_samples` and `sample`.
        """
        check_is_fitted(self, "networks_")
        return Marginal(self, self._numbers(features))

    # Tables and sites ---------------------------------------------------------------------------

    def _read(self, X):
        check_is_fitted(self, "networks_")
        return read_table(self, X, reset=False)

    def _numbers(self, features):
        names = list(getattr(self, "feature_names_in_", ()))
        features = [features] if np.ndim(features) == 0 else list(features)
        numbers = [names.index(f) if f in names else f for f in features]
        valid = [isinstance(f, int | np.integer) and 0 <= f < self.n_features_in_ for f in numbers]
        if not (numbers and all(valid) and len(set(numbers)) == len(numbers)):
            raise ValueError(
                f"features must be different columns, as numbers below {self.n_features_in_} or "
                f"names seen in fit, got {features!r}."
            )
        return [int(f) for f in numbers]

    def _nothing(self, n_rows):
        """Table of which nothing is known."""
        empty = [
            None if level is None else np.full(n_rows, None, object)
            for level in self._encoder.levels
        ]
        return np.full((n_rows, self.n_features_in_), np.nan), empty

    def _site(self, feature):
        return Site(self._site_embeddings(self.n_features_in_)[feature])

    def _members(self, U):
        """For every member its density, its order, and vectors and missing sites in that order."""
        # What is exact for the network would end at the vectors' single precision.
        with jax.enable_x64(True):
            phi = np.asarray(self._embed(U))[: len(U)]
        missing = np.isnan(U)
        return [
            (BornDensity(network), order, phi[:, order], missing[:, order])
            for network, order in zip(self.networks_, self.orders_, strict=True)
        ]

    def _score(self, table):
        U, unseen = self._encode(table)
        members = self._members(U)
        log = logsumexp(_log_densities(members), axis=0) - np.log(len(members))
        log += unseen.sum(axis=1) * self.unseen_log_density_
        return log + self._encoder.log_derivatives(table[0]).sum(axis=1)

    def _surprises(self, table):
        """Log-density without a feature minus that with it, (n_samples, n_features)."""
        U, unseen = self._encode(table)
        without, logs = np.full((len(self.networks_), *U.shape), -np.inf), []
        for m, (density, order, phi, missing) in enumerate(self._members(U)):
            logs.append(density.log_density(phi, missing))
            rho = density.conditionals(phi, missing)
            conditional = np.einsum("bis,bist,bit->bi", phi, rho, phi, optimize=True)
            conditional = np.where(missing, 1, np.maximum(conditional, np.finfo(float).tiny))
            without[m][:, order] = logs[m][:, None] - np.log(conditional)
        surprises = logsumexp(without, axis=0) - logsumexp(logs, axis=0)[:, None]
        surprises -= unseen * self.unseen_log_density_
        return surprises - self._encoder.log_derivatives(table[0])

    def _complete(self, table, rng):
        """Raw rows with everything missing drawn given the rest."""
        U = self._transform(table)
        members = self._members(U)
        log = _log_densities(members)
        # Which member a row is drawn from, by its share in the density of what is given.
        member = np.argmax(log + rng.gumbel(size=log.shape), axis=0)
        out = U.copy()
        for m, (density, order, phi, missing) in enumerate(members):
            mine = np.flatnonzero(member == m)

            def draw(site, numbers, rho, mine=mine, order=order):
                feature = self._site(order[site])
                values = feature.draw(rho, rng)
                out[mine[numbers], order[site]] = values
                return feature.embed(values)

            density.sample(phi[mine], missing[mine], draw)
        return self._keep_given(self._encoder.inverse(out), table)

    def _keep_given(self, out, table):
        """`out` with what the table holds put back as it was."""
        floats, raw = table
        for j, values in enumerate(raw):
            if values is None:
                known = ~np.isnan(floats[:, j])
                out[known, j] = floats[known, j]
            else:
                known = np.array([not is_missing(value) for value in values], bool)
                out[known, j] = values[known]
        return out


def _log_densities(members):
    """Of every member, on the embedding's domain, (n_members, n_samples)."""
    return np.stack([density.log_density(*vectors) for density, _, *vectors in members])


class Marginal:
    """Density of some features of a `TNBornMachine`, made by its `marginal`.

    features: numbers of the columns, in the order that this density takes and gives them.
    """

    def __init__(self, machine, features):
        self.machine = machine
        self.features = tuple(features)

    def score_samples(self, X):
        """Log-densities in nats of the rows of X (n_samples, len(features)), (n_samples,)."""
        X = np.asarray(X, object)
        if X.ndim != 2 or X.shape[1] != len(self.features):
            raise ValueError(
                f"X must have the shape (n_samples, {len(self.features)}), got {X.shape}."
            )
        floats, raw = self.machine._nothing(len(X))
        for j, column in zip(self.features, X.T, strict=True):
            if raw[j] is None:
                floats[:, j] = column.astype(float)
            else:
                raw[j] = column
        return self.machine._score((floats, raw))

    def sample(self, n_samples=1, *, random_state=None):
        """Exact samples, (n_samples, len(features))."""
        return self.machine.sample(n_samples, random_state=random_state)[:, list(self.features)]
