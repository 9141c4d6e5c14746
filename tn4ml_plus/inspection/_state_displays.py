"""Pictures of networks and of their states."""

import dataclasses
from itertools import pairwise

import numpy as np

from .._checks import check_index, check_shape
from . import _drawing as draw
from ._canonical import parts
from ._entanglement import bond_entropies, mutual_information

# Tensors whose places are found from the distances of all pairs.
_FEW = 300


def _unit(base):
    return {2: "bits", np.e: "nats"}.get(base, f"logarithms to base {base:g}")


@dataclasses.dataclass
class EntanglementDisplay:
    """Entropy of every bond of a network, output by output, beside its upper bound.

    Parameters
    ----------
    entropies : (n_outputs, n_bonds), entropies
    bond_dims : (n_bonds,), sizes of the bonds
    heights : (n_bonds,), optional, heights of a tree's bonds above the leaves
    labels : list of str, optional, names of the outputs
    base : float, base of the logarithms
    """

    entropies: np.ndarray
    bond_dims: np.ndarray
    heights: np.ndarray | None = None
    labels: list | None = None
    base: float = 2

    @classmethod
    def from_estimator(cls, estimator, X=None, *, member=0, base=2) -> "EntanglementDisplay":
        """Display of one network; see `tn4ml_plus.inspection` for the parameters.

        The states are in the measure of the rows X, by default in that of the embedding's domain;
        `base` is as in `bond_entropies`.
        """
        estimator, member, X = draw.member_of(estimator, member, X)
        grams = estimator.grams(X)[estimator.orders_[member]]
        found = cls.from_network(estimator.networks_[member], grams, base=base)
        found.labels = draw.labels_of(estimator, len(found.entropies))
        return found

    @classmethod
    def from_network(cls, network, grams=None, *, base=2) -> "EntanglementDisplay":
        """Display of an open chain or a tree; see `bond_entropies` for the parameters."""
        whole = parts(network)
        entropies = bond_entropies(whole, grams, base)
        form, bonds = whole.form, list(whole.form.bonds)
        return cls(
            entropies,
            np.array([whole.cores[node].shape[-1] for node in bonds], int),
            None if form.is_chain else np.array([form.heights[node] for node in bonds], int),
            list(map(str, range(len(entropies)))),
            base,
        )

    def plot(self, ax=None) -> "EntanglementDisplay":
        """Draw the entropies; a tree's bonds are in order of their height."""
        ax = draw.axes_of(self, ax, figsize=(6, 3.2))
        n = len(self.bond_dims)
        order = np.arange(n) if self.heights is None else np.argsort(self.heights, kind="stable")
        x = 1 + np.arange(n)
        style = {"marker": "o", "markersize": 4 if n < 60 else 2}
        style["linestyle"] = "solid" if self.heights is None else "none"
        labels = self.labels or [""] * len(self.entropies)
        rows = zip(self.entropies[:, order], labels, draw.colours(len(labels)), strict=True)
        for entropies, label, colour in rows:
            ax.plot(x, entropies, color=colour, label=label, **style)
        most = np.log(self.bond_dims[order]) / np.log(self.base)
        ax.step(x, most, where="mid", color="0.6", ls="--", lw=1, label="log of the bond's size")
        if self.heights is not None:
            heights = self.heights[order]
            for height in np.unique(heights):
                inside, colour = x[heights == height], "0.93" if height % 2 else "1"
                ax.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color=colour, zorder=0)
        ax.set_xlabel("bond" if self.heights is None else "bond, by height (bands)")
        ax.set(ylabel=f"entropy ({_unit(self.base)})", ylim=(0, None))
        draw.legend_beside(ax, ncols=1 + len(labels) // 6)
        ax.xaxis.get_major_locator().set_params(integer=True)
        return self


@dataclasses.dataclass
class MutualInformationDisplay:
    """Mutual information between the sites of a model.

    Parameters
    ----------
    information : (nsites, nsites), mutual information, with entropies on the diagonal
    names : list of str, names of the sites
    shape : tuple of int, optional, (rows, columns) where the sites are pixels
    base : float, base of the logarithms
    """

    information: np.ndarray
    names: list
    shape: tuple | None = None
    base: float = 2

    @classmethod
    def from_estimator(
        cls, estimator, X=None, *, output=None, shape=None, base=2
    ) -> "MutualInformationDisplay":
        """Display of the mean over all networks; see `tn4ml_plus.inspection` for the parameters.

        X as in `EntanglementDisplay.from_estimator`, `output`, the number of a class or target (by
        default all in equal parts), and `base` as in `mutual_information`. Only members of a
        detector's committee count that read the same as the first one.
        """
        estimator, X = draw.unwrapped(estimator, X)
        parts = []
        for each, m in draw.alike(estimator):
            order = each.orders_[m]
            own = mutual_information(each.networks_[m], each.grams(X)[order], base, output)
            parts.append(own[np.ix_(np.argsort(order), np.argsort(order))])
        names = each.site_names()
        return cls(np.mean(parts, axis=0), names, check_shape(shape, len(names), "sites"), base)

    def plot(self, ax=None, *, site=None) -> "MutualInformationDisplay":
        """Draw the matrix without its diagonal, or the row of a `site`.

        See `tn4ml_plus.inspection` for the parameters.
        """
        if site is not None:
            check_index("site", site, len(self.names), "a site")
        ax = draw.axes_of(self, ax, figsize=(5.5, 4.5))
        shared = np.where(np.eye(len(self.names), dtype=bool), np.nan, self.information)
        label = f"mutual information ({_unit(self.base)})"
        if site is None:
            draw.as_image(ax, shared, shared.shape, label, cmap=draw.SEQUENTIAL)
            draw.name_ticks(ax.xaxis, self.names)
            draw.name_ticks(ax.yaxis, self.names)
            return self
        ax.set(title=f"with {self.names[site]}")
        if self.shape is not None:
            draw.as_image(ax, shared[site], self.shape, label, cmap=draw.SEQUENTIAL)
        else:
            ax.bar(range(len(self.names)), shared[site], color=draw.colours(1)[0])
            draw.name_ticks(ax.xaxis, self.names)
            ax.set(ylabel=label)
        return self


@dataclasses.dataclass
class NetworkDisplay:
    """Geometry of a network: tensors as points, bonds as lines as wide as their logarithms.

    >>> import jax
    >>> from tn4ml_plus.networks import MPS
    >>> mps = MPS.random(5, bond_dim=3, n_outputs=2, key=jax.random.key(0))
    >>> NetworkDisplay.from_network(mps).bonds[0]
    (0, 1, 3)

    Parameters
    ----------
    positions : (n_tensors, 2), places of the tensors
    bonds : list of (tensor, tensor, size)
    open_inds : list of (tensor, name, size)
    output_inds : tuple of str, those of the open indices that are outputs
    """

    positions: np.ndarray
    bonds: list
    open_inds: list
    output_inds: tuple = ()

    @classmethod
    def from_estimator(cls, estimator, *, member: int = 0) -> "NetworkDisplay":
        """Display of one network; see `tn4ml_plus.inspection` for the parameters."""
        estimator, member, _ = draw.member_of(estimator, member)
        return cls.from_network(estimator.networks_[member])

    @classmethod
    def from_network(cls, network) -> "NetworkDisplay":
        """Display of any quimb network; networkx places all except chains and trees."""
        tensors = list(network)
        bonds, open_inds, owners = [], [], {}
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

    def plot(self, ax=None) -> "NetworkDisplay":
        """Draw the network; inputs go down, outputs, which are orange, go up."""
        width, height = np.ptp(self.positions, axis=0)
        longer = max(width, height) + 1.6
        size = 7 * (width + 1.6) / longer, 7 * (height + 1.6) / longer
        ax = draw.axes_of(self, ax, figsize=np.maximum(size, 1))
        n = len(self.positions)
        for a, b, size in self.bonds:
            style = {"color": "0.55", "zorder": 1, "solid_capstyle": "round"}
            ax.plot(*self.positions[[a, b]].T, lw=0.5 + np.log2(size), **style)
        blue, orange = draw.colours(2)
        legs = {}
        for a, name, size in self.open_inds:
            legs.setdefault((a, name in self.output_inds), []).append(size)
        for (a, is_output), sizes in legs.items():
            x, y = self.positions[a]
            for k, size in enumerate(sizes):
                end = x + 0.3 * (k - (len(sizes) - 1) / 2), y + (0.5 if is_output else -0.5)
                style = {"color": orange if is_output else blue, "lw": 0.5 + np.log2(size) / 2}
                ax.plot(*zip((x, y), end), zorder=0, **style)
        style = {"s": max(12, min(140, 6000 / n)), "edgecolors": "w", "linewidths": 0.5}
        style["c"] = [orange if (a, True) in legs else blue for a in range(n)]
        ax.scatter(*self.positions.T, zorder=2, **style)
        style = {"textcoords": "offset points", "ha": "center", "fontsize": "small"}
        for a, b, size in self.bonds if n <= 20 else ():
            ax.annotate(str(size), self.positions[[a, b]].mean(axis=0), (0, 4), **style)
        ax.set_axis_off()
        ax.set_aspect("equal")
        # Points at the rim are whole, however flat the picture.
        (left, low), (right, high) = self.positions.min(axis=0), self.positions.max(axis=0)
        ax.set(xlim=(left - 0.8, right + 0.8), ylim=(low - 0.8, high + 0.8))
        return self


def _positions(network, tensors, bonds):
    """Places of the tensors of a network in its picture, (n_tensors, 2)."""
    placed = network.layout() if hasattr(network, "layout") else None
    if placed is not None:
        return placed
    nx = draw.optional("networkx")
    graph = nx.Graph((a, b) for a, b, _ in bonds)
    graph.add_nodes_from(range(len(tensors)))
    few = len(tensors) <= _FEW
    placed = nx.kamada_kawai_layout(graph) if few else nx.spring_layout(graph, seed=0)
    return np.sqrt(len(tensors)) * np.array([placed[i] for i in range(len(tensors))])
