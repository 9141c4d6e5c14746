"""Entropies, mutual information and fidelities of the states that a network's outputs are."""

import numpy as np
import scipy.special

from .._checks import check_index, check_number
from ._canonical import canonical, reduced


def bond_entropies(network, grams=None, base=2):
    """Von Neumann entropy of the state across every bond, (n_outputs, n_bonds).

    In units of the logarithm to a base, bits by default; at most the logarithm of the bond's size.
    Bonds are in the order of the sites, or of the tree's nodes. An operator is a state of its sites
    and its outputs. grams: (d, d) or (nsites, d, d) inner products of the functions that an
    embedding has, see `Embedding.site_grams`, None where they are orthonormal.
    Raises ValueError for networks other than open chains and trees, for grams of another shape, and
    for outputs that are zero.

    >>> import numpy as np
    >>> from tn4ml_plus.networks import MPS
    >>> ghz = np.zeros((2, 2, 2))
    >>> ghz[0, 0, 0] = ghz[1, 1, 1] = 1.0
    >>> bond_entropies(MPS([np.eye(2), ghz, np.eye(2)])).round(6)
    array([[1., 1.]])
    """
    canon = canonical(network, grams)
    bonds = reduced(canon).bonds
    found = [entropy(bonds[node], base) for node in canon.form.bonds]
    return np.stack(found, axis=1) if found else np.zeros((canon.n_outputs, 0))


def site_entropies(network, grams=None, base=2):
    """Von Neumann entropy of every site, (n_outputs, nsites), as `bond_entropies` has them."""
    sites = reduced(canonical(network, grams)).sites
    return np.stack([entropy(rho, base) for rho in sites], axis=1)


def entropy(rho, base=2):
    """Von Neumann entropy of density matrices (..., d, d) of trace one, at least 0."""
    check_number("base", base, above=1)
    p = np.maximum(np.linalg.eigvalsh(rho), 0)
    p = p / p.sum(axis=-1, keepdims=True)
    return np.maximum(scipy.special.entr(p).sum(axis=-1), 0) / np.log(base)


def fidelities(network, grams=None):
    """Squared overlaps of the outputs' states, (n_outputs, n_outputs), in [0, 1].

    |<a|b>|^2 of states of norm 1: 1 on the diagonal, 0 where two outputs have nothing in common.
    grams, errors: as in `bond_entropies`.

    >>> import jax
    >>> from tn4ml_plus.networks import MPS
    >>> fidelities(MPS.random(6, bond_dim=3, n_outputs=2, key=jax.random.key(0))).shape
    (2, 2)
    """
    root = canonical(network, grams).root
    flat = root.reshape(-1, root.shape[-1])
    return np.clip((flat.T @ flat) ** 2, 0, 1)


def mutual_information(network, grams=None, base=2, output=None):
    """Quantum mutual information of all pairs of sites, (nsites, nsites).

    I = S_i + S_j - S_ij in the state of one output, or, without one, of all in equal parts; the
    entropies of the sites are on the diagonal. At most twice the smaller of the two. What sites are
    measured in never tells more of each other. Units, grams and errors: as in `bond_entropies`.

    >>> import numpy as np
    >>> from tn4ml_plus.networks import MPS
    >>> ghz = np.zeros((2, 2, 2))
    >>> ghz[0, 0, 0] = ghz[1, 1, 1] = 1.0
    >>> mutual_information(MPS([np.eye(2), ghz, np.eye(2)])).round(6)
    array([[1., 1., 1.],
           [1., 1., 1.],
           [1., 1., 1.]])
    """
    canon = canonical(network, grams)
    weights = np.full(canon.n_outputs, 1 / canon.n_outputs)
    if output is not None:
        check_index("output", output, canon.n_outputs, "an output")
        weights = np.eye(canon.n_outputs)[output]
    form, states = canon.form, reduced(canon, weights)
    single = np.array([entropy(rho[0], base) for rho in states.sites])
    found, inside = np.diag(single), {}
    for i, children in enumerate(form.nodes):
        is_root = i == len(form.nodes) - 1
        core = canon.root if is_root else canon.cores[i]
        rho = np.diag(weights) if is_root else states.bonds[i][0]
        parts = {}
        for slot, child in enumerate(children):
            if 0 <= child < form.nsites:
                parts[slot] = [child], _open_leaf(core.shape[slot])
            elif child >= form.nsites:
                parts[slot] = inside.pop(child)
        slots = list(parts)
        for a, first in enumerate(slots):
            for second in slots[a + 1 :]:
                joint = _pairs(core, rho, first, parts[first][1], second, parts[second][1])
                rows, columns = parts[first][0], parts[second][0]
                shared = single[rows][:, None] + single[columns] - entropy(joint, base)
                found[np.ix_(rows, columns)] = np.maximum(shared, 0)
                found[np.ix_(columns, rows)] = np.maximum(shared, 0).T
        if not is_root:
            risen = [(s, _rise(core, slot, opened)) for slot, (s, opened) in parts.items()]
            sites = [site for s, _ in risen for site in s]
            if risen:
                inside[form.nsites + i] = sites, np.concatenate([opened for _, opened in risen])
    return found


def _open_leaf(size):
    """(1, d * d, d, d): a site whose two indices are left open, as a map of its leg's indices."""
    return np.eye(size * size).reshape(1, size * size, size, size)


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
    # Of both children the index of the bra and that of the ket: (a, b, a, b) to (a, a), (b, b).
    around = (flat.reshape(a * b, -1) @ half.T).reshape(a, b, a, b).transpose(0, 2, 1, 3)
    (n, p), (m, q) = opened.shape[:2], others.shape[:2]
    joint = opened.reshape(n * p, a * a) @ around.reshape(a * a, b * b)
    joint = joint @ others.reshape(m * q, b * b).T
    d, e = round(p**0.5), round(q**0.5)
    joint = joint.reshape(n, d, d, m, e, e).transpose(0, 3, 1, 4, 2, 5)
    return joint.reshape(n, m, d * e, d * e)
