"""What pictures share: matplotlib where there is one, colours for all eyes, names on axes."""

import importlib

import numpy as np

# Okabe and Ito's colours, but for yellow, which is faint on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
#: From little to much, and from below zero to above.
SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
# More names than these on an axis cannot be read.
_MOST_NAMES = 30


def pyplot():
    """matplotlib.pyplot; ImportError that names what to install."""
    return _optional("matplotlib.pyplot")


def networkx():
    """networkx; ImportError that names what to install."""
    return _optional("networkx")


def _optional(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Pictures need {name.partition('.')[0]}: pip install 'tn4ml_plus[plot]'. The "
            "attributes of a Display are there without."
        ) from error


def axes_of(ax, **figure):
    """The given axes, or those of a new figure."""
    return pyplot().subplots(layout="constrained", **figure)[1] if ax is None else ax


def grid_of_axes(axes, rows, columns, width, height):
    """The given axes, which must be rows x columns, or those of a new figure; (rows, columns)."""
    if axes is None:
        size = (width * columns, height * rows)
        options = {"layout": "constrained", "figsize": size, "squeeze": False}
        return pyplot().subplots(rows, columns, **options)[1]
    if np.size(axes) != rows * columns:
        raise ValueError(
            f"axes must be {rows * columns} ({rows} x {columns}), got {np.size(axes)}."
        )
    return np.reshape(axes, (rows, columns))


def colours(n):
    """n colours that differ for colour-blind eyes, too."""
    if n <= len(COLOURS):
        return COLOURS[:n]
    return pyplot().get_cmap("viridis")(np.linspace(0, 0.95, n))


def name_ticks(axis, names):
    """Write names along an axis whose ticks are 0, 1, ..., if there is room for them."""
    if len(names) <= _MOST_NAMES:
        turned = axis.axis_name == "x" and max(map(len, names)) > 3
        axis.set_ticks(range(len(names)), names, rotation=60 if turned else 0)
        if turned:
            for label in axis.get_ticklabels():
                label.set(ha="right", rotation_mode="anchor")


def as_image(ax, values, shape, colourbar, **options):
    """Values of all pixels as an image of a shape (rows, columns)."""
    image = ax.imshow(np.reshape(values, shape), **options)
    ax.set(xticks=[], yticks=[])
    if colourbar is not None:
        ax.figure.colorbar(image, ax=ax, label=colourbar, shrink=0.8)
    return image


def legend_beside(ax, **options):
    """A legend to the right of the axes."""
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    ax.legend(fontsize="small", frameon=False, **place, **options)


def whole_numbers(axis):
    """Ticks at whole numbers only."""
    axis.get_major_locator().set_params(integer=True)
