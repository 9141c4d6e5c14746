"""Activations: directions of dense partial contractions, grids, and how telling layers are."""

import jax
import numpy as np
import pytest

from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.inspection import activations, separability_by_layer
from tn4ml_plus.networks import MPS, SMPO, TTN, Tree


def samples(nsites, n=6, phys_dim=2):
    return np.random.default_rng(0).normal(size=(n, nsites, phys_dim))


def unit(states):
    return states / np.linalg.norm(states, axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", ["tree", "chain"])
def test_the_last_layer_is_the_outputs_direction(kind):
    geometry = {"tree": TTN, "chain": MPS}[kind]
    network = geometry.random(9, bond_dim=4, n_outputs=3, key=jax.random.key(0))
    phi = samples(9)
    packed, structure = pack(network)
    expected = unit(np.asarray(contract(packed, structure, phi).dense()))
    found = activations(network, phi)[-1].reshape(len(phi), -1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_states_keep_the_angles_of_what_is_below():
    # With isometries above, the state of a node has the overlaps of all that it keeps.
    network = TTN.random(4, bond_dim=4, n_outputs=2, key=jax.random.key(0))
    phi = samples(4)
    pairs = activations(network, phi)[1]
    below = unit(np.einsum("na,nb->nab", phi[:, 0], phi[:, 1]).reshape(len(phi), -1))
    # A bond of 4 keeps all of two sites of 2.
    np.testing.assert_allclose(pairs[:, 0] @ pairs[:, 0].T, below @ below.T, atol=1e-10)


def test_layers_of_images_are_grids():
    network = TTN.random(
        64, tree=Tree.image(8, 8, ((1, 2), (2, 1))), bond_dim=3, n_outputs=2, key=jax.random.key(0)
    )
    shapes = [layer.shape[1:] for layer in activations(network, samples(64), shape=(8, 8))]
    assert shapes == [
        (8, 8, 2), (8, 4, 3), (4, 4, 3), (4, 2, 3), (2, 2, 3), (2, 1, 3), (1, 1, 2)
    ]  # fmt: skip
    flat = activations(network, samples(64))
    assert [layer.shape[1] for layer in flat] == [64, 32, 16, 8, 4, 2, 1]


def test_what_overhangs_goes_up_as_it_is():
    network = TTN.random(49, tree=Tree.image(7, 7), bond_dim=3, n_outputs=2, key=jax.random.key(0))
    layers = activations(network, samples(49), shape=(7, 7))
    assert [layer.shape[1:3] for layer in layers] == [(7, 7), (4, 4), (2, 2), (1, 1)]
    # The last pixel has no neighbours in its block.
    np.testing.assert_allclose(layers[1][:, 3, 3, :2], layers[0][:, 6, 6])


def test_boundary_vectors_of_a_chain():
    network = MPS.random(7, bond_dim=3, n_outputs=2, key=jax.random.key(0))
    layers = activations(network, samples(7))
    assert len(layers) == 7
    # A site of two entries fills no more of a bond.
    assert [layer.shape[1] for layer in layers] == [2, 3, 3, 3, 3, 2, 2]


def test_many_sites_stay_finite():
    network = TTN.random(784, bond_dim=4, n_outputs=3, key=jax.random.key(0))
    for layer in activations(network, samples(784, 3)):
        np.testing.assert_allclose(np.linalg.norm(layer, axis=-1), 1)


def test_separability_tells_noise_from_classes():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    noise, classes = rng.normal(size=(2, 200, 3, 2))
    classes[y == 1] += 3
    found = separability_by_layer([noise, classes], np.array(["a", "b"])[y])
    for scores in found[:2]:
        assert scores[0] < 0.65 < 0.97 < scores[1]
    assert abs(found.silhouette[0]) < 0.1 < 0.3 < found.silhouette[1]


def test_bad_input():
    tree = TTN.random(8, bond_dim=3, n_outputs=2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="phi must be"):
        activations(tree, samples(7))
    with pytest.raises(ValueError, match="which the network does not read"):
        activations(tree, samples(8, phys_dim=3))
    with pytest.raises(ValueError, match="8 sites"):
        activations(tree, samples(8), shape=(3, 3))
    crossed = Tree(4, ((0, 3), (1, 2), (4, 5)))
    crossed = TTN.random(4, tree=crossed, bond_dim=2, n_outputs=2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="is no grid"):
        activations(crossed, samples(4), shape=(2, 2))
    chain = MPS.random(4, bond_dim=2, n_outputs=2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="no image"):
        activations(chain, samples(4), shape=(2, 2))
    with pytest.raises(ValueError, match="operator"):
        activations(SMPO.random(4, bond_dim=2, spacing=2, key=jax.random.key(0)), samples(4))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        separability_by_layer([np.zeros((4, 2))], np.arange(3))
