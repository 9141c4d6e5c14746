"""Anomaly detection."""

import copy
import dataclasses
from typing import Annotated, Any

import numpy as np
import quimb.tensor as qtn
from jaxtyping import Float
from sklearn.base import OutlierMixin
from sklearn.utils import InputTags, Tags, TargetTags, check_random_state, column_or_1d
from sklearn.utils.validation import check_consistent_length

from .. import tables
from .._arrays import evenly_spaced, mean_over_members, namespace
from .._checks import check, check_number
from .._registry import resolve, variant
from .._schema import UNBOUNDED, check_fields
from ..contraction import pack
from ..deployment import table_tree
from ..embeddings import Legendre
from ..ensembles import Ensemble
from ..losses import NegativeLogLikelihood
from ..networks import from_quimb
from ._base import HoldsNetworks, TakesTables, refitting
from ._densities import BornScore, NormScore, born_members, log_of_unseen
from ._deployable import Deployable
from ._estimator import Fitted, NetworkOptions, as_estimator, by_rows, extended, fits, reads
from ._recipes import DENSITY, Data, filled, of_density, prepared
from ._streams import read_rows

# What a column that was constant in fitting costs where it is not, in nats.
_CONSTANT_CHANGED = 10.0
_BASELINE_ROWS = 1000
# With at least this many nothing is dropped in training.
_ROWS_PER_FEATURE = 10
_COMMITTEE = (tables.GaussianCDF(), tables.LogisticCDF(), tables.Rotated())
_SCALERS = tables.Differentiable, "GaussianCDF(), LogisticCDF(), Rotated() or ProbabilisticPCA()"


@variant("state", eq=False)
class View(HoldsNetworks):
    """A member of a detector's committee: it scores rows that it reads in a way of its own."""

    _reader: tables.TableReader
    _ensemble: Ensemble
    score: BornScore | NormScore
    history_: dict[str, list]
    n_iter_: int
    random_state: int

    @classmethod
    def from_state(cls, state):
        """The view of fields that were stored; ValueError where they contradict each other."""
        check_fields(cls, state)
        view = cls(**state)
        view._ensemble.check_reads(view._reader, "density")
        if isinstance(view.score, BornScore):
            born_members(view._reader, view._ensemble, np.zeros((1, view._reader.width)))
        return view

    def __sklearn_tags__(self):
        return Tags(None, TargetTags(required=False), input_tags=InputTags(allow_nan=True))

    @property
    def n_features_in_(self) -> int:
        """Number of columns."""
        return self._reader.n_columns

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the columns, where they have any."""
        if self._reader.names is None:
            raise AttributeError("These columns have no names.")
        return np.array(self._reader.names, object)

    @property
    def explains_columns(self) -> bool:
        """Whether each site reads one column, so that `surprises` are those of columns."""
        return self._reader.explains_columns

    def of_table(self, table) -> np.ndarray:
        """Scores of the rows of a table, (n_samples,)."""
        return self.score.of_rows(self._reader, self._ensemble, table)

    def surprises(self, table) -> np.ndarray:
        """Score without a column minus that with it, (n_samples, n_features)."""
        return self.score.surprises(self._reader, self._ensemble, table)

    def score_samples(self, X) -> np.ndarray:
        """Log-densities of the rows of X, or minus their losses, (n_samples,)."""
        return self.of_table(self._read(X))


class FittedDetector(Fitted):
    """Results of fitting a detector."""

    views_: list[View]
    constants_: Annotated[Float[np.ndarray, " n_features"], UNBOUNDED]
    offset_: float
    baseline_: Float[np.ndarray, " n_features"]


def _read_sides(y):
    """Validated targets, 1 and -1."""
    y = column_or_1d(tables.unmasked(y, "y"))
    if not np.isin(y, (-1, 1)).all():
        raise ValueError("y must be 1 for inliers and -1 for outliers.")
    return y


@as_estimator
class TNAnomalyDetector(OutlierMixin, Deployable, TakesTables, NetworkOptions):
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

    _fitted = FittedDetector

    def __sklearn_is_fitted__(self):
        return "baseline_" in vars(self)

    @fits
    def fit(self, X, y=None, sample_weight=None):
        """Train on mostly normal samples; returns self. See `TNClassifier.fit` for the parameters.

        Semi-supervised losses read y: 1 for inliers, -1 for outliers. An error or an interrupt
        keeps nothing: scores are those of the whole committee.
        """
        if self.contamination != "auto":
            check_number("contamination", self.contamination, above=0)
            valid = self.contamination <= 0.5
            check("contamination", self.contamination, valid, '"auto" or in (0, 0.5]')
        y = y if self._loss.supervised else None
        rows = read_rows(
            self, X, y, sample_weight, reset=True, read_y=_read_sides if y is not None else None
        )
        data = rows.data(self._data)
        rng = check_random_state(self.random_state)
        kept = data.rows(data.weight > 0)
        unseen = log_of_unseen(kept)
        scalers = self._view_scalers()
        numbers = range(1, len(scalers) + 1) if len(scalers) > 1 else [None]
        views = [
            self._trained(scaler, kept, rng.randint(2**31 - 1), unseen, number)
            for scaler, number in zip(scalers, numbers, strict=True)
        ]
        self._keep(views, kept)

    @reads
    @by_rows
    def score_samples(self, X) -> np.ndarray:
        """Normality of the rows of X, (n_samples,): their log-density in nats by default."""
        return self._scores(self._read(X))

    @reads
    def decision_function(self, X):
        """`score_samples` minus the threshold, (n_samples,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    @reads
    def predict(self, X) -> np.ndarray:
        """1 for inliers, -1 for outliers, (n_samples,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    @reads
    @by_rows
    def explain(self, X) -> np.ndarray:
        """Share of each feature in the anomaly score of each row, (n_samples, n_features).

        The score falls by this much, in nats by default, when the feature is marginalised: minus
        the log-density of its value given all others. Given relative to the mean over training
        samples, `baseline_`, so that features in other units compare. Members of the committee with
        rotated columns or subspaces are left out; ValueError where all are of that kind.
        """
        table = self._read(X)
        if not self._explaining:
            raise ValueError("Components are not features: add a scaler that keeps columns apart.")
        return self._surprises(table) - self.baseline_

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
        smaller.views_ = [self._compressed(view, max_bond, cutoff, X, data) for view in self.views_]
        if data is not None:
            smaller._keep(smaller.views_, data)
        return smaller

    def _data(self, table, y, sample_weight):
        """Rows with targets and weights, also those of no weight."""
        if not self._loss.supervised:
            y = np.ones(len(table))
        elif y is None:
            raise ValueError(
                f"{type(self._loss).__name__} learns from labels: give y, 1 for inliers and -1 for "
                "outliers, or choose another loss."
            )
        y = _read_sides(y)
        check_consistent_length(table.floats, y)
        return Data(table, y.astype(float), tables.read_weight(sample_weight, len(table)))

    @property
    def _loss(self):
        return resolve("loss", DENSITY.objective if self.loss is None else self.loss).loss

    def _keep(self, views, data):
        """Take views over, with the threshold and what features add in the mean, from `Data`."""
        table, counts = data.table, data.counts
        if counts is None:
            low, high = np.fmin.reduce(table.floats), np.fmax.reduce(table.floats)
        else:
            low, high = counts.lowest, counts.highest
        # Values of the columns that were constant in fitting.
        self.views_, self.constants_ = views, np.where(low == high, low, np.nan)
        scores = self._scores(table)
        if self.contamination == "auto":
            low, high = np.percentile(scores, (25, 75))
            offset = low - 1.5 * (high - low)
        else:
            offset = np.percentile(scores, 100 * self.contamination)
        # Rounding, which differs with the number of rows, shall not tell equal rows apart.
        self.offset_ = float(offset - 1e-6 * max(1.0, abs(offset)))
        baseline = np.zeros(table.shape[1])
        if self._explaining:
            few = table.rows(evenly_spaced(len(table), _BASELINE_ROWS))
            baseline = self._surprises(few).mean(axis=0)
        self.baseline_ = baseline

    @property
    def _explaining(self):
        """The views of columns; those of components have no sites that are features."""
        return [view for view in self.views_ if view.explains_columns]

    def _scores(self, table):
        """Mean of the views' scores, (n_samples,)."""
        table, changed = self._held_table(table)
        return _judged([view.of_table(table) for view in self.views_], changed)

    _readers = property(lambda self: [view._reader for view in self.views_])

    def _traced(self):
        views = [view.score.traced(view._reader, view._ensemble) for view in self.views_]

        def scores(X):
            X, changed = self._held(X)
            return _judged([view(X) for view in views], changed)

        return scores

    def _tree(self):
        own = {"constants": self.constants_, "offset": self.offset_}
        views = [view.score.tree(view._reader, view._ensemble) for view in self.views_]
        tree = table_tree(self._readers[0], "density") | own | {"views": views}
        return tree | {"constant_changed": _CONSTANT_CHANGED}

    def _surprises(self, table):
        """Mean of the scores without each feature, minus those with it, (n_samples, n_features)."""
        table, changed = self._held_table(table)
        surprises = np.mean([view.surprises(table) for view in self._explaining], axis=0)
        return surprises + _CONSTANT_CHANGED * changed

    def _held_table(self, table):
        floats, changed = self._held(table.floats)
        return dataclasses.replace(table, floats=floats), changed

    def _held(self, floats):
        """Floats with constant columns put back to what they were, and which entries were not.

        Their deviations have no scale that a density could judge them by.
        """
        xp = namespace(floats)
        # Of rounding, which has no scale beside zero.
        slack = 1e-9 * np.abs(np.where(self.constants_ == 0, 1, self.constants_))
        changed = xp.abs(floats - self.constants_) > slack
        held = ~xp.isnan(floats - self.constants_)
        return xp.where(held, self.constants_, floats), changed

    def _restore(self, state):
        super()._restore(state)
        counts = {len(self.baseline_), *(view.n_features_in_ for view in self.views_)}
        if counts != {self.n_features_in_} or not self.views_:
            raise ValueError(f"baseline_ and views_ are not those of {self.n_features_in_} columns")

    def _view_scalers(self):
        if self.scaler is not None:
            given = self.scaler if isinstance(self.scaler, tuple | list) else [self.scaler]
            if not given:
                raise ValueError("scaler must be one or more scalers, got none.")
            return [resolve("scaler", scaler) for scaler in given]
        embedding = resolve("embedding", self.embedding or Legendre(4))
        parts = getattr(embedding, "embeddings", (embedding,))
        if np.isfinite(embedding.domain).all() and not all(part.discrete for part in parts):
            return list(_COMMITTEE)
        return [None]

    def _is_born(self):
        """Whether views are Born machines, of likelihoods with exact marginals."""
        if isinstance(self.network, qtn.TensorNetwork):
            kind = pack(from_quimb(self.network))[1]
        else:
            kind = resolve("network", self.network)
        return kind.has_exact_marginals and isinstance(self._loss, NegativeLogLikelihood)

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

    def _trained(self, scaler, data, seed, unseen, number):
        """The view with this scaler; number: among several, None for a single one."""
        recipe, rng = self._recipe(scaler, data.shape), check_random_state(seed)
        if number is not None:
            recipe = dataclasses.replace(recipe, trainer=recipe.trainer.numbered(number))
        reader, ensemble, arguments = prepared(recipe, data, rng)
        ensemble, history, n_iter = ensemble.train(*arguments)
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
        arguments = prepared(recipe, data, rng, (view._reader, ensemble))[-1]
        ensemble, history, n_iter = ensemble.train(*arguments)
        history, n_iter = extended(view.history_, history), view.n_iter_ + n_iter
        return dataclasses.replace(view, _ensemble=ensemble, history_=history, n_iter_=n_iter)


def _judged(scores, changed):
    """Scores of rows, from those of all views and which entries of constant columns changed."""
    xp = namespace(changed)
    return mean_over_members(xp.stack(scores)) - _CONSTANT_CHANGED * changed.sum(axis=1)
