"""Entropies, mutual information and fidelities of the states of a network's outputs."""

import itertools

import numpy as np
import quimb.tensor as qtn
import scipy.special

from .._checks import check_index, check_number
from .._types import ArrayLike
from ._canonical import canonical, reduced


def bond_entropies(
    network: qtn.TensorNetwork, grams: ArrayLike | None = None, base: float = 2
) -> np.ndarray:
    """Von Neumann entropy of the state across every bond, (n_outputs, n_bonds).

    At most the logarithm of the bond's size. Bonds are in the order of the sites, or of the tree's
    nodes. An operator is a state of its sites and its outputs. `grams` are inner products of the
    functions of an embedding.

    >>> from tn4ml_plus.networks import MPS
    >>> ghz = np.zeros((2, 2, 2))
    >>> ghz[0, 0, 0] = ghz[1, 1, 1] = 1.0
    >>> bond_entropies(MPS([np.eye(2), ghz, np.eye(2)])).round(6)
    array([[1., 1.]])

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork, an open chain or a tree, no output of which is zero
    grams : (d, d) or (nsites, d, d), optional, from `Embedding.site_grams`, by default identities
    base : float, base of the logarithm, above 1; 2 for bits
    """
    canon = canonical(network, grams)
    bonds, _ = reduced(canon)
    found = [entropy(bonds[node], base) for node in canon.form.bonds]
    return np.stack(found, axis=1) if found else np.zeros((len(canon.log_norms), 0))


def site_entropies(
    network: qtn.TensorNetwork, grams: ArrayLike | None = None, base: float = 2
) -> np.ndarray:
    """Von Neumann entropy of every site, (n_outputs, nsites).

    See `bond_entropies` for the parameters.
    """
    _, sites = reduced(canonical(network, grams))
    return np.stack([entropy(rho, base) for rho in sites], axis=1)


def entropy(rho, base=2):
    """Von Neumann entropy of density matrices (..., d, d) of trace one, at least 0."""
    check_number("base", base, above=1)
    p = np.maximum(np.linalg.eigvalsh(rho), 0)
    p = p / p.sum(axis=-1, keepdims=True)
    return np.maximum(scipy.special.entr(p).sum(axis=-1), 0) / np.log(base)


def fidelities(network: qtn.TensorNetwork, grams: ArrayLike | None = None) -> np.ndarray:
    """Squared overlaps of the outputs' states, (n_outputs, n_outputs), in [0, 1].

    |<a|b>|^2 of states of norm 1: 1 on the diagonal, 0 where two outputs have nothing in common.
    See `bond_entropies` for the parameters.

    >>> import jax
    >>> from tn4ml_plus.networks import MPS
    >>> fidelities(MPS.random(6, bond_dim=3, n_outputs=2, key=jax.random.key(0))).shape
    (2, 2)
    """
    root = canonical(network, grams).cores[-1]
    flat = root.reshape(-1, root.shape[-1])
    return np.clip((flat.T @ flat) ** 2, 0, 1)


def mutual_information(
    network: qtn.TensorNetwork,
    grams: ArrayLike | None = None,
    base: float = 2,
    output: int | None = None,
) -> np.ndarray:
    """Quantum mutual information of all pairs of sites, (nsites, nsites).

    I = S_i + S_j - S_ij, at most twice the smaller entropy and no less than the information between
    any measurements of the two sites. The entropies of the sites are on the diagonal.

    >>> from tn4ml_plus.networks import MPS
    >>> ghz = np.zeros((2, 2, 2))
    >>> ghz[0, 0, 0] = ghz[1, 1, 1] = 1.0
    >>> mutual_information(MPS([np.eye(2), ghz, np.eye(2)])).round(6)
    array([[1., 1., 1.],
           [1., 1., 1.],
           [1., 1., 1.]])

    Parameters
    ----------
    network, grams, base : as in `bond_entropies`
    output : int, optional, whose state is meant; by default the mixture of all in equal parts
    """
    canon = canonical(network, grams)
    n_outputs = len(canon.log_norms)
    weights = np.full(n_outputs, 1 / n_outputs)
    if output is not None:
        check_index("output", output, n_outputs, "an output")
        weights = np.eye(n_outputs)[output]
    form, (bonds, sites) = canon.form, reduced(canon, weights)
    single = np.array([entropy(rho[0], base) for rho in sites])
    found, inside = np.diag(single), {}
    for i, (core, (rho,)) in enumerate(zip(canon.cores, bonds, strict=True)):
        parts = {}
        for slot, child in enumerate(form.nodes[i]):
            if 0 <= child < form.nsites:
                # Two indices left open, as a map of those of the leg: (1, d * d, d, d).
                d = core.shape[slot]
                parts[slot] = [child], np.eye(d * d).reshape(1, d * d, d, d)
            elif child >= form.nsites:
                parts[slot] = inside.pop(child)
        for first, second in itertools.combinations(parts, 2):
            (rows, opened), (columns, others) = parts[first], parts[second]
            joint = _pairs(core, rho, first, opened, second, others)
            shared = single[rows][:, None] + single[columns] - entropy(joint, base)
            found[np.ix_(rows, columns)] = np.maximum(shared, 0)
            found[np.ix_(columns, rows)] = np.maximum(shared, 0).T
        if parts and i < len(form.nodes) - 1:
            risen = [_rise(core, slot, opened) for slot, (_, opened) in parts.items()]
            below = [site for inner, _ in parts.values() for site in inner]
            inside[form.nsites + i] = below, np.concatenate(risen)
    return found


def _rise(core, slot, opened):
    """Open sites (n, d * d, r, r) below a child, as seen above the node."""
    flat = np.moveaxis(core, slot, 0)
    up = flat.shape[-1]
    flat = flat.reshape(len(flat), -1)
    half = (opened @ flat).reshape(*opened.shape[:2], -1, up)
    return flat.reshape(-1, up).T @ half


def _pairs(core, rho, first, opened, second, others):
    """Density matrices (n, m, d * d, d * d) of sites below two children of a node."""
    flat = np.moveaxis(core, (first, second), (0, 1))
    a, b, up = *flat.shape[:2], flat.shape[-1]
    flat = flat.reshape(a, b, -1, up)
    half = (flat @ rho).reshape(a * b, -1)
    # The indices of bra and ket of each child together: (a, b, a, b) to (a, a), (b, b).
    around = (flat.reshape(a * b, -1) @ half.T).reshape(a, b, a, b).transpose(0, 2, 1, 3)
    (n, p), (m, q) = opened.shape[:2], others.shape[:2]
    joint = opened.reshape(n * p, a * a) @ around.reshape(a * a, b * b)
    joint = joint @ others.reshape(m * q, b * b).T
    d, e = round(p**0.5), round(q**0.5)
    joint = joint.reshape(n, d, d, m, e, e).transpose(0, 3, 1, 4, 2, 5)
    return joint.reshape(n, m, d * e, d * e)
