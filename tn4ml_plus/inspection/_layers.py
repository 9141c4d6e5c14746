"""What a network makes of samples on the way from its sites to its outputs."""

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length

from .._checks import check_int, check_shape
from ..contraction import END
from ..networks import MPS
from ._canonical import canonical


def activations(network, phi, shape=None):
    """States of every layer for each sample, from the sites to the outputs, a list of arrays.

    phi: (batch, nsites, d) embedded samples. Of a tree, layer k has the states of all nodes of
    height k, and of lower ones that join higher up: (batch, nodes, chi), layer 0 being phi and the
    last, of one node, the outputs. With shape, the (rows, columns) of the sites as pixels, it is
    (batch, rows, columns, chi). Of a chain, there is a boundary vector (batch, chi) for each bond,
    of all that is on the bond's side away from the outputs, and the outputs. Cores below the
    outputs are isometries, and states, also those of the outputs, have norm 1. float64.
    Raises ValueError for other networks and shapes, and where a layer is no grid.
    After Liu et al. 2017, arXiv:1710.04833.

    >>> import jax, numpy as np
    >>> from tn4ml_plus.networks import TTN, Tree
    >>> ttn = TTN.random(16, tree=Tree.image(4, 4), bond_dim=3, n_outputs=2, key=jax.random.key(0))
    >>> phi = np.random.default_rng(0).normal(size=(5, 16, 2))
    >>> [layer.shape for layer in activations(ttn, phi, shape=(4, 4))]
    [(5, 4, 4, 2), (5, 2, 2, 3), (5, 1, 1, 2)]
    """
    if isinstance(network, MPS) and shape is not None:
        raise ValueError(
            "The sites of a chain are no image: leave out shape, or train a tree, such as "
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
        raise ValueError("An operator keeps its outputs at its sites: layers are told of others.")
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
                f"phi has vectors of {phi.shape[2]} entries: the network reads those of another "
                "embedding."
            )
        states[form.nsites + i] = _unit(both @ core.reshape(-1, core.shape[-1]))
    if isinstance(network, MPS):
        return [states[form.nsites + i] for i in (*form.bonds, len(form.nodes) - 1)]
    return [_layer(states, members, shape) for members in _antichains(form, shape)]


def _unit(state):
    norms = np.linalg.norm(state, axis=1, keepdims=True)
    return state / np.where(norms > 0, norms, 1)


def _antichains(form, shape):
    """Of every height, the nodes and leaves of no more that join higher up, by their first leaf.

    With a shape, a list of rows of them.
    """
    heights, leaves, above = [0] * form.nsites, [[site] for site in range(form.nsites)], {}
    for i, children in enumerate(form.nodes):
        heights.append(1 + max(heights[child] for child in children))
        leaves.append(sorted(leaf for child in children for leaf in leaves[child]))
        above |= dict.fromkeys(children, form.nsites + i)
    for height in range(heights[-1] + 1):
        chosen = [
            node
            for node, own in enumerate(heights)
            if own <= height and (node not in above or heights[above[node]] > height)
        ]
        chosen.sort(key=leaves.__getitem__)
        yield chosen if shape is None else _rows(chosen, leaves, shape)


def _rows(nodes, leaves, shape):
    """Nodes as rows of equal length, each a block of pixels."""
    rows, are_blocks = {}, True
    for node in nodes:
        row, column = np.unravel_index(leaves[node], shape)
        rows.setdefault(row[0], []).append(node)
        are_blocks &= (np.ptp(row) + 1) * (np.ptp(column) + 1) == len(row)
    starts = {tuple(leaves[node][0] % shape[1] for node in row) for row in rows.values()}
    if len(starts) > 1 or not are_blocks:
        raise ValueError(
            f"A layer of the tree is no grid in images of the shape {shape}: leave out shape, give "
            "that of the tree's images, or use a tree such as Tree.image(rows, columns)."
        )
    return list(rows.values())


def _layer(states, members, shape):
    nodes = [node for row in members for node in row] if shape is not None else members
    size = max(states[node].shape[1] for node in nodes)
    found = [np.pad(states[node], [(0, 0), (0, size - states[node].shape[1])]) for node in nodes]
    found = np.stack(found, axis=1)
    return found if shape is None else found.reshape(len(found), len(members), -1, size)


class Separability(NamedTuple):
    """How well classes are told apart, layer by layer.

    neighbors, probe: (layers,) accuracies of nearest neighbours and of logistic regression, means
    over folds; silhouette: (layers,) in [-1, 1].
    """

    neighbors: np.ndarray
    probe: np.ndarray
    silhouette: np.ndarray


def separability_by_layer(layers, y, n_neighbors=10, n_folds=5, random_state=0):
    """`Separability` of the classes y in each of the arrays of `activations`.

    layers: arrays (batch, ...), of which all but the first axis are features; y: (batch,) labels.
    Folds are stratified and drawn from random_state. Raises ValueError for other lengths, for fewer
    than n_folds samples of a class, and for more neighbours than a fold has to train on.
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
    models = (
        KNeighborsClassifier(n_neighbors),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    )
    found = []
    for layer in layers:
        X = np.asarray(layer).reshape(len(layer), -1)
        scores = [cross_val_score(model, X, y, cv=folds).mean() for model in models]
        found.append([*scores, silhouette_score(X, y)])
    return Separability(*np.array(found).T)
