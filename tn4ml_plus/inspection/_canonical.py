"""A network as isometries below its root, in orthonormal bases of its sites."""

import math
from typing import NamedTuple

import jax
import numpy as np

from ..contraction import Rooted, pack


class Canonical(NamedTuple):
    """Isometries, and the states of all outputs at the root."""

    form: Rooted
    cores: list  # of all nodes but the root, (*children, up), orthonormal in `up`
    root: np.ndarray  # (*children, outputs), every output's state at norm 1
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
    """Matrices by site whose squares are the Gram matrices; empty without Gram matrices."""
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

    Two lists: (outputs, r, r) for the bond of every node but the root, (outputs, d, d) by site.
    """
    form, last = canon.form, len(canon.form.nodes) - 1
    one = np.eye(canon.root.shape[-1])
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
    return bonds, sites
