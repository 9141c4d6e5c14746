"""Labels to classes and back: what classifiers share."""

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import check_array, column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length

from ..tables import read_weight
from ._fitting import reads


class ProbabilisticClassifier(ClassifierMixin):
    """Mixin of classifiers: what follows from `predict_proba` and `classes_`."""

    def predict_log_proba(self, X) -> np.ndarray:
        """Natural logarithms of the class probabilities, (n_samples, n_classes)."""
        return np.log(np.maximum(self.predict_proba(X), np.finfo(float).tiny))

    def decision_function(self, X) -> np.ndarray:
        """Log-probabilities (n_samples, n_classes); for 2 classes their difference (n_samples,)."""
        scores = self.predict_log_proba(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    @reads
    def predict(self, X) -> np.ndarray:
        """The most probable labels, (n_samples,)."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]


def read_classes(estimator, X, y, sample_weight, classes=None, going_on=False):
    """Numbers of the classes, weights, and which samples these are: those of positive weight.

    Sets `classes_`, or with going_on checks that labels are among them; classes: all of them, where
    y may lack some. Weights are those of samples times those of `class_weight`.
    """
    y = _labels(estimator, y)
    check_consistent_length(X, y)
    seen = np.unique(y)
    if not going_on:
        estimator.classes_ = seen if classes is None else np.unique(classes)
    elif classes is not None and not np.array_equal(np.unique(classes), estimator.classes_):
        raise ValueError(f"classes differ from those of the first call, {estimator.classes_}.")
    unknown = np.setdiff1d(seen, estimator.classes_)
    if len(unknown):
        raise ValueError(f"y has labels {unknown} that are not among {estimator.classes_}.")
    if len(estimator.classes_) < 2:
        raise ValueError(
            f"y has only one class, {estimator.classes_.tolist()[0]!r}: a classifier needs at "
            "least two."
        )
    weight = read_weight(sample_weight, len(y))
    if estimator.class_weight is not None:
        weight = weight * _weights_of_classes(estimator.class_weight, y)
    kept = weight > 0
    return np.searchsorted(estimator.classes_, y).astype(np.int32)[kept], weight[kept], kept


def _weights_of_classes(given, y):
    if not (isinstance(given, dict) or (isinstance(given, str) and given == "balanced")):
        raise ValueError(
            f"class_weight must be None, 'balanced' or a dict of labels, got {given!r}."
        )
    weight = compute_sample_weight(given, y)
    if not (weight > 0).all():
        raise ValueError(f"class_weight must be positive for every class, got {given!r}.")
    return weight


def _labels(estimator, y):
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    y = column_or_1d(y, warn=True)
    if y.dtype.kind in "fc":
        check_array(y, ensure_2d=False, input_name="y")
    check_classification_targets(y)
    return y
