"""Pictures of networks and of the states that they are."""

import dataclasses
from itertools import pairwise

import numpy as np

from .._checks import check_index, check_shape
from ..networks import MPO, MPS, SMPO, TTN
from ._drawing import (
    SEQUENTIAL,
    as_image,
    axes_of,
    colours,
    legend_beside,
    name_ticks,
    networkx,
    whole_numbers,
)
from ._entanglement import bond_entropies, mutual_information
from ._members import alike, grams_of, labels_of, member_of, to_columns, unwrapped

# Sites in a row of a picture of a chain.
_ROW = 28
_FEW = 300


def _unit(base):
    return {2: "bits", np.e: "nats"}.get(base, f"logarithms to base {base:g}")


@dataclasses.dataclass
class EntanglementDisplay:
    """Entropy of every bond of a network, output by output, beside what its bond could carry.

    entropies: (n_outputs, n_bonds); bond_dims: (n_bonds,); heights: (n_bonds,) of a tree's bonds
    above the leaves, None for chains; labels: names of the outputs; base: of the logarithms.

    >>> from sklearn.datasets import load_iris
    >>> from tn4ml_plus import TNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TNClassifier(n_members=1, random_state=0).fit(X, y)
    >>> EntanglementDisplay.from_estimator(clf).entropies.shape
    (3, 3)
    """

    entropies: np.ndarray
    bond_dims: np.ndarray
    heights: np.ndarray | None = None
    labels: list | None = None
    base: float = 2

    @classmethod
    def from_estimator(cls, estimator, X=None, *, member=0, base=2):
        """Of one of a fitted estimator's networks, see `bond_entropies`.

        States are in the measure of the embedding's domain, or of the rows of X.
        """
        estimator, X = unwrapped(estimator, X)
        estimator, member = member_of(estimator, member)
        network = estimator.networks_[member]
        found = cls.from_network(network, grams_of(estimator, member, X), base=base)
        found.labels = labels_of(estimator, len(found.entropies))
        return found

    @classmethod
    def from_network(cls, network, grams=None, *, base=2):
        """Of an open chain or a tree; grams, base and errors as in `bond_entropies`."""
        entropies = bond_entropies(network, grams, base)
        is_tree = isinstance(network, TTN)
        return cls(
            entropies,
            np.asarray(network.bond_sizes()),
            np.asarray(network.tree.heights[:-1]) if is_tree else None,
            list(map(str, range(len(entropies)))),
            base,
        )

    def plot(self, ax=None):
        """Draw it; a tree's bonds are in order of their height."""
        self.ax_ = ax = axes_of(ax, figsize=(6, 3.2))
        n = len(self.bond_dims)
        order = np.arange(n) if self.heights is None else np.argsort(self.heights, kind="stable")
        x = 1 + np.arange(n)
        style = {"marker": "o", "markersize": 4 if n < 60 else 2}
        if self.heights is not None:
            style["linestyle"] = "none"
        labels = self.labels or [""] * len(self.entropies)
        for entropy, label, colour in zip(
            self.entropies[:, order], labels, colours(len(self.entropies)), strict=True
        ):
            ax.plot(x, entropy, color=colour, label=label, **style)
        most = np.log(self.bond_dims[order]) / np.log(self.base)
        ax.step(x, most, where="mid", color="0.6", ls="--", lw=1, label="log of the bond's size")
        if self.heights is not None:
            heights = self.heights[order]
            for height in np.unique(heights):
                inside = x[heights == height]
                ax.axvspan(
                    inside[0] - 0.5, inside[-1] + 0.5, color="0.93" if height % 2 else "1", zorder=0
                )
        ax.set(
            xlabel="bond" if self.heights is None else "bond, by height (bands)",
            ylabel=f"entropy ({_unit(self.base)})",
            ylim=(0, None),
        )
        legend_beside(ax, ncols=1 + len(labels) // 6)
        whole_numbers(ax.xaxis)
        self.figure_ = ax.figure
        return self


@dataclasses.dataclass
class MutualInformationDisplay:
    """What the sites of a model know of each other.

    information: (nsites, nsites), of a site with itself its entropy; names: of the sites; shape:
    (rows, columns) where they are pixels; base: of the logarithms.

    >>> from sklearn.datasets import load_iris
    >>> from tn4ml_plus import TNBornMachine
    >>> X = load_iris().data
    >>> display = MutualInformationDisplay.from_estimator(TNBornMachine(random_state=0).fit(X))
    >>> display.information.shape, display.names
    ((4, 4), ['x0', 'x1', 'x2', 'x3'])
    """

    information: np.ndarray
    names: list
    shape: tuple | None = None
    base: float = 2

    @classmethod
    def from_estimator(cls, estimator, X=None, *, output=None, shape=None, base=2):
        """Mean over the networks of a fitted estimator, see `mutual_information`.

        output: number of a class or target, None for all in equal parts. States are in the measure
        of the embedding's domain, or of the rows of X. Of a detector's committee only the members
        count that read what the first one reads.
        """
        estimator, X = unwrapped(estimator, X)
        parts = []
        for each, m in alike(estimator):
            own = mutual_information(each.networks_[m], grams_of(each, m, X), base, output)
            order = each.orders_[m]
            parts.append(to_columns(to_columns(own, order).T, order))
        names = each.site_names()
        return cls(np.mean(parts, axis=0), names, check_shape(shape, len(names), "sites"), base)

    def plot(self, ax=None, *, site=None):
        """Draw the matrix without its diagonal, or, with site, what one site shares with all."""
        self.ax_ = ax = axes_of(ax, figsize=(5.5, 4.5))
        shared = np.where(np.eye(len(self.names), dtype=bool), np.nan, self.information)
        label = f"mutual information ({_unit(self.base)})"
        if site is not None:
            check_index("site", site, len(self.names), "a site")
        if site is not None and self.shape is not None:
            as_image(ax, shared[site], self.shape, label, cmap=SEQUENTIAL)
            ax.set(title=f"with {self.names[site]}")
        elif site is not None:
            ax.bar(range(len(self.names)), shared[site], color=colours(1)[0])
            name_ticks(ax.xaxis, self.names)
            ax.set(ylabel=label, title=f"with {self.names[site]}")
        else:
            as_image(ax, shared, shared.shape, label, cmap=SEQUENTIAL)
            name_ticks(ax.xaxis, self.names)
            name_ticks(ax.yaxis, self.names)
        self.figure_ = ax.figure
        return self


@dataclasses.dataclass
class NetworkDisplay:
    """A network as it is joined: tensors as points, bonds as lines as wide as their logarithms.

    positions: (n_tensors, 2); bonds: list of (tensor, tensor, size); open_inds: list of
    (tensor, name, size); output_inds: which of these are outputs.

    >>> import jax
    >>> from tn4ml_plus.networks import MPS
    >>> mps = MPS.random(5, bond_dim=3, n_outputs=2, key=jax.random.key(0))
    >>> NetworkDisplay.from_network(mps).bonds[0]
    (0, 1, 3)
    """

    positions: np.ndarray
    bonds: list
    open_inds: list
    output_inds: tuple = ()

    @classmethod
    def from_estimator(cls, estimator, *, member=0):
        """Of one of a fitted estimator's networks."""
        estimator, member = member_of(unwrapped(estimator)[0], member)
        return cls.from_network(estimator.networks_[member])

    @classmethod
    def from_network(cls, network):
        """Of any quimb network; those but chains and trees are laid out by networkx."""
        tensors = list(network)
        bonds, open_inds = [], []
        owners = {}
        for i, tensor in enumerate(tensors):
            for ind in tensor.inds:
                owners.setdefault(ind, []).append(i)
        for ind, among in owners.items():
            size = network.ind_size(ind)
            if len(among) == 1:
                open_inds.append((among[0], ind, size))
            else:
                bonds += [(a, b, size) for a, b in pairwise(among)]
        outputs = tuple(getattr(network, "output_inds", ()))
        return cls(_positions(network, tensors, bonds), bonds, open_inds, outputs)

    def plot(self, ax=None):
        """Draw it; inputs go down, outputs, which are orange, go up."""
        width, height = np.ptp(self.positions, axis=0)
        longer = max(width, height) + 1.6
        size = 7 * (width + 1.6) / longer, 7 * (height + 1.6) / longer
        self.ax_ = ax = axes_of(ax, figsize=np.maximum(size, 1))
        n = len(self.positions)
        for a, b, size in self.bonds:
            (xa, ya), (xb, yb) = self.positions[[a, b]]
            ax.plot(
                [xa, xb],
                [ya, yb],
                color="0.55",
                lw=0.5 + np.log2(size),
                zorder=1,
                solid_capstyle="round",
            )
        blue, orange = colours(2)
        legs = {}
        for a, name, size in self.open_inds:
            legs.setdefault((a, name in self.output_inds), []).append(size)
        for (a, is_output), sizes in legs.items():
            x, y = self.positions[a]
            for k, size in enumerate(sizes):
                end = x + 0.3 * (k - (len(sizes) - 1) / 2), y + (0.5 if is_output else -0.5)
                style = {"color": orange if is_output else blue, "lw": 0.5 + np.log2(size) / 2}
                ax.plot(*zip((x, y), end), zorder=0, **style)
        has_outputs = [(a, True) in legs for a in range(n)]
        point = max(12, min(140, 6000 / n))
        ax.scatter(
            *self.positions.T,
            s=point,
            c=np.where(has_outputs, orange, blue),
            zorder=2,
            edgecolors="w",
            linewidths=0.5,
        )
        if n <= 20:
            for a, b, size in self.bonds:
                x, y = self.positions[[a, b]].mean(axis=0)
                ax.annotate(
                    str(size),
                    (x, y),
                    (0, 4),
                    textcoords="offset points",
                    ha="center",
                    fontsize="small",
                )
        ax.set_axis_off()
        ax.set_aspect("equal")
        # Points at the rim are whole, however flat the picture.
        (left, low), (right, high) = self.positions.min(axis=0), self.positions.max(axis=0)
        ax.set(xlim=(left - 0.8, right + 0.8), ylim=(low - 0.8, high + 0.8))
        self.figure_ = ax.figure
        return self


def _positions(network, tensors, bonds):
    """Where the tensors of a network are drawn, (n_tensors, 2)."""
    if isinstance(network, TTN):
        return _of_tree(network, tensors)
    if isinstance(network, MPS | MPO | SMPO):
        numbers = {id(network[network.site_tag(i)]): i for i in range(len(tensors))}
        sites = np.array([numbers[id(tensor)] for tensor in tensors])
        if network.cyclic:
            angle, radius = 2 * np.pi * sites / len(sites), len(sites) / (2 * np.pi)
            return radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        rows, columns = np.divmod(sites, _ROW)
        # To and fro, so that neighbours are neighbours.
        columns = np.where(rows % 2, _ROW - 1 - columns, columns)
        return np.stack([columns, -1.5 * rows], axis=1)
    nx = networkx()
    graph = nx.Graph((a, b) for a, b, _ in bonds)
    graph.add_nodes_from(range(len(tensors)))
    # The first is nicer and takes the time of all pairs.
    few = len(tensors) <= _FEW
    placed = nx.kamada_kawai_layout(graph) if few else nx.spring_layout(graph, seed=0)
    return np.sqrt(len(tensors)) * np.array([placed[i] for i in range(len(tensors))])


def _of_tree(network, tensors):
    tree = network.tree
    x, heights = [None] * tree.nsites, tree.heights
    # Leaves from left to right as the tree has them, not as they are numbered.
    leaves, waiting = [], [tree.nsites + len(tree.nodes) - 1]
    while waiting:
        number = waiting.pop()
        if number < tree.nsites:
            leaves.append(number)
        else:
            waiting += reversed(tree.nodes[number - tree.nsites])
    for place, leaf in enumerate(leaves):
        x[leaf] = float(place)
    for children in tree.nodes:
        x.append(np.mean([x[child] for child in children]))
    step = max(1.0, tree.nsites / 12)
    numbers = {id(network.node(i)): i for i in range(len(tree.nodes))}
    places = [numbers[id(tensor)] for tensor in tensors]
    return np.array([(x[tree.nsites + i], step * heights[i]) for i in places])
