"""Pictures of what features mean to models, and of samples that they make."""

import dataclasses
import itertools

import numpy as np
from sklearn.utils.validation import _check_feature_names_in

from .._checks import check_index, check_shape
from ._drawing import (
    DIVERGING,
    SEQUENTIAL,
    as_image,
    axes_of,
    colours,
    grid_of_axes,
    legend_beside,
)
from ._members import alike, labels_of, unwrapped
from ._orders import interaction_orders


@dataclasses.dataclass
class AttributionDisplay:
    """Which features made a prediction, or an anomaly, what it is.

    values: (n_samples, nsites), what leaving each site out would take away, from the estimator's
    `explain`; names: of the sites; shape: (rows, columns) where they are pixels; quantity: what is
    taken from.

    >>> from sklearn.datasets import load_iris
    >>> from tn4ml_plus import TNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TNClassifier(random_state=0).fit(X, y)
    >>> AttributionDisplay.from_estimator(clf, X).values.shape
    (150, 4)
    """

    values: np.ndarray
    names: list
    shape: tuple | None = None
    quantity: str = ""

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, target=0, shape=None):
        """What `explain` of a fitted estimator says of the rows of X.

        y: labels to explain, for classifiers only, None for the predicted ones; target: number of
        the target, where a regressor has several; shape: (rows, columns) of the sites as pixels.
        """
        estimator, X = unwrapped(estimator, X)
        if not hasattr(estimator, "explain"):
            raise ValueError(f"A {type(estimator).__name__} does not explain what it does.")
        if y is not None and not hasattr(estimator, "classes_"):
            raise ValueError("y are the labels to explain, which classifiers have: leave it out.")
        values = estimator.explain(X) if y is None else estimator.explain(X, y)
        values = values.reshape(*values.shape[:2], -1)
        check_index("target", target, values.shape[2], "a target")
        values = values[..., target]
        if hasattr(estimator, "classes_"):
            quantity = "log-probability (nats)"
        elif hasattr(estimator, "offset_"):
            quantity = "anomaly score"
        elif hasattr(estimator, "sample"):
            quantity = "log-density (nats)"
        else:
            quantity = "prediction"
        # A detector's committee reads columns; other networks may read more than one at a site.
        views = hasattr(estimator, "views_")
        names = _check_feature_names_in(estimator) if views else estimator.site_names()
        return cls(values, list(names), check_shape(shape, len(names), "sites"), quantity)

    def plot(self, ax=None, *, sample=None, n_names=15):
        """Draw one sample's values, or with sample=None the mean of their size over all samples.

        Pixels are drawn as an image, others as bars, the n_names largest.
        """
        self.ax_ = ax = axes_of(ax, figsize=(5, 4))
        label = f"share in {self.quantity}"
        if sample is None:
            values = np.abs(self.values).mean(axis=0)
            ax.set_title(f"mean size over {len(self.values)} samples", fontsize="medium")
        else:
            check_index("sample", sample, len(self.values), "a sample")
            values = self.values[sample]
        if self.shape is not None:
            most = np.abs(values).max() or 1.0
            signed = {"cmap": DIVERGING, "vmin": -most, "vmax": most}
            limits = {"cmap": SEQUENTIAL, "vmin": 0} if sample is None else signed
            as_image(ax, values, self.shape, label, **limits)
        else:
            chosen = np.argsort(-np.abs(values), kind="stable")[:n_names][::-1]
            blue, orange = colours(2)
            ax.barh(
                range(len(chosen)), values[chosen], color=np.where(values[chosen] < 0, orange, blue)
            )
            ax.set_yticks(range(len(chosen)), [self.names[i] for i in chosen])
            ax.axvline(0, color="0.3", lw=0.8)
            ax.set(xlabel=label)
        self.figure_ = ax.figure
        return self


@dataclasses.dataclass
class InteractionDisplay:
    """How much of a model's outputs each order of interaction carries.

    shares: (n_outputs, max_order + 2) as from `interaction_orders`; labels: names of the outputs.

    >>> from sklearn.datasets import load_iris
    >>> from tn4ml_plus import TNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TNClassifier(random_state=0).fit(X, y)
    >>> InteractionDisplay.from_estimator(clf, X, max_order=2).shares.shape
    (3, 4)
    """

    shares: np.ndarray
    labels: list

    @classmethod
    def from_estimator(cls, estimator, X, *, max_order=4):
        """Mean over the networks of a fitted estimator, for columns as in the rows of X.

        Columns count as independent of each other, see `interaction_orders`. Of a detector's
        committee only the members count that read what the first one reads.
        """
        estimator, X = unwrapped(estimator, X)
        parts, moments = [], {}
        for each, m in alike(estimator):
            if id(each) not in moments:
                phi = np.asarray(each.embed(X), float).swapaxes(0, 1)
                means = phi.mean(axis=1)
                centred = phi - means[:, None]
                moments[id(each)] = means, centred.swapaxes(1, 2) @ centred / phi.shape[1]
            means, covariances = (values[each.orders_[m]] for values in moments[id(each)])
            network = each.networks_[m]
            parts.append(interaction_orders(network, means, covariances, max_order))
        shares = np.mean(parts, axis=0)
        return cls(shares, labels_of(estimator, len(shares)))

    @property
    def variance_shares(self):
        """Shares of each output's variance, (n_outputs, max_order + 1), without the constant."""
        varying = self.shares[:, 1:]
        total = varying.sum(axis=1, keepdims=True)
        return varying / np.where(total > 0, total, 1)

    def plot(self, ax=None, *, constant=False):
        """Draw shares of the variance, or with constant those of the mean square."""
        self.ax_ = ax = axes_of(ax, figsize=(6, max(2.2, 0.9 + 0.35 * len(self.labels))))
        shares = self.shares if constant else self.variance_shares
        n_orders = self.shares.shape[1] - 2
        names = ["constant"] if constant else []
        names += [f"order {k}" for k in range(1, n_orders + 1)] + ["higher"]
        left = np.zeros(len(shares))
        for share, name, colour in zip(shares.T, names, colours(len(names)), strict=True):
            ax.barh(range(len(shares)), share, left=left, color=colour, label=name)
            left += share
        ax.set_yticks(range(len(self.labels)), self.labels)
        ax.invert_yaxis()
        ax.set(xlim=(0, 1), xlabel="share of the " + ("mean square" if constant else "variance"))
        legend_beside(ax)
        self.figure_ = ax.figure
        return self


@dataclasses.dataclass
class SampleDisplay:
    """What a Born machine dreams: samples, as images or beside the data.

    samples: (n_samples, n_features) raw columns; names: of the columns; shape: (rows, columns)
    where they are pixels; data: rows to draw behind the samples, or None.

    >>> from sklearn.datasets import load_iris
    >>> from tn4ml_plus import TNBornMachine
    >>> machine = TNBornMachine(random_state=0).fit(load_iris().data)
    >>> SampleDisplay.from_estimator(machine, 50, random_state=0).samples.shape
    (50, 4)
    """

    samples: np.ndarray
    names: list
    shape: tuple | None = None
    data: np.ndarray | None = None

    @classmethod
    def from_estimator(cls, machine, n_samples=16, *, shape=None, X=None, random_state=None):
        """Exact samples of a fitted `TNBornMachine`; X: data to compare them with."""
        machine, X = unwrapped(machine, X)
        if not hasattr(machine, "sample"):
            raise ValueError(f"A {type(machine).__name__} draws no samples: use a TNBornMachine.")
        names = list(_check_feature_names_in(machine))
        samples = np.asarray(machine.sample(n_samples, random_state=random_state))
        data = None if X is None else np.asarray(X)
        if data is not None and data.shape[1:] != samples.shape[1:]:
            raise ValueError(f"X must have {samples.shape[1]} columns, got {data.shape}.")
        return cls(samples, names, check_shape(shape, len(names), "columns"), data)

    def plot(self, axes=None, *, features=None):
        """Draw images in a grid, or pairs of columns.

        features: numbers or names of columns of numbers, None for the first four of them.
        """
        grid = self._images if self.shape is not None else self._pairs
        self.axes_ = axes = grid(axes, features)
        self.figure_ = np.ravel(axes)[0].figure
        return self

    def _images(self, axes, features):
        if features is not None:
            raise ValueError("features are for tables: images are drawn whole.")
        n = len(self.samples)
        columns = int(np.ceil(np.sqrt(n)))
        axes = grid_of_axes(axes, -(-n // columns), columns, 1.1, 1.1)
        limits = {"vmin": self.samples.min(), "vmax": self.samples.max(), "cmap": "gray"}
        for i, ax in enumerate(np.ravel(axes)):
            if i < n:
                as_image(ax, self.samples[i], self.shape, None, **limits)
            else:
                ax.set_axis_off()
        return axes

    def _pairs(self, axes, features):
        if features is None:
            features = [i for i in range(len(self.names)) if _is_numeric(self.samples[:, i])][:4]
        features = [self.names.index(f) if f in self.names else f for f in features]
        for i in features:
            check_index("each of features", i, len(self.names), "a column, or its name")
            if not _is_numeric(self.samples[:, i]):
                raise ValueError(f"The column {self.names[i]} has categories: leave it out.")
        n = len(features)
        if n == 0:
            raise ValueError("No columns of numbers to draw.")
        axes = grid_of_axes(axes, n, n, 1.75, 1.7)
        blue, orange = colours(2)
        sets = [(self.samples, orange, "samples")]
        if self.data is not None:
            sets.insert(0, (self.data, blue, "data"))
        sets = [(part[:, features].astype(float).T, *style) for part, *style in sets]
        for (row, i), (column, j) in itertools.product(enumerate(features), repeat=2):
            ax = axes[row, column]
            if row == column:
                _, edges = np.histogram(
                    np.concatenate([p[row][~np.isnan(p[row])] for p, *_ in sets]), bins=20
                )
            for part, colour, label in sets:
                if row == column:
                    style = {"density": True, "color": colour, "alpha": 0.5, "label": label}
                    ax.hist(part[row], edges, **style)
                    ax.set_yticks([])
                else:
                    style = {"s": 4, "color": colour, "alpha": 0.5, "linewidths": 0}
                    ax.scatter(part[column], part[row], **style)
            if row == n - 1:
                ax.set_xlabel(self.names[j])
            else:
                ax.set_xticklabels([])
            if column == 0:
                ax.set_ylabel(self.names[i])
            elif row != column:
                ax.set_yticklabels([])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        legend_beside(axes[0, -1], handles=handles, labels=labels)
        return axes


def _is_numeric(values):
    try:
        return bool(np.isfinite(values.astype(float)).any())
    except (TypeError, ValueError):
        return False
