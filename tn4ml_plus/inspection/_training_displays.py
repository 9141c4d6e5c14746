"""Pictures of training and of compression after it."""

import dataclasses

import numpy as np
from sklearn.metrics import check_scoring

from .._checks import check_int
from . import _drawing as draw

# Panels of the history and their labels.
_LOSSES = {"loss": "training", "validation_loss": "validation"}
_LABELS = {"bond_dims": "sizes of bonds", "truncation": "share discarded at bonds"}


@dataclasses.dataclass
class TrainingDisplay:
    """History of training: losses, bonds, shares discarded, and whatever else trainers report.

    `history` has lists by name: a value, a list of values or None for every epoch.
    """

    history: dict

    @classmethod
    def from_estimator(cls, estimator, *, member: int = 0) -> "TrainingDisplay":
        """Display of a fitted estimator; see `tn4ml_plus.inspection` for the parameters.

        Only the networks of a detector's committee have histories of their own.
        """
        return cls(draw.member_of(estimator, member)[0].history_)

    def plot(self, axes=None) -> "TrainingDisplay":
        """Draw losses in one panel, and everything else in a panel of its own."""
        others = [name for name in self.history if name not in (*_LOSSES, "seconds")]
        self.axes_ = axes = draw.grid_of_axes(self, axes, 1, 1 + len(others), (3.2, 2.8))[0]
        for (name, label), colour in zip(_LOSSES.items(), draw.colours(2), strict=True):
            if name in self.history:
                _draw_means(axes[0], *_known(self.history[name]), label, colour)
        if "validation_loss" in self.history:
            axes[0].legend(frameon=False, fontsize="small")
        axes[0].set(ylabel="loss")
        for ax, name in zip(axes[1:], others, strict=True):
            _spread(ax, self.history[name])
            ax.set(ylabel=_LABELS.get(name, name.replace("_", " ")))
        for ax in axes:
            ax.set_xlabel("epoch")
            ax.xaxis.get_major_locator().set_params(integer=True)
        return self


def _known(values):
    """Epochs, counted from 1, that have a value, and the values as flat arrays."""
    known = {i: np.ravel(v) for i, v in enumerate(values, 1) if v is not None and np.size(v)}
    return list(known), [np.asarray(value, float) for value in known.values()]


def _draw_means(ax, epochs, values, label, colour):
    means = [np.mean(value) for value in values]
    ax.plot(epochs, means, color=colour, marker="o", markersize=3, label=label)


def _spread(ax, values):
    """Draw the mean and the range of the values of each epoch."""
    epochs, values = _known(values)
    several, blue = any(len(value) > 1 for value in values), draw.colours(1)[0]
    if several:
        least, most = ([f(value) for value in values] for f in (np.min, np.max))
        style = {"color": blue, "alpha": 0.25, "linewidth": 0, "label": "least to most"}
        ax.fill_between(epochs, least, most, **style)
    _draw_means(ax, epochs, values, "mean", blue)
    if several:
        ax.legend(frameon=False, fontsize="small")
    ax.set_ylim(bottom=0)


@dataclasses.dataclass
class CompressionDisplay:
    """Score against the number of parameters for bonds cut to several sizes.

    Parameters
    ----------
    bond_dims, n_parameters, scores : (n,), bonds, parameters and scores of compressed models
    original : tuple, (parameters, score) before compression
    """

    bond_dims: np.ndarray
    n_parameters: np.ndarray
    scores: np.ndarray
    original: tuple

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        bond_dims=(2, 4, 8, 16),
        cutoff=0.0,
        training=None,
        scoring=None,
    ) -> "CompressionDisplay":
        """Display of a fitted estimator.

        Parameters
        ----------
        estimator : estimator, the estimator, also inside a search or pipeline
        X, y : arrays, data for the scores
        bond_dims : sequence of int, sizes of the bonds to compare
        cutoff : float, as in `compress`
        training : (X, y) or, for a density, (X, None), optional, to refit truncated networks on
        scoring : str or callable, optional, as in scikit-learn, by default the estimator's `score`
        """
        if training is not None:
            if not isinstance(training, list | tuple) or len(training) != 2:
                raise ValueError("training must be None or a pair (X, y); (X, None) for a density.")
            training = dict(zip("Xy", training, strict=True))
            training["X"] = draw.unwrapped(estimator, training["X"])[1]
        bond_dims = list(bond_dims)
        for size in bond_dims:
            check_int("each of bond_dims", size, 1)
        check_int("the number of bond_dims", len(bond_dims), 1)
        estimator, X = draw.unwrapped(estimator, X)
        scorer = check_scoring(estimator, scoring)

        def of(model):
            networks = [each.networks_[m] for each, m in draw.members(model)]
            count = sum(tensor.size for network in networks for tensor in network)
            return count, scorer(model, X, y)

        found = [of(estimator.compress(size, cutoff, **(training or {}))) for size in bond_dims]
        counts, scores = map(np.array, zip(*found, strict=True))
        return cls(np.asarray(bond_dims), counts, scores, of(estimator))

    def plot(self, ax=None) -> "CompressionDisplay":
        """Draw the scores, each point with its largest bond."""
        ax = draw.axes_of(self, ax, figsize=(4.5, 3.2))
        blue, orange = draw.colours(2)
        ax.plot(self.n_parameters, self.scores, color=blue, marker="o", label="compressed")
        for size, count, score in zip(self.bond_dims, self.n_parameters, self.scores, strict=True):
            style = {"textcoords": "offset points", "fontsize": "small"}
            ax.annotate(f"{size}", (count, score), (4, -10), **style)
        ax.plot(*self.original, color=orange, marker="D", linestyle="none", label="as trained")
        ax.set(xscale="log", xlabel="parameters", ylabel="score")
        ax.xaxis.set_minor_formatter(draw.pyplot().NullFormatter())
        ax.margins(0.1)
        ax.legend(frameon=False, fontsize="small")
        return self
