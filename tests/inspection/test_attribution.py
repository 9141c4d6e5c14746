"""Attributions: differences that are exact, sites that say nothing, weights that matter."""

import jax
import numpy as np
import pytest

from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.inspection import attributions
from tn4ml_plus.networks import MERA, MPS, SMPO, TTN

NSITES, PHYS = 8, 3
NETWORKS = {
    "chain": lambda n, key: MPS.random(n, bond_dim=3, phys_dim=PHYS, n_outputs=2, key=key),
    "tree": lambda n, key: TTN.random(n, bond_dim=3, phys_dim=PHYS, n_outputs=2, key=key),
    "mera": lambda n, key: MERA.random(n, bond_dim=3, phys_dim=PHYS, n_outputs=2, key=key),
    "smpo": lambda n, key: SMPO.random(n, bond_dim=3, phys_dim=PHYS, spacing=4, key=key),
}


def samples(n=5, nsites=NSITES):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, nsites, PHYS)) + 1, rng.normal(size=(nsites, PHYS))


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.long] if kind == "mera" else []) for kind in NETWORKS],
)
def test_differences_are_exact(kind):
    network = NETWORKS[kind](NSITES, jax.random.key(0))
    network.apply_to_arrays(lambda array: np.asarray(array, float))
    phi, baseline = samples()
    with jax.enable_x64(True):
        packed, structure = pack(network)
        found = attributions(network, phi, baseline)
        whole = np.asarray(contract(packed, structure, phi).dense())
        for site in range(NSITES):
            without = phi.copy()
            without[:, site] = baseline[site]
            expected = whole - np.asarray(contract(packed, structure, without).dense())
            np.testing.assert_allclose(found[:, site], expected, atol=1e-10)
    single = attributions(network, phi, baseline)
    np.testing.assert_allclose(single, found, atol=1e-4 * np.abs(found).max())


def test_blocks_are_put_together():
    network = NETWORKS["chain"](NSITES, jax.random.key(0))
    phi, baseline = samples(1500)
    found = attributions(network, phi, baseline)
    np.testing.assert_allclose(found[1400:], attributions(network, phi[1400:], baseline), rtol=1e-4)


def test_many_sites():
    network = NETWORKS["chain"](784, jax.random.key(0))
    phi, baseline = samples(3, 784)
    phi /= np.linalg.norm(phi, axis=-1, keepdims=True)
    assert np.isfinite(attributions(network, phi, baseline / 3)).all()


def test_bad_input():
    network = NETWORKS["chain"](NSITES, jax.random.key(0))
    phi, baseline = samples()
    with pytest.raises(ValueError, match="one vector per site"):
        attributions(network, phi, baseline[0])
    with pytest.raises(ValueError, match="embedded samples of shape"):
        attributions(network, phi[:, 1:], baseline[1:])
    with pytest.raises(ValueError, match="at least one sample"):
        attributions(network, phi[:0], baseline)
    network.apply_to_arrays(lambda a: 1e20 * a)
    with pytest.raises(ValueError, match="range of floats"):
        attributions(network, 1e30 * phi, 1e30 * baseline)


def test_scales_beyond_single_precision():
    network = NETWORKS["chain"](NSITES, jax.random.key(0))
    phi, baseline = samples()
    expected = attributions(network, phi, baseline)
    for scale in (2.0**40, 2.0**-40):
        found = attributions(network, scale * phi, scale * baseline)
        np.testing.assert_allclose(found / scale**NSITES, expected, rtol=1e-4, atol=1e-6)
