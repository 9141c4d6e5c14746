"""Maps from raw columns to the unit interval, fitted inside the estimators."""

import abc
import dataclasses

import numpy as np

from .._checks import check_int
from .._registry import register


class Scaler(abc.ABC):
    """Learns per-column numbers from data and maps columns to [0, 1].

    `fit` returns arrays, the state, which estimators keep and store. NaN are ignored by `fit` and
    stay NaN; integer weights count as repetitions.
    """

    @abc.abstractmethod
    def fit(self, X, weight):
        """State, a dict of arrays, from X (n_samples, n_columns) and weight (n_samples,)."""

    @abc.abstractmethod
    def transform(self, X, state):
        """X (n_samples, n_columns) mapped to [0, 1], outside the fitted range clipped."""


@register("scaler")
@dataclasses.dataclass(frozen=True)
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
        seen = np.isfinite(X) * weight[:, None]
        total = np.maximum(seen.sum(axis=0), np.finfo(float).tiny)
        mean = np.sum(np.where(seen > 0, X, 0) * seen, axis=0) / total
        variance = np.sum(np.where(seen > 0, X - mean, 0) ** 2 * seen, axis=0) / total
        return {"quantiles": quantiles, "mean": mean, "deviation": np.sqrt(variance)}

    def transform(self, X, state):
        """X mapped to [0, 1]."""
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


@register("scaler")
@dataclasses.dataclass(frozen=True)
class MinMax(Scaler):
    """Each column's range to [0, 1].

    >>> import numpy as np
    >>> X = np.array([[0.0], [5.0]])
    >>> MinMax().transform(np.array([[1.0]]), MinMax().fit(X, np.ones(2))).tolist()
    [[0.2]]
    """

    def fit(self, X, weight):
        """State: low and high (n_columns,)."""
        del weight
        seen = ~np.all(np.isnan(X), axis=0)
        low, high = np.zeros(X.shape[1]), np.ones(X.shape[1])
        low[seen], high[seen] = np.nanmin(X[:, seen], axis=0), np.nanmax(X[:, seen], axis=0)
        return {"low": low, "high": high}

    def transform(self, X, state):
        """X mapped to [0, 1]."""
        width = state["high"] - state["low"]
        u = (X - state["low"]) / np.where(width > 0, width, 1)
        return np.clip(np.where((width > 0) | np.isnan(X), u, 0.5), 0, 1)


@register("scaler")
@dataclasses.dataclass(frozen=True)
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


@register("scaler")
@dataclasses.dataclass(frozen=True)
class Passthrough(Scaler):
    """Columns that are already in the embedding's own domain, which is not [0, 1] in general."""

    def fit(self, X, weight):
        """No state."""
        del X, weight
        return {}

    def transform(self, X, state):
        """X itself."""
        del state
        return X


def _quantiles(column, weight, knots):
    """Quantiles at linspace(0, 1, knots), linear between ranks, weights counted as repetitions."""
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
