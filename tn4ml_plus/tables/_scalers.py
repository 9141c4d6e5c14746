"""Maps from raw columns to the unit interval, fitted inside the estimators."""

import abc
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special
from scipy.special import logit, ndtri

from .._arrays import namespace, with_columns, with_fixed_signs
from .._checks import check_instance, check_int, check_number
from .._registry import variant


class Scaler(abc.ABC):
    """Learns per-column numbers from data and maps columns to [0, 1].

    `fit` returns arrays, the state, which readers keep and store. `fit` ignores NaN, which stay
    NaN; integer weights are frequency weights. X may be the table that the user gave: neither
    method may change it. Exported programs give `transform` and `log_derivative` arrays of JAX.
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
        # Slopes between values that are next to nothing beside others would be infinite.
        quantiles[np.abs(quantiles) < 1e-290 * np.abs(quantiles).max(axis=0)] = 0
        return {"quantiles": quantiles} | moments(X, weight)

    def transform(self, X, state):
        if namespace(X) is jnp:
            return self._scaled(X, state)
        out = np.empty(X.shape, float)
        # What is in between takes the memory of a column.
        for j in range(X.shape[1]):
            own = slice(j, j + 1)
            out[:, own] = self._scaled(X[:, own], {n: a[..., own] for n, a in state.items()})
        return out

    def _scaled(self, X, state):
        xp, q = namespace(X), state["quantiles"]
        rank, constant = np.linspace(0, 1, len(q)), q[0] == q[-1]
        below = _interpolated(-X, -q[::-1], -rank[::-1])
        z = _deviations(X, state["mean"], np.where(constant, 1, state["deviation"]))
        sigmoid = 0.5 + 0.5 * xp.tanh(z / 2)
        u = 0.5 * (0.5 * (_interpolated(X, q, rank) - below) + sigmoid)
        return xp.where(constant, xp.where(xp.isnan(X), np.nan, 0.5), u)


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
        xp, width = namespace(X), state["high"] - state["low"]
        with np.errstate(over="ignore"):
            u = X - state["low"]
            u /= np.where(width > 0, width, 1)
        u = xp.clip(u, 0, 1)
        for j in np.flatnonzero(width <= 0):
            u = with_columns(u, j, xp.where(xp.isnan(X[:, j]), np.nan, 0.5))
        return u

    def inverse(self, U, state):
        return state["low"] + U * (state["high"] - state["low"])

    def log_derivative(self, X, state):
        """Minus the log of the range's width, of 1 where the range is a point."""
        xp, width = namespace(X), state["high"] - state["low"]
        out = xp.where((state["low"] > X) | (state["high"] < X), -np.inf, 0.0)
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

    def transform(self, X, state):
        return self._cdf(self._standardized(X, state))

    def inverse(self, U, state):
        """Raw columns of U; the ends stand for what rounds to them."""
        z = self._quantile(np.clip(U, *_INSIDE))
        return state["mean"] + state["deviation"] * self.scale * z

    def _standardized(self, X, state):
        return _deviations(X, state["mean"], state["deviation"] * self.scale)


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
    _quantile = staticmethod(ndtri)

    def _cdf(self, z):
        return _special(z).ndtr(z)

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
    _quantile = staticmethod(logit)

    def _cdf(self, z):
        return namespace(z).exp(_log_expit(z))

    def log_derivative(self, X, state):
        z = self._standardized(X, state)
        return _log_expit(z) + _log_expit(-z) - np.log(self.scale * state["deviation"])


class PrincipalComponents(Differentiable):
    """Base of the scalers that mix columns: a bijection of their principal components.

    Missing values count as being at the mean. scaler: a `Bijection` to [0, 1].
    """

    mixes_columns = True
    scaler: Bijection

    def __post_init__(self):
        check_instance("scaler", self.scaler, Bijection)
        if isinstance(self.scaler, Passthrough):
            raise ValueError(
                "Components have no range of their own that an embedding could be made for: take "
                "GaussianCDF() or LogisticCDF() instead of Passthrough()."
            )

    def _principal(self, X, weight, state):
        """Variances, largest first, and axes (n_columns, n_columns) of the centred columns."""
        z = self._centred(X, state)
        variances, axes = np.linalg.eigh((z.T * weight) @ z / weight.sum())
        return variances[::-1], with_fixed_signs(axes)[:, ::-1]

    def _centred(self, X, state):
        z = _deviations(X, state["mean"], state["deviation"])
        return namespace(X).nan_to_num(z, nan=0.0)

    def _with_inner(self, X, weight, state):
        """The state with that of the other scaler."""
        inner = self.scaler.fit(self._centred(X, state) @ state["components"], weight)
        return state | {f"inner_{name}": value for name, value in inner.items()}

    def _split(self, X, state):
        inner = {
            name.removeprefix("inner_"): a for name, a in state.items() if name.startswith("inner_")
        }
        return self._centred(X, state) @ state["components"], inner

    def transform(self, X, state):
        return self.scaler.transform(*self._split(X, state))


@variant("scaler")
class Rotated(PrincipalComponents):
    """A bijection of the principal components of the standardised columns.

    It sees what columns have in common, such as clusters along a diagonal. Components with less
    than 1e-4 of the largest variance, and missing values, count as being at the mean. scaler: a
    `Bijection`.

    >>> import numpy as np
    >>> X = np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    >>> Rotated().transform(X, Rotated().fit(X, np.ones(3))).round(3)[:, 1].tolist()
    [0.5, 0.5, 0.5]
    """

    scaler: Bijection = dataclasses.field(default=GaussianCDF())

    def fit(self, X, weight):
        """State: mean, deviation, components (n_columns, n_columns), and the other scaler's."""
        state = standardization(X, weight)
        variances, axes = self._principal(X, weight, state)
        kept = variances > 1e-4 * max(variances[0], np.finfo(float).tiny)
        return self._with_inner(X, weight, state | {"components": axes * kept})

    def log_derivative(self, X, state):
        """Log of the derivatives along the components, (n_samples, n_columns)."""
        return self.scaler.log_derivative(*self._split(X, state)) - np.log(state["deviation"])


@variant("scaler")
class ProbabilisticPCA(PrincipalComponents):
    """A bijection of the leading principal components, and normal noise in all other directions.

    For many columns of one unit, as pixels: they are not standardised, and noise has the same
    variance in all directions, the mean of those left out. Missing values count as being at the
    mean. With more columns than `n_components` tables must hold numbers only, and have at least
    n_components + 2 rows, else fitting raises ValueError. Tipping and Bishop 1999, J. R. Stat. Soc.
    B 61, 611. Directions in which rows do not vary are noise of negligible variance.

    >>> import numpy as np
    >>> X = np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.1], [0.1, 0.0]])
    >>> scaler = ProbabilisticPCA(1)
    >>> scaler.transform(X, scaler.fit(X, np.ones(4))).round(2).ravel().tolist()
    [0.11, 0.87, 0.51, 0.51]

    Parameters
    ----------
    n_components : int, at least 1
    scaler : Bijection of the components
    """

    n_components: int = 20
    scaler: Bijection = dataclasses.field(default=GaussianCDF())

    def __post_init__(self):
        super().__post_init__()
        check_int("n_components", self.n_components, 1)

    def n_outputs(self, n_columns):
        return min(self.n_components, n_columns)

    def fit(self, X, weight):
        """State: mean, components (n_columns, n_outputs), noise (one variance), other scaler's."""
        state = {"mean": moments(X, weight)["mean"], "deviation": np.ones(X.shape[1])}
        variances, axes = self._principal(X, weight, state)
        count = self.n_outputs(X.shape[1])
        if count < X.shape[1] and len(X) <= count + 1:
            raise ValueError(
                f"{len(X)} rows are too few to tell {count} components from noise, more than "
                f"{count + 1} are needed: lower n_components."
            )
        # Below that a variance is rounding.
        floor = max(1e-12 * variances[0], np.finfo(float).tiny)
        kept = variances[:count] > floor
        state["components"] = axes[:, :count] * kept
        left_out = variances[kept.sum() :]
        state["noise"] = np.array(max(left_out.mean() if len(left_out) else 0.0, floor))
        return self._with_inner(X, weight, state)

    def log_derivative(self, X, state):
        """Along the components, then of the noise, the same share in every other column.

        (n_samples, n_columns)
        """
        z, inner = self._split(X, state)
        is_noise = np.ones(X.shape[1], bool)
        is_noise[: z.shape[1]] = ~state["components"].any(axis=0)
        xp = namespace(X)
        out = xp.pad(self.scaler.log_derivative(z, inner), [(0, 0), (0, X.shape[1] - z.shape[1])])
        if is_noise.any():
            outside = self._centred(X, state) - z @ state["components"].T
            square = xp.sum(outside**2, axis=1, keepdims=True) / (is_noise.sum() * state["noise"])
            out = xp.where(is_noise, -0.5 * (square + np.log(2 * np.pi * state["noise"])), out)
        return out


# The floats next to the ends of the unit interval.
_INSIDE = (np.finfo(float).tiny, 1 - np.finfo(float).epsneg)
# Deviations beyond count as this, whose squares and sums of them are floats.
_FARTHEST = 1e150


def _deviations(X, mean, deviation):
    """Columns standardised, with what is too far away for a square at a bound."""
    with np.errstate(over="ignore"):
        return namespace(X).clip((X - mean) / deviation, -_FARTHEST, _FARTHEST)


def _special(x):
    """Special functions for an array."""
    return jax.scipy.special if namespace(x) is jnp else special


def _log_expit(z):
    return jax.nn.log_sigmoid(z) if namespace(z) is jnp else special.log_expit(z)


def _interpolated(X, knots, values):
    """`numpy.interp` of every column of X between its own knots, (n_knots, n_columns)."""
    if namespace(X) is np:
        return np.stack([np.interp(x, q, values) for x, q in zip(X.T, knots.T)], axis=1)
    # That of JAX takes knots of less than 1e-31 apart for one.
    knots, values = jnp.asarray(knots), jnp.asarray(values)
    search = jax.vmap(partial(jnp.searchsorted, side="right"), 1, 1)
    i = jnp.clip(search(knots, X) - 1, 0, len(knots) - 2)
    low, high = (jnp.take_along_axis(knots, j, axis=0) for j in (i, i + 1))
    slope = (values[i + 1] - values[i]) / (high - low)
    found = jnp.where(low == X, values[i], slope * (X - low) + values[i])
    found = jnp.where(knots[-1] <= X, values[-1], jnp.where(knots[0] > X, values[0], found))
    return jnp.where(jnp.isnan(X), X, found)


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
