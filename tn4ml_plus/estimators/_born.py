"""Densities by the Born rule."""

import jax
import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._checks import check_int
from .._registry import register
from ..contraction import BornDensity, SquaredNorm, as_tree
from ..embeddings import Legendre
from ..losses import NegativeLogLikelihood
from ..training import Gradient
from ._base import TensorNetworkEstimator
from ._columns import is_missing, read_table, rows
from ._scalers import Bijection
from ._sites import Site, orthonormal
from ._tables import present_weight, read_weight


class DensityEstimator(TensorNetworkEstimator):
    """Base of the estimators that learn where samples lie, from squared norms of outputs."""

    _task = "density"
    _default_loss = NegativeLogLikelihood()
    _default_trainer = Gradient(learning_rate=1e-2, decay=1.0, clip_norm=10.0, max_steps=1000)
    _default_scaler = "gaussian_cdf"
    _output_std = 1.0
    #: What scalers must be, and which are.
    _scalers = Bijection, "GaussianCDF(), LogisticCDF() or MinMax()"

    def __init__(
        self,
        bond_dim=12,
        *,
        n_members=1,
        embedding=None,
        network="mps",
        initializer="least_squares_identity",
        loss=None,
        trainer="gradient",
        scaler=None,
        learning_rate=None,
        max_epochs=None,
        batch_size=None,
        feature_dropout=None,
        decay=None,
        early_stopping=False,
        warm_start=False,
        callbacks=None,
        random_state=None,
        verbose=False,
    ):
        self.bond_dim = bond_dim
        self.n_members = n_members
        self.embedding = embedding
        self.network = network
        self.initializer = initializer
        self.loss = loss
        self.trainer = trainer
        self.scaler = scaler
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.feature_dropout = feature_dropout
        self.decay = decay
        self.early_stopping = early_stopping
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def _default_embedding(self, n_samples, n_features):
        many = n_samples >= 500 or n_features <= 10
        return Legendre(8 if many else 4, orthonormal=True)

    def _resolve(self, n_samples, n_features):
        embedding, scaler, *others = super()._resolve(n_samples, n_features)
        kind, names = self._scalers
        if not isinstance(scaler, kind):
            raise ValueError(
                f"{type(self).__name__} cannot carry densities over to raw columns with "
                f"{type(scaler).__name__}: take {names}."
            )
        # Single columns are drawn, and left out, at sites of their own.
        if kind is Bijection and not (embedding.columnwise and embedding.site_features == 1):
            raise ValueError(
                f"{type(self).__name__} takes embeddings of single features, with a domain to "
                f"integrate over; {embedding!r} is none: leave embedding=None."
            )
        return orthonormal(embedding), scaler, *others

    def _structure(self, structure):
        return SquaredNorm(structure)

    def _divisors_of(self, weights):
        # Divided vectors would no longer be an orthonormal basis.
        return None

    def _neutral_of(self, phi, missing, weight):
        """First principal axis of each site's vectors.

        The squared value on a unit vector is at most the marginal density, so that training on
        rows with missing values raises a lower bound of their likelihood.
        """
        present = present_weight(phi, missing, weight)
        weighted = (phi * (present / present.sum(axis=0))[..., None]).transpose(1, 2, 0)
        self.second_moments_ = weighted @ phi.transpose(1, 0, 2)
        return np.linalg.eigh(self.second_moments_)[1][..., -1]

    def _transform(self, table):
        U = super()._transform(table)
        U[self._unseen(U)] = np.nan
        return U

    def _unseen(self, U):
        """Which entries are none of the values of their discrete site."""
        embeddings = self._site_embeddings(U.shape[1])
        discrete = np.array([embedding.discrete for embedding in embeddings])
        low, high = np.array(self.embedding_.domains(U.shape[1])).T
        return discrete & ((low > U) | (high < U) | (U % 1 > 0))

    def _site_embeddings(self, n_features):
        return getattr(self.embedding_, "embeddings", (self.embedding_,) * n_features)

    def _fit_density(self, X, target, sample_weight, partial_fit=False):
        going_on = (partial_fit or self.warm_start) and hasattr(self, "networks_")
        table = read_table(self, X, reset=not going_on)
        weight = read_weight(sample_weight, table[0])
        kept = weight > 0
        target = np.ones(len(kept)) if target is None else target
        if not going_on:
            self.unseen_log_density_ = -float(np.log1p(weight.sum()))
        return self._fit(rows(table, kept), target[kept], weight[kept], None, None, partial_fit)


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
        A bijection of the raw columns; None takes ``GaussianCDF()``, which has no edges, and
        ``CommonMinMax()`` for embeddings of whole images.
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

        given: one row, or n_samples rows, with NaN (None for categories) where to draw; what it
        holds is kept, and the rest is drawn given that. n_samples counts the draws of each row.
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
        masses = {}
        weights = softmax(self._log_densities(U[chosen]), axis=0)
        for weight, density, order in zip(weights, self._densities(), self.orders_, strict=True):
            rho = density.conditionals(*self._vectors(U[chosen], order))
            for site, j in enumerate(order):
                here = missing[chosen, j]
                if here.any():
                    d = density.phys_dims[site]
                    part = self._site(j).masses(rho[here, site, :d, :d]) * weight[here, None]
                    masses[j] = masses.get(j, 0) + part
        out = None
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

    def _densities(self):
        return [BornDensity(network) for network in self.networks_]

    def _vectors(self, U, order):
        # What is exact for the network would end at the vectors' single precision.
        with jax.enable_x64(True):
            phi = np.asarray(self._embed(U))[: len(U)]
        return phi[:, order], np.isnan(U)[:, order]

    def _log_densities(self, U):
        """Of every member, on the embedding's domain, (n_members, n_samples)."""
        pairs = zip(self._densities(), self.orders_, strict=True)
        return np.stack([d.log_density(*self._vectors(U, order)) for d, order in pairs])

    def _score(self, table):
        U = self._encoder.transform(*table, getattr(self, "feature_names_in_", None))
        unseen = self._unseen(U)
        U[unseen] = np.nan
        log = logsumexp(self._log_densities(U), axis=0) - np.log(len(self.networks_))
        log += unseen.sum(axis=1) * self.unseen_log_density_
        return log + self._encoder.log_derivatives(table[0]).sum(axis=1)

    def _complete(self, table, rng):
        """Raw rows with everything missing drawn given the rest."""
        U = self._transform(table)
        log = self._log_densities(U)
        # Which member a row is drawn from, by its share in the density of what is given.
        member = np.argmax(log + rng.gumbel(size=log.shape), axis=0)
        out = U.copy()
        for m, (density, order) in enumerate(zip(self._densities(), self.orders_, strict=True)):
            mine = np.flatnonzero(member == m)
            if len(mine) == 0:
                continue

            def draw(site, numbers, rho, mine=mine, order=order):
                feature = self._site(order[site])
                values = feature.draw(rho, rng)
                out[mine[numbers], order[site]] = values
                return feature.embed(values)

            density.sample(*self._vectors(U[mine], order), draw)
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
