"""States of samples in the layers of a network, from its sites to its outputs, and pictures."""

import dataclasses
from typing import NamedTuple

import numpy as np
import quimb.tensor as qtn
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length

from .._checks import check_index, check_int, check_shape
from .._types import ArrayLike
from ..contraction import END
from ..networks import MPS
from . import _drawing as draw
from ._canonical import canonical, weighted


def activations(
    network: qtn.TensorNetwork, phi: ArrayLike, shape: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """States of every layer for each sample, from the sites to the outputs, a list of arrays.

    Layer k of a tree has the states of all nodes of height k, and of lower ones that join higher
    up, (batch, nodes, chi), or (batch, rows, columns, chi) with a shape, ValueError where one is no
    grid; layer 0 is phi and the last, of one node, the outputs. A chain has one boundary vector
    (batch, chi) per bond, for everything on the bond's side away from the outputs, and the outputs.
    Cores below the outputs are isometries, and all states have norm 1. float64. After Liu et al.
    2017, arXiv:1710.04833.

    >>> import jax
    >>> from tn4ml_plus.networks import TTN, Tree
    >>> ttn = TTN.random(16, tree=Tree.image(4, 4), bond_dim=3, n_outputs=2, key=jax.random.key(0))
    >>> phi = np.random.default_rng(0).normal(size=(5, 16, 2))
    >>> [layer.shape for layer in activations(ttn, phi, shape=(4, 4))]
    [(5, 4, 4, 2), (5, 2, 2, 3), (5, 1, 1, 2)]

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork, an open chain or a tree, but no operator
    phi : (batch, nsites, d), embedded samples
    shape : tuple of int, optional, (rows, columns) of a tree's sites as pixels
    """
    if isinstance(network, MPS) and shape is not None:
        raise ValueError(
            "The sites of a chain are no image: omit shape, or train a tree, such as "
            "network=TTNSpec(tree=Tree.image(rows, columns))."
        )
    canon = canonical(network)
    form, phi = canon.form, np.asarray(phi, float)
    shape = check_shape(shape, form.nsites, "sites")
    if not np.isfinite(phi).all() or len(phi) == 0:
        raise ValueError("phi must have one sample or more, all of finite numbers.")
    if phi.ndim != 3 or phi.shape[1] != form.nsites:
        raise ValueError(f"phi must be (batch, {form.nsites}, d), got the shape {phi.shape}.")
    if form.is_open:
        raise ValueError(
            "Activations are defined only for networks with all outputs in one place, not for an "
            "operator, which has them at its sites."
        )
    states = dict(enumerate(map(_unit, phi.swapaxes(0, 1))))
    states[END] = np.ones((len(phi), 1))
    for i, (core, children) in enumerate(zip(weighted(canon), form.nodes, strict=True)):
        both = states[children[0]]
        for child in children[1:]:
            both = (both[:, :, None] * states[child][:, None]).reshape(len(phi), -1)
        if both.shape[1] != core[..., 0].size:
            raise ValueError(
                f"phi has vectors of {phi.shape[2]} entries, which the network does not read: use "
                "the embedding that it was trained with."
            )
        states[form.nsites + i] = _unit(both @ core.reshape(-1, core.shape[-1]))
    if isinstance(network, MPS):
        return [states[form.nsites + i] for i in (*form.bonds, len(form.nodes) - 1)]
    layers = []
    for nodes, leaves in _antichains(form):
        size = max(states[node].shape[1] for node in nodes)
        padded = (np.pad(states[n], [(0, 0), (0, size - states[n].shape[1])]) for n in nodes)
        grid = (len(nodes),) if shape is None else (_count_rows(leaves, shape), -1)
        layers.append(np.stack(list(padded), axis=1).reshape(len(phi), *grid, size))
    return layers


def _unit(state):
    norms = np.linalg.norm(state, axis=1, keepdims=True)
    return state / np.where(norms > 0, norms, 1)


def _antichains(form):
    """Nodes and leaves of at most each height that join higher up, ordered by their first leaf.

    Pairs of lists, of nodes and of the leaves below each.
    """
    heights, leaves, above = [0] * form.nsites, [[site] for site in range(form.nsites)], {}
    for i, children in enumerate(form.nodes):
        heights.append(1 + max(heights[child] for child in children))
        leaves.append(sorted(leaf for child in children for leaf in leaves[child]))
        above |= dict.fromkeys(children, form.nsites + i)
    for height in range(heights[-1] + 1):
        low = [node for node, own in enumerate(heights) if own <= height]
        nodes = [node for node in low if node not in above or heights[above[node]] > height]
        nodes.sort(key=leaves.__getitem__)
        yield nodes, [leaves[node] for node in nodes]


def _count_rows(blocks, shape):
    """Number of rows of equal length that blocks of pixels make."""
    rows, are_blocks = {}, True
    for leaves in blocks:
        row, column = np.unravel_index(leaves, shape)
        rows.setdefault(row[0], []).append(column[0])
        are_blocks &= (np.ptp(row) + 1) * (np.ptp(column) + 1) == len(row)
    if len(set(map(tuple, rows.values()))) > 1 or not are_blocks:
        raise ValueError(
            f"A layer of the tree is no grid in images of the shape {shape}: omit shape, give that "
            "of the tree's images, or use a tree such as Tree.image(rows, columns)."
        )
    return len(rows)


class Separability(NamedTuple):
    """Separation of classes, layer by layer.

    Attributes
    ----------
    neighbors, probe : (layers,), mean accuracies of nearest neighbours and logistic regression
    silhouette : (layers,), in [-1, 1]
    """

    neighbors: np.ndarray
    probe: np.ndarray
    silhouette: np.ndarray


def separability_by_layer(
    layers: list, y: ArrayLike, n_neighbors: int = 10, n_folds: int = 5, random_state=0
) -> Separability:
    """`Separability` of classes in each layer.

    Parameters
    ----------
    layers : list of (batch, ...), as from `activations`; all axes but the first are features
    y : (batch,), labels
    n_neighbors : int, fewer than a fold has samples to train on
    n_folds : int, stratified folds, at most as many as the smallest class has samples
    random_state : int or RandomState, source of the folds
    """
    layers, y = list(layers), np.asarray(y)
    check_int("n_neighbors", n_neighbors, 1)
    check_int("n_folds", n_folds, 2)
    check_consistent_length(*layers, y)
    classes, counts = np.unique(y, return_counts=True)
    if len(layers) == 0 or len(classes) < 2:
        raise ValueError(f"Give one layer or more and samples of two classes or more: {classes}.")
    if counts.min() < n_folds:
        raise ValueError(
            f"The class {classes[counts.argmin()]} has {counts.min()} samples, fewer than the "
            f"{n_folds} folds: give more samples, or a smaller n_folds."
        )
    if n_neighbors > len(y) * (n_folds - 1) // n_folds - 1:
        raise ValueError(
            f"{n_neighbors} neighbours are more than {n_folds} folds of {len(y)} samples have: "
            "give more samples, or a smaller n_neighbors."
        )
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    models = (KNeighborsClassifier(n_neighbors), probe)
    found = []
    for layer in layers:
        X = np.asarray(layer).reshape(len(layer), -1)
        scores = [cross_val_score(model, X, y, cv=folds).mean() for model in models]
        found.append([*scores, silhouette_score(X, y)])
    return Separability(*np.array(found).T)


@dataclasses.dataclass
class LayerDisplay:
    """Classes in each layer of a model, in the plane by t-SNE, and their separability.

    Parameters
    ----------
    points : list of (n_samples, 2), samples in the plane, layer by layer
    y : (n_samples,), labels
    separability : Separability, measures of each layer
    names : list of str, names of the layers
    """

    points: list
    y: np.ndarray
    separability: Separability
    names: list

    @classmethod
    def from_estimator(cls, estimator, X, y, *, member=0, shape=None, **options) -> "LayerDisplay":
        """Display of one network; see `tn4ml_plus.inspection` for the parameters.

        `shape` is as in `activations`, `options` as in `from_layers`.
        """
        estimator, member, X = draw.member_of(estimator, member, X)
        layers = estimator.activations(X, member=member, shape=shape)
        return cls.from_layers(layers, y, **options)

    @classmethod
    def from_layers(
        cls, layers, y, *, names=None, n_neighbors=10, n_folds=5, perplexity=30.0, random_state=0
    ) -> "LayerDisplay":
        """Display of any arrays, such as the layers of another model.

        Where all samples of a layer are alike all points are the same.

        Parameters
        ----------
        layers : list of (n_samples, ...), the layers
        y : (n_samples,), labels
        names : list of str, optional, names of the layers
        n_neighbors, n_folds : int, as in `separability_by_layer`
        perplexity : float, that of t-SNE, below the number of samples
        random_state : int or RandomState, source of t-SNE and folds
        """
        layers = [np.asarray(layer).reshape(len(layer), -1) for layer in layers]
        names = [f"layer {k}" for k in range(len(layers))] if names is None else list(names)
        if len(names) != len(layers):
            raise ValueError(f"names must be {len(layers)} names, one per layer, got {names}.")
        found = separability_by_layer(layers, y, n_neighbors, n_folds, random_state)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=random_state)
        points = []
        for layer in layers:
            if layer.std(axis=0).max() <= 1e-9 * np.abs(layer).max():
                # t-SNE would divide by the spread, which is zero.
                points.append(np.zeros((len(layer), 2)))
                continue
            # More components are noise, which costs time; t-SNE starts from two.
            leading = PCA(min(50, *layer.shape), random_state=random_state).fit_transform(layer)
            padding = [(0, 0), (0, max(0, 2 - leading.shape[1]))]
            points.append(tsne.fit_transform(np.pad(leading, padding)))
        return cls(points, np.asarray(y), found, names)

    def plot(self, axes=None) -> "LayerDisplay":
        """Draw the layers in a row."""
        self.axes_ = axes = draw.grid_of_axes(self, axes, 1, len(self.points), (2.4, 2.9))[0]
        classes = np.unique(self.y)
        for k, (ax, points) in enumerate(zip(axes, self.points, strict=True)):
            for label, colour in zip(classes, draw.colours(len(classes)), strict=True):
                x, y = points[self.y == label].T
                ax.scatter(x, y, s=5, color=colour, label=str(label), linewidths=0, alpha=0.7)
            near, probe, silhouette = (values[k] for values in self.separability)
            text = f"neighbours {near:.1%}\nlinear probe {probe:.1%}\nsilhouette {silhouette:.2f}"
            ax.set(xticks=[], yticks=[], title=self.names[k])
            ax.set_xlabel(text, fontsize="small")
        draw.legend_beside(axes[-1], markerscale=2)
        return self


@dataclasses.dataclass
class CoarseGrainDisplay:
    """Images at each scale of a tree: the leading principal component of each node's vectors.

    `images` is a list of (n_samples, rows, columns), from pixels to the outputs' node.
    """

    images: list

    @classmethod
    def from_estimator(cls, estimator, X, shape, *, member=0) -> "CoarseGrainDisplay":
        """Display of images X in a tree; see `tn4ml_plus.inspection` for the parameters."""
        estimator, member, X = draw.member_of(estimator, member, X)
        layers = estimator.activations(X, member=member, shape=shape)
        pixels = np.asarray(X)
        return cls.from_layers(layers, pixels if pixels[0].size == np.prod(shape) else None)

    @classmethod
    def from_layers(cls, layers, pixels=None) -> "CoarseGrainDisplay":
        """Display of any layers.

        Parameters
        ----------
        layers : list of (n_samples, rows, columns, chi), as from `activations` with a shape
        pixels : array, optional, n_samples x rows x columns numbers to draw for the first layer
        """
        layers = [np.asarray(layer, float) for layer in layers]
        for layer in layers:
            if layer.ndim != 4:
                raise ValueError(
                    "Layers must be (n_samples, rows, columns, chi): give the shape of the images, "
                    f"got {layer.shape}."
                )
        if pixels is None:
            pixels = _leading(layers[0].reshape(-1, 1, layers[0].shape[-1]))
        images = [np.asarray(pixels, float).reshape(layers[0].shape[:3])]
        for layer in layers[1:]:
            n, rows, columns, _ = layer.shape
            # Every node has a basis of its own. Signs are free: what was bright stays bright.
            found = _leading(layer.reshape(n, rows * columns, -1)).reshape(n, rows, columns)
            below = _blocks(_blocks(images[-1], rows, 1), columns, 2)
            signs = np.sum(found * (below - below.mean(axis=0)), axis=0)
            images.append(np.where(signs < 0, -found, found))
        return cls(images)

    def plot(self, axes=None, *, samples=None) -> "CoarseGrainDisplay":
        """Draw one row per sample, one column per scale.

        `samples` are numbers of samples, or one number, by default the first four.
        See `tn4ml_plus.inspection` for the parameters.
        """
        n = len(self.images[0])
        samples = list(range(min(4, n)) if samples is None else np.atleast_1d(samples).tolist())
        for sample in samples:
            check_index("each of samples", sample, n, "a sample")
        axes = draw.grid_of_axes(self, axes, len(samples), len(self.images), (1.5, 1.6))
        for k, images in enumerate(self.images):
            limits = {"vmin": images.min(), "vmax": images.max(), "cmap": "gray"}
            for row, i in enumerate(samples):
                draw.as_image(axes[row, k], images[i], images.shape[1:], None, **limits)
            rows, columns = images.shape[1:]
            axes[0, k].set_title(f"{rows} x {columns}", fontsize="medium")
        return self


def _leading(vectors):
    """Leading principal component (n, nodes) of each node's vectors (n, nodes, chi)."""
    centred = (vectors - vectors.mean(axis=0)).swapaxes(0, 1)
    axes = np.linalg.eigh(centred.swapaxes(1, 2) @ centred)[1][..., -1:]
    return (centred @ axes)[..., 0].T


def _blocks(images, n, axis):
    """Means over n blocks of one axis."""
    return np.stack([part.mean(axis=axis) for part in np.array_split(images, n, axis)], axis)
