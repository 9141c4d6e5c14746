"""Pictures of the meaning of features to models, and of generated samples."""

import dataclasses
import functools
import itertools

import numpy as np
from sklearn.utils.validation import _check_feature_names_in

from .._checks import check_index, check_shape
from . import _drawing as draw
from ._attribution import interaction_orders

# What `explain` is about, by an attribute that tells the kind of the estimator.
_QUANTITIES = {"classes_": "log-probability (nats)", "offset_": "anomaly score"}
_QUANTITIES |= {"sample": "log-density (nats)"}


@dataclasses.dataclass
class AttributionDisplay:
    """Contributions of features to predictions or anomaly scores.

    Parameters
    ----------
    values : (n_samples, nsites), from `explain`: losses of the quantity without each site
    names : list of str, names of the sites
    shape : tuple of int, optional, (rows, columns) where the sites are pixels
    quantity : str, name of the quantity
    """

    values: np.ndarray
    names: list
    shape: tuple | None = None
    quantity: str = ""

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, target=0, shape=None) -> "AttributionDisplay":
        """Display of what `explain` finds; see `tn4ml_plus.inspection` for the parameters.

        `y` are labels for a classifier to explain, by default the predicted ones; `target` is the
        number of the target, where a regressor has several.
        """
        estimator, X = draw.unwrapped(estimator, X)
        if not hasattr(estimator, "explain"):
            raise ValueError(f"A {type(estimator).__name__} has no method explain.")
        if y is not None and not hasattr(estimator, "classes_"):
            raise ValueError("y are labels to explain, which only classifiers have: omit y.")
        values = estimator.explain(X) if y is None else estimator.explain(X, y)
        values = values.reshape(*values.shape[:2], -1)
        check_index("target", target, values.shape[2], "a target")
        values = values[..., target]
        found = (text for name, text in _QUANTITIES.items() if hasattr(estimator, name))
        quantity = next(found, "prediction")
        # A detector's committee reads columns; other networks may read more than one at a site.
        views = hasattr(estimator, "views_")
        names = _check_feature_names_in(estimator) if views else estimator.site_names()
        return cls(values, list(names), check_shape(shape, len(names), "sites"), quantity)

    def plot(self, ax=None, *, sample=None, n_names=15) -> "AttributionDisplay":
        """Draw the values, pixels as an image, others as bars, at most `n_names` of them.

        Values are mean absolute ones, or those of the `sample` of this number.
        See `tn4ml_plus.inspection` for the parameters.
        """
        label = f"share in {self.quantity}"
        if sample is not None:
            check_index("sample", sample, len(self.values), "a sample")
        ax = draw.axes_of(self, ax, figsize=(5, 4))
        if sample is None:
            values = np.abs(self.values).mean(axis=0)
            ax.set_title(f"mean size over {len(self.values)} samples", fontsize="medium")
        else:
            values = self.values[sample]
        if self.shape is not None:
            most = np.abs(values).max() or 1.0
            signed = {"cmap": draw.DIVERGING, "vmin": -most, "vmax": most}
            limits = {"cmap": draw.SEQUENTIAL, "vmin": 0} if sample is None else signed
            draw.as_image(ax, values, self.shape, label, **limits)
        else:
            chosen = np.argsort(-np.abs(values), kind="stable")[:n_names][::-1]
            values, (blue, orange) = values[chosen], draw.colours(2)
            ax.barh(range(len(chosen)), values, color=np.where(values < 0, orange, blue))
            ax.set_yticks(range(len(chosen)), [self.names[i] for i in chosen])
            ax.axvline(0, color="0.3", lw=0.8)
            ax.set(xlabel=label)
        return self


@dataclasses.dataclass
class InteractionDisplay:
    """Shares of a model's outputs that the orders of interaction carry.

    Parameters
    ----------
    shares : (n_outputs, max_order + 2), as from `interaction_orders`
    labels : list of str, names of the outputs
    """

    shares: np.ndarray
    labels: list

    @classmethod
    def from_estimator(cls, estimator, X, *, max_order=4) -> "InteractionDisplay":
        """Display of the mean over all networks; see `tn4ml_plus.inspection` for the parameters.

        The columns of X count as independent of each other; `max_order` is as in
        `interaction_orders`. Only members of a detector's committee count that read the same as the
        first one.
        """
        estimator, X = draw.unwrapped(estimator, X)

        @functools.cache
        def moments(each):
            phi = np.asarray(each.embed(X), float).swapaxes(0, 1)
            means = phi.mean(axis=1)
            centred = phi - means[:, None]
            return means, centred.swapaxes(1, 2) @ centred / phi.shape[1]

        parts = []
        for each, m in draw.alike(estimator):
            of_sites = (values[each.orders_[m]] for values in moments(each))
            parts.append(interaction_orders(each.networks_[m], *of_sites, max_order))
        shares = np.mean(parts, axis=0)
        return cls(shares, draw.labels_of(estimator, len(shares)))

    @property
    def variance_shares(self):
        """Shares of each output's variance, (n_outputs, max_order + 1), without the constant."""
        varying = self.shares[:, 1:]
        total = varying.sum(axis=1, keepdims=True)
        return varying / np.where(total > 0, total, 1)

    def plot(self, ax=None, *, constant: bool = False) -> "InteractionDisplay":
        """Draw shares of the variance, or of the mean square with that of the `constant`.

        See `tn4ml_plus.inspection` for the parameters.
        """
        ax = draw.axes_of(self, ax, figsize=(6, max(2.2, 0.9 + 0.35 * len(self.labels))))
        shares = self.shares if constant else self.variance_shares
        orders = [f"order {k}" for k in range(1, self.shares.shape[1] - 1)]
        names = [*["constant"] * constant, *orders, "higher"]
        left = np.zeros(len(shares))
        for share, name, colour in zip(shares.T, names, draw.colours(len(names)), strict=True):
            ax.barh(range(len(shares)), share, left=left, color=colour, label=name)
            left += share
        ax.set_yticks(range(len(self.labels)), self.labels)
        ax.invert_yaxis()
        ax.set(xlim=(0, 1), xlabel="share of the " + ("mean square" if constant else "variance"))
        draw.legend_beside(ax)
        return self


@dataclasses.dataclass
class SampleDisplay:
    """Samples of a Born machine, as images or beside the data.

    Parameters
    ----------
    samples : (n_samples, n_features), samples in raw columns
    names : list of str, names of the columns
    shape : tuple of int, optional, (rows, columns) where the columns are pixels
    data : (n, n_features), optional, rows to draw behind the samples
    """

    samples: np.ndarray
    names: list
    shape: tuple | None = None
    data: np.ndarray | None = None

    @classmethod
    def from_estimator(
        cls, machine, n_samples=16, *, shape=None, X=None, random_state=None
    ) -> "SampleDisplay":
        """Display of exact samples; see `TNBornMachine.sample` for the parameters.

        The `machine` may be inside a search or pipeline. `shape` is (rows, columns) of the columns
        as pixels, and X, (n, n_features), data to compare the samples with.
        """
        machine, X = draw.unwrapped(machine, X)
        if not hasattr(machine, "sample"):
            raise ValueError(f"A {type(machine).__name__} draws no samples: use a TNBornMachine.")
        names = list(_check_feature_names_in(machine))
        samples = np.asarray(machine.sample(n_samples, random_state=random_state))
        data = None if X is None else np.asarray(X)
        if data is not None and data.shape[1:] != samples.shape[1:]:
            raise ValueError(f"X must have {samples.shape[1]} columns, got {data.shape}.")
        return cls(samples, names, check_shape(shape, len(names), "columns"), data)

    def plot(self, axes=None, *, features=None) -> "SampleDisplay":
        """Draw images in a grid, or pairs of columns.

        `features` are numbers or names of numeric columns, by default the first four.
        See `tn4ml_plus.inspection` for the parameters.
        """
        if self.shape is None:
            self._plot_pairs(axes, features)
        elif features is not None:
            raise ValueError("features are for tables: images are drawn whole.")
        else:
            self._plot_images(axes)
        return self

    def _plot_images(self, axes):
        n = len(self.samples)
        columns = int(np.ceil(np.sqrt(n)))
        axes = draw.grid_of_axes(self, axes, -(-n // columns), columns, (1.1, 1.1)).ravel()
        limits = {"vmin": self.samples.min(), "vmax": self.samples.max(), "cmap": "gray"}
        for ax, sample in zip(axes, self.samples):
            draw.as_image(ax, sample, self.shape, None, **limits)
        for ax in axes[n:]:
            ax.set_axis_off()

    def _plot_pairs(self, axes, features):
        if features is None:
            features = [i for i in range(len(self.names)) if _is_numeric(self.samples[:, i])][:4]
        features = [self.names.index(f) if f in self.names else f for f in features]
        for i in features:
            check_index("each of features", i, len(self.names), "a column, or its name")
            if not _is_numeric(self.samples[:, i]):
                raise ValueError(f"The column {self.names[i]} has categories: omit it.")
        n = len(features)
        if n == 0:
            raise ValueError("There are no numeric columns to draw.")
        axes = draw.grid_of_axes(self, axes, n, n, (1.75, 1.7))
        sets = zip((self.data, self.samples), draw.colours(2), ("data", "samples"))
        sets = [
            (rows[:, features].astype(float).T, {"color": colour, "alpha": 0.5, "label": label})
            for rows, colour, label in sets
            if rows is not None
        ]
        for (row, i), (column, j) in itertools.product(enumerate(features), repeat=2):
            ax = axes[row, column]
            if row == column:
                whole = np.concatenate([part[row] for part, _ in sets])
                edges = np.histogram_bin_edges(whole[~np.isnan(whole)], 20)
                ax.set_yticks([])
            for part, style in sets:
                if row == column:
                    ax.hist(part[row], edges, density=True, **style)
                else:
                    ax.scatter(part[column], part[row], s=4, linewidths=0, **style)
            ax.set(xlabel=self.names[j], ylabel=self.names[i])
            ax.label_outer()
        handles, labels = axes[0, 0].get_legend_handles_labels()
        draw.legend_beside(axes[0, -1], handles=handles, labels=labels)


def _is_numeric(values):
    try:
        return bool(np.isfinite(values.astype(float)).any())
    except (TypeError, ValueError):
        return False
