"""Tools of all pictures: networks inside estimators, searches and pipelines, and matplotlib."""

import functools
import importlib

import numpy as np
import quimb.tensor as qtn
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._checks import check_index

# Okabe and Ito's colours, but for yellow, which is faint on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
#: From little to much, and from below zero to above.
SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
# More names than these on an axis cannot be read.
_MOST_NAMES = 30


def optional(name):
    """An optional package; ImportError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Pictures need {name.partition('.')[0]}: pip install 'tn4ml_plus[plot]'. The "
            "attributes of a Display do not need it."
        ) from error


pyplot = functools.partial(optional, "matplotlib.pyplot")


def axes_of(display, ax, **figure):
    """The given axes, or those of a new figure; `ax_` and `figure_` of the display."""
    ax = pyplot().subplots(layout="constrained", **figure)[1] if ax is None else ax
    display.ax_, display.figure_ = ax, ax.figure
    return ax


def grid_of_axes(display, axes, rows, columns, size):
    """The given axes, which must be rows x columns, or those of a new figure; (rows, columns).

    `axes_` and `figure_` of the display; size: width and height of each.
    """
    if axes is None:
        options = {"layout": "constrained", "figsize": (size[0] * columns, size[1] * rows)}
        axes = pyplot().subplots(rows, columns, squeeze=False, **options)[1]
    elif np.size(axes) != rows * columns:
        raise ValueError(
            f"axes must be {rows * columns} axes ({rows} x {columns}), got {np.size(axes)}."
        )
    display.axes_ = axes = np.reshape(axes, (rows, columns))
    display.figure_ = axes[0, 0].figure
    return axes


def colours(n):
    """Colours that differ for colour-blind eyes, too, n of them."""
    if n <= len(COLOURS):
        return COLOURS[:n]
    return pyplot().get_cmap("viridis")(np.linspace(0, 0.95, n))


def name_ticks(axis, names):
    """Write names along an axis whose ticks are 0, 1, ..., if there is room for them."""
    if len(names) <= _MOST_NAMES:
        turned = axis.axis_name == "x" and max(map(len, names)) > 3
        style = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if turned else {}
        axis.set_ticks(range(len(names)), names, **style)


def as_image(ax, values, shape, colourbar, **options):
    """Values of all pixels as an image of a shape (rows, columns)."""
    image = ax.imshow(np.reshape(values, shape), **options)
    ax.set(xticks=[], yticks=[])
    if colourbar is not None:
        ax.figure.colorbar(image, ax=ax, label=colourbar, shrink=0.8)


def legend_beside(ax, **options):
    """A legend to the right of the axes."""
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    ax.legend(fontsize="small", frameon=False, **place, **options)


def unwrapped(estimator, X=None):
    """The fitted estimator inside searches and pipelines, and X as that one reads it."""
    if isinstance(estimator, qtn.TensorNetwork):
        raise ValueError("This is a network, not an estimator: use from_network, or the functions.")
    if hasattr(estimator, "best_index_") and not hasattr(estimator, "best_estimator_"):
        raise ValueError("The search kept no model: set refit=True and fit it again.")
    estimator = getattr(estimator, "best_estimator_", estimator)
    if not isinstance(estimator, Pipeline):
        check_is_fitted(estimator)
        return estimator, X
    if X is not None and len(estimator.steps) > 1:
        X = estimator[:-1].transform(X)
    return unwrapped(estimator[-1], X)


def members(estimator):
    """All networks of an estimator from `unwrapped`, as pairs (estimator, number)."""
    views = getattr(estimator, "views_", [estimator])
    found = [(view, m) for view in views for m in range(len(getattr(view, "networks_", ())))]
    if not found:
        raise ValueError(f"A {type(estimator).__name__} has no trained networks to inspect.")
    return found


def member_of(estimator, member, X=None):
    """One of the `members` of what is `unwrapped`, as (estimator, number, X)."""
    estimator, X = unwrapped(estimator, X)
    found = members(estimator)
    check_index("member", member, len(found), "a network")
    return *found[member], X


def alike(estimator):
    """Those of `members` that read the same as the first one, not principal components, say."""
    found = members(estimator)
    names = found[0][0].site_names()
    return [(each, m) for each, m in found if each.site_names() == names]


def labels_of(estimator, n_outputs):
    """Names of the outputs: classes, or numbers; a single output has none."""
    names = getattr(estimator, "classes_", range(n_outputs))
    return list(map(str, names)) if n_outputs > 1 else [""]
