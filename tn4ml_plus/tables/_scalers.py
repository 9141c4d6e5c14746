"""Maps from raw columns to the unit interval, fitted inside the estimators."""

import abc

import numpy as np
from scipy.special import log_expit, logit, ndtr, ndtri

from .._checks import check_int, check_number
from .._registry import variant


class Scaler(abc.ABC):
    """Learns per-column numbers from data and maps columns to [0, 1].

    `fit` returns arrays, the state, which readers keep and store. `fit` ignores NaN, which stay
    NaN; integer weights are frequency weights. X may be the table that the user gave: neither
    method may change it.
    """

    #: Whether outputs read several columns each, so that they are no longer single features.
    mixes_columns: bool = False

    @abc.abstractmethod
    def fit(self, X, weight):
        """State, a dict of arrays.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
        weight : ndarray of shape (n_samples,)
        """

    @abc.abstractmethod
    def transform(self, X, state):
        """Values in [0, 1], outside the fitted range clipped, (n_samples, n_outputs).

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
        state : dict of arrays, as from `fit`
        """

    def n_outputs(self, n_columns):
        """Number of columns of `transform`, fewer than n_columns only in `PrincipalComponents`."""
        return n_columns


class Differentiable(Scaler):
    """A scaler whose derivative turns densities on the unit cube into densities of raw columns."""

    @abc.abstractmethod
    def log_derivative(self, X, state):
        """Log of the factors of |du/dx|, of X's shape; -inf outside the fitted range, NaN for NaN.

        Their sum over the columns is the log of the Jacobian determinant.
        See `Scaler.transform` for the parameters.
        """


class Bijection(Differentiable):
    """A scaler smooth and strictly increasing in every column by itself, so that samples can be
    drawn and single columns be left out.
    """

    @abc.abstractmethod
    def inverse(self, U, state):
        """Raw columns of U (..., n_columns) in [0, 1].

        The state is that of `fit`; see `Scaler.transform` for the parameters.
        """


@variant("scaler")
class QuantileSigmoid(Scaler):
    """Mean of the mid-rank quantile map and the sigmoid of the standardised column.

    The first spreads any distribution evenly, the second keeps distances. knots: quantiles kept.
    A constant column becomes 1/2.

    >>> import numpy as np
    >>> X = np.array([[1.0], [2.0], [4.0]])
    >>> scaler = QuantileSigmoid()
    >>> scaler.transform(X, scaler.fit(X, np.ones(3))).round(2).ravel().tolist()
    [0.13, 0.47, 0.9]
    """

    knots: int = 256

    def __post_init__(self):
        check_int("knots", self.knots, 2)

    def fit(self, X, weight):
        """State: quantiles (knots, n_columns), mean and deviation (n_columns,)."""
        knots = int(np.clip(max(np.sum(weight), len(X)), 2, self.knots))
        quantiles = np.stack([_quantiles(column, weight, knots) for column in X.T], axis=1)
        return {"quantiles": quantiles} | moments(X, weight)

    def transform(self, X, state):
        rank = np.linspace(0, 1, len(state["quantiles"]))
        out = np.empty(X.shape, float)
        for j, (x, q) in enumerate(zip(X.T, state["quantiles"].T, strict=True)):
            if q[0] == q[-1]:
                out[:, j] = np.where(np.isnan(x), np.nan, 0.5)
                continue
            below = np.interp(-x, -q[::-1], -rank[::-1])
            z = (x - state["mean"][j]) / state["deviation"][j]
            sigmoid = 0.5 + 0.5 * np.tanh(z / 2)
            out[:, j] = 0.5 * (0.5 * (np.interp(x, q, rank) - below) + sigmoid)
        return out


@variant("scaler")
class MinMax(Bijection):
    """Each column's range to [0, 1]; a constant column becomes 1/2.

    >>> import numpy as np
    >>> X = np.array([[0.0], [5.0]])
    >>> MinMax().transform(np.array([[1.0]]), MinMax().fit(X, np.ones(2))).tolist()
    [[0.2]]
    """

    def fit(self, X, weight):
        """State: low and high (n_columns,)."""
        # These ignore NaN; of a column that has nothing else they leave it.
        low, high = np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0)
        return {"low": np.where(np.isnan(low), 0, low), "high": np.where(np.isnan(high), 1, high)}

    def transform(self, X, state):
        width = state["high"] - state["low"]
        u = X - state["low"]
        u /= np.where(width > 0, width, 1)
        np.clip(u, 0, 1, out=u)
        for j in np.flatnonzero(width <= 0):
            u[:, j] = np.where(np.isnan(X[:, j]), np.nan, 0.5)
        return u

    def inverse(self, U, state):
        return state["low"] + U * (state["high"] - state["low"])

    def log_derivative(self, X, state):
        """Minus the log of the range's width, of 1 where the range is a point."""
        width = state["high"] - state["low"]
        out = np.where((state["low"] > X) | (state["high"] < X), -np.inf, 0.0)
        return out - np.log(np.where(width > 0, width, 1)) + 0 * X


@variant("scaler")
class CommonMinMax(MinMax):
    """The range of all columns together to [0, 1]: for pixels and others of one unit.

    >>> import numpy as np
    >>> X = np.array([[0.0, 10.0], [5.0, 5.0]])
    >>> CommonMinMax().transform(X, CommonMinMax().fit(X, np.ones(2))).tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """

    def fit(self, X, weight):
        """State: low and high (n_columns,), all the same."""
        flat = super().fit(X.reshape(-1, 1), weight)
        return {name: np.full(X.shape[1], value[0]) for name, value in flat.items()}


@variant("scaler")
class Passthrough(Bijection):
    """Columns that are already in the embedding's own domain, which is not [0, 1] in general."""

    def fit(self, X, weight):
        return {}

    def transform(self, X, state):
        return X

    def inverse(self, U, state):
        return U

    def log_derivative(self, X, state):
        return 0 * X


class _Cumulative(Bijection):
    """u = F(z / scale), z the standardised column and F a cumulative distribution function."""

    scale: float

    def __post_init__(self):
        check_number("scale", self.scale, above=0)

    def fit(self, X, weight):
        """State: mean and deviation (n_columns,), that of a constant column replaced by 1."""
        return standardization(X, weight)

    def _standardized(self, X, state):
        return (X - state["mean"]) / (state["deviation"] * self.scale)

    def _raw(self, z, state):
        return state["mean"] + state["deviation"] * self.scale * z


@variant("scaler")
class GaussianCDF(_Cumulative):
    """Phi(z / scale) of the standardised column z: a normal column becomes nearly uniform.

    The whole real line is mapped, so that densities have no edge. scale: positive; values above 1
    leave room for the tails.

    >>> import numpy as np
    >>> X = np.array([[-1.0], [1.0]])
    >>> scaler = GaussianCDF(1.0)
    >>> u = scaler.transform(X, scaler.fit(X, np.ones(2)))
    >>> u.round(3).ravel().tolist(), scaler.inverse(u, scaler.fit(X, np.ones(2))).ravel().tolist()
    ([0.159, 0.841], [-1.0, 1.0])
    """

    scale: float = 1.2

    def transform(self, X, state):
        return ndtr(self._standardized(X, state))

    def inverse(self, U, state):
        """Raw columns of U; the ends stand for what rounds to them."""
        return self._raw(ndtri(np.clip(U, *_INSIDE)), state)

    def log_derivative(self, X, state):
        z = self._standardized(X, state)
        return -0.5 * z**2 - np.log(np.sqrt(2 * np.pi) * self.scale * state["deviation"])


@variant("scaler")
class LogisticCDF(_Cumulative):
    """1 / (1 + exp(-z / scale)) of the standardised column z: for heavier tails.

    scale: positive.

    >>> import numpy as np
    >>> X = np.array([[-1.0], [1.0]])
    >>> LogisticCDF().transform(X, LogisticCDF().fit(X, np.ones(2))).round(3).ravel().tolist()
    [0.269, 0.731]
    """

    scale: float = 1.0

    def transform(self, X, state):
        return np.exp(log_expit(self._standardized(X, state)))

    def inverse(self, U, state):
        """Raw columns of U; the ends stand for what rounds to them."""
        return self._raw(logit(np.clip(U, *_INSIDE)), state)

    def log_derivative(self, X, state):
        z = self._standardized(X, state)
        return log_expit(z) + log_expit(-z) - np.log(self.scale * state["deviation"])


# The floats next to the ends of the unit interval.
_INSIDE = (np.finfo(float).tiny, 1 - np.finfo(float).epsneg)


def moments(X, weight):
    """Weighted mean and deviation of every column, missing values left out."""
    seen = np.isfinite(X) * weight[:, None]
    total = np.maximum(seen.sum(axis=0), np.finfo(float).tiny)
    mean = np.sum(np.where(seen > 0, X, 0) * seen, axis=0) / total
    variance = np.sum(np.where(seen > 0, X - mean, 0) ** 2 * seen, axis=0) / total
    return {"mean": mean, "deviation": np.sqrt(variance)}


def standardization(X, weight):
    """The moments with a deviation of 1 where it is zero but for rounding."""
    state = moments(X, weight)
    rounding = len(X) * np.finfo(float).eps * np.abs(state["mean"])
    state["deviation"] = np.where(state["deviation"] > rounding, state["deviation"], 1.0)
    return state


def _quantiles(column, weight, knots):
    """Quantiles at linspace(0, 1, knots), linear between ranks, weights counted as frequencies."""
    order = np.argsort(column, kind="stable")
    x, w = column[order], weight[order]
    x, w = x[np.isfinite(x)], w[np.isfinite(x)]
    if len(x) == 0:
        return np.zeros(knots)
    last = np.cumsum(w)
    first = last - w
    # A value of weight w stands at the ranks first .. last - 1, at one rank if w <= 1.
    ranks = np.stack([first, np.maximum(last - 1, first)], axis=1).ravel()
    wanted = np.linspace(0, 1, knots) * ranks[-1]
    return np.interp(wanted, ranks, np.repeat(x, 2))
