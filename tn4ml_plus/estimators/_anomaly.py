"""Anomaly detection."""

import copy
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import quimb.tensor as qtn
from sklearn.base import OutlierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_consistent_length

from .._arrays import evenly_spaced
from .._checks import check_number
from .._registry import register, resolve
from ..contraction import pack
from ..embeddings import Legendre
from ..losses import NegativeLogLikelihood
from ..networks import from_quimb
from ..tables import Differentiable, GaussianCDF, LogisticCDF, Rotated, read_table, read_weight
from ._base import TakesTables, refitting
from ._fitting import extended, fits, reads
from ._options import NetworkOptions
from ._recipes import DENSITY, Data, filled, of_density, train
from ._scores import BornScore, NormScore
from ._views import View

# What a column that was constant in fitting costs where it is not, in nats.
_CONSTANT_CHANGED = 10.0
_BASELINE_ROWS = 1000
# With at least this many nothing is dropped in training.
_ROWS_PER_FEATURE = 10
_COMMITTEE = (GaussianCDF(), LogisticCDF(), Rotated(GaussianCDF()))
_SCALERS = Differentiable, "GaussianCDF(), LogisticCDF(), Rotated() or ProbabilisticPCA()"


def _has_marginals(network):
    """Whether networks of this kind have exact marginals."""
    if isinstance(network, qtn.TensorNetwork):
        return pack(from_quimb(network))[1].has_exact_marginals
    return resolve("network", network).has_exact_marginals


class _Committee(NamedTuple):
    """Views, and the value of each column that was constant in fitting, NaN for the others."""

    views: list
    constants: np.ndarray

    @property
    def explaining(self):
        """The views of columns; those of components have no sites that are features."""
        return [view for view in self.views if view.explains_columns]

    def score(self, table):
        """Mean of the views' scores, (n_samples,)."""
        table, changed = self._held(table)
        score = np.mean([view.of_table(table) for view in self.views], axis=0)
        return score - _CONSTANT_CHANGED * changed.sum(axis=1)

    def surprises(self, table):
        """Mean of the scores without each feature, minus those with it, (n_samples, n_features)."""
        table, changed = self._held(table)
        surprises = np.mean([view.surprises(table) for view in self.explaining], axis=0)
        return surprises + _CONSTANT_CHANGED * changed

    def _held(self, table):
        """The table with constant columns put back to what they were, and which entries were not.

        Their deviations have no scale that a density could judge them by.
        """
        slack = 1e-9 * np.maximum(1, np.abs(self.constants))
        changed = np.abs(table.floats - self.constants) > slack
        floats = np.where(changed, self.constants, table.floats)
        return dataclasses.replace(table, floats=floats), changed


@register("estimator")
@dataclasses.dataclass(eq=False, repr=False)
class TNAnomalyDetector(OutlierMixin, TakesTables, NetworkOptions):
    """Anomaly detector: samples that tensor networks trained on normal ones find improbable.

    By default a committee of Born machines, which see the columns through a normal and a logistic
    distribution function and, rotated to principal components, through a normal one again; the
    score is the mean of their log-densities. With ``network="smpo"`` and
    ``loss=LogQuadratic() + 0.3 * ReluLogNorm()`` it is the detector of Wang et al.,
    arXiv:2006.02516. See `TNBornMachine` for the parameters, attributes and errors that are not
    described here; raw tables work as there.

    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> detector = TNAnomalyDetector(random_state=0).fit(X[:50])
    >>> detector.predict(X[50:53]).tolist()
    [-1, -1, -1]

    Parameters
    ----------
    bond_dim : int or None
        Size of the bonds, at least 1; None takes 6, and 8 for principal components.
    embedding : str or Embedding
        Of single features. None takes Legendre polynomials of degree 4, and 6 for components;
        any other is made orthonormal where a likelihood is trained.
    network : str, spec or quimb TensorNetwork
        ``"mps"``, ``"ttn"``, ``"smpo"``, ..., a spec, or a network. All except open MPS and TTN are
        scored by minus their loss.
    loss : str, Loss or Objective of densities; None takes the negative log-likelihood
    scaler : str, Scaler or tuple of them
        One per member of the committee; None takes ``(GaussianCDF(), LogisticCDF(), Rotated())``,
        and for codes of categories one that suits the embedding.
    contamination : "auto" or float
        Share of the training samples below the threshold, in (0, 0.5]. ``"auto"`` takes Tukey's
        fence: 1.5 interquartile ranges below the first quartile of their scores.
    feature_dropout : float or None
        Share of the features that each sample loses in a step of training, in [0, 1), 0 for none.
        None takes n_features / (3 n_samples), at most 0.2, with less than ten rows per feature, and
        none with more; a trainer that is an object keeps its own.

    Attributes
    ----------
    offset_ : float
        The threshold: `decision_function` is `score_samples` minus it.
    views_ : list
        The fitted members of the committee: `explains_columns`, `networks_`, `orders_`,
        `embedding_`, `history_`, and `score_samples`, `embed`, `grams`, `site_names` of each.
    baseline_ : ndarray of shape (n_features,)
        Mean share of each feature in the anomaly score of training samples.
    """

    bond_dim: int | None = None
    _: dataclasses.KW_ONLY
    n_members: int = 1
    contamination: Any = "auto"

    def __sklearn_is_fitted__(self):
        return "views_" in vars(self)

    @fits
    def fit(self, X, y=None, sample_weight=None):
        """Train on mostly normal samples; returns self. See `TNClassifier.fit` for the parameters.

        Semi-supervised losses read y: 1 for inliers, -1 for outliers.
        """
        if self.contamination != "auto":
            check_number("contamination", self.contamination, above=0)
            if self.contamination > 0.5:
                raise ValueError(
                    f'contamination must be "auto" or in (0, 0.5], got {self.contamination!r}.'
                )
        data = self._data(read_table(self, X, reset=True), y, sample_weight)
        rng = check_random_state(self.random_state)
        scalers = self._view_scalers()
        seeds = [rng.randint(2**31 - 1) for _ in scalers]
        kept = data.rows(data.weight > 0)
        unseen = -float(np.log1p(data.weight.sum()))
        views = [
            self._trained(scaler, kept, seed, unseen)
            for scaler, seed in zip(scalers, seeds, strict=True)
        ]
        self._keep(views, kept.table)

    @reads
    def score_samples(self, X) -> np.ndarray:
        """Normality of the rows of X, (n_samples,): their log-density in nats by default."""
        return self._committee.score(self._read(X))

    @reads
    def decision_function(self, X):
        """`score_samples` minus the threshold, (n_samples,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    @reads
    def predict(self, X) -> np.ndarray:
        """1 for inliers, -1 for outliers, (n_samples,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    @reads
    def explain(self, X) -> np.ndarray:
        """Share of each feature in the anomaly score of each row, (n_samples, n_features).

        The score falls by this much, in nats by default, when the feature is marginalised: minus
        the log-density of its value given all others. Given relative to the mean over training
        samples, `baseline_`, so that features in other units compare. Members of the committee with
        rotated columns or subspaces are left out; ValueError where all are of that kind.
        """
        table = self._read(X)
        if not self._committee.explaining:
            raise ValueError("Components are not features: add a scaler that keeps columns apart.")
        return self._committee.surprises(table) - self.baseline_

    @reads
    def compress(self, max_bond=None, cutoff=1e-6, *, X=None, y=None, sample_weight=None):
        """A new detector with smaller bonds; see `TNClassifier.compress` for the parameters.

        With X networks are refitted and the threshold is found anew; without, it stays.
        """
        smaller, data = copy.copy(self), None
        if X is not None:
            data = self._data(self._read(X), y, sample_weight)
            data = data.rows(data.weight > 0)
        elif not (y is None and sample_weight is None):
            raise ValueError("y and sample_weight are those of samples: give X, too.")
        views = [self._compressed(view, max_bond, cutoff, X, data) for view in self.views_]
        if data is None:
            smaller.views_ = views
        else:
            smaller._keep(views, data.table)
        return smaller

    def _data(self, table, y, sample_weight):
        """Rows with targets and weights, also those of no weight."""
        y = self._labels(y, table)
        weight = read_weight(sample_weight, len(table))
        return Data(table, np.ones(len(table)) if y is None else y, weight)

    def _labels(self, y, table):
        if self.loss is None or not self._resolved_loss().supervised:
            return None
        if y is None:
            raise ValueError(
                f"{type(self._resolved_loss()).__name__} learns from labels: give y, 1 for inliers "
                "and -1 for outliers, or choose another loss."
            )
        y = column_or_1d(y)
        check_consistent_length(table.floats, y)
        if not np.isin(y, (-1, 1)).all():
            raise ValueError("y must be 1 for inliers and -1 for outliers.")
        return y.astype(float)

    def _resolved_loss(self):
        return resolve("loss", self.loss).loss

    def _keep(self, views, table):
        """Take views over, with the threshold and what features add in the mean, from a table."""
        low, high = np.fmin.reduce(table.floats), np.fmax.reduce(table.floats)
        committee = _Committee(views, np.where(low == high, low, np.nan))
        scores = committee.score(table)
        if self.contamination == "auto":
            low, high = np.percentile(scores, (25, 75))
            offset = float(low - 1.5 * (high - low))
        else:
            offset = float(np.percentile(scores, 100 * self.contamination))
        baseline = np.zeros(table.shape[1])
        if committee.explaining:
            few = table.rows(evenly_spaced(len(table), _BASELINE_ROWS))
            baseline = committee.surprises(few).mean(axis=0)
        self.views_, self.constants_ = views, committee.constants
        self.offset_, self.baseline_ = offset, baseline

    @property
    def _committee(self):
        return _Committee(self.views_, self.constants_)

    def _view_scalers(self):
        if isinstance(self.scaler, tuple | list):
            if not self.scaler:
                raise ValueError("scaler must be one or more scalers, got none.")
            return [resolve("scaler", scaler) for scaler in self.scaler]
        if self.scaler is not None:
            return [resolve("scaler", self.scaler)]
        embedding = resolve("embedding", self.embedding or Legendre(4))
        parts = getattr(embedding, "embeddings", (embedding,))
        if np.isfinite(embedding.domain).all() and not all(part.discrete for part in parts):
            return list(_COMMITTEE)
        return [None]

    def _is_born(self):
        """Whether views are Born machines, of likelihoods with exact marginals."""
        likelihood = self.loss is None or isinstance(self._resolved_loss(), NegativeLogLikelihood)
        return _has_marginals(self.network) and likelihood

    def _recipe(self, scaler, shape):
        """The recipe of the view with this scaler."""
        options, (n_samples, n_features) = copy.copy(self), shape
        mixes = scaler is not None and scaler.mixes_columns
        options.scaler = scaler
        if self.bond_dim is None:
            options.bond_dim = 8 if mixes else 6
        if self.feature_dropout is None and self.trainer == "gradient":
            n_features = n_features if scaler is None else scaler.n_outputs(n_features)
            few = n_samples < _ROWS_PER_FEATURE * n_features
            options.feature_dropout = min(0.2, n_features / (3 * n_samples)) if few else 0.0
        if self.embedding is None:
            # A given network fits one embedding only.
            degree = 6 if mixes and not isinstance(self.network, qtn.TensorNetwork) else 4
            options.embedding = Legendre(degree, orthonormal=True)
        owner = type(self).__name__
        recipe = filled(DENSITY, options, shape, owner)
        recipe = of_density(recipe, owner, _SCALERS, self._is_born())
        loss, scaler = recipe.objective.loss, recipe.columns[1]
        if not loss.normalized and scaler.n_outputs(shape[1]) < shape[1]:
            raise ValueError(
                f"{type(loss).__name__} would not see what {type(scaler).__name__} leaves out: "
                "train a likelihood, or put scikit-learn's PCA before the detector."
            )
        return recipe

    def _trained(self, scaler, data, seed, unseen):
        """The view with this scaler."""
        recipe, rng = self._recipe(scaler, data.table.shape), check_random_state(seed)
        reader, ensemble, history, n_iter = train(recipe, data, rng)
        score = (BornScore if self._is_born() else NormScore)(unseen)
        return View(reader, ensemble, score, history, n_iter, seed)

    def _compressed(self, view, max_bond, cutoff, X, data):
        """A view with smaller bonds, refitted to the data if there are any."""
        ensemble = view._compressed(max_bond, cutoff, X)
        if data is None:
            return dataclasses.replace(view, _ensemble=ensemble)
        recipe = self._recipe(view._reader.scaler, data.table.shape)
        recipe = dataclasses.replace(recipe, trainer=refitting(ensemble, cutoff))
        rng = check_random_state(view.random_state)
        before = view._reader, ensemble
        _, ensemble, history, n_iter = train(recipe, data, rng, before=before)
        history, n_iter = extended(view.history_, history), view.n_iter_ + n_iter
        return dataclasses.replace(view, _ensemble=ensemble, history_=history, n_iter_=n_iter)
