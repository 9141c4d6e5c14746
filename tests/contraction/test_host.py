"""Contraction by NumPy against that by JAX, and what it is taken for."""

import jax
import numpy as np
import pytest

from tn4ml_plus.contraction import SquaredNorm, _pack, calibrate, contract, pack
from tn4ml_plus.contraction._host import contract_on_host, is_quick
from tn4ml_plus.networks import MERA, MPS, SMPO, TTN

KEY = jax.random.key(0)
NETWORKS = {
    "chain": lambda: MPS.random(7, n_outputs=3, bond_dim=4, phys_dim=3, key=KEY),
    "chain, outputs at the end": lambda: MPS.random(
        5, n_outputs=2, bond_dim=3, output_site=4, key=KEY
    ),
    "one site": lambda: MPS.random(1, n_outputs=2, key=KEY),
    "chain of scalars": lambda: MPS.random(6, bond_dim=3, key=KEY),
    "sites of different sizes": lambda: MPS.random(4, bond_dim=3, phys_dim=[2, 4, 3, 2], key=KEY),
    "tree": lambda: TTN.random(9, n_outputs=3, bond_dim=3, key=KEY),
}


def samples(structure, batch=6):
    return np.random.default_rng(0).normal(size=(batch, structure.nsites, structure.phys_dim))


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_agrees_with_the_compiled_contraction(name, squared):
    with jax.enable_x64(True):
        packed, structure = pack(NETWORKS[name]())
        structure = SquaredNorm(structure) if squared else structure
        phi = samples(structure)
        value, exponent = contract_on_host(packed, structure, phi)
        expected = contract(packed, structure, phi).dense()
        assert value.shape == expected.shape
        found = np.ldexp(value, exponent.reshape(-1, *(1,) * (value.ndim - 1)))
        np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_no_scale_over_or_underflows():
    packed, structure = pack(MPS.random(784, n_outputs=2, bond_dim=3, key=KEY))
    phi = samples(structure).astype("f4")
    for factor in (1e-3, 1e3):
        value, exponent = contract_on_host(packed, structure, factor * phi)
        log = np.log(np.abs(value)) + np.log(2) * exponent[:, None]
        expected = contract(packed, structure, np.float32(factor) * phi).log_abs()
        np.testing.assert_allclose(log, expected, rtol=1e-5, atol=1e-2)
        assert np.abs(log).max() > 1000


def test_zeros_stay_zeros():
    packed, structure = pack(MPS.random(4, n_outputs=2, bond_dim=3, key=KEY))
    phi = samples(structure)
    phi[1, 2] = 0
    value, exponent = contract_on_host(packed, structure, phi)
    assert (value[1] == 0).all()
    assert (value[[0, 2]] != 0).all()
    assert np.isfinite(exponent).all()


@pytest.mark.parametrize(
    ("network", "batch", "expected"),
    [
        (MPS.random(6, key=KEY), 100, True),
        (TTN.random(6, key=KEY), 100, True),
        (MPS.random(6, key=KEY), 2**26, False),
        (MPS.random(6, cyclic=True, key=KEY), 100, False),
        (SMPO.random(6, spacing=3, key=KEY), 100, False),
        (MERA.random(8, key=KEY), 100, False),
    ],
)
def test_what_it_is_taken_for(network, batch, expected):
    packed, structure = pack(network)
    assert is_quick(sum(map(np.size, jax.tree.leaves(packed))), structure, batch) is expected


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_calibrated_alike(name, squared, monkeypatch):
    packed, structure = pack(NETWORKS[name]())
    structure = SquaredNorm(structure) if squared else structure
    given = samples(structure).astype("f4"), 0.5, [1, 0, 2, 1, 1, 1]
    found = calibrate(packed, structure, *given)
    monkeypatch.setattr(_pack, "is_quick", lambda *_: False)
    expected = calibrate(packed, structure, *given)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
