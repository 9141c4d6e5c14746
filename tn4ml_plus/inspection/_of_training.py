"""Pictures of training and of what can be saved after it."""

import dataclasses

import numpy as np
from sklearn.metrics import check_scoring

from .._checks import check_int
from ._drawing import axes_of, colours, grid_of_axes, pyplot, whole_numbers
from ._members import member_of, members, unwrapped

# Panels of the history, each with what it shows and its label.
_LOSSES = {"loss": "training", "validation_loss": "validation"}


@dataclasses.dataclass
class TrainingDisplay:
    """How training went: losses, bonds, shares discarded, and whatever else trainers tell.

    history: lists by name, a value or a list of values for every epoch, None where there is none.

    >>> from sklearn.datasets import load_iris
    >>> from tn4ml_plus import TNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TNClassifier(trainer="sweep", random_state=0).fit(X, y)
    >>> sorted(TrainingDisplay.from_estimator(clf).history)
    ['bond_dims', 'loss', 'seconds', 'truncation']
    """

    history: dict

    @classmethod
    def from_estimator(cls, estimator, *, member=0):
        """Of a fitted estimator; member: which network of a detector's committee."""
        estimator, _ = member_of(unwrapped(estimator)[0], member)
        return cls(estimator.history_)

    def plot(self, axes=None):
        """Draw losses in one panel, and whatever else there is in one each."""
        others = [name for name in self.history if name not in (*_LOSSES, "seconds")]
        self.axes_ = axes = grid_of_axes(axes, 1, 1 + len(others), 3.2, 2.8)[0]
        for (name, label), colour in zip(_LOSSES.items(), colours(2), strict=True):
            if name in self.history:
                epochs, values = _known(self.history[name])
                style = {"color": colour, "label": label, "marker": "o", "markersize": 3}
                axes[0].plot(epochs, [np.mean(value) for value in values], **style)
        if "validation_loss" in self.history:
            axes[0].legend(frameon=False, fontsize="small")
        axes[0].set(ylabel="loss")
        for ax, name in zip(axes[1:], others, strict=True):
            _spread(ax, self.history[name])
            ax.set(ylabel=_LABELS.get(name, name.replace("_", " ")))
        for ax in axes:
            ax.set_xlabel("epoch")
            whole_numbers(ax.xaxis)
        self.figure_ = axes[0].figure
        return self


_LABELS = {"bond_dims": "sizes of bonds", "truncation": "share discarded at bonds"}


def _known(values):
    """Epochs, counted from 1, that have a value, and the values as flat arrays."""
    known = [(i, np.ravel(v)) for i, v in enumerate(values, 1) if v is not None and np.size(v)]
    return [i for i, _ in known], [np.asarray(value, float) for _, value in known]


def _spread(ax, values):
    """Mean, least and most of what each epoch has."""
    epochs, values = _known(values)
    several, blue = any(len(value) > 1 for value in values), colours(1)[0]
    if several:
        least, most = ([f(value) for value in values] for f in (np.min, np.max))
        ax.fill_between(
            epochs, least, most, color=blue, alpha=0.25, linewidth=0, label="least to most"
        )
    means = [np.mean(value) for value in values]
    ax.plot(epochs, means, color=blue, marker="o", markersize=3, label="mean")
    if several:
        ax.legend(frameon=False, fontsize="small")
    ax.set_ylim(bottom=0)


@dataclasses.dataclass
class CompressionDisplay:
    """Score against the number of parameters for bonds cut to several sizes.

    bond_dims: (n,); n_parameters, scores: (n,); original: (parameters, score) before any cut.

    >>> from sklearn.datasets import load_iris
    >>> from tn4ml_plus import TNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TNClassifier(random_state=0).fit(X, y)
    >>> display = CompressionDisplay.from_estimator(clf, X, y, bond_dims=(2, 4))
    >>> bool((display.n_parameters < display.original[0]).all())
    True
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
    ):
        """Of a fitted estimator, scored on X and y.

        cutoff: as in `compress`; training: (X, y) to mend what was cut by sweeps, or (X, None) for
        a density, None to cut only; scoring: as in scikit-learn, None for the estimator's `score`.
        """
        if training is not None:
            if not isinstance(training, list | tuple) or len(training) != 2:
                raise ValueError("training must be None or a pair (X, y); (X, None) for a density.")
            training = dict(zip("Xy", training, strict=True))
            training["X"] = unwrapped(estimator, training["X"])[1]
        bond_dims = list(bond_dims)
        for size in bond_dims:
            check_int("each of bond_dims", size, 1)
        check_int("the number of bond_dims", len(bond_dims), 1)
        estimator, X = unwrapped(estimator, X)
        scorer = check_scoring(estimator, scoring)

        def of(model):
            networks = [each.networks_[m] for each, m in members(model)]
            count = sum(tensor.size for network in networks for tensor in network)
            return count, scorer(model, X, y)

        found = [of(estimator.compress(size, cutoff, **(training or {}))) for size in bond_dims]
        counts, scores = map(np.array, zip(*found, strict=True))
        return cls(np.asarray(bond_dims), counts, scores, of(estimator))

    def plot(self, ax=None):
        """Draw it, each point with its largest bond."""
        self.ax_ = ax = axes_of(ax, figsize=(4.5, 3.2))
        blue, orange = colours(2)
        ax.plot(self.n_parameters, self.scores, color=blue, marker="o", label="compressed")
        for size, count, score in zip(self.bond_dims, self.n_parameters, self.scores, strict=True):
            ax.annotate(
                f"{size}", (count, score), (4, -10), textcoords="offset points", fontsize="small"
            )
        ax.plot(*self.original, color=orange, marker="D", linestyle="none", label="as trained")
        ax.set(xscale="log", xlabel="parameters", ylabel="score")
        ax.xaxis.set_minor_formatter(pyplot().NullFormatter())
        ax.margins(0.1)
        ax.legend(frameon=False, fontsize="small")
        self.figure_ = ax.figure
        return self
