"""Anomaly detection."""

import copy

import numpy as np
import quimb.tensor as qtn
from sklearn.base import OutlierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .._arrays import evenly_spaced
from .._checks import check_number
from .._registry import register, resolve
from ..embeddings import Legendre
from ..io import write
from ..losses import NegativeLogLikelihood
from ..networks import MPS, TTN, MPSSpec, TTNSpec, from_quimb
from ._columns import read_table, rows
from ._parameters import NestedParameters
from ._principal import PrincipalComponents, Rotated
from ._scalers import GaussianCDF, LogisticCDF
from ._state import to_state
from ._tables import read_weight
from ._views import BornView, NormView

# What a column that was constant in fitting costs where it is not, in nats.
_CONSTANT_CHANGED = 10.0
_BASELINE_ROWS = 1000
# With at least this many nothing is dropped in training.
_ROWS_A_FEATURE = 10
_COMMITTEE = (GaussianCDF(), LogisticCDF(), Rotated(GaussianCDF()))
_BORN = (MPS, TTN, MPSSpec, TTNSpec)


@register("estimator")
class TNAnomalyDetector(OutlierMixin, NestedParameters):
    """Anomaly detector: samples that tensor networks trained on normal ones find improbable.

    By default a committee of Born machines, which see the columns through a normal and a logistic
    distribution function and, rotated to principal components, through a normal one again; the
    score is the mean of their log-densities. With ``network="smpo"`` and
    ``loss=LogQuadratic() + 0.3 * ReluLogNorm()`` it is the detector of Wang et al.,
    arXiv:2006.02516. Raw tables work as in `TNClassifier`.

    Parameters
    ----------
    bond_dim : int or None
        Size of the bonds, at least 1; None takes 6, and 8 for principal components.
    n_members, initializer, trainer
        As in `TNBornMachine`.
    embedding : str or Embedding
        Of single features. None takes Legendre polynomials of degree 4, and 6 for components;
        any other is made orthonormal where a likelihood is trained.
    network : str, spec or quimb TensorNetwork
        ``"mps"``, ``"ttn"``, ``"smpo"``, ..., a spec, or a network. Those but open MPS and TTN are
        scored by minus their loss.
    loss : str, Loss or Objective
        A loss of densities, see `tn4ml_plus.losses`; None takes the negative log-likelihood.
    scaler : str, Scaler or tuple of them
        One member of the committee each; None takes ``(GaussianCDF(), LogisticCDF(), Rotated())``,
        for codes of categories one that suits the embedding.
    contamination : "auto" or float
        Share of the training samples below the threshold, in (0, 0.5]. With "auto" the threshold is
        Tukey's fence: 1.5 interquartile ranges below the first quartile of their scores.
    feature_dropout : float or None
        Share of the features that each sample loses in a step of training, in [0, 1), 0 for none.
        None takes n_features / (3 n_samples), at most 0.2, with less than ten rows a feature, and
        none with more; a trainer that is an object keeps its own.
    learning_rate, max_epochs, batch_size, decay, random_state, verbose
        As in `TNClassifier`.

    Attributes
    ----------
    n_features_in_, feature_names_in_
        As in scikit-learn.
    offset_ : float
        The threshold: `decision_function` is `score_samples` minus it.
    views_ : list
        The fitted members of the committee, each with `networks_` and `history_`.
    baseline_ : ndarray of shape (n_features,)
        What the features add to the anomaly score of training samples, in the mean.

    Raises
    ------
    ValueError
        For input or options that do not fit, before training.
    NotFiniteError
        When the loss stops being finite.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> detector = TNAnomalyDetector(random_state=0).fit(X[:50])
    >>> detector.predict(X[50:53]).tolist()
    [-1, -1, -1]
    """

    def __init__(
        self,
        bond_dim=None,
        *,
        n_members=1,
        embedding=None,
        network="mps",
        initializer="least_squares_identity",
        loss=None,
        trainer="gradient",
        scaler=None,
        contamination="auto",
        learning_rate=None,
        max_epochs=None,
        batch_size=None,
        feature_dropout=None,
        decay=None,
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
        self.contamination = contamination
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.feature_dropout = feature_dropout
        self.decay = decay
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = False
        return tags

    def fit(self, X, y=None, sample_weight=None):
        """Train on X (n_samples, n_features), mostly normal samples; returns self.

        y: 1 for inliers and -1 for outliers, for semi-supervised losses only, ignored otherwise.
        """
        if self.contamination != "auto":
            check_number("contamination", self.contamination, above=0)
            if self.contamination > 0.5:
                raise ValueError(
                    f'contamination must be "auto" or in (0, 0.5], got {self.contamination!r}.'
                )
        table = read_table(self, X, reset=True)
        y = self._labels(y, table)
        weight = read_weight(sample_weight, table[0])
        rng = check_random_state(self.random_state)
        shape = np.count_nonzero(weight), table[0].shape[1]
        scalers = self._view_scalers()
        views = [self._view(scaler, rng.randint(2**31 - 1), *shape) for scaler in scalers]
        self.views_ = [view.fit(X, y, weight) for view in views]
        self._judge(rows(table, weight > 0))
        return self

    def score_samples(self, X):
        """How normal the rows of X are, (n_samples,): their log-density in nats by default."""
        return self._score(self._read(X))

    def decision_function(self, X):
        """`score_samples` minus the threshold, (n_samples,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """1 for inliers, -1 for outliers, (n_samples,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def explain(self, X):
        """How much each feature adds to the anomaly score of each row, (n_samples, n_features).

        The score falls by this much, in nats by default, when the feature is marginalised: minus
        the log-density of its value given all others. Given relative to the mean over training
        samples, `baseline_`, so that features in other units compare. Members of the committee with
        rotated columns or subspaces are left out; ValueError where all are of that kind.
        """
        table = self._read(X)
        if all(isinstance(view._encoder.scaler, PrincipalComponents) for view in self.views_):
            raise ValueError("Components are no features: add a scaler that keeps columns apart.")
        return self._surprises(table) - self.baseline_

    def compress(self, max_bond=None, cutoff=1e-6, *, X=None, y=None, sample_weight=None):
        """A new detector with smaller bonds, as `TNClassifier.compress`.

        With X, which should be what `fit` was given, networks are mended and the threshold is found
        anew; without, it stays.
        """
        check_is_fitted(self, "views_")
        smaller = copy.copy(self)
        if X is not None:
            table = self._read(X)
            y = self._labels(y, table)
        smaller.views_ = [
            view.compress(max_bond, cutoff, X=X, y=y, sample_weight=sample_weight)
            for view in self.views_
        ]
        if X is not None:
            smaller._judge(rows(table, read_weight(sample_weight, table[0]) > 0))
        return smaller

    def save(self, path):
        """Write the fitted model to one safetensors file; as `TNClassifier.save`."""
        check_is_fitted(self, "views_")
        write(path, *to_state(self))

    def _read(self, X):
        check_is_fitted(self, "views_")
        return read_table(self, X, reset=False)

    def _labels(self, y, table):
        if self.loss is None or not self._resolved_loss().supervised:
            return None
        if y is None:
            raise ValueError(
                f"{type(self._resolved_loss()).__name__} learns from labels: give y, 1 for inliers "
                "and -1 for outliers, or choose another loss."
            )
        y = column_or_1d(y)
        check_consistent_length(table[0], y)
        if not np.isin(y, (-1, 1)).all():
            raise ValueError("y must be 1 for inliers and -1 for outliers.")
        return y.astype(float)

    def _resolved_loss(self):
        return resolve("loss", self.loss).loss

    def _judge(self, table):
        """Find the threshold and what features add in the mean, from training samples."""
        floats, _ = table
        low, high = np.fmin.reduce(floats), np.fmax.reduce(floats)
        self.constants_ = np.where(low == high, low, np.nan)
        scores = self._score(table)
        if self.contamination == "auto":
            low, high = np.percentile(scores, (25, 75))
            self.offset_ = float(low - 1.5 * (high - low))
        else:
            self.offset_ = float(np.percentile(scores, 100 * self.contamination))
        few = evenly_spaced(len(floats), _BASELINE_ROWS)
        kept = np.zeros(len(floats), bool)
        kept[few] = True
        self.baseline_ = np.zeros(floats.shape[1])
        if not all(isinstance(view._encoder.scaler, PrincipalComponents) for view in self.views_):
            self.baseline_ = self._surprises(rows(table, kept)).mean(axis=0)

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

    def _view(self, scaler, seed, n_samples, n_features):
        network = self.network
        if isinstance(network, qtn.TensorNetwork):
            network = from_quimb(network)
        elif isinstance(network, str):
            network = resolve("network", network)
        is_born = isinstance(network, _BORN) and not getattr(network, "cyclic", False)
        is_born &= self.loss is None or isinstance(self._resolved_loss(), NegativeLogLikelihood)
        given = self.get_params(deep=False) | {"scaler": scaler, "random_state": seed}
        del given["contamination"]
        if self.bond_dim is None:
            given["bond_dim"] = 8 if isinstance(scaler, PrincipalComponents) else 6
        if self.feature_dropout is None and self.trainer == "gradient":
            n_features = n_features if scaler is None else scaler.n_outputs(n_features)
            few = n_samples < _ROWS_A_FEATURE * n_features
            given["feature_dropout"] = min(0.2, n_features / (3 * n_samples)) if few else 0.0
        return (BornView if is_born else NormView)(**given)

    def _score(self, table):
        table, changed = self._hold_constants(table)
        score = np.mean([view._score(table) for view in self.views_], axis=0)
        return score - _CONSTANT_CHANGED * changed.sum(axis=1)

    def _surprises(self, table):
        # A view of components has no sites that are features, so that none can be left out there.
        views = [v for v in self.views_ if not isinstance(v._encoder.scaler, PrincipalComponents)]
        table, changed = self._hold_constants(table)
        surprises = np.mean([view._surprises(table) for view in views], axis=0)
        return surprises + _CONSTANT_CHANGED * changed

    def _hold_constants(self, table):
        """The table with constant columns put back to what they were, and which entries were not.

        Their deviations have no scale that a density could judge them by.
        """
        floats, raw = table
        slack = 1e-9 * np.maximum(1, np.abs(self.constants_))
        changed = np.abs(floats - self.constants_) > slack
        return (np.where(changed, self.constants_, floats), raw), changed
