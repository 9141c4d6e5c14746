"""Entropies, mutual information and fidelities: against dense states, and bounds at many sites."""

import itertools

import jax
import numpy as np
import pytest

from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.inspection import (
    bond_entropies,
    fidelities,
    mutual_information,
    site_entropies,
)
from tn4ml_plus.networks import MERA, MPS, SMPO, TTN, Tree

NSITES, PHYS, OUTPUTS = 6, 2, 3
TERNARY = Tree(6, ((0, 1, 2), (6, 3), (7, 4, 5)))
NETWORKS = {
    "chain": lambda n, **o: MPS.random(n, bond_dim=4, n_outputs=OUTPUTS, **o),
    "end": lambda n, **o: MPS.random(n, bond_dim=4, n_outputs=OUTPUTS, output_site=0, **o),
    "tree": lambda n, **o: TTN.random(n, bond_dim=5, n_outputs=OUTPUTS, **o),
    "ternary": lambda n, **o: TTN.random(n, bond_dim=3, tree=TERNARY, n_outputs=OUTPUTS, **o),
}
every_network = pytest.mark.parametrize("kind", NETWORKS)


def made(kind, n=NSITES, seed=0, phys_dim=PHYS):
    network = NETWORKS[kind](n, phys_dim=phys_dim, key=jax.random.key(seed))
    # Numbers that 32 bits do not hold.
    network.apply_to_arrays(lambda array: np.asarray(array, float) + np.pi * 1e-8)
    return network


def grams(seed=0, n=NSITES):
    """Gram matrices that differ from one, by site."""
    vectors = np.random.default_rng(seed).normal(size=(n, PHYS, 5))
    return vectors @ vectors.swapaxes(1, 2)


def dense(network, of_sites=None):
    """States (n_outputs, d, ..., d) of norm 1 in orthonormal bases."""
    with jax.enable_x64(True):
        packed, structure = pack(network)
        points = np.array(list(itertools.product(np.eye(PHYS), repeat=NSITES)))
        values = np.asarray(contract(packed, structure, points).dense())
    states = values.T.reshape(-1, *[PHYS] * NSITES)
    if of_sites is not None:
        for site, gram in enumerate(np.broadcast_to(of_sites, (NSITES, PHYS, PHYS))):
            # Any root will do for entropies.
            root = np.linalg.cholesky(gram).T
            states = np.moveaxis(np.tensordot(root, states, (1, site + 1)), 0, site + 1)
    norms = np.sqrt((states.reshape(len(states), -1) ** 2).sum(axis=1))
    return states / norms.reshape(-1, *[1] * NSITES)


def reduced(state, sites):
    others = [i for i in range(NSITES) if i not in sites]
    flat = state.transpose(*sites, *others).reshape(PHYS ** len(sites), -1)
    return flat @ flat.T


def entropy(rho):
    p = np.linalg.eigvalsh(rho)
    p = p[p > 1e-15]
    return -np.sum(p * np.log2(p))


def below(network):
    """The sites below every bond, in the order of entropies."""
    if isinstance(network, MPS):
        return [range(i + 1) for i in range(NSITES - 1)]
    found = {i: [i] for i in range(NSITES)}
    tree = pack(network)[1].tree
    for i, children in enumerate(tree.nodes):
        found[NSITES + i] = [site for child in children for site in found[child]]
    return [found[NSITES + i] for i in range(len(tree.nodes) - 1)]


@every_network
@pytest.mark.parametrize("of_sites", [None, grams(), grams()[0]], ids=["one", "each", "shared"])
def test_everything_agrees_with_dense_states(kind, of_sites):
    network = made(kind)
    states = dense(network, of_sites)
    expected = [[entropy(reduced(s, list(sites))) for sites in below(network)] for s in states]
    np.testing.assert_allclose(bond_entropies(network, of_sites), expected, atol=1e-10)
    single = [[entropy(reduced(s, [i])) for i in range(NSITES)] for s in states]
    np.testing.assert_allclose(site_entropies(network, of_sites), single, atol=1e-10)
    flat = states.reshape(OUTPUTS, -1)
    np.testing.assert_allclose(fidelities(network, of_sites), (flat @ flat.T) ** 2, atol=1e-10)
    for output, weights in [(1, [0, 1, 0]), (None, [1 / 3] * 3)]:
        found = mutual_information(network, of_sites, output=output)
        for i, j in itertools.product(range(NSITES), repeat=2):
            S_i, S_j, S_ij = (
                entropy(sum(w * reduced(s, sites) for w, s in zip(weights, states)))
                for sites in ([i], [j], sorted({i, j}))
            )
            assert abs(found[i, j] - (S_i + S_j - S_ij)) < 1e-10


@pytest.mark.parametrize("base", [2, np.e, 10])
def test_entropies_are_in_the_base_that_is_asked_for(base):
    network = made("chain")
    for function in (bond_entropies, site_entropies, mutual_information):
        expected = function(network, base=np.e)
        found = function(network, base=base) * np.log(base)
        np.testing.assert_allclose(found, expected, atol=1e-14)  # zeros are of rounding


@pytest.mark.parametrize("kind", ["chain", pytest.param("tree", marks=pytest.mark.long)])
def test_bounds_at_many_sites(kind):
    network = made(kind, 784)
    bonds = bond_entropies(network)
    assert bonds.shape[0] == OUTPUTS
    assert ((bonds >= 0) & (bonds <= np.log2(5) + 1e-9)).all()
    single = site_entropies(network)
    assert ((single >= 0) & (single <= 1 + 1e-9)).all()
    shared = mutual_information(network)
    diagonal = np.diag(shared)
    assert ((shared >= 0) & (shared <= 2 * np.minimum(diagonal, diagonal[:, None]) + 1e-9)).all()
    np.testing.assert_array_equal(shared, shared.T)
    overlaps = fidelities(network)
    assert ((overlaps >= 0) & (overlaps <= 1)).all()
    np.testing.assert_allclose(np.diag(overlaps), 1)


def test_an_operator_is_a_state_of_sites_and_outputs():
    network = SMPO.random(6, bond_dim=3, phys_dim=2, spacing=2, key=jax.random.key(0))
    network.apply_to_arrays(lambda array: np.asarray(array, float))
    array = network.to_dense([f"k{i}" for i in range(6)], [f"b{i}" for i in (0, 2, 4)])
    array = array.reshape([2] * 9)
    array /= np.linalg.norm(array)
    sites = network.output_sites
    for bond, found in enumerate(bond_entropies(network)[0]):
        left = [*range(bond + 1), *(6 + k for k, site in enumerate(sites) if site <= bond)]
        right = [axis for axis in range(array.ndim) if axis not in left]
        flat = array.transpose(*left, *right).reshape(2 ** len(left), -1)
        assert abs(entropy(flat @ flat.T) - found) < 1e-10


def test_what_cannot_be_told_says_so():
    mera = MERA.random(8, bond_dim=2, phys_dim=2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="canonical form needs open chains or trees"):
        bond_entropies(mera)
    ring = MPS.random(6, bond_dim=2, cyclic=True, key=jax.random.key(0))
    with pytest.raises(ValueError, match="canonical form needs open ends"):
        fidelities(ring)
    with pytest.raises(ValueError, match="grams must have the shape"):
        bond_entropies(made("chain"), np.eye(3))
    with pytest.raises(ValueError, match="number of an output, from 0 to 2"):
        mutual_information(made("chain"), output=3)
    with pytest.raises(ValueError, match="base must be"):
        site_entropies(made("chain"), base=1)
    with pytest.raises(ValueError, match="Output 0 of the network is zero"):
        fidelities(MPS([np.zeros((2, 2)), np.ones((2, 2))]))
