"""Classification: labels to classes and back, and the classifier of tables."""

import dataclasses
from functools import partial, reduce
from operator import add
from typing import Any

import jax
import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import check_array, column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length

from .._amplitude import Amplitude
from .._arrays import mean_over_members, namespace, on_device, quotient, served_length
from .._checks import check
from .._forks import unforked
from ..deployment import class_loss, table_tree, traced_members, view_tree
from ..ensembles import Recipe
from ..losses import CrossEntropy
from ..tables import AVERAGED, is_missing, read_weight, unmasked
from ..training import Gradient
from ._base import FittedNetworks, TensorNetworkEstimator
from ._deployable import Deployable
from ._estimator import OutputOptions, as_estimator, by_rows, fits, reads
from ._recipes import Data, legendre
from ._streams import Scored, read_rows

_LABELS = str, bytes, bool, np.bool_, int, float, np.integer, np.floating


class ProbabilisticClassifier(ClassifierMixin):
    """Mixin of classifiers: what follows from `predict_proba` and `classes_`."""

    def _restore(self, state):
        super()._restore(state)
        if not np.array_equal(np.unique(self.classes_), self.classes_) or len(self.classes_) < 2:
            raise ValueError(f"classes_ are not sorted and different: {self.classes_}")

    def predict_log_proba(self, X) -> np.ndarray:
        """Natural logarithms of the class probabilities, (n_samples, n_classes)."""
        return np.log(np.maximum(self.predict_proba(X), np.finfo(float).tiny))

    def decision_function(self, X) -> np.ndarray:
        """Log-probabilities (n_samples, n_classes); for 2 classes their difference (n_samples,)."""
        scores = self.predict_log_proba(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    @reads
    @by_rows
    def predict(self, X) -> np.ndarray:
        """The most probable labels, (n_samples,)."""
        return self.classes_[np.argmax(self.predict_proba(X), axis=1)]


def read_classes(estimator, X, y, sample_weight, classes=None, going_on=False, labels=None):
    """Numbers of the classes, weights, and which samples these are: those of positive weight.

    Sets `classes_`, or with going_on checks that labels are among them; classes: all of them, where
    y may lack some. Weights are those of samples times those of `class_weight`; labels: `Labels` of
    all rows, where y are some.
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    y = _read_labels(y)
    check_classification_targets(y)
    check_consistent_length(X, y)
    known = np.unique(y if classes is None else _read_labels(classes, "classes"))
    if not going_on:
        estimator.classes_ = known
    elif classes is not None and not np.array_equal(known, estimator.classes_):
        raise ValueError(f"classes differ from those of the first call, {estimator.classes_}.")
    codes = _codes(y, estimator.classes_)
    if len(estimator.classes_) < 2:
        raise ValueError(
            f"y has only one class, {estimator.classes_.tolist()[0]!r}: a classifier needs at "
            "least two."
        )
    weight = read_weight(sample_weight, len(y))
    by_class = _class_weights(estimator.class_weight, y, labels)
    weight = read_weight(weight * read_weight(by_class, len(y)), len(y))
    kept = weight > 0
    return codes.astype(np.int32)[kept], weight[kept], kept


def _class_weights(given, y, labels=None):
    """Weights of the samples by `class_weight`; labels: of all rows, where y are some."""
    valid = isinstance(given, dict | None) or (isinstance(given, str) and given == "balanced")
    check("class_weight", given, valid, "None, 'balanced' or a dict of labels")
    if given == "balanced" and labels is not None:
        shares = labels.counts.sum() / (len(labels.counts) * labels.counts)
        given = dict(zip(labels.names.tolist(), shares))
    found = compute_sample_weight(given, y)
    # Those of other classes, next to which they are nothing, count as zero.
    valid = np.isfinite(found).all() and (found > found.max() * 1e-30).all()
    check("class_weight", given, valid, "positive for every class, and of comparable sizes")
    return found


def _read_labels(y, name="y"):
    """Labels that can be sorted, (n,); ValueError for gaps and for labels of several types."""
    unmasked(y, name)
    # NumPy would make text of numbers and gaps beside text.
    mixed = isinstance(y, list | tuple) and {str} < {type(label) for label in y}
    own = getattr(y, "dtype", None) == np.dtypes.StringDType()
    y = column_or_1d(np.array(list(y), object) if mixed or own else y, warn=True)
    if y.dtype.kind in "fc":
        check_array(y, ensure_2d=False, input_name=name)
    if y.dtype.kind not in "OMm":
        return y
    missing = sum(map(is_missing, y))
    if missing:
        raise ValueError(
            f"Input {name} contains NaN or None in {missing} places: leave these rows out."
        )
    kinds = {type(label) for label in y.tolist()}
    words = " and ".join(sorted(kind.__name__ for kind in kinds))
    if y.dtype == object and not all(issubclass(kind, _LABELS) for kind in kinds):
        raise ValueError(f"{name} holds labels of type {words}: make them strings, by astype(str).")
    try:
        np.unique(y)
    except TypeError:
        raise ValueError(
            f"{name} holds labels of several types, {words}: make them all strings, or all numbers."
        ) from None
    return y


def _codes(labels, classes):
    """Numbers of labels in the sorted classes; ValueError for those that are not among them."""
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        raise ValueError(f"y has labels {unknown} that are not among {classes}.")
    return np.searchsorted(classes, labels)


class FittedClassifier(FittedNetworks):
    """Results of fitting a classifier."""

    classes_: np.ndarray


@as_estimator
class TNClassifier(
    Scored, ProbabilisticClassifier, Deployable, OutputOptions, TensorNetworkEstimator
):
    """Classifier whose class scores are the outputs of tensor networks on embedded features.

    Raw tables work, arrays and frames of any library: numbers are scaled to the embedding's domain,
    text and other labels become one-hot sites, dates become the time and cyclic sites of the year,
    the week and the day, and that a value is missing can be learned from.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TNClassifier(random_state=0).fit(X, y)
    >>> bool(clf.score(X, y) > 0.95)
    True

    Parameters
    ----------
    bond_dim : int, size of the bonds, at least 1
    n_members : int
        Networks trained together, in the given and in random feature orders; class probabilities
        are averaged. With 1, `network_` is the model. Of rows that are read in parts, copies of
        better ones take the place of networks that do clearly worse on rows set aside.
    embedding : str or Embedding
        None takes Legendre polynomials of the degree that does best on rows set aside, one of 2 and
        4; from 2,000 rows on, 7 too; from 10,000 on one of 2, 7 and 20. Below 300 rows, beyond 100
        columns and in streams it is 2; with 500 rows or more, 4 for at most 10 columns and 7 for
        at most 5.
    network : str, spec or quimb TensorNetwork
        ``"mps"``, ``"ttn"``, a spec such as ``MPSSpec(output_site=0)``, or a network to start from,
        with the open indices k0, k1, ... and one for the classes.
    initializer, trainer : str or object
        See `tn4ml_plus.initializers` and `tn4ml_plus.training`; a list of trainers is run in order.
    loss : str, Loss or callable
        None takes the cross-entropy. Names of optax's losses are valid too.
    scaler : str or Scaler
        Maps raw columns to the embedding's domain; None takes the one that suits the embedding.
    max_categories : int or None
        Most categories that a column has, at least 2; None takes one for every 50 rows, from 16 to
        128. Rarer ones count as one category, and a warning names the column.
    missing : str
        ``"learned"``: a column with gaps in fitting has a vector for them. ``"averaged"``: gaps
        have the mean of their site's vectors, as gaps of other columns always have.
    dates : str
        ``"cyclic"``: moments are read as the time and as phases of the year, the week and the day,
        as far as these differ between rows. ``"linear"``: as the time only.
    learning_rate, max_epochs, batch_size, feature_dropout, decay : number or None
        Override the trainer's own values where not None. An explicit max_epochs is taken exactly. A
        feature_dropout of None is 0.2, or 0 where that does better on rows set aside; so is a decay
        of None for less than 2,000 rows that of the trainer or four times it.
    early_stopping : bool, whether to keep the weights that did best on a tenth that is set aside
    class_weight : None, "balanced" or dict, as in scikit-learn
    warm_start : bool, whether fit goes on from the present networks
    callbacks : sequence of functions or None
        Called with a `tn4ml_plus.training.Epoch`; a true result stops training.
    random_state : int, RandomState or None
        As in scikit-learn; the same int gives bit-equal weights.
    verbose : bool, whether to show a progress bar

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_, n_iter_
        As in scikit-learn.
    networks_, network_
        The quimb networks, live: changes of them show in predictions.
    orders_ : ndarray of shape (n_members, nsites); site i of member m reads feature orders_[m, i]
    embedding_, history_
        The embedding in use; lists by name, one value per epoch.
    selection_ : `Selection` or None
        How embeddings, shares of dropped features and decays did on rows set aside, one or more
        fifths of at most 60,000, in a quarter of the epochs, and the temperature that outputs are
        divided by, from 60 rows on and below 10,000. None where nothing was to be chosen: with a
        trainer other than ``"gradient"`` and in streams; where the first two were given, or below
        300 rows, and there is no temperature: with another loss, early_stopping or less than 40
        epochs.

    Raises
    ------
    ValueError : for input or options that do not fit, before training
    NotFiniteError
        When the loss stops being finite. This and any other error in training, and Ctrl-C, leave a
        fitted model as it was; a first fit keeps the weights of the last epoch before, or with
        early_stopping the best.
    ForkedProcessError
        In a process forked after JAX has run: start it by spawn or forkserver.
    """

    bond_dim: int = 8
    _: dataclasses.KW_ONLY
    class_weight: Any = None

    _metric = staticmethod(accuracy_score)
    _fitted = FittedClassifier
    _unchangeable = (*TensorNetworkEstimator._unchangeable, "missing", "dates")
    _defaults = Recipe(
        "classification",
        CrossEntropy(),
        Gradient(feature_dropout=0.2, decay=1.5),
        (legendre, "quantile_sigmoid"),
        AVERAGED,
    )

    @fits
    def fit(self, X, y=None, sample_weight=None):
        """Train; returns self.

        Parameters
        ----------
        X : array or frame of shape (n_samples, n_features)
        y : array of labels, (n_samples,)
        sample_weight : array of shape (n_samples,), number or None
        """
        self._fit_labels(X, y, sample_weight)

    @fits
    def partial_fit(self, X, y=None, classes=None, sample_weight=None):
        """One epoch on more samples, the first of which also fit the scaling; returns self.

        The first call needs all `classes`. See `TNClassifier.fit` for the parameters.
        """
        if not self.__sklearn_is_fitted__() and classes is None:
            raise ValueError("classes must be given at the first call of partial_fit.")
        self._fit_labels(X, y, sample_weight, classes, partial_fit=True)

    def _fit_labels(self, X, y, sample_weight, classes=None, partial_fit=False):
        going_on = self._goes_on(partial_fit)
        options = {"reset": not going_on, "read_y": _read_labels, "labelled": True}
        rows = read_rows(self, X, y, sample_weight, **options)
        if rows.labels is not None and going_on:
            _codes(rows.labels.names, self.classes_)
        elif rows.labels is not None and classes is None:
            classes = rows.labels.names

        def encode(table, y, weight, classes=None, going_on=True):
            given = y, weight, classes, going_on, rows.labels
            codes, weight, kept = read_classes(self, table.floats, *given)
            return Data(table.rows(kept), codes, weight)

        data = rows.data(encode, classes=classes, going_on=going_on)
        codes, weight = data.target, data.weight
        if rows.stream is not None:  # of which the sample may lack the rarest
            codes, weight = _codes(rows.labels.names, self.classes_), rows.labels.weights
            weight = weight * _class_weights(self.class_weight, rows.labels.names, rows.labels)
        prior = np.bincount(codes, weight, len(self.classes_)) / weight.sum()
        bias = np.log(prior + 1e-3)
        self._train(data, (len(bias), bias), partial_fit)

    _n_outputs = property(lambda self: len(self.classes_))

    @reads
    @by_rows
    def predict_proba(self, X):
        """Class probabilities, (n_samples, n_classes) in the order of classes_."""
        loss = self._ensemble.loss
        return _averaged(self._predict(X, type(loss).probabilities, loss))

    def _traced(self):
        loss = self._ensemble.loss
        values = traced_members(self._reader, self._ensemble, type(loss).probabilities, loss)
        return lambda X: _averaged(values(X))

    def _tree(self):
        own = {"loss": class_loss(self._ensemble.loss), "classes": self.classes_}
        views = [view_tree(self._reader, self._ensemble, traces=False)]
        return table_tree(self._reader, "classifier") | own | {"views": views}

    @reads
    def explain(self, X, y=None):
        """Share of each site in the log-probability of a class, (n_samples, nsites), in nats.

        The log-probability falls by this much where the site is averaged out: its vector replaced
        by the mean over the training samples. Sites are the columns, unless `site_names` says
        otherwise; what is missing adds nothing.

        Parameters
        ----------
        X : array or frame of shape (n_samples, n_features)
        y : array of labels in classes_, (n_samples,), or None for those predicted
        """

        def mean(parts):
            return np.mean([_probabilities(self._ensemble.loss, part) for part in parts], axis=0)

        present, without = map(mean, zip(*self._without(X), strict=True))
        labels = self.classes_[np.argmax(present, axis=1)] if y is None else _read_labels(y)
        check_consistent_length(present, labels)
        rows, chosen = np.arange(len(labels)), _codes(labels, self.classes_)
        tiny = np.finfo(float).tiny
        log_p = np.log(np.maximum(present[rows, chosen], tiny))
        return log_p[:, None] - np.log(np.maximum(without[rows, :, chosen], tiny))


def _averaged(values):
    """Probabilities (n_samples, n_classes) of those of all members, each with the sum 1."""
    mean = mean_over_members(values)
    return quotient(mean, reduce(add, namespace(mean).moveaxis(mean, 1, 0))[:, None])


def _probabilities(loss, outputs):
    """Probabilities of the classes of plain outputs (..., n_classes), float64."""
    flat = outputs.reshape(-1, outputs.shape[-1])
    padded = np.zeros((served_length(len(flat)), flat.shape[-1]))
    padded[: len(flat)] = flat
    with jax.enable_x64(True):
        amplitude = Amplitude(on_device(padded), on_device(np.zeros(len(padded), np.int32)))
        found = _of_amplitude(loss, amplitude)
        return np.asarray(found)[: len(flat)].reshape(outputs.shape)


@unforked
@partial(jax.jit, static_argnums=0)
def _of_amplitude(loss, amplitude):
    return loss.probabilities(amplitude)
