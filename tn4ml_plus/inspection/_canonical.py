"""A network as isometries below its root, in orthonormal bases of its sites, and truncated."""

import math
from typing import NamedTuple

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int, check_number
from .._types import ArrayLike
from ..contraction import END, Rooted, pack, unpack


class Canonical(NamedTuple):
    """Isometries, and the states of all outputs at the root."""

    form: Rooted
    cores: list  # (*children, up), orthonormal in `up`; the root's, (*children, outputs), at norm 1
    log_norms: np.ndarray  # (outputs,), natural logarithms of the original norms


class Parts(NamedTuple):
    """A network as nodes."""

    structure: object  # of the packed network
    form: Rooted
    cores: list  # float64, without padding
    shapes: list  # with padding


def parts(network):
    """The `Parts` of a network. ValueError for networks other than open chains and trees."""
    # Arrays of 64 bits keep them.
    with jax.enable_x64(True):
        packed, structure = pack(network)
    structure.check_rooted("A canonical form needs")
    cores = structure.nodes(packed)
    if not all(np.isfinite(core).all() for core in cores):
        raise ValueError("The network has entries that are not finite, so it is no state.")
    shapes = [core.shape for core in structure.to_nodes(packed)[0]]
    return Parts(structure, structure.rooted(), cores, shapes)


def canonical(network, grams=None):
    """The `Canonical` form of a chain or a tree, or of its `Parts`.

    grams: as in `bond_entropies`. ValueError for other geometries, for Gram matrices of another
    shape, and where an output is zero.
    """
    _, form, cores, _ = network if isinstance(network, Parts) else parts(network)
    factors = factors_of(form, cores, grams)
    found, logs = [], 0.0
    for i, (core, children) in enumerate(zip(cores, form.nodes, strict=True)):
        for slot, child in enumerate(children):
            if child in factors:
                core = applied(factors[child], core, slot)
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
    return Canonical(form, [*found, core / norms], logs + np.log(norms))


def applied(matrix, tensor, axis):
    """A matrix on one of a tensor's axes."""
    return np.moveaxis(np.tensordot(matrix, tensor, (1, axis)), 0, axis)


def site_size(form, cores):
    """Size of the sites' vectors."""
    pairs = zip(form.nodes, cores, strict=True)
    return next(core.shape[children.index(0)] for children, core in pairs if 0 in children)


def weighted(canon):
    """The cores of a `Canonical` form with outputs of their sizes relative to each other."""
    relative = np.exp(canon.log_norms - canon.log_norms.max())
    return [*canon.cores[:-1], canon.cores[-1] * relative]


def factors_of(form, cores, grams):
    """Matrices by site whose squares are the Gram matrices; empty without Gram matrices."""
    if grams is None:
        return {}
    grams, size = np.asarray(grams, float), site_size(form, cores)
    expected = (form.nsites, size, size)
    if grams.shape not in (expected, expected[1:]):
        raise ValueError(
            f"grams must have the shape {expected} or {expected[1:]}, got {grams.shape}."
        )
    scale = np.abs(grams).max()
    symmetric = np.isfinite(scale) and np.allclose(grams, grams.swapaxes(-1, -2), 0, 1e-6 * scale)
    values, vectors = np.linalg.eigh(np.broadcast_to(grams, expected)) if symmetric else ([-1], 0)
    if np.min(values) < -1e-6 * scale:
        raise ValueError("grams must be inner products: finite, symmetric, positive semidefinite.")
    roots = vectors * np.sqrt(np.maximum(values, 0))[:, None] @ vectors.swapaxes(1, 2)
    return dict(enumerate(roots))


def reduced(canon, weights=None):
    """Density matrices of trace one of every output, or of a mixture with weights of sum one.

    Two lists: (outputs, r, r) above every node, (outputs, d, d) by site.
    """
    form, cores = canon.form, canon.cores
    one = np.eye(cores[-1].shape[-1])
    above = one[:, :, None] * one[:, None] if weights is None else np.diag(weights)[None]
    bonds, sites = [None] * (len(cores) - 1) + [above], [None] * form.nsites
    for i in range(len(cores))[::-1]:
        core, rho = cores[i], bonds[i]
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
    return bonds, sites


def compress(
    network: qtn.TensorNetwork,
    max_bond: int | None = None,
    cutoff: float = 1e-6,
    grams: ArrayLike | None = None,
) -> qtn.TensorNetwork:
    """Network of the same kind with bonds truncated to what its states need.

    Every bond keeps the leading directions of all outputs together, weighted by their squares. The
    square of the error is at most the sum of what all bonds discard. After Grasedyck 2010, SIAM J.
    Matrix Anal. Appl. 31, 2029.

    >>> from tn4ml_plus.networks import MPS
    >>> mps = MPS.random(12, bond_dim=8, n_outputs=3, key=jax.random.key(0))
    >>> max(compress(mps, max_bond=4).bond_sizes())
    4

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork, an open chain or a tree, no output of which is zero
    max_bond : int, optional, largest size of a bond
    cutoff : float, share of the square that a bond may discard, in [0, 1)
    grams : as in `bond_entropies`, from `estimator.grams()` for example
    """
    check_int("max_bond", max_bond, 1, optional=True)
    check_number("cutoff", cutoff, at_least=0, below=1)
    structure, form, cores, shapes = whole = parts(network)
    canon = canonical(whole, grams)
    weights = np.exp(2 * (canon.log_norms - canon.log_norms.max()))
    bonds = {}
    for node, (rho,) in enumerate(reduced(canon, weights / weights.sum())[0][:-1]):
        shares, directions = np.linalg.eigh(rho)
        left_out = np.cumsum(np.maximum(shares, 0))
        # Shares as small as rounding errors count as none.
        floor = max(cutoff, len(shares) * np.finfo(float).eps)
        kept = max(1, np.sum(left_out > floor * left_out[-1]))
        kept = kept if max_bond is None else min(kept, max_bond)
        bonds[form.nsites + node] = directions[:, : -kept - 1 : -1]
    # Back from orthonormal bases of the sites; directions without weight there become zero.
    back = {site: np.linalg.pinv(f) for site, f in factors_of(form, cores, grams).items()}
    # Spread over all cores, the scale of the whole network overflows none of them.
    scale = np.exp(canon.log_norms.max() / len(cores))
    ranks = [part.shape[1] for part in bonds.values()]
    size, found = max(ranks, default=1), []
    for i, (core, shape) in enumerate(zip(weighted(canon), shapes, strict=True)):
        for slot, child in enumerate(form.nodes[i]):
            matrix = bonds.get(child, back.get(child))
            if matrix is not None:
                core = np.moveaxis(np.tensordot(core, matrix, (slot, 0)), -1, slot)
        if i < len(ranks):
            core = core @ bonds[form.nsites + i]
        legs = zip((*form.nodes[i], form.nsites + i), shape, strict=True)
        full = [size if child == END or child in bonds else n for child, n in legs]
        found.append(np.pad(scale * core, [(0, n - m) for n, m in zip(full, core.shape)]))
    dtype = np.result_type(*(t.dtype for t in network))
    with jax.enable_x64(True):
        found = structure.from_nodes([core.astype(dtype) for core in found], tuple(ranks))
        return unpack(*found)
