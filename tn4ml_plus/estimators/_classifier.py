"""Classification."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .._registry import register
from .._typing import Amplitude
from ..losses import CrossEntropy
from ..training import Gradient
from ._base import TensorNetworkEstimator
from ._classes import ProbabilisticClassifier, read_classes
from ._columns import read_table, rows


@register("estimator")
class TNClassifier(ProbabilisticClassifier, TensorNetworkEstimator):
    """Classifier whose class scores are the outputs of tensor networks on embedded features.

    Raw tables work: columns are scaled to the embedding's domain, categorical columns of a frame
    become one-hot sites (their 16 most frequent levels; others count as unknown), and missing
    values are replaced by their site's mean vector.

    Parameters
    ----------
    bond_dim : int
        Size of the bonds, at least 1.
    n_members : int
        Networks trained together, in the given and in random feature orders; class probabilities
        are averaged. With 1, `network_` is the model.
    embedding : str or Embedding
        None takes Legendre polynomials of degree 2; with 500 samples or more, of degree 4 for at
        most 10 features and of degree 7 for at most 5.
    network : str, spec or quimb TensorNetwork
        ``"mps"``, ``"ttn"``, a spec such as ``MPSSpec(output_site=0)``, or a network to start from,
        with the open indices k0, k1, ... and one for the classes.
    initializer, trainer : str or object
        See `tn4ml_plus.initializers` and `tn4ml_plus.training`; a list of trainers goes in turn.
    loss : str, Loss or callable
        None takes cross-entropy with label smoothing 0.05. Names of optax's losses are valid too.
    scaler : str or Scaler
        Maps raw columns to the embedding's domain; None takes the one that suits the embedding.
    learning_rate, max_epochs, batch_size, feature_dropout, decay : number
        Override the trainer's own values where not None. An explicit max_epochs is taken exactly.
    early_stopping : bool
        Set a tenth of the samples aside and keep the weights that did best on it.
    class_weight : None, "balanced" or dict
        As in scikit-learn.
    warm_start : bool
        Whether fit goes on from the present networks.
    callbacks : sequence of functions
        Called with a `tn4ml_plus.training.Epoch`; a true result stops training.
    random_state : int, RandomState or None
        As in scikit-learn; the same int gives bit-equal weights.
    verbose : bool
        Whether to show a progress bar.

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_, n_iter_
        As in scikit-learn.
    networks_, network_
        The quimb networks; site i of member m reads feature orders_[m, i].
    embedding_, history_
        The embedding in use; lists by name, one value an epoch.

    Raises
    ------
    ValueError
        For input or options that do not fit, before training.
    NotFiniteError
        When the loss stops being finite; the last finite weights are kept.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TNClassifier(random_state=0).fit(X, y)
    >>> bool(clf.score(X, y) > 0.95)
    True
    """

    _task = "classification"
    _default_loss = CrossEntropy(label_smoothing=0.05)
    _default_trainer = Gradient(feature_dropout=0.2, decay=1.5)

    def __init__(
        self,
        bond_dim=8,
        *,
        n_members=4,
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
        class_weight=None,
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
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y, sample_weight=None):
        """Train on X (n_samples, n_features), labels y (n_samples,); returns self."""
        return self._fit_labels(X, y, sample_weight, None, partial_fit=False)

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """One epoch on more samples; the first call needs all `classes`; returns self.

        The first call also fits the scaling of the columns and sets the networks up.
        """
        if not hasattr(self, "networks_") and classes is None:
            raise ValueError("classes must be given at the first call of partial_fit.")
        return self._fit_labels(X, y, sample_weight, classes, partial_fit=True)

    def _fit_labels(self, X, y, sample_weight, classes, partial_fit):
        going_on = (partial_fit or self.warm_start) and hasattr(self, "networks_")
        table = read_table(self, X, reset=not going_on)
        codes, weight, kept = read_classes(self, table[0], y, sample_weight, classes, going_on)
        prior = np.bincount(codes, weight, len(self.classes_)) / weight.sum()
        bias = np.log(prior + 1e-3)
        return self._fit(rows(table, kept), codes, weight, len(bias), bias, partial_fit)

    def predict_proba(self, X):
        """Class probabilities, (n_samples, n_classes) in the order of classes_."""
        check_is_fitted(self, "networks_")
        mean = np.mean(self._predict(X, type(self._loss).probabilities, self._loss), axis=0)
        return mean / mean.sum(axis=1, keepdims=True)

    def explain(self, X, y=None):
        """What each site adds to the log-probability of a class, (n_samples, nsites), in nats.

        The log-probability falls by this much where the site is averaged out: its vector replaced
        by the mean over the training samples. y: labels (n_samples,), None for those predicted.
        Sites are the columns, unless `site_names` says otherwise; what is missing adds nothing.
        Raises ValueError for labels that are not among classes_.
        """

        def mean(parts):
            return np.mean([_probabilities(self._loss, part) for part in parts], axis=0)

        present, without = map(mean, zip(*self._without(X), strict=True))
        labels = self.classes_[np.argmax(present, axis=1)] if y is None else column_or_1d(y)
        check_consistent_length(present, labels)
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(f"y has labels {unknown} that are not among {self.classes_}.")
        chosen = np.searchsorted(self.classes_, labels)
        rows = np.arange(len(labels))
        tiny = np.finfo(float).tiny
        log_p = np.log(np.maximum(present[rows, chosen], tiny))
        return log_p[:, None] - np.log(np.maximum(without[rows, :, chosen], tiny))


def _probabilities(loss, outputs):
    """Probabilities of the classes of plain outputs (..., n_classes), float64."""
    flat = outputs.reshape(-1, outputs.shape[-1])
    with jax.enable_x64(True):
        amplitude = Amplitude(jnp.asarray(flat), jnp.zeros(len(flat), jnp.int32))
        return np.asarray(loss.probabilities(amplitude)).reshape(outputs.shape)
