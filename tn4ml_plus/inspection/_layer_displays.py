"""Pictures of the states of samples in the layers of models."""

import dataclasses

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from .._checks import check_index
from ._drawing import as_image, colours, grid_of_axes, legend_beside
from ._layer_states import Separability, separability_by_layer
from ._unwrapping import member_of


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
        estimator, member, X = member_of(estimator, member, X)
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
        self.axes_ = axes = grid_of_axes(self, axes, 1, len(self.points), (2.4, 2.9))[0]
        classes = np.unique(self.y)
        for k, (ax, points) in enumerate(zip(axes, self.points, strict=True)):
            for label, colour in zip(classes, colours(len(classes)), strict=True):
                x, y = points[self.y == label].T
                ax.scatter(x, y, s=5, color=colour, label=str(label), linewidths=0, alpha=0.7)
            near, probe, silhouette = (values[k] for values in self.separability)
            text = f"neighbours {near:.1%}\nlinear probe {probe:.1%}\nsilhouette {silhouette:.2f}"
            ax.set(xticks=[], yticks=[], title=self.names[k])
            ax.set_xlabel(text, fontsize="small")
        legend_beside(axes[-1], markerscale=2)
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
        estimator, member, X = member_of(estimator, member, X)
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
        axes = grid_of_axes(self, axes, len(samples), len(self.images), (1.5, 1.6))
        for k, images in enumerate(self.images):
            limits = {"vmin": images.min(), "vmax": images.max(), "cmap": "gray"}
            for row, i in enumerate(samples):
                as_image(axes[row, k], images[i], images.shape[1:], None, **limits)
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
