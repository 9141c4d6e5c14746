"""Fitted readers and ensembles as arrays for predictors by NumPy alone."""

import dataclasses
from itertools import pairwise

import jax
import numpy as np

from ..contraction import BornDensity, log_norm_squared, pack
from ..embeddings import Periodic, WithMissing
from ..losses import (
    BornCrossEntropy,
    CrossEntropy,
    LogQuadratic,
    Loss,
    NegativeLogLikelihood,
    SemiSupervisedLogQuadratic,
)
from ..tables import (
    CommonMinMax,
    GaussianCDF,
    LogisticCDF,
    MinMax,
    Passthrough,
    PrincipalComponents,
    ProbabilisticPCA,
    QuantileSigmoid,
    Rotated,
)
from ._predictor import _legendre

_SCALERS = (
    CommonMinMax, GaussianCDF, LogisticCDF, MinMax, Passthrough, ProbabilisticPCA, QuantileSigmoid,
    Rotated,
)  # fmt: skip
# Terms of series, their error beside the largest entry, and pieces of a domain at most.
_TERMS, _ERROR, _PIECES = (2, 3, 4, 5, 6, 8, 10, 13, 17, 21), 1e-10, 256
# Children of nodes that are no nodes or sites, as in `tn4ml_plus.contraction`.
_OPEN, _SHUT = -2, -3


def table_tree(reader, what: str) -> dict:
    """Fields of a predictor about raw columns; ValueError for those that are beyond it.

    Parameters
    ----------
    reader : TableReader
    what : str, kind of the predictor
    """
    dates = [bool(parts) for parts in reader.moments or ()]
    if any(dates):
        j = dates.index(True)
        name = j if reader.names is None else repr(reader.names[j])
        raise ValueError(
            f"Column {name} holds dates, which NumPy's predictor cannot read: give numbers, such "
            "as days since a date, from fitting on."
        )
    for levels in reader.levels:
        for level in levels or ():
            if not isinstance(level, str | bool | int | float):
                raise ValueError(
                    f"{level!r} is a category that NumPy's predictor cannot store: make the "
                    "categories strings, by astype(str), before fitting."
                )
    return {
        "kind": what,
        "n_columns": reader.n_columns,
        "levels": [None if levels is None else list(levels) for levels in reader.levels],
        "pooled": list(reader.pooled or (False,) * reader.n_features),
    }


def view_tree(reader, ensemble, *, traces: bool, is_born: bool = False, loss=None) -> dict:
    """Fields of a predictor's view; ValueError for readers and networks that are beyond it.

    Parameters
    ----------
    reader : TableReader
    ensemble : Ensemble
    traces : bool, whether codes never seen are missing
    is_born : bool, whether networks are densities by the Born rule
    loss : dict or None, that of densities
    """
    scaled = reader.scaled
    limits = np.array(reader.embedding.domains(reader.width), float)
    low, high = limits[slice(None) if scaled.all() else scaled].T
    groups, log_norms = _groups(reader, ensemble, is_born)
    tree = {
        "sites": _sites(reader, traces),
        "scaler": _scaler(reader.scaler, reader.scaler_state) if scaled.any() else None,
        "scaled": scaled,
        "low": low,
        "high": high,
        "groups": groups,
    }
    if reader.exponents is not None:
        tree["exponents"] = reader.exponents
    if loss is not None:
        tree["loss"] = loss
    if loss == {"kind": "likelihood"}:
        tree["log_norms"] = log_norms
    return tree


def class_loss(loss) -> dict:
    """The way from outputs to class probabilities; ValueError for losses of others."""
    known = isinstance(loss, CrossEntropy | BornCrossEntropy)
    own = type(loss)
    plain = own.log_probabilities is Loss.log_probabilities
    plain = plain and own.probabilities is Loss.probabilities
    if not known and not plain:
        raise ValueError(f"NumPy's predictor knows no probabilities of {loss}: use export.")
    return {
        "squares": isinstance(loss, BornCrossEntropy),
        "epsilon": getattr(loss, "epsilon", 0.0) if known else 0.0,
        "label_smoothing": getattr(loss, "label_smoothing", 0.0) if known else 0.0,
    }


def density_loss(loss) -> dict:
    """The way from squared norms to scores; ValueError for losses of others."""
    if isinstance(loss, NegativeLogLikelihood):
        return {"kind": "likelihood"}
    if isinstance(loss, LogQuadratic | SemiSupervisedLogQuadratic):
        return {"kind": "quadratic", "target": loss.target}
    raise ValueError(f"NumPy's predictor knows no scores of {loss}: use export.")


def _scaler(scaler, state):
    if type(scaler) not in _SCALERS:
        raise ValueError(f"NumPy's predictor does not know the scaler {scaler}: use export.")
    tree = {"name": type(scaler).__name__}
    if isinstance(scaler, PrincipalComponents):
        inner = {n.removeprefix("inner_"): a for n, a in state.items() if n.startswith("inner_")}
        own = {name: a for name, a in state.items() if not name.startswith("inner_")}
        return tree | own | {"inner": _scaler(scaler.scaler, inner)}
    scale = {"scale": scaler.scale} if isinstance(scaler, GaussianCDF | LogisticCDF) else {}
    return tree | scale | state


# Embeddings ---------------------------------------------------------------------------------------


def _sites(reader, traces):
    """Fields of the predictor's sites."""
    if reader.embedding.site_features > 1 or not reader.embedding.columnwise:
        raise ValueError(
            f"NumPy's predictor reads one column at a site, and {reader.embedding} reads several: "
            "use export."
        )
    embeddings, dim = reader.site_embeddings(), reader.embedding.phys_dim
    known = {embedding: _series(embedding) for embedding in dict.fromkeys(embeddings)}
    found = [known[embedding] for embedding in embeddings]
    discrete = np.array([embedding.discrete for embedding in embeddings])
    n_terms = max(series.shape[1] for _, series in found)
    n_pieces = max(len(breaks) - 1 for breaks, _ in found)
    breaks = np.full((len(found), n_pieces + 1), np.inf)
    series = np.zeros((len(found), n_pieces + bool(discrete.any()), n_terms, dim))
    for site, (ends, terms) in enumerate(found):
        breaks[site, : len(ends)] = ends
        if discrete[site]:
            series[site, -1, : terms.shape[1], : terms.shape[2]] = terms[-1]
            terms = terms[:-1]
        series[site, : len(terms), : terms.shape[1], : terms.shape[2]] = terms
    with jax.enable_x64(True):
        gaps = reader.vector_map.gaps
    return {
        "breaks": breaks,
        "series": series,
        "discrete": discrete,
        "periodic": np.array([isinstance(_bare(e), Periodic) for e in embeddings]),
        "gaps": gaps,
        "divisors": reader.unit_weights if reader.divides else None,
        "traces": traces,
    }


def _bare(embedding):
    return embedding.embedding if isinstance(embedding, WithMissing) else embedding


def _series(embedding):
    """Ends of the pieces of a domain, and Legendre series on each, (n_pieces, n_terms, phys_dim).

    Of codes there is one more, the vector of those that are unknown.
    """
    if embedding.discrete:
        low, high = embedding.domain
        codes = np.arange(low, high + 1)
        vectors = embedding._evaluate(np.append(codes, -1.0))
        return np.append(codes - 0.5, high + 0.5), vectors[:, None]
    if not np.isfinite(embedding.domain).all():
        raise ValueError(
            f"NumPy's predictor needs a finite domain, unlike {embedding}: use export."
        )
    if embedding.as_given and not isinstance(_bare(embedding), Periodic):
        raise ValueError(f"NumPy's predictor does not know where {embedding} is read: use export.")
    breaks = np.asarray(embedding._breakpoints, float)
    while len(breaks) <= _PIECES + 1:
        for n_terms in _TERMS:
            series = np.stack([_fitted(embedding, *ends, n_terms) for ends in pairwise(breaks)])
            if _error(embedding, breaks, series) < _ERROR:
                return breaks, series
        breaks = np.sort(np.append(breaks, (breaks[:-1] + breaks[1:]) / 2))
    raise ValueError(f"{embedding} is too rough for NumPy's predictor: use export.")


def _fitted(embedding, low, high, n_terms):
    """Legendre series of an embedding between two points, by Gauss-Legendre quadrature."""
    t, weights = np.polynomial.legendre.leggauss(n_terms)
    phi = embedding._evaluate((low + high) / 2 + (high - low) / 2 * t)
    moments = (_legendre(t, n_terms) * weights[:, None]).T @ phi
    # So that Legendre polynomials are themselves.
    return np.round(moments * (np.arange(n_terms) + 0.5)[:, None], 13)


def _error(embedding, breaks, series):
    """Largest error beside the largest entry, on a grid that the series were not fitted to."""
    errors, sizes = [], []
    for (low, high), terms in zip(pairwise(breaks), series, strict=True):
        # Ends belong to two pieces.
        t = np.linspace(-1, 1, 101)[1:-1]
        phi = embedding._evaluate((low + high) / 2 + (high - low) / 2 * t)
        errors.append(np.abs(_legendre(t, len(terms)) @ terms - phi).max())
        sizes.append(np.abs(phi).max())
    return max(errors) / max(sizes)


# Networks -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Network:
    """Nodes below a root, the root last: children (nodes, then sites), and cores with an up axis.

    Where there are outputs below the root every core has one more axis for one, before the last.
    """

    children: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    cores: list
    is_open: bool
    log_norm: float = 0.0

    def steps(self):
        """Numbers of the nodes of one height and kind, step by step, children first."""
        heights, found = [], {}
        for i, (nodes, sites) in enumerate(self.children):
            heights.append(1 + max((heights[node] for node in nodes), default=0))
            found.setdefault((heights[-1], len(nodes), len(sites)), []).append(i)
        return [found[key] for key in sorted(found)]


def _groups(reader, ensemble, is_born):
    """Groups of networks of one form, and the logs of their squared norms in this order."""
    networks = [_network(network, is_born, ensemble.squared) for network in ensemble.networks]
    by_form = {}
    for network, order in zip(networks, ensemble.orders, strict=True):
        by_form.setdefault((network.children, network.is_open), []).append((network, order))
    groups = [_group(members, reader.embedding.phys_dim) for members in by_form.values()]
    log_norms = [network.log_norm for members in by_form.values() for network, _ in members]
    return groups, np.array(log_norms)


def _network(network, is_born, squared):
    """A chain, a tree or an operator as nodes; ValueError for others."""
    if is_born:
        density = BornDensity(network)
        return _Network(*_ordered(density.tree.nsites, density.tree.nodes, density.cores, False))
    with jax.enable_x64(True):
        packed, structure = pack(network)
        structure.check_rooted("NumPy's predictor needs", ": use export")
        log_norm = float(log_norm_squared(packed, structure)) if squared else 0.0
    form, cores = structure.rooted(), structure.nodes(packed)
    if form.is_open and not squared:
        form, cores = _at_output(structure, form, cores)
    found = _ordered(form.nsites, form.nodes, cores, form.is_open)
    return _Network(*found, log_norm)


def _at_output(structure, form, cores):
    """The view of an operator of one output whose root is where that is."""
    if len(structure.output_dims) != 1:
        raise ValueError("NumPy's predictor gives one index of outputs: use export.")
    site, n, center = structure.output_sites[0], form.nsites, form.nsites // 2
    # (bond on the left, input, output, bond on the right) of every site.
    at = {}
    for children, core in zip(form.nodes, cores, strict=True):
        i = children[1]
        at[i] = core[..., 0] if i == center else core if i < center else core.swapaxes(0, 3)
    rooted = type(form).chain(n, site)
    found = []
    for children in rooted.nodes[:-1]:
        i = children[1]
        found.append(at[i][:, :, 0] if i < site else at[i][:, :, 0].swapaxes(0, 2))
    return rooted, [*found, at[site].swapaxes(2, 3)]


def _ordered(nsites, nodes, cores, is_open):
    """Children and cores with nodes before sites before outputs, without ends of size 1."""
    children, found = [], []
    for node, core in zip(nodes, cores, strict=True):
        below = [(slot, child) for slot, child in enumerate(node) if child >= nsites]
        sites = [(slot, child) for slot, child in enumerate(node) if 0 <= child < nsites]
        outputs = [slot for slot, child in enumerate(node) if child in (_OPEN, _SHUT)]
        kept = [slot for slot, _ in below + sites] + (outputs if is_open else [])
        gone = [slot for slot in range(len(node)) if slot not in kept]
        core = np.asarray(core, float).transpose(*kept, len(node), *gone)
        found.append(core.reshape(core.shape[: len(kept) + 1]))
        children.append((tuple(c - nsites for _, c in below), tuple(c for _, c in sites)))
    return tuple(children), found, is_open


def _group(members, phys_dim):
    """Fields of a predictor's group of networks of one form, and the orders of their sites."""
    first, steps, leaves, log_scales = members[0][0], [], [], np.zeros(len(members))
    numbers = {}
    for nodes in first.steps():
        numbers |= {node: len(numbers) + i for i, node in enumerate(nodes)}
    for nodes in first.steps():
        below, sites = (np.array([first.children[i][part] for i in nodes]) for part in (0, 1))
        below = [np.array([numbers[node] for node in slot]) for slot in below.T]
        leaves += list(sites.T.astype(int))
        shapes = [network.cores[i].shape for network, _ in members for i in nodes]
        shape = np.max(shapes, axis=0)
        shape[len(below) : len(below) + sites.shape[1]] = phys_dim
        cores = np.zeros((len(members), len(nodes), *shape))
        for m, (network, _) in enumerate(members):
            for place, i in enumerate(nodes):
                core = network.cores[i]
                exponent = int(np.frexp(np.abs(core).max())[1])
                log_scales[m] += np.log(2) * exponent
                cores[(m, place, *map(slice, core.shape))] = np.ldexp(core, -exponent)
        steps.append({"cores": cores, "below": below})
    leaves = np.concatenate(leaves)
    orders = np.stack([order[leaves] for _, order in members])
    return {"orders": orders, "steps": steps, "log_scales": log_scales, "is_open": first.is_open}
