"""Interaction orders: against Hoeffding's decomposition by enumeration, and of known functions."""

import itertools

import jax
import numpy as np
import pytest

from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.inspection import interaction_orders
from tn4ml_plus.networks import MPS, SMPO, TTN, Tree

NSITES, PHYS, VALUES = 5, 3, 4
NETWORKS = {
    "chain": lambda n: MPS.random(n, bond_dim=3, phys_dim=PHYS, n_outputs=2, key=jax.random.key(0)),
    "tree": lambda n: TTN.random(n, bond_dim=3, phys_dim=PHYS, n_outputs=2, key=jax.random.key(0)),
    "ternary": lambda n: TTN.random(
        n, bond_dim=3, phys_dim=PHYS, n_outputs=2, tree=Tree(5, ((0, 1, 2), (5, 3), (6, 4))),
        key=jax.random.key(0),
    ),
}  # fmt: skip


def shares(network, phi, max_order):
    """Shares of orders, each function of a set of sites being averaged over all others."""
    packed, structure = pack(network)
    grid = np.array(list(itertools.product(range(VALUES), repeat=NSITES)))
    with jax.enable_x64(True):
        packed = jax.tree.map(lambda leaf: np.asarray(leaf, float), packed)
        points = phi[np.arange(NSITES), grid]
        values = np.asarray(contract(packed, structure, points).dense())
    values = values.reshape(*[VALUES] * NSITES, -1)
    found = np.zeros((values.shape[-1], max(NSITES, max_order) + 1))
    for chosen in itertools.product([False, True], repeat=NSITES):
        part = values
        for axis, varied in enumerate(chosen):
            mean = part.mean(axis=axis, keepdims=True)
            part = part - mean if varied else np.broadcast_to(mean, part.shape)
        found[:, sum(chosen)] += (part**2).reshape(-1, values.shape[-1]).mean(axis=0)
    found /= found.sum(axis=1, keepdims=True)
    return np.column_stack([found[:, : max_order + 1], found[:, max_order + 1 :].sum(axis=1)])


def moments(phi):
    """Means and covariances of equally likely vectors (nsites, values, d)."""
    centered = phi - phi.mean(axis=1, keepdims=True)
    return phi.mean(axis=1), centered.swapaxes(1, 2) @ centered / phi.shape[1]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("max_order", [1, 3, 5, 7])
def test_shares_are_those_of_the_decomposition(kind, max_order):
    network = NETWORKS[kind](NSITES)
    phi = np.random.default_rng(0).normal(size=(NSITES, VALUES, PHYS)) + 0.5
    found = interaction_orders(network, *moments(phi), max_order)
    np.testing.assert_allclose(found, shares(network, phi, max_order), atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("kind", ["chain", "tree"])
def test_many_sites(kind):
    phi = np.random.default_rng(0).normal(size=(784, VALUES, PHYS))
    found = interaction_orders(NETWORKS[kind](784), *moments(phi), max_order=10)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-9)


def test_what_cannot_be_told_says_so():
    network = NETWORKS["chain"](NSITES)
    means, covariances = np.ones((NSITES, PHYS)), np.ones((NSITES, PHYS, PHYS))
    with pytest.raises(ValueError, match="means must have the shape"):
        interaction_orders(network, means[1:], covariances)
    with pytest.raises(ValueError, match="covariances must have the shape"):
        interaction_orders(network, means, covariances[0])
    with pytest.raises(ValueError, match="max_order must be"):
        interaction_orders(network, means, covariances, max_order=0)
    operator = SMPO.random(NSITES, bond_dim=2, phys_dim=PHYS, spacing=2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="whose outputs are functions"):
        interaction_orders(operator, means, covariances)
