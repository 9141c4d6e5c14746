"""Chains against dense contractions, their exact scale, norms and calibration."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quimb.tensor as qtn
from jax.flatten_util import ravel_pytree

from tn4ml_plus._registry import names, resolve
from tn4ml_plus.contraction import calibrate, contract, log_norm_squared, pack, unpack
from tn4ml_plus.initializers import LeastSquaresIdentity, RandomNormal
from tn4ml_plus.networks import MPS, TTN

LONG = 784
outputs = jax.jit(contract, static_argnums=1)
log_norm_and_gradient = jax.jit(jax.value_and_grad(log_norm_squared), static_argnums=1)


def random_chain(nsites, seed=0, **options):
    options = {"bond_dim": 3, "phys_dim": 2, "initializer": RandomNormal(0.7)} | options
    return MPS.random(nsites, key=jax.random.key(seed), **options)


def samples(batch, nsites, phys_dim=2, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, nsites, phys_dim)).astype("f4")


def whole(mps):
    """All numbers of the network, axes k0, k1, ..., then the outputs, float64."""
    order = [*(mps.site_ind(i) for i in range(mps.L)), *mps.output_inds]
    return mps.astype("float64").contract(output_inds=order).transpose(*order).data


def dense(mps, phi):
    """Outputs of a short chain from all its numbers, float64."""
    x = np.broadcast_to(whole(mps), (len(phi), *whole(mps).shape))
    for i in range(mps.L):
        x = np.einsum("bs...,bs->b...", x, phi[:, i, : mps.ind_size(mps.site_ind(i))].astype(float))
    return x


def log_abs(mps, phi, shift=0.0):
    """Logarithm of the modulus of the outputs of an open chain, float64, `shift` a site."""
    left, total = np.ones((len(phi), 1)), np.zeros(len(phi))
    phi = phi.astype(float)
    for i in range(mps.L):
        inds = [mps.bond(i - 1, i)] if i else []
        inds += [mps.site_ind(i), *(ind for ind in mps.output_inds if ind in mps[i].inds)]
        inds += [mps.bond(i, i + 1)] if i < mps.L - 1 else []
        core = mps[i].transpose(*inds).data.astype(float)
        core = core if i else core[None]
        core = core[..., None] if i == mps.L - 1 else core
        if core.ndim == 3:
            left = np.einsum("b...l,bs,lsr->b...r", left, phi[:, i], core)
        else:
            left = np.einsum("bl,bs,lsor->bor", left, phi[:, i], core)
        size = np.abs(left).max(axis=tuple(range(1, left.ndim)), keepdims=True)
        left, total = left / size, total + np.log(size.ravel()) + shift
    return np.log(np.abs(left[..., 0])) + total.reshape(-1, *[1] * (left.ndim - 2))


SHORT = [
    (nsites, output, cyclic)
    for nsites in (1, 2, 3, 4)
    for cyclic in ((False, True) if nsites > 2 else (False,))
    for output in (None, *range(nsites))
    if not (cyclic and output == 1)
]


@pytest.mark.some(2)
@pytest.mark.parametrize(("nsites", "output", "cyclic"), SHORT)
def test_short_chains_in_single_precision(nsites, output, cyclic):
    n_outputs = None if output is None else 2
    mps = random_chain(nsites, n_outputs=n_outputs, output_site=output, cyclic=cyclic)
    assert mps.output_site == output
    packed, structure = pack(mps)
    # Samples are mapped over, whatever the chain.
    for batch in (1, 7, 256) if nsites == 3 else (7,):
        phi = samples(batch, nsites)
        amplitude = outputs(packed, structure, phi)
        expected = dense(mps, phi)
        assert amplitude.value.shape == expected.shape
        assert amplitude.exponent.shape == (batch,)
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(amplitude.dense(), expected, rtol=1e-4, atol=atol)


def test_a_chain_whose_phys_dims_and_bonds_differ():
    with jax.enable_x64(True):
        shapes = [(3, 2), (3, 2, 3, 3), (2, 4, 1), (4, 2)]
        rng = np.random.default_rng(0)
        arrays = [rng.normal(size=shape) for shape in shapes]
        mps = MPS(arrays, output_site=1, output_inds=("out",))
        packed, structure = pack(mps)
        assert structure.phys_dims == (2, 3, 1, 2)
        assert structure.bond_dims == (1, 3, 2, 4, 1)
        phi = samples(6, 4, 3).astype(float)
        for i, size in enumerate(structure.phys_dims):
            phi[:, i, size:] = 0
        np.testing.assert_allclose(
            contract(packed, structure, phi).dense(), dense(mps, phi), rtol=1e-11
        )
        np.testing.assert_array_equal(
            contract(packed, structure.padded(), phi).dense(),
            contract(packed, structure, phi).dense(),
        )


@pytest.mark.parametrize("cyclic", [False, True])
def test_gradient_of_the_samples(cyclic):
    with jax.enable_x64(True):
        mps = random_chain(4, n_outputs=2, cyclic=cyclic)
        packed, structure = pack(mps)
        phi = samples(3, 4).astype(float)

        def total(phi):
            return jnp.sum(jnp.sin(contract(packed, structure, phi).dense()))

        gradient = jax.jit(jax.grad(total))(phi)
        step = 1e-6
        for index in np.ndindex(phi.shape):
            moved = np.zeros_like(phi)
            moved[index] = step
            ahead, behind = (np.sin(dense(mps, phi + s * moved)).sum() for s in (1, -1))
            np.testing.assert_allclose(gradient[index], (ahead - behind) / (2 * step), atol=1e-7)


@functools.partial(jax.jit, static_argnums=1)
def log_abs_and_gradient(packed, structure, phi):
    def total(packed):
        amplitude = contract(packed, structure, phi)
        return jnp.sum(amplitude.log_abs()), amplitude

    gradient, amplitude = jax.grad(total, has_aux=True)(packed)
    return amplitude, gradient


def scaled_chain(magnitude):
    mps = random_chain(LONG, n_outputs=2, bond_dim=4)
    packed, structure = pack(mps)
    scaled = jax.tree.map(lambda core: core * np.float32(magnitude), packed)
    phi = samples(3, LONG)
    return mps, phi, scaled, *log_abs_and_gradient(scaled, structure, phi)


every_magnitude = pytest.mark.parametrize("magnitude", [1e-30, 1e-3, 1.0, 1e3, 1e30])


@every_magnitude
def test_scale_of_any_size_over_many_sites(magnitude):
    mps, phi, _, amplitude, _ = scaled_chain(magnitude)
    expected = log_abs(mps, phi, shift=np.log(float(np.float32(magnitude))))
    # In float64, since the logarithms themselves reach 5e4.
    found = np.log(np.abs(np.asarray(amplitude.value, float)))
    found += np.asarray(amplitude.exponent, float)[:, None] * np.log(2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3)
    np.testing.assert_allclose(amplitude.log_abs(), expected, rtol=1e-5, atol=5e-3)


@every_magnitude
def test_value_is_of_moderate_size(magnitude):
    _, _, _, amplitude, _ = scaled_chain(magnitude)
    largest = np.abs(amplitude.value).max(axis=1)
    assert (largest < 2**12).all()
    assert (largest > 2**-12).all()


@every_magnitude
def test_gradient_of_any_scale(magnitude):
    _, _, scaled, amplitude, gradient = scaled_chain(magnitude)
    # The outputs are linear in every core: <core, d log / d core> is 1 a number.
    for part in ("left", "right"):
        inner = np.einsum(
            "nlsr,nlsr->n", np.asarray(scaled[part], float), np.asarray(gradient[part], float)
        )
        np.testing.assert_allclose(inner, amplitude.value.size, rtol=2e-3)


def test_powers_of_two_are_exact():
    packed, structure = pack(random_chain(LONG, n_outputs=2, bond_dim=4))
    phi = samples(3, LONG)
    plain, _ = log_abs_and_gradient(packed, structure, phi)
    for power in (-60, 7, 60):
        scaled = jax.tree.map(lambda core, p=power: core * np.float32(2.0**p), packed)
        amplitude, _ = log_abs_and_gradient(scaled, structure, phi)
        shift = plain.exponent + power * LONG
        difference = np.asarray(shift - amplitude.exponent)
        np.testing.assert_array_equal(
            amplitude.value, np.ldexp(np.asarray(plain.value), difference[:, None])
        )


def test_float32_agrees_with_float64_over_many_sites():
    mps = random_chain(LONG, n_outputs=2, bond_dim=4, initializer=LeastSquaresIdentity())
    phi = np.random.default_rng(0).uniform(0.6, 1.4, (3, LONG, 2)).astype("f4")
    packed, structure = pack(mps)
    _, single = log_abs_and_gradient(packed, structure, phi)
    with jax.enable_x64(True):
        packed = jax.tree.map(lambda core: np.asarray(core, float), packed)
        _, double = log_abs_and_gradient(packed, structure, phi.astype(float))
    for part, gradient in double.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(single[part], gradient, rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize("cyclic", [False, True])
def test_a_zero_anywhere_gives_zeros_and_finite_gradients(cyclic):
    packed, structure = pack(random_chain(4, n_outputs=2, cyclic=cyclic))
    phi = samples(3, 4)
    phi[1, 2] = 0

    @jax.jit
    def differentiate(packed):
        def total(packed):
            amplitude = contract(packed, structure, phi)
            return jnp.sum(amplitude.dense()), amplitude

        return jax.grad(total, has_aux=True)(packed)

    for start in (packed, jax.tree.map(jnp.zeros_like, packed)):
        gradient, amplitude = differentiate(start)
        assert (amplitude.dense()[1] == 0).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert (amplitude.dense() == 0).all()


def test_members_are_mapped_over():
    packs = [pack(random_chain(4, seed, n_outputs=2)) for seed in range(3)]
    structure = packs[0][1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p for p, _ in packs))
    phi = samples(7, 4)
    mapped = jax.jit(jax.vmap(lambda packed: contract(packed, structure, phi)))(stacked)
    for m, (packed, _) in enumerate(packs):
        alone = outputs(packed, structure, phi)
        ours = jax.tree.map(lambda leaf, m=m: leaf[m], mapped)
        np.testing.assert_allclose(ours.dense(), alone.dense(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 3, 2), (5, 4, 3), (4, 2), (5, 4, 2, 1)])
def test_samples_that_do_not_fit(shape):
    packed, structure = pack(random_chain(4, n_outputs=2))
    with pytest.raises(ValueError, match="is this the embedding"):
        contract(packed, structure, np.zeros(shape, "f4"))


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("n_outputs", [None, 2])
def test_log_norm_squared(cyclic, n_outputs):
    with jax.enable_x64(True):
        mps = random_chain(4, n_outputs=n_outputs, output_site=n_outputs and 1, cyclic=cyclic)
        packed, structure = pack(mps)
        value, gradient = log_norm_and_gradient(packed, structure)
        np.testing.assert_allclose(value, np.log((whole(mps) ** 2).sum()), rtol=1e-12)
        np.testing.assert_allclose(value, 2 * np.log(mps.norm()), rtol=1e-9)
        direction = jax.tree.map(
            lambda core: np.random.default_rng(0).normal(size=core.shape), packed
        )
        # Bonds beyond the open ends are no numbers of the network.
        direction = pack(unpack(direction, structure))[0]

        def moved(step):
            packed_ = jax.tree.map(lambda core, d: core + step * d, packed, direction)
            return np.log((whole(unpack(packed_, structure)) ** 2).sum())

        inner = sum(jnp.vdot(gradient[part], direction[part]) for part in packed)
        np.testing.assert_allclose(inner, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", [MPS, TTN])
def test_second_derivatives_of_the_norm(kind):
    with jax.enable_x64(True):
        network = kind.random(4, bond_dim=2, n_outputs=2, key=jax.random.key(0))
        packed, structure = pack(network.astype("float64"))
        flat, build = ravel_pytree(packed)
        gradient = jax.jit(jax.grad(lambda p: log_norm_squared(build(p), structure)))
        direction = np.where(flat != 0, np.random.default_rng(0).normal(size=flat.shape), 0)
        second = jax.grad(lambda p: jnp.vdot(gradient(p), direction))(flat)
        difference = gradient(flat + 1e-6 * direction) - gradient(flat - 1e-6 * direction)
        np.testing.assert_allclose(second, difference / 2e-6, atol=1e-7)
        assert np.abs(second).max() > 1e-2


@pytest.mark.parametrize("magnitude", [1e-15, 1e15])
def test_log_norm_squared_of_any_size(magnitude):
    packed, structure = pack(random_chain(LONG, n_outputs=2, bond_dim=4))
    plain, _ = log_norm_and_gradient(packed, structure)
    scaled = jax.tree.map(lambda core: core * np.float32(magnitude), packed)
    value, gradient = log_norm_and_gradient(scaled, structure)
    expected = plain + 2 * LONG * np.log(magnitude)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    inner = np.einsum("nlsr,nlsr->n", scaled["left"], gradient["left"])
    np.testing.assert_allclose(inner, 2, rtol=1e-3)


@pytest.mark.parametrize("name", names("initializer"))
def test_calibration_from_any_start(name):
    mps = MPS.random(
        LONG, bond_dim=4, n_outputs=2, initializer=resolve("initializer", name),
        key=jax.random.key(0),
    )  # fmt: skip
    phi = np.random.default_rng(0).uniform(0, 1, (16, LONG, 2)).astype("f4")
    packed, structure = pack(mps)
    for std in (1.0, 0.1):
        packed = calibrate(packed, structure, phi, std=std)
        values = np.asarray(outputs(packed, structure, phi).dense(), float)
        np.testing.assert_allclose(np.sqrt(np.mean(values**2)), std, rtol=2e-3)
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(packed))


def test_calibration_keeps_the_function_up_to_a_factor():
    packed, structure = pack(random_chain(4, n_outputs=2))
    phi = samples(7, 4)
    before = outputs(packed, structure, phi).dense()
    after = outputs(calibrate(packed, structure, phi, std=50.0), structure, phi).dense()
    ratio = np.asarray(after / before)
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)


def test_calibration_counts_a_sample_as_often_as_its_weight_says():
    packed, structure = pack(random_chain(4, n_outputs=2))
    phi, weight = samples(7, 4), np.array([2, 0, 1, 3, 1, 0, 1])
    weighted = calibrate(packed, structure, phi, sample_weight=weight)
    repeated = calibrate(packed, structure, np.repeat(phi, weight, axis=0))
    for name in packed:
        np.testing.assert_allclose(weighted[name], repeated[name], rtol=1e-5)
    plain = calibrate(packed, structure, phi)
    assert not np.allclose(weighted["center"], plain["center"], rtol=1e-3)


def test_calibration_leaves_zero_networks_alone():
    packed, structure = pack(random_chain(4, n_outputs=2))
    zero = jax.tree.map(jnp.zeros_like, packed)
    for leaf in jax.tree.leaves(calibrate(zero, structure, samples(7, 4))):
        np.testing.assert_array_equal(leaf, 0)


def test_one_geometry_is_one_structure():
    (_, one), (_, other) = (pack(random_chain(4, seed, n_outputs=2)) for seed in (0, 1))
    assert one == other
    assert hash(one) == hash(other)
    assert one != pack(random_chain(4, n_outputs=2, output_site=1))[1]
    assert one != pack(random_chain(4, n_outputs=2, cyclic=True))[1]


def test_exponent_of_the_network_counts():
    mps = random_chain(4, n_outputs=2)
    phi = samples(7, 4)
    before = outputs(*pack(mps), phi).dense()
    mps.exponent = 3.0
    np.testing.assert_allclose(outputs(*pack(mps), phi).dense(), 1000 * before, rtol=1e-5)


def test_packing_inside_a_compiled_function():
    mps = random_chain(4, n_outputs=2)
    phi = samples(7, 4)
    arrays, skeleton = qtn.pack(mps)

    @jax.jit
    def evaluate(arrays):
        network = qtn.unpack(arrays, skeleton)
        return contract(*pack(network), phi).dense()

    np.testing.assert_allclose(evaluate(arrays), outputs(*pack(mps), phi).dense(), rtol=1e-5)


def test_a_ring_with_one_narrow_bond_keeps_its_scale():
    rng = np.random.default_rng(0)
    dims = [1, *[3] * 299, 1]
    arrays = [0.1 * rng.normal(size=(left, right, 2)) for left, right in pairwise(dims)]
    packed, structure = pack(MPS(arrays))
    state, expected = np.eye(1), 0.0
    for array in arrays:
        state = state @ array.sum(axis=2)
        expected += np.log(np.abs(state).max())
        state = state / np.abs(state).max()
    expected += np.log(np.abs(np.trace(state)))
    found = contract(packed, structure, np.ones((2, 300, 2), "f4")).log_abs()
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-4)
