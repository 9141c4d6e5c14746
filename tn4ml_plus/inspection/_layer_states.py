"""States of samples in the layers of a network, from its sites to its outputs."""

from typing import NamedTuple

import numpy as np
import quimb.tensor as qtn
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length

from .._checks import check_int, check_shape
from .._types import ArrayLike
from ..contraction import END
from ..networks import MPS
from ._canonical import canonical


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
    # Outputs keep their sizes relative to each other.
    root = canon.root * np.exp(canon.log_norms - canon.log_norms.max())
    states = dict(enumerate(map(_unit, phi.swapaxes(0, 1))))
    states[END] = np.ones((len(phi), 1))
    for i, (core, children) in enumerate(zip([*canon.cores, root], form.nodes, strict=True)):
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
