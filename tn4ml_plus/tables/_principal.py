"""Scalers that mix columns: bijections of their principal components."""

import dataclasses

import numpy as np

from .._arrays import with_fixed_signs
from .._checks import check_instance, check_int
from .._registry import variant
from ._scalers import Bijection, Differentiable, GaussianCDF, Passthrough, moments, standardization


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
        return np.nan_to_num((X - state["mean"]) / state["deviation"], nan=0.0)

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
        out = np.empty(X.shape)
        out[:, : z.shape[1]] = self.scaler.log_derivative(z, inner)
        if is_noise.any():
            outside = self._centred(X, state) - z @ state["components"].T
            square = np.sum(outside**2, axis=1, keepdims=True) / (is_noise.sum() * state["noise"])
            out[:, is_noise] = -0.5 * (square + np.log(2 * np.pi * state["noise"]))
        return out
