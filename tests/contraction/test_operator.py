"""Operators and layers against dense contractions: outputs, squared norms, transformed states."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import mostly_long

from tn4ml_plus._registry import from_json, names, resolve, to_json
from tn4ml_plus.contraction import (
    SquaredNorm,
    calibrate,
    contract,
    log_norm_squared,
    pack,
    transform,
    unpack,
)
from tn4ml_plus.errors import ContractionTooLargeError
from tn4ml_plus.initializers import LeastSquaresIdentity, RandomNormal
from tn4ml_plus.losses import LogQuadratic
from tn4ml_plus.networks import MPO, MPS, SMPO, LayeredMPS

SITES, LONG = 5, 784
OUTPUTS = [(0,), (2,), (4,), (0, 2, 4), (1, 2), (0, 1, 2, 3, 4)]
evaluate = jax.jit(contract, static_argnums=1)
log_norm = jax.jit(log_norm_squared, static_argnums=1)
every_boundary = pytest.mark.parametrize("cyclic", [False, True])


def in_part(names, *axes):
    """Each value of every axis; other rows are long, since places and boundaries meet anywhere."""
    return pytest.mark.parametrize(names, mostly_long(list(itertools.product(*axes))), ids=str)


every_output = in_part("output_sites, cyclic", OUTPUTS, [False, True])
some_outputs = pytest.mark.parametrize(
    ("output_sites", "cyclic"),
    [
        ((0, 2, 4), False),
        ((1, 2), True),
        pytest.param((0, 2, 4), True, marks=pytest.mark.long),
        pytest.param((1, 2), False, marks=pytest.mark.long),
    ],
    ids=str,
)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def random_smpo(output_sites=(0, 2, 4), cyclic=False, nsites=SITES, seed=0, **options):
    options = {"bond_dim": 3, "out_dim": 2, "initializer": RandomNormal(0.7)} | options
    return SMPO.random(
        nsites, output_sites=output_sites, cyclic=cyclic, key=jax.random.key(seed), **options
    )


def random_layers(output_sites=(0, 2, 4), cyclic=False, output_site=None, n_outputs=2, **options):
    n_hidden = len(output_sites)
    mps = MPS.random(
        n_hidden, bond_dim=2, phys_dim=2, n_outputs=n_outputs, output_site=output_site,
        cyclic=cyclic and n_hidden > 2, initializer=RandomNormal(0.7), key=jax.random.key(9),
    )  # fmt: skip
    return LayeredMPS(random_smpo(output_sites, cyclic, **options), mps)


def samples(batch, nsites=SITES, phys_dim=2, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, nsites, phys_dim))


def whole(network):
    """All numbers of the network: axes k0, k1, ..., then the outputs, float64."""
    inputs = [ind for ind in sorted(network.outer_inds()) if ind.startswith("k")]
    order = [*inputs, *network.output_inds]
    return network.astype("float64").contract(output_inds=order).transpose(*order).data


def dense(network, phi):
    """Outputs, float64."""
    x = whole(network)
    x = np.broadcast_to(x, (len(phi), *x.shape))
    for i in range(phi.shape[1]):
        x = np.einsum("bs...,bs->b...", x, phi[:, i, : x.shape[1]])
    return x


def dense_squares(network, phi):
    return (dense(network, phi) ** 2).reshape(len(phi), -1).sum(axis=1)


def assert_gradient(function, x):
    """Gradient of a scalar function of a pytree against central differences, float64."""
    evaluate = jax.jit(jax.value_and_grad(function))
    _, gradient = evaluate(x)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        d = jax.tree.map(lambda leaf, rng=rng: rng.normal(size=leaf.shape), x)
        moved = (jax.tree.map(lambda a, b, s=s: a + s * b, x, d) for s in (1e-6, -1e-6))
        ahead, behind = (evaluate(y)[0] for y in moved)
        inner = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(d)))
        np.testing.assert_allclose(inner, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-7)


def ragged_smpo():
    shapes = [(3, 2), (3, 2, 3, 2), (2, 4, 1), (4, 2, 3)]
    arrays = [np.random.default_rng(0).normal(size=shape) for shape in shapes]
    return SMPO(arrays, output_sites=(1, 3))


def ragged_samples(batch=4):
    phi = samples(batch, 4, 3)
    for i, size in enumerate((2, 3, 1, 2)):
        phi[:, i, size:] = 0
    return phi


@pytest.mark.some(2)
@every_output
def test_outputs_and_squared_norms(output_sites, cyclic, x64):
    smpo = random_smpo(output_sites, cyclic)
    packed, structure = pack(smpo)
    phi = samples(4)
    expected = dense(smpo, phi)
    outputs = evaluate(packed, structure, phi)
    np.testing.assert_allclose(outputs.dense(), expected, rtol=1e-10, atol=1e-13)
    assert (outputs.value.shape, outputs.exponent.shape) == (expected.shape, (4,))
    squares = evaluate(packed, SquaredNorm(structure), phi)
    np.testing.assert_allclose(squares.dense(), dense_squares(smpo, phi), rtol=1e-10)
    assert (np.abs(squares.value) < 2).all()
    norm = log_norm(packed, structure)
    np.testing.assert_allclose(norm, np.log((whole(smpo) ** 2).sum()), rtol=1e-10)


@some_outputs
def test_outputs_and_squared_norms_in_single_precision(output_sites, cyclic):
    smpo = random_smpo(output_sites, cyclic)
    packed, structure = pack(smpo)
    assert packed["output"].dtype == np.float32
    for batch in (1, 7):
        phi = samples(batch).astype("f4")
        expected = dense(smpo, phi.astype(float))
        outputs = evaluate(packed, structure, phi).dense()
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=atol)
        squares = evaluate(packed, SquaredNorm(structure), phi).dense()
        np.testing.assert_allclose(squares, dense_squares(smpo, phi.astype(float)), rtol=1e-3)


@some_outputs
def test_gradients(output_sites, cyclic, x64):
    packed, structure = pack(random_smpo(output_sites, cyclic))
    phi = jnp.asarray(samples(3))
    weights = np.random.default_rng(2).normal(size=3)

    def total(arguments):
        packed, phi = arguments
        outputs = contract(packed, structure, phi).dense()
        squares = contract(packed, SquaredNorm(structure), phi).log_abs()
        return jnp.sum(jnp.sin(outputs)) + weights @ squares + log_norm_squared(packed, structure)

    assert_gradient(total, (packed, phi))


@every_boundary
def test_gradient_is_that_of_the_dense_path(cyclic, x64):
    packed, structure = pack(random_smpo(cyclic=cyclic))
    phi = samples(3)

    def total(packed, by):
        return jnp.sum(by(packed).log_abs())

    def fast(packed):
        return contract(packed, SquaredNorm(structure), phi)

    def slow(packed):
        value, exponent = contract(packed, structure, phi)
        return type(fast(packed))(jnp.sum(value.reshape(3, -1) ** 2, axis=1), 2 * exponent)

    ours, theirs = (jax.jit(jax.grad(total), static_argnums=1)(packed, by) for by in (fast, slow))
    for name in packed:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-8, atol=1e-10)


def test_sizes_that_differ(x64):
    smpo, phi = ragged_smpo(), ragged_samples()
    packed, structure = pack(smpo)
    assert structure.bond_dims == (1, 3, 2, 4, 1)
    assert (structure.phys_dims, structure.output_dims) == ((2, 3, 1, 2), (2, 3))
    for variant in (structure, structure.padded()):
        outputs = evaluate(packed, variant, phi).dense()
        np.testing.assert_allclose(outputs, dense(smpo, phi), rtol=1e-10, atol=1e-13)
        squares = evaluate(packed, SquaredNorm(variant), phi).dense()
        np.testing.assert_allclose(squares, dense_squares(smpo, phi), rtol=1e-10)
    assert structure.padded().phys_dims == (3,) * 4
    norm = np.log((whole(smpo) ** 2).sum())
    np.testing.assert_allclose(log_norm(packed, structure), norm, rtol=1e-10)
    for state, expected in zip(transform(packed, structure, phi), dense(smpo, phi), strict=True):
        np.testing.assert_allclose(whole(state), expected, rtol=1e-10)
        assert state.bond_sizes() == [4]


@pytest.mark.parametrize("nsites", [1, 2])
def test_short_operators(nsites, x64):
    smpo = MPO.random(nsites, bond_dim=3, initializer=RandomNormal(0.7), key=jax.random.key(0))
    packed, structure = pack(smpo)
    phi = samples(4, nsites)
    outputs = evaluate(packed, structure, phi).dense()
    np.testing.assert_allclose(outputs, dense(smpo, phi), rtol=1e-10)
    squares = evaluate(packed, SquaredNorm(structure), phi).dense()
    np.testing.assert_allclose(squares, dense_squares(smpo, phi), rtol=1e-10)


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("output_sites", [(0,), (3,), (0, 2, 4), (1, 2, 4), (0, 1, 2, 3, 4)])
def test_transformed_states(output_sites, cyclic, x64):
    smpo = random_smpo(output_sites, cyclic)
    phi = samples(3)
    states = transform(*pack(smpo), phi)
    for state, expected in zip(states, dense(smpo, phi), strict=True):
        assert type(state) is MPS
        assert len(output_sites) == state.L
        np.testing.assert_allclose(whole(state), expected, rtol=1e-9)


def test_transformed_state_of_any_scale():
    smpo = random_smpo(range(0, LONG, 100), nsites=LONG, initializer=RandomNormal(1e-3))
    packed, structure = pack(smpo)
    phi = samples(1, LONG).astype("f4")
    (state,) = transform(packed, structure, phi)
    assert all(tensor.dtype == np.float32 for tensor in state)
    expected = evaluate(packed, SquaredNorm(structure), phi).log_abs()[0]
    exponent, state.exponent = state.exponent, 0.0
    assert exponent < -1000
    found = 2 * (np.log(state.norm()) + exponent * np.log(10))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_ring_of_two_is_refused():
    with pytest.raises(ValueError, match="ring of two sites: use contract"):
        transform(*pack(random_smpo((1, 3), cyclic=True)), samples(1))


def test_too_many_outputs_are_refused():
    packed, structure = pack(random_smpo(range(40), nsites=40))
    with pytest.raises(ContractionTooLargeError, match=r"SquaredNorm.*transform.*LayeredMPS"):
        contract(packed, structure, samples(2, 40))


@pytest.mark.parametrize("shape", [(5, 4, 2), (5, 5, 3), (5, 2)])
def test_samples_that_do_not_fit(shape):
    for network in (random_smpo(), random_layers()):
        packed, structure = pack(network)
        with pytest.raises(ValueError, match="is this the embedding"):
            contract(packed, structure, np.zeros(shape, "f4"))


# Many sites -------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def log_quadratic(packed, structure, phi):
    def loss(packed):
        amplitude = contract(packed, SquaredNorm(structure), phi)
        return jnp.mean(LogQuadratic()(amplitude, jnp.ones(len(phi)))), amplitude

    return jax.value_and_grad(loss, has_aux=True)(packed)


def log_squares(smpo, phi):
    """Logarithm of the squared norms of an open chain sample by sample, float64."""
    found = []
    for sample in phi.astype(float):
        env, total = np.ones((1, 1)), 0.0
        for i in range(smpo.L):
            tensor = smpo[i]
            inds = [smpo.bond(i - 1, i)] if i else []
            inds += [smpo.bond(i, i + 1)] if i < smpo.L - 1 else []
            outputs = [ind for ind in tensor.inds if ind == smpo.lower_ind(i)]
            core = tensor.transpose(*inds, *outputs, smpo.upper_ind(i)).data.astype(float)
            core = core @ sample[i]
            core = core if i else core[None]
            core = core if i < smpo.L - 1 else np.expand_dims(core, 1)
            core = core.reshape(*core.shape[:2], -1)
            env = np.einsum("ac,aro,cso->rs", env, core, core, optimize="greedy")
            total += np.log(np.abs(env).max())
            env /= np.abs(env).max()
        found.append(total + np.log(env[0, 0]))
    return np.array(found)


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "spacing",
    [1, 784, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3, 7, 8, 28, 100, 783))],
)
def test_any_spacing_of_many_sites_is_finite_in_single_precision(spacing):
    phi = np.random.default_rng(0).uniform(0.6, 1.4, (3, LONG, 2)).astype("f4")
    for initializer in (LeastSquaresIdentity(), RandomNormal(0.5)):
        smpo = SMPO.random(
            LONG, bond_dim=4, spacing=spacing, initializer=initializer, key=jax.random.key(0)
        )
        packed, structure = pack(smpo)
        (loss, amplitude), gradient = log_quadratic(packed, structure, phi)
        expected = log_squares(smpo, phi)
        np.testing.assert_allclose(amplitude.log_abs(), expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(loss, np.mean((expected - 1) ** 2), rtol=1e-2, atol=1e-3)
        # The squared norms are quadratic in every core: <core, gradient> is one number for all.
        for name, leaf in gradient.items():
            assert np.isfinite(leaf).all()
            inner = np.sum(np.asarray(leaf * packed[name], float), axis=tuple(range(1, leaf.ndim)))
            np.testing.assert_allclose(inner, 4 * np.mean(expected - 1), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("spacing", [1, 8, 784])
def test_identity_aware_start_is_of_order_one(spacing):
    smpo = SMPO.random(LONG, bond_dim=4, spacing=spacing, out_dim=3, key=jax.random.key(0))
    phi = np.random.default_rng(0).uniform(0.9, 1.1, (5, LONG, 2)).astype("f4")
    squares = evaluate(pack(smpo)[0], SquaredNorm(pack(smpo)[1]), phi).log_abs()
    assert (np.abs(squares) < 6).all()


@pytest.mark.some(2)
@in_part("name, cyclic", names("initializer"), [False, True])
def test_any_initializer_of_many_sites_is_finite(name, cyclic):
    initializer = resolve("initializer", name)
    smpo = SMPO.random(
        LONG, bond_dim=2, spacing=28, cyclic=cyclic, initializer=initializer,
        key=jax.random.key(0),
    )  # fmt: skip
    packed, structure = pack(smpo)
    phi = np.random.default_rng(0).uniform(0, 1, (3, LONG, 2)).astype("f4")
    packed = calibrate(packed, SquaredNorm(structure), phi, std=2.0)
    (loss, amplitude), gradient = log_quadratic(packed, structure, phi)
    assert np.isfinite(loss)
    # Products of random matrices are as ill-conditioned as they are long.
    assert abs(np.log(np.mean(np.exp(2 * amplitude.log_abs())) / 4)) < 2
    assert all(np.isfinite(leaf).all() for leaf in gradient.values())


@pytest.mark.parametrize("magnitude", [1e-12, 1e12])
def test_scale_of_any_size_over_many_sites(magnitude):
    packed, structure = pack(random_smpo(range(0, LONG, 8), nsites=LONG))
    phi = samples(3, LONG).astype("f4")
    plain = evaluate(packed, SquaredNorm(structure), phi).log_abs()
    scaled = jax.tree.map(lambda core: core * np.float32(magnitude), packed)
    found = evaluate(scaled, SquaredNorm(structure), phi).log_abs()
    np.testing.assert_allclose(found, plain + 2 * LONG * np.log(magnitude), rtol=1e-5)
    shift = log_norm(scaled, structure) - log_norm(packed, structure)
    np.testing.assert_allclose(shift, 2 * LONG * np.log(magnitude), rtol=1e-5)


def test_dense_outputs_of_any_scale():
    smpo = random_smpo((0, 400, 783), nsites=LONG, initializer=RandomNormal(1e-3))
    packed, structure = pack(smpo)
    phi = samples(3, LONG).astype("f4")
    value, exponent = map(np.asarray, evaluate(packed, structure, phi))
    squares = np.log((value**2).sum(axis=(1, 2, 3))) + 2 * exponent * np.log(2)
    expected = evaluate(packed, SquaredNorm(structure), phi).log_abs()
    np.testing.assert_allclose(squares, expected, rtol=1e-4)


@pytest.mark.parametrize("cyclic", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_zero_sample_gives_zeros_and_finite_gradients(cyclic):
    packed, structure = pack(random_smpo(cyclic=cyclic))
    phi = samples(3).astype("f4")
    phi[1, 2] = 0

    @functools.partial(jax.jit, static_argnums=1)
    def differentiate(packed, structure):
        def total(packed):
            amplitude = contract(packed, structure, phi)
            return jnp.sum(amplitude.dense()), amplitude

        return jax.grad(total, has_aux=True)(packed)

    for variant in (structure, SquaredNorm(structure)):
        for start in (packed, jax.tree.map(jnp.zeros_like, packed)):
            gradient, amplitude = differentiate(start, variant)
            assert (amplitude.dense()[1] == 0).all()
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        assert (amplitude.dense() == 0).all()


def test_one_zero_output_does_not_hide_the_others():
    # The zero keeps the exponent 0 while the other output shrinks below float32.
    arrays = [tensor.data.copy() for tensor in random_smpo((0, 1), nsites=LONG)]
    arrays = [1e-3 * array for array in arrays]
    arrays[0][..., 1] = 0
    smpo = SMPO(arrays, output_sites=(0, 1))
    packed, structure = pack(smpo)
    phi = samples(2, LONG).astype("f4")
    value, exponent = map(np.asarray, evaluate(packed, structure, phi))
    assert (value[:, 1] == 0).all()
    expected = evaluate(packed, SquaredNorm(structure), phi).log_abs()
    found = np.log((value**2).sum(axis=(1, 2))) + 2 * exponent * np.log(2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_members_are_mapped_over():
    packs = [pack(random_smpo(seed=seed)) for seed in range(3)]
    structure = SquaredNorm(packs[0][1])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p for p, _ in packs))
    phi = samples(7).astype("f4")

    def total(packed):
        amplitude = contract(packed, structure, phi)
        return jnp.sum(amplitude.dense()), amplitude

    def differentiate(packed):
        return jax.grad(total, has_aux=True)(packed)

    gradients, amplitudes = jax.jit(jax.vmap(differentiate))(stacked)
    for m, (packed, _) in enumerate(packs):
        gradient, amplitude = jax.jit(differentiate)(packed)
        ours = jax.tree.map(lambda leaf, m=m: leaf[m], amplitudes)
        np.testing.assert_allclose(ours.dense(), amplitude.dense(), rtol=1e-4)
        for name, leaf in gradient.items():
            np.testing.assert_allclose(gradients[name][m], leaf, rtol=1e-3, atol=1e-4)


# Layers -----------------------------------------------------------------------------------------


@in_part("output_sites, output_site, cyclic", [(0, 2, 4), (1, 2)], [None, 0, 1], [False, True])
def test_layers(output_sites, output_site, cyclic, x64):
    n_outputs = None if output_site is None else 3
    network = random_layers(output_sites, cyclic, output_site, n_outputs)
    packed, structure = pack(network)
    phi = samples(4)
    outputs = evaluate(packed, structure, phi)
    np.testing.assert_allclose(outputs.dense(), dense(network, phi), rtol=1e-9, atol=1e-12)
    norm = np.log((whole(network) ** 2).sum())
    np.testing.assert_allclose(log_norm(packed, structure), norm, rtol=1e-9)


# Rings of layers are tried above, and gradients of rings are those of their operators.
@pytest.mark.parametrize("cyclic", [False, pytest.param(True, marks=pytest.mark.long)])
def test_gradients_of_layers(cyclic, x64):
    packed, structure = pack(random_layers(cyclic=cyclic))
    phi = jnp.asarray(samples(3))

    def total(arguments):
        packed, phi = arguments
        outputs = contract(packed, structure, phi).dense()
        squares = contract(packed, SquaredNorm(structure), phi).log_abs()
        return jnp.sum(jnp.sin(outputs)) + squares[0] + log_norm_squared(packed, structure)

    assert_gradient(total, (packed, phi))


def test_layers_whose_sizes_differ(x64):
    arrays = [np.random.default_rng(1).normal(size=shape) for shape in [(3, 2), (3, 3, 2)]]
    network = LayeredMPS(ragged_smpo(), MPS(arrays, output_site=1, output_inds=("out",)))
    packed, structure = pack(network)
    phi = ragged_samples()
    for variant in (structure, structure.padded()):
        outputs = evaluate(packed, variant, phi).dense()
        np.testing.assert_allclose(outputs, dense(network, phi), rtol=1e-10, atol=1e-13)
    outputs = evaluate(*pack(unpack(packed, structure)), phi).dense()
    np.testing.assert_allclose(outputs, dense(network, phi), rtol=1e-10, atol=1e-13)


@pytest.mark.some(2)
@pytest.mark.parametrize("name", names("initializer"))
def test_calibration_from_any_start(name):
    phi = np.random.default_rng(0).uniform(0, 1, (16, LONG, 2)).astype("f4")
    options = {"bond_dim": 2, "initializer": resolve("initializer", name)}
    key = jax.random.key(0)
    layers = LayeredMPS.random(LONG, mps_bond_dim=2, spacing=8, n_outputs=2, **options, key=key)
    single = SMPO.random(LONG, spacing=LONG, **options, key=key)
    for network in (layers, single):
        packed, structure = pack(network)
        packed = calibrate(packed, structure, phi, std=0.1)
        values = np.asarray(evaluate(packed, structure, phi).dense(), float)
        np.testing.assert_allclose(np.sqrt(np.mean(values**2)), 0.1, rtol=2e-3)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(packed))


def test_calibration_within_reach_touches_only_the_cores_with_outputs():
    network = LayeredMPS.random(6, n_outputs=2, key=jax.random.key(0))
    packed, structure = pack(network)
    after = calibrate(packed, structure, np.ones((4, 6, 2), "f4"))
    for layer, name in (("smpo", "plain"), ("smpo", "output"), ("mps", "left"), ("mps", "right")):
        np.testing.assert_array_equal(after[layer][name], packed[layer][name])
    assert not np.allclose(after["mps"]["center"], packed["mps"]["center"])
    packed, structure = pack(random_smpo())
    after = calibrate(packed, SquaredNorm(structure), np.ones((4, 5, 2), "f4"))
    np.testing.assert_array_equal(after["plain"], packed["plain"])
    factor = after["output"][0, 0, 0, 0, 0] / packed["output"][0, 0, 0, 0, 0]
    np.testing.assert_allclose(after["output"], factor * packed["output"], rtol=1e-5)


def test_structures_are_values():
    for network in (random_smpo, random_layers):
        (_, one), (_, other) = pack(network(seed=0)), pack(network(seed=1))
        assert one == other
        assert hash(one) == hash(other)
        assert one != pack(network((1, 2, 4)))[1]
        assert one != pack(network(cyclic=True))[1]
        assert from_json(to_json(one)) == one


def test_exponent_of_the_network_counts():
    for network in (random_smpo(), random_layers()):
        phi = samples(7).astype("f4")
        before = evaluate(*pack(network), phi).dense()
        network.exponent = 3.0
        np.testing.assert_allclose(evaluate(*pack(network), phi).dense(), 1000 * before, rtol=1e-4)
