"""Tools of all pictures: matplotlib where it is installed, colours for all eyes, names on axes."""

import importlib

import numpy as np

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


def pyplot():
    """matplotlib.pyplot; ImportError that says how to install it."""
    return optional("matplotlib.pyplot")


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
    return image


def legend_beside(ax, **options):
    """A legend to the right of the axes."""
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    ax.legend(fontsize="small", frameon=False, **place, **options)


def whole_numbers(axis):
    """Ticks at whole numbers only."""
    axis.get_major_locator().set_params(integer=True)
