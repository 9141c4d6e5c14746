"""Regression."""

import numpy as np
from jaxtyping import Float
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_consistent_length

from .._amplitude import Amplitude
from .._arrays import mean_over_members, rounded_product
from .._registry import variant
from ..deployment import table_tree, traced_members, view_tree
from ..ensembles import Recipe
from ..losses import Quantile, SquaredError
from ..tables import AVERAGED, read_floats, read_weight, unmasked
from ..training import Gradient
from ._base import FittedNetworks, TensorNetworkEstimator
from ._deployable import Deployable
from ._estimator import OutputOptions, as_estimator, by_rows, fits, reads
from ._recipes import Data, legendre
from ._streams import Scored, read_rows


@variant("state", eq=False)
class TargetScaling:
    """The map between standardised targets and those given, (n_samples,) if in one column."""

    mean: Float[np.ndarray, " n_targets"]
    deviation: Float[np.ndarray, " n_targets"]
    one_column: bool

    def __post_init__(self):
        if self.one_column and len(self.mean) > 1:
            raise ValueError(f"{len(self.mean)} targets are not one column")

    @classmethod
    def fit(cls, y, weight, one_column, is_all):
        """Fit to targets (n_samples, n_targets), which may be all or the first of several parts."""
        # Without their powers of two, so that no square overflows or vanishes.
        exponents = np.frexp(np.abs(y).max(axis=0))[1]
        u = np.ldexp(y, -exponents)
        mean = np.average(u, axis=0, weights=weight)
        deviation = np.sqrt(np.average((u - mean) ** 2, axis=0, weights=weight))
        mean, deviation = np.ldexp(mean, exponents), np.ldexp(deviation, exponents)
        # Nothing is added to a constant, unless others may follow.
        unit = 0.0 if is_all else np.where(mean == 0, 1.0, np.minimum(np.abs(mean), 1.0))
        return cls(mean, np.where(deviation > 0, deviation, unit), one_column)

    def transform(self, y):
        """Standardised targets; ValueError for another number of them."""
        if y.shape[1] != len(self.mean):
            raise ValueError(f"y has {y.shape[1]} targets, the first call had {len(self.mean)}.")
        with np.errstate(over="ignore"):
            deviations = y - self.mean
        if np.isinf(deviations).any():
            raise ValueError(
                f"y lies {np.abs(y).max():.2g} away from 0, too far for differences that are "
                "floats: divide it by a power of ten."
            )
        return deviations / np.where(self.deviation > 0, self.deviation, 1.0)

    def in_units(self, values):
        """Differences (..., n_targets) of standardised targets in units of y."""
        values = rounded_product(values, self.deviation)
        return values[..., 0] if self.one_column else values

    def inverse(self, y):
        """Targets as given."""
        return self.in_units(y) + self.mean


def _read_numbers(y):
    """Validated targets, float64; ValueError for what is no number."""
    if isinstance(y, dict):
        raise ValueError("y is a dict: make an array or a frame of its values.")
    y = read_floats(y, "y", "days since a date")
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


class FittedRegressor(FittedNetworks):
    """Results of fitting a regressor."""

    _target: TargetScaling


@as_estimator
class TNRegressor(Scored, RegressorMixin, Deployable, OutputOptions, TensorNetworkEstimator):
    """Regressor whose predictions are the outputs of tensor networks on embedded features.

    Targets are standardised inside. See `TNClassifier` for the parameters, attributes and errors
    that are not described here; raw tables work as there.

    >>> from sklearn.datasets import make_friedman1
    >>> X, y = make_friedman1(300, random_state=0)
    >>> bool(TNRegressor(random_state=0).fit(X, y).score(X, y) > 0.9)
    True

    Parameters
    ----------
    n_members : int
        Networks whose predictions are averaged. Each of several is trained without another part of
        the rows, a quarter or less, from which `predict` has standard deviations.
    loss : str, Loss or callable
        Loss of standardised targets. None takes the squared error; names of optax's losses, such as
        ``"log_cosh"``, are valid too. ``Quantile(0.95)`` predicts what 95 % of the targets lie
        below; with ``Quantile(0.05)`` that is an interval, for rows unseen in training of less
        than 90 %: measure it on some.
    """

    _metric = staticmethod(r2_score)
    _fitted = FittedRegressor
    _n_outputs = property(lambda self: len(self._target.mean))
    _unchangeable = (*TensorNetworkEstimator._unchangeable, "missing", "dates")
    _defaults = Recipe(
        "regression",
        SquaredError(),
        Gradient(feature_dropout=0.05, decay=1.0, min_steps=1000),
        (legendre, "quantile_sigmoid"),
        AVERAGED,
        leaves_out=True,
    )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @fits
    def fit(self, X, y=None, sample_weight=None):
        """Train on targets y (n_samples,) or (n_samples, n_targets); returns self.

        See `TNClassifier.fit` for the parameters.
        """
        self._fit_targets(X, y, sample_weight)

    @fits
    def partial_fit(self, X, y=None, sample_weight=None):
        """One epoch on more samples, the first of which also fit the scalings.

        See `TNClassifier.fit` for the parameters.
        """
        self._fit_targets(X, y, sample_weight, partial_fit=True)

    def _fit_targets(self, X, y, sample_weight, partial_fit=False):
        going_on = self._goes_on(partial_fit)
        rows = read_rows(self, X, y, sample_weight, reset=not going_on, read_y=_read_numbers)
        knows_all = rows.stream is None or rows.targets is not None
        is_all = knows_all and not (partial_fit or self.warm_start)

        def encode(table, y, weight, going_on=True):
            if y is None:
                raise ValueError(
                    f"{type(self).__name__} requires y to be passed, but the target y is None."
                )
            y = _read_numbers(unmasked(y, "y"))
            check_consistent_length(table.floats, y)
            data = Data(table, y.reshape(len(y), -1), read_weight(weight, len(y)))
            data = data.rows(data.weight > 0)
            if not going_on:
                known, weight = rows.targets or (data.target, data.weight)
                known, weight = known.reshape(len(known), -1)[weight > 0], weight[weight > 0]
                self._target = TargetScaling.fit(known, weight, y.ndim == 1, is_all)
            return data._replace(target=self._target.transform(data.target))

        data = rows.data(encode, going_on=going_on)
        self._train(data, (data.target.shape[1], None), partial_fit)

    @reads
    @by_rows
    def predict(self, X, return_std=False):
        """Predicted targets, (n_samples,) or (n_samples, n_targets) as y was.

        Parameters
        ----------
        X : array or frame of shape (n_samples, n_features)
        return_std : bool
            Whether to return their standard deviations, too: the noise that targets showed around
            networks that had not seen them, and how far the networks differ at each row, which
            counts in full, since they share most rows and err together. Where errors are normal,
            90 % of the targets or a few more lie within 1.64 of these. Networks changed by hand
            keep the noise around those that were trained.

        Returns
        -------
        predictions : ndarray, or (ndarray, ndarray) with return_std

        Raises
        ------
        ValueError
            For rows whose predictions are beyond the floats.
            With return_std where no network left out rows: of a single one, after ``partial_fit``,
            warm starts and `compress`, with trainers other than gradients, from fewer than eight
            rows; and for quantiles.
        """
        values = self._predict(X, Amplitude.dense)
        mean = self._target.inverse(mean_over_members(values))
        if wrong := int((~np.isfinite(mean.reshape(len(mean), -1))).any(axis=1).sum()):
            raise ValueError(
                f"The predictions for {wrong} of {len(mean)} rows are too large for floats: these "
                "rows are far outside of those of fit. Give them in the same units."
            )
        if not return_std:
            return mean
        noise, n_members = self._ensemble.noise, len(values)
        if isinstance(self._ensemble.loss, Quantile):
            raise ValueError(
                f"Standard deviations are those around a mean, and {self._ensemble.loss} predicts "
                "none: leave return_std, or use loss=None."
            )
        if noise is None:
            raise ValueError(
                "All networks were trained on all rows, which say nothing of the errors on others: "
                "for standard deviations fit once on eight rows or more, with n_members=2 or more, "
                'trainer="gradient" and neither partial_fit nor warm_start nor compress after it.'
            )
        # Of a mean of independent networks it would be the second part alone.
        between = np.var(values, axis=0, ddof=1) * (1 + 1 / n_members)
        return mean, self._target.in_units(np.sqrt(noise + between))

    def _traced(self):
        values, target = traced_members(self._reader, self._ensemble, Amplitude.dense), self._target
        return lambda X: target.inverse(mean_over_members(values(X)))

    def _tree(self):
        views = [view_tree(self._reader, self._ensemble, traces=False)]
        return table_tree(self._reader, "regressor") | vars(self._target) | {"views": views}

    @reads
    @by_rows
    def explain(self, X) -> np.ndarray:
        """Share of each site in the prediction, (n_samples, nsites[, n_targets]), in units of y.

        The fall of the prediction where the site is averaged out, as in `TNClassifier.explain`.
        """
        falls = [values[:, None] - without for values, without in self._without(X)]
        return self._target.in_units(np.mean(falls, axis=0))

    # Of the targets of fitting, (n_targets,), to which outputs are added.
    _y_mean = property(lambda self: self._target.mean)
