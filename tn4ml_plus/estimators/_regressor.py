"""Regression."""

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_consistent_length

from .._registry import register
from .._typing import Amplitude
from ..losses import SquaredError
from ..training import Gradient
from ._base import TensorNetworkEstimator
from ._columns import read_table, rows
from ._tables import read_weight


@register("estimator")
class TNRegressor(RegressorMixin, TensorNetworkEstimator):
    """Regressor whose predictions are the outputs of tensor networks on embedded features.

    Targets are standardised inside. Parameters and attributes are those of `TNClassifier`, without
    class_weight; loss=None is the squared error, any optax loss works by name (``"log_cosh"``).
    Losses see standardised targets. y may have several columns.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> X, y = make_friedman1(300, random_state=0)
    >>> bool(TNRegressor(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _task = "regression"
    _default_loss = SquaredError()
    _default_trainer = Gradient(feature_dropout=0.05, decay=1.0, min_steps=1000)

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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Train on X (n_samples, n_features), y (n_samples,) or (n_samples, n_targets)."""
        return self._fit_targets(X, y, sample_weight, partial_fit=False)

    def partial_fit(self, X, y, sample_weight=None):
        """One epoch on more samples; the first call also fits scalings and sets networks up."""
        return self._fit_targets(X, y, sample_weight, partial_fit=True)

    def _fit_targets(self, X, y, sample_weight, partial_fit):
        going_on = (partial_fit or self.warm_start) and hasattr(self, "networks_")
        table = read_table(self, X, reset=not going_on)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        check_consistent_length(table[0], y)
        one_column = y.ndim == 1 or y.shape[1] == 1
        if one_column and y.ndim == 2:
            y = column_or_1d(y, warn=True)
        y = y.reshape(len(y), -1)
        weight = read_weight(sample_weight, table[0])
        kept = weight > 0
        table, y, weight = rows(table, kept), y[kept], weight[kept]
        if not going_on:
            self._one_column = one_column
            self._y_mean = np.average(y, axis=0, weights=weight)
            with np.errstate(over="ignore"):
                variance = np.average((y - self._y_mean) ** 2, axis=0, weights=weight)
            deviation = np.sqrt(variance)
            if not np.isfinite(deviation).all():
                raise ValueError("The squares of y are beyond every float: give y in other units.")
            self._y_deviation = np.where(deviation > 0, deviation, 1.0)
        elif y.shape[1] != len(self._y_mean):
            raise ValueError(f"y has {y.shape[1]} targets, the first call had {len(self._y_mean)}.")
        y = (y - self._y_mean) / self._y_deviation
        return self._fit(table, y, weight, y.shape[1], None, partial_fit)

    def predict(self, X):
        """Predicted targets, (n_samples,) or (n_samples, n_targets) as y was."""
        mean = np.mean(self._predict(X, Amplitude.dense), axis=0) * self._y_deviation + self._y_mean
        return mean[:, 0] if self._one_column else mean

    def explain(self, X):
        """What each site adds to the prediction, (n_samples, nsites[, n_targets]), in units of y.

        The prediction falls by this much where the site is averaged out: its vector replaced by the
        mean over the training samples. Sites are the columns, unless `site_names` says otherwise;
        what is missing adds nothing.
        """
        falls = [values[:, None] - without for values, without in self._without(X)]
        found = np.mean(falls, axis=0) * self._y_deviation
        return found[..., 0] if self._one_column else found
