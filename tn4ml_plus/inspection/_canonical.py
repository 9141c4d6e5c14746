"""A network as isometries below its root, in orthonormal bases of its sites."""

import math
from typing import NamedTuple

import jax
import numpy as np

from ..contraction import END, SHUT, Rooted, SquaredNorm, pack, rooted, to_nodes
from ..contraction._operator import OperatorStructure
from ..networks import MPO, MPS, SMPO


class Canonical(NamedTuple):
    """Isometries, and the states of all outputs at the root.

    form: which nodes there are; cores: of all but the root, (*children, up), orthonormal in `up`;
    root: (*children, outputs), every output's state of norm 1; log_norms: (outputs,), natural
    logarithms of what these norms were.
    """

    form: Rooted
    cores: list
    root: np.ndarray
    log_norms: np.ndarray

    @property
    def n_outputs(self):
        """How many states there are."""
        return self.root.shape[-1]


class Parts(NamedTuple):
    """A network as nodes: how they are joined, their cores, float64, and the shapes these have.

    structure: of the packed network, that of the squared norm for an operator, which is a state of
    its sites and its outputs; shapes: with what pads bonds and outputs, which cores are without.
    """

    structure: object
    form: Rooted
    cores: list
    shapes: list


def parts(network):
    """The `Parts` of a network. ValueError for networks other than open chains and trees."""
    # Arrays of 64 bits keep them.
    with jax.enable_x64(True):
        packed, structure = pack(network)
    if isinstance(structure, OperatorStructure):
        structure = SquaredNorm(structure)
    try:
        form = rooted(structure)
    except ValueError:
        joined = isinstance(network, MPS | MPO | SMPO) and network.cyclic
        raise ValueError(
            f"States are found in open chains and trees only, not in {type(network).__name__}"
            f"{' with joined ends: make it with cyclic=False' if joined else ''}."
        ) from None
    cores, ranks = to_nodes(structure, packed)

    def size(child, n):
        if child in (END, SHUT):
            return 1
        return ranks[child - form.nsites] if child >= form.nsites else n

    found = []
    for i, (core, children) in enumerate(zip(cores, form.nodes, strict=True)):
        used = [slice(size(child, n)) for child, n in zip(children, core.shape)]
        used.append(slice(ranks[i] if i < len(ranks) else None))
        found.append(np.asarray(core, float)[tuple(used)])
        if not np.isfinite(found[-1]).all():
            raise ValueError("The network has entries that are not finite: it is no state.")
    return Parts(structure, form, found, [core.shape for core in cores])


def canonical(network, grams=None):
    """The `Canonical` form of a chain or a tree, or of its `Parts`.

    grams: (d, d) or (nsites, d, d) inner products of the functions that the sites' entries stand
    for, None where they are orthonormal. Raises ValueError for other geometries, for Gram matrices
    of another shape, and where an output is zero.
    """
    _, form, cores, _ = network if isinstance(network, Parts) else parts(network)
    factors = factors_of(form, cores, grams)
    found, logs = [], 0.0
    for i, (core, children) in enumerate(zip(cores, form.nodes, strict=True)):
        for slot, child in enumerate(children):
            if child in factors:
                core = np.moveaxis(np.tensordot(factors[child], core, (1, slot)), 0, slot)
        if i == len(cores) - 1:
            break
        Q, R = np.linalg.qr(core.reshape(-1, core.shape[-1]))
        scale = np.abs(R).max()
        if scale > 0:
            logs += math.log(scale)
            R = R / scale
        factors[form.nsites + i] = R
        found.append(Q.reshape(*core.shape[:-1], -1))
    norms = np.linalg.norm(core.reshape(-1, core.shape[-1]), axis=0)
    if not norms.all():
        raise ValueError(f"Output {int(np.argmin(norms))} of the network is zero: it has no state.")
    return Canonical(form, found, core / norms, logs + np.log(norms))


def factors_of(form, cores, grams):
    """By site, a matrix whose square is the Gram matrix; none where that is one."""
    if grams is None:
        return {}
    sizes = {
        child: n
        for core, children in zip(cores, form.nodes, strict=True)
        for child, n in zip(children, core.shape)
        if 0 <= child < form.nsites
    }
    grams = np.asarray(grams, float)
    expected = (form.nsites, sizes[0], sizes[0])
    if grams.shape not in (expected, expected[1:]):
        raise ValueError(f"grams must have the shape {expected} or {expected[1:]}: {grams.shape}.")
    scale = np.abs(grams).max()
    symmetric = np.isfinite(scale) and np.allclose(grams, grams.swapaxes(-1, -2), 0, 1e-6 * scale)
    values, vectors = np.linalg.eigh(np.broadcast_to(grams, expected)) if symmetric else ([-1], 0)
    if np.min(values) < -1e-6 * scale:
        raise ValueError("grams must be inner products: finite, symmetric and not negative.")
    roots = vectors * np.sqrt(np.maximum(values, 0))[:, None] @ vectors.swapaxes(1, 2)
    return dict(enumerate(roots))


class Reduced(NamedTuple):
    """Reduced density matrices, of trace one.

    bonds: (outputs, r, r) for every node but the root, of its bond; sites: (outputs, d, d).
    """

    bonds: list
    sites: list


def reduced(canon, weights=None):
    """`Reduced` density matrices of every output's state.

    weights: (outputs,), of sum one, of a mixture of the outputs in their place.
    """
    form, last = canon.form, len(canon.form.nodes) - 1
    one = np.eye(canon.n_outputs)
    above = one[:, :, None] * one[:, None] if weights is None else np.diag(weights)[None]
    bonds, sites = [None] * last, [None] * form.nsites
    for i in range(last, -1, -1):
        core, rho = (canon.root, above) if i == last else (canon.cores[i], bonds[i])
        for slot, child in enumerate(form.nodes[i]):
            if child < 0:
                continue
            flat = np.moveaxis(core, slot, 0)
            half = np.tensordot(rho, flat, (1, flat.ndim - 1))
            # (outputs, up, child, others) against (child, others, up).
            half = np.moveaxis(half, 1, -1).reshape(len(rho), len(flat), -1)
            found = half @ flat.reshape(len(flat), -1).T
            if child < form.nsites:
                sites[child] = found
            else:
                bonds[child - form.nsites] = found
    return Reduced(bonds, sites)
