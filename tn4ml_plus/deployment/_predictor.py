"""Predictions of a fitted tn4ml_plus estimator by NumPy alone: a copy of this file is beside them.

``from predictor import load; load("folder").predict_proba(X)``, in a folder that
`Predictor.save` made; the package itself is not needed.
"""

import io
import json
import math
import os
import secrets
from pathlib import Path

import numpy as np

_FORMAT = "tn4ml_plus predictor 1"
_FILE, _MODULE = "predictor.npz", "predictor.py"
# Rows that are evaluated together.
_ROWS = 1024
# Steps until vectors are rescaled, and until their squares are, which float64 bears.
_HEIGHTS, _HEIGHTS_OF_SQUARES = 8, 4
_LEAST_DIVISOR = 0.1
_FARTHEST = 1e150
_LARGEST = np.finfo(float).max
_TINY = np.finfo(float).tiny
_LOG2 = math.log(2)


def load(folder):
    """The predictor that was saved to a folder; nothing in it is executed.

    ValueError for what is no file of a predictor, or one of another version.
    """
    path = Path(folder) / _FILE
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    try:
        tree = json.loads(str(arrays.pop("tree")))
        found = tree.pop("format")
    except (KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no predictor: save it again.") from error
    if found != _FORMAT:
        raise ValueError(f"{path} is a {found!r}, this module reads a {_FORMAT!r}: save it again.")
    return predictor(_from_json(tree, arrays))


def predictor(tree):
    """The predictor that numbers, strings and arrays in dicts and lists describe."""
    return {"classifier": Classifier, "regressor": Regressor, "density": Density}[tree["kind"]](
        tree
    )


class Predictor:
    """Base of the predictors.

    Parameters
    ----------
    tree : dict of numbers, strings, arrays, and dicts and lists of them
    """

    def __init__(self, tree):
        self.tree = tree
        self.views = [_View(view) for view in tree["views"]]
        self.n_features_in_ = tree["n_columns"]
        # Categories of columns that have any, by their number.
        self._codes = {
            j: {level: code for code, level in enumerate(levels)}
            for j, levels in enumerate(tree["levels"])
            if levels is not None
        }
        self._pooled = tree["pooled"]

    def save(self, folder):
        """Write the predictor, and a copy of this module, to a folder, which is made if need be."""
        arrays = []
        tree = _to_json(self.tree | {"format": _FORMAT}, arrays)
        content = io.BytesIO()
        named = {str(i): array for i, array in enumerate(arrays)}
        np.savez(content, tree=np.array(json.dumps(tree)), **named)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / _MODULE, Path(__file__).read_bytes())
        _replace(folder / _FILE, content.getvalue())

    def _outputs(self, X):
        """Outputs of the rows of X, numbers and categories, by `_of_rows`."""
        X = self._numbers(X)
        starts = range(0, max(len(X), 1), _ROWS)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
            parts = [self._of_rows(X[start : start + _ROWS]) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _numbers(self, X):
        """Floats of a table (n_samples, n_features), codes for categories."""
        table = np.asarray(X, object if self._codes else float)
        if table.ndim != 2 or table.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X must have the shape (n_samples, {self.n_features_in_}), got {table.shape}."
            )
        if self._codes:
            table = table.copy()
            for j, codes in self._codes.items():
                # Others are one category, or unknown.
                other = len(codes) if self._pooled[j] else -1
                table[:, j] = [_code(value, codes, other) for value in table[:, j]]
            table = table.astype(float)
        if np.isinf(table).any():
            raise ValueError("X holds infinities: replace them by numbers, or by NaN if missing.")
        return table


class Classifier(Predictor):
    """Predictions of a `TNClassifier`."""

    def predict_proba(self, X):
        """Class probabilities, (n_samples, n_classes) in the order of classes_."""
        return self._outputs(X)

    def predict(self, X):
        """The most probable labels, (n_samples,)."""
        return self.classes_[np.argmax(self.predict_proba(X), axis=1)]

    @property
    def classes_(self):
        """Labels of the classes."""
        return np.array(self.tree["classes"])

    def _of_rows(self, X):
        loss = self.tree["loss"]
        (values, log_scale), smoothing = self.views[0].outputs(X), loss["label_smoothing"]
        if loss["squares"]:
            squares = (values / (np.abs(values).max(axis=-1, keepdims=True) + _TINY)) ** 2
            weights = squares + loss["epsilon"] * squares.sum(axis=-1, keepdims=True)
        else:
            largest = values.max(axis=-1, keepdims=True)
            weights = np.exp((values - largest) * np.exp(log_scale)[..., None])
        p = weights / weights.sum(axis=-1, keepdims=True)
        if smoothing:
            uniform = smoothing / p.shape[-1]
            p = (p - uniform).clip(uniform / 100)
            p = p / p.sum(axis=-1, keepdims=True)
        return p.mean(axis=0)


class Regressor(Predictor):
    """Predictions of a `TNRegressor`."""

    def predict(self, X):
        """Predicted targets, (n_samples,) or (n_samples, n_targets)."""
        found = self._outputs(X)
        return found[:, 0] if self.tree["one_column"] else found

    def _of_rows(self, X):
        values, log_scale = self.views[0].outputs(X)
        values = (values * np.exp(log_scale)[..., None]).mean(axis=0)
        return values * self.tree["deviation"] + self.tree["mean"]


class Density(Predictor):
    """Scores of a `TNBornMachine` or a `TNAnomalyDetector`."""

    def score_samples(self, X):
        """Log-densities, or scores, of the rows of X, (n_samples,)."""
        return self._outputs(X)

    def predict(self, X):
        """1 for inliers, -1 for outliers, (n_samples,), of a detector."""
        if "offset" not in self.tree:
            raise AttributeError("A density knows no outliers: see score_samples.")
        return np.where(self.score_samples(X) < self.tree["offset"], -1, 1)

    def _of_rows(self, X):
        changed = 0.0
        if "constants" in self.tree:
            constants = self.tree["constants"]
            slack = 1e-9 * np.abs(np.where(constants == 0, 1, constants))
            changed = self.tree["constant_changed"] * (np.abs(X - constants) > slack).sum(axis=1)
            X = np.where(np.isnan(X - constants), X, constants)
        return np.mean([view.score(X) for view in self.views], axis=0) - changed


class _View:
    """Networks that read rows in one way."""

    def __init__(self, tree):
        self.tree = tree
        self.sites = _Sites(**tree["sites"])
        self.groups = [_Group(**group) for group in tree["groups"]]
        self.scaler, self.scaled = tree["scaler"], tree["scaled"]
        self.all_scaled = bool(self.scaled.all())
        low, high = tree["low"], tree["high"]
        self.shift = None if (low == 0).all() and (high == 1).all() else (low, high - low)

    def outputs(self, X):
        """Values (n_members, rows, n_outputs) and logs of their scales, (n_members, rows)."""
        phi = self.sites.embed(self._columns(X)[1])
        values, logs = zip(*(group.outputs(phi) for group in self.groups), strict=True)
        return np.concatenate(values), np.concatenate(logs)

    def score(self, X):
        """Scores, (rows,)."""
        raw, U = self._columns(X)
        loss, unseen = self.tree["loss"], self.sites.unseen(U)
        U = np.where(unseen, np.nan, U)
        phi, missing = self.sites.embed(U), np.isnan(U)
        gaps = missing if loss["kind"] == "born" and missing.any() else None
        logs = np.concatenate([group.log_squares(phi, gaps) for group in self.groups])
        score = unseen.sum(axis=1) * self.tree["unseen"]
        if loss["kind"] == "born":
            largest = logs.max(axis=0)
            score += largest + np.log(np.mean(np.exp(logs - largest), axis=0))
        elif loss["kind"] == "likelihood":
            score += (logs - self.tree["log_norms"][:, None]).mean(axis=0)
        else:
            return score - ((logs - loss["target"]) ** 2).mean(axis=0)
        return score + self._log_derivatives(raw).sum(axis=1)

    def _columns(self, X):
        """Columns that are scaled as the scaler sees them, and all in the embedding's domain."""
        raw = X if self.all_scaled else X[:, self.scaled]
        if "exponents" in self.tree:
            raw = np.clip(np.ldexp(raw, -self.tree["exponents"]), -_LARGEST, _LARGEST)
        if not self.scaled.any():
            return raw, X
        u = _SCALERS[self.scaler["name"]](raw, self.scaler)
        if self.scaler["name"] == "Passthrough":
            u = np.clip(u, self.tree["low"], self.tree["high"])
        elif self.shift is not None:
            u = u * self.shift[1] + self.shift[0]
        if self.all_scaled:
            return raw, u
        U = X.copy()
        U[:, self.scaled] = u
        return raw, U

    def _log_derivatives(self, raw):
        if not raw.shape[1]:
            return raw
        log = _DERIVATIVES[self.scaler["name"]](raw, self.scaler)
        if "exponents" in self.tree:
            log = log - _LOG2 * self.tree["exponents"]
        low, high = self.tree["low"], self.tree["high"]
        if self.scaler["name"] == "Passthrough":
            log = np.where((low > raw) | (high < raw), -np.inf, log)
        else:
            log[:, : len(low)] += np.log(high - low)
        return np.where(np.isnan(log), 0, log)


class _Sites:
    """Embeddings of all sites: Legendre series on pieces of their domains.

    Parameters
    ----------
    breaks : (nsites, n_pieces + 1), ends of the pieces, infinite beyond the last
    series : (nsites, n_pieces [+ 1], n_terms, phys_dim); the last piece is that of unknown codes
    discrete : (nsites,) bools, whether a site reads codes 0, 1, ...
    periodic : (nsites,) bools, whether it has the period 1
    gaps : (nsites, phys_dim), vectors of missing features
    divisors : (nsites, phys_dim) or None, by whose products vectors are divided
    traces : bool, whether codes never seen are missing
    """

    def __init__(self, breaks, series, discrete, periodic, gaps, divisors, traces):
        self.series, self.discrete, self.gaps = series, discrete, gaps
        self.periodic = periodic if periodic.any() else None
        self.divisors, self.traces = divisors, traces
        self.inner, self.any_discrete = breaks[:, 1:-1], bool(discrete.any())
        self.n_codes = np.isfinite(breaks).sum(axis=1) - 1
        with np.errstate(invalid="ignore"):
            self.middle = (breaks[:, :-1] + breaks[:, 1:]) / 2
            self.half = (breaks[:, 1:] - breaks[:, :-1]) / 2
        padding = ~np.isfinite(self.half)
        self.middle[padding], self.half[padding] = 0, 1
        self.numbers = np.arange(len(breaks))
        self.plain = series.shape[1] == 1 and not self.any_discrete
        self.is_legendre = self.plain and series.shape[2] == series.shape[3]
        self.is_legendre = self.is_legendre and (series[:, 0] == np.eye(series.shape[2])).all()
        self.is_legendre &= not self.middle.any() and (self.half == 1).all()

    def unseen(self, U):
        """Bools of codes that count as missing, (rows, nsites)."""
        return self._unknown(U) if self.traces and self.any_discrete else np.zeros(U.shape, bool)

    def _unknown(self, U):
        outside = (U < 0) | (self.n_codes - 1 < U) | (U % 1 > 0)
        return self.discrete & outside

    def embed(self, U):
        """Vectors, (nsites, rows, phys_dim)."""
        missing = np.isnan(U)
        gaps = missing.any()
        if gaps:
            U = np.where(missing, self.middle[:, 0], U)
        if self.periodic is not None:
            U = np.where(self.periodic, U % 1, U)
        if self.is_legendre:
            phi = _legendre(U.T, self.series.shape[2])
        elif self.plain:
            t = (U.T - self.middle) / self.half
            phi = _legendre(t, self.series.shape[2]) @ self.series[:, 0]
        else:
            piece = (self.inner <= U[:, :, None]).sum(axis=2)
            t = (U - self.middle[self.numbers, piece]) / self.half[self.numbers, piece]
            if self.any_discrete:
                piece = np.where(self._unknown(U), self.series.shape[1] - 1, piece)
                t = np.where(self.discrete, 0, t)
            terms = _legendre(t.T, self.series.shape[2])[:, :, None]
            phi = (terms @ self.series[self.numbers[:, None], piece.T])[:, :, 0]
        if self.divisors is not None:
            divisor = (phi * self.divisors[:, None]).sum(axis=-1, keepdims=True)
            phi = phi / np.maximum(divisor, _LEAST_DIVISOR)
        return np.where(missing.T[:, :, None], self.gaps[:, None], phi) if gaps else phi


def _legendre(t, n_terms):
    """Legendre polynomials, along a new last axis."""
    out = np.empty((*t.shape, n_terms))
    out[..., 0] = 1
    if n_terms > 1:
        out[..., 1] = t
    for k in range(1, n_terms - 1):
        out[..., k + 1] = ((2 * k + 1) * t * out[..., k] - k * out[..., k - 1]) / (k + 1)
    return out


class _Group:
    """Networks of one form: nodes below a root, those of one height and kind together in steps.

    A step's nodes have children in this order: other nodes, then sites, then an output where there
    is one.

    Parameters
    ----------
    orders : (n_members, n_leaves), the sites that leaves read, in the order of the steps
    steps : list of dict
        ``cores`` (n_members, n_nodes, *children, up), and ``below``, the number of the node in each
        slot of nodes, counted over all steps, a list of (n_nodes,).
    log_scales : (n_members,), logs of factors that the cores lack
    is_open : bool, whether there are outputs besides those of the root, a last child of all nodes
    """

    def __init__(self, orders, steps, log_scales, is_open):
        self.orders, self.log_scales, self.is_open = orders, log_scales, is_open
        self.steps, node, leaf = [], 0, 0
        self.width = max([step["cores"].shape[-1] for step in steps[:-1]], default=1)
        for step in steps:
            cores = step["cores"]
            below = [_as_slice(numbers) for numbers in step["below"]]
            n_leaves = cores.ndim - 3 - len(below) - is_open
            leaves = [
                slice(leaf + i * cores.shape[1], leaf + (i + 1) * cores.shape[1])
                for i in range(n_leaves)
            ]
            leaf += n_leaves * cores.shape[1]
            own = slice(node, node + cores.shape[1])
            node = own.stop
            self.steps.append((cores, *_matrices(cores, len(below), n_leaves), below, leaves, own))
        self.n_nodes = node

    def outputs(self, phi):
        """Values of the root, (n_members, rows, up), and logs of their scales."""
        phi, n_rows = phi[self.orders], phi.shape[1]
        log_scale = np.repeat(self.log_scales[:, None], n_rows, axis=1)
        states = np.empty((len(phi), self.n_nodes, n_rows, self.width))
        for i, (cores, flat, _, below, leaves, own) in enumerate(self.steps):
            factors = [
                *(states[:, nodes, :, : cores.shape[2 + j]] for j, nodes in enumerate(below)),
                *(phi[:, sites] for sites in leaves),
            ]
            value = _products(factors) @ flat
            if i == len(self.steps) - 1:
                return value[:, 0], log_scale
            if i % _HEIGHTS == _HEIGHTS - 1:
                # One power of two for all nodes of the step below the root.
                log_scale += self._rescaled(value, 3)
            states[:, own, :, : value.shape[-1]] = value
        raise ValueError("A network has no nodes.")

    def log_squares(self, phi, missing=None):
        """Logs of the squares of the outputs, (n_members, rows), summed over all of them.

        missing: (rows, nsites) or None, the features that are traced out.
        """
        if missing is None and not self.is_open:
            values, log_scale = self.outputs(phi)
            return np.log(np.sum(values**2, axis=-1)) + 2 * log_scale
        phi, n_rows = phi[self.orders], phi.shape[1]
        log_scale = np.repeat(2 * self.log_scales[:, None], n_rows, axis=1)
        if missing is not None:
            missing = missing.T[self.orders]
            eye = np.eye(phi.shape[-1])
            outer = phi[..., :, None] * phi[..., None, :]
            phi = np.where(missing[..., None, None], eye, outer)
        states = np.empty((len(phi), self.n_nodes, n_rows, self.width, self.width))
        for i, (cores, _, by_leaves, below, leaves, own) in enumerate(self.steps):
            matrices = [states[:, nodes, :, :k, :k] for nodes, k in zip(below, cores.shape[2:])]
            if missing is None and leaves:
                ket = _products([phi[:, sites] for sites in leaves]) @ by_leaves
                rest = cores.shape[2 + len(below) + len(leaves) :]
                ket = ket.reshape(*ket.shape[:3], *cores.shape[2 : 2 + len(below)], *rest)
            else:
                ket = cores[:, :, None]
                matrices += [phi[:, sites] for sites in leaves]
            half = ket
            for j, matrix in enumerate(matrices):
                half = _applied(half, matrix, 3 + j)
            up = cores.shape[-1]
            ket = ket.reshape(*ket.shape[:3], -1, up).swapaxes(-1, -2)
            value = ket @ half.reshape(*half.shape[:3], -1, up)
            if i == len(self.steps) - 1:
                return np.log(np.trace(value[:, 0], axis1=2, axis2=3)) + log_scale
            if i % _HEIGHTS_OF_SQUARES == _HEIGHTS_OF_SQUARES - 1:
                log_scale += self._rescaled(value, 3)
            states[:, own, :, :up, :up] = value
        raise ValueError("A network has no nodes.")

    def _rescaled(self, value, first):
        """Divide the values of a step by powers of two; logs of these, (n_members, rows)."""
        axes = tuple(range(first, value.ndim))
        moved = np.frexp(np.abs(value).max(axis=axes))[1]
        np.ldexp(value, -moved.reshape(*moved.shape, *[1] * len(axes)), out=value)
        return _LOG2 * moved.sum(axis=1)


def _matrices(cores, n_nodes, n_leaves):
    """Cores (members, nodes, *children, up) as matrices from all children, and from leaves."""
    members_and_nodes, first = cores.shape[:2], 2 + n_nodes
    leaves = tuple(range(first, first + n_leaves))
    others = tuple(axis for axis in range(2, cores.ndim) if axis not in leaves)
    size = math.prod(cores.shape[axis] for axis in leaves)
    by_leaves = cores.transpose(0, 1, *leaves, *others).reshape(*members_and_nodes, size, -1)
    return cores.reshape(*members_and_nodes, -1, cores.shape[-1]), by_leaves


def _products(factors):
    """Products of all entries of vectors (..., rows, size), the last ones fastest."""
    x = factors[0]
    for y in factors[1:]:
        x = (x[..., None] * y[..., None, :]).reshape(*x.shape[:3], -1)
    return x


def _applied(ket, matrices, axis):
    """Multiply an axis of (..., 1 or rows, *children, up) by matrices (..., rows, size, size)."""
    moved = ket if axis == 3 else np.moveaxis(ket, axis, 3)
    out = matrices @ moved.reshape(*moved.shape[:4], -1)
    out = out.reshape(*out.shape[:4], *moved.shape[4:])
    return out if axis == 3 else np.moveaxis(out, 3, axis)


def _as_slice(numbers):
    """An index of consecutive numbers as a slice, which copies nothing."""
    first = int(numbers[0])
    consecutive = (numbers == np.arange(first, first + len(numbers))).all()
    return slice(first, first + len(numbers)) if consecutive else numbers


# Scalers ------------------------------------------------------------------------------------------


def _quantile_sigmoid(X, state):
    q, last = state["quantiles"], len(state["quantiles"]) - 1
    columns = np.arange(X.shape[1])
    if len(X) < 8:
        right, left = ((q <= X[:, None]).sum(axis=1), (q < X[:, None]).sum(axis=1))
    else:
        right, left = (
            np.stack([np.searchsorted(a, x, side) for a, x in zip(q.T, X.T)], axis=1)
            for side in ("right", "left")
        )

    def rank(i):
        low, high = q[i, columns], q[i + 1, columns]
        share = (X - low) / np.where(high > low, high - low, 1)
        return (i + np.clip(share, 0, 1)) / last

    upper = np.where(q[-1] <= X, 1, rank(np.clip(right - 1, 0, last - 1)))
    lower = np.where(q[-1] < X, 1, rank(np.clip(left - 1, 0, last - 1)))
    constant = q[0] == q[-1]
    z = _deviations(X, state["mean"], np.where(constant, 1, state["deviation"]))
    u = 0.5 * (0.5 * (upper + lower) + 0.5 + 0.5 * np.tanh(z / 2))
    return np.where(np.isnan(X), X, np.where(constant, 0.5, u))


def _min_max(X, state):
    width = state["high"] - state["low"]
    u = np.clip((X - state["low"]) / np.where(width > 0, width, 1), 0, 1)
    return np.where(np.isnan(X), X, np.where(width > 0, u, 0.5))


def _min_max_derivative(X, state):
    width = state["high"] - state["low"]
    log = np.where((state["low"] > X) | (state["high"] < X), -np.inf, 0.0)
    return log - np.log(np.where(width > 0, width, 1)) + 0 * X


def _deviations(X, mean, deviation):
    return np.clip((X - mean) / deviation, -_FARTHEST, _FARTHEST)


def _standardized(X, state):
    return _deviations(X, state["mean"], state["deviation"] * state["scale"])


def _gaussian(X, state):
    z = _standardized(X, state) / -math.sqrt(2)
    return np.array([0.5 * math.erfc(x) for x in z.ravel().tolist()]).reshape(z.shape)


def _gaussian_derivative(X, state):
    z = _standardized(X, state)
    return -0.5 * z**2 - np.log(math.sqrt(2 * math.pi) * state["scale"] * state["deviation"])


def _logistic(X, state):
    return np.exp(-np.logaddexp(0, -_standardized(X, state)))


def _logistic_derivative(X, state):
    z = _standardized(X, state)
    log = -np.logaddexp(0, -z) - np.logaddexp(0, z)
    return log - np.log(state["scale"] * state["deviation"])


def _components(X, state):
    z = _deviations(X, state["mean"], state["deviation"])
    return np.where(np.isnan(z), 0, z) @ state["components"]


def _principal(X, state):
    return _SCALERS[state["inner"]["name"]](_components(X, state), state["inner"])


def _principal_derivative(X, state):
    z = _components(X, state)
    inside = _DERIVATIVES[state["inner"]["name"]](z, state["inner"])
    if "noise" not in state:
        return inside - np.log(state["deviation"])
    out, noise = np.empty(X.shape), np.ones(X.shape[1], bool)
    out[:, : z.shape[1]] = inside
    noise[: z.shape[1]] = ~state["components"].any(axis=0)
    if noise.any():
        centred = _deviations(X, state["mean"], state["deviation"])
        outside = np.where(np.isnan(centred), 0, centred) - z @ state["components"].T
        square = np.sum(outside**2, axis=1, keepdims=True) / (noise.sum() * state["noise"])
        out[:, noise] = -0.5 * (square + np.log(2 * np.pi * state["noise"]))
    return out


_SCALERS = {
    "QuantileSigmoid": _quantile_sigmoid,
    "MinMax": _min_max,
    "CommonMinMax": _min_max,
    "Passthrough": lambda X, state: X,
    "GaussianCDF": _gaussian,
    "LogisticCDF": _logistic,
    "Rotated": _principal,
    "ProbabilisticPCA": _principal,
}
_DERIVATIVES = {
    "MinMax": _min_max_derivative,
    "CommonMinMax": _min_max_derivative,
    "Passthrough": lambda X, state: 0 * X,
    "GaussianCDF": _gaussian_derivative,
    "LogisticCDF": _logistic_derivative,
    "Rotated": _principal_derivative,
    "ProbabilisticPCA": _principal_derivative,
}


# Files --------------------------------------------------------------------------------------------


def _code(value, codes, other):
    if value is None or value != value:
        return math.nan
    return codes.get(value, other)


def _to_json(tree, arrays):
    """The tree with numbers of arrays in place of these, which are put into a list."""
    if isinstance(tree, np.ndarray):
        arrays.append(tree)
        return {"array": len(arrays) - 1}
    if isinstance(tree, dict):
        return {name: _to_json(value, arrays) for name, value in tree.items()}
    return [_to_json(value, arrays) for value in tree] if isinstance(tree, list) else tree


def _from_json(tree, arrays):
    if isinstance(tree, list):
        return [_from_json(value, arrays) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == {"array"}:
        return arrays[str(tree["array"])]
    return {name: _from_json(value, arrays) for name, value in tree.items()}


def _replace(path, content):
    """Write a file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
