"""Networks of any geometry, against dense contractions by quimb."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quimb.tensor as qtn

from tn4ml_plus._arrays import on_device
from tn4ml_plus.contraction import _generic, calibrate, contract, log_norm_squared, pack, unpack
from tn4ml_plus.errors import ContractionTooLargeError
from tn4ml_plus.networks import Network, from_quimb


def tensor_network(*inds, seed, **dims):
    """Random tensors of the indices `inds`, single letters but for the dims' keys, of size 2."""
    rng = np.random.default_rng(seed)
    return qtn.TensorNetwork(
        [qtn.Tensor(rng.normal(size=[dims.get(i, 2) for i in t.split()]), t.split()) for t in inds]
    )


def ring(seed):
    return qtn.TensorNetwork(qtn.MPS_rand_state(5, 3, cyclic=True, seed=seed))


def peps(seed):
    network = qtn.PEPS.rand(2, 3, 3, seed=seed)
    network.reindex_({f"k{i},{j}": f"k{3 * i + j}" for i in range(2) for j in range(3)})
    tensor = network["I1,1"]
    data = np.random.default_rng(seed).normal(size=(*tensor.shape, 4))
    tensor.modify(data=data, inds=(*tensor.inds, "out"))
    return network


def random_geometry(seed):
    edges = [(0, 1), (0, 4), (1, 2), (1, 5), (2, 3), (2, 6), (3, 6), (4, 5), (5, 6), (0, 6)]
    return qtn.TN_from_edges_rand(edges, 2, phys_dim=3, seed=seed)


def tree(seed):
    return qtn.TN_from_edges_rand([(0, 1), (0, 2), (2, 3), (2, 4)], 3, phys_dim=2, seed=seed)


def mpo(seed):
    return qtn.TensorNetwork(qtn.MPO_rand(4, 3, seed=seed))


def mera(seed):
    return qtn.MERA.rand(4, max_bond=2, seed=seed)


def hyperindex(seed):
    return tensor_network("k0 h a", "k1 h", "k2 a h out", "k3 h", seed=seed, h=3, a=4, k1=3, k3=1)


def hyperindex_as_output(seed):
    network = tensor_network("k0 h", "k1 h a", "a k2", seed=seed, h=3)
    return from_quimb(network, ("h",))


def disconnected(seed):
    network = tensor_network("k0 a", "a k1", "k2 b", "b out k3", "c", "c", seed=seed, out=3)
    network |= qtn.Tensor(-2.5)
    return network


def traced(seed):
    return tensor_network("k0 a a b", "b k1 out", seed=seed, a=3)


def one_tensor(seed):
    return tensor_network("k1 out k0", seed=seed, k1=3)


GEOMETRIES = [
    ring,
    peps,
    random_geometry,
    tree,
    mpo,
    mera,
    hyperindex,
    hyperindex_as_output,
    disconnected,
    traced,
    one_tensor,
]


def whole(network, arrays):
    """The network with other arrays as one array (*inputs, *outputs), by quimb."""
    network = network.copy()
    for tensor, array in zip(network, arrays, strict=True):
        tensor.modify(data=array)
    inputs = [network.site_ind(i) for i in range(network.nsites)]
    return network.contract(output_inds=(*inputs, *network.output_inds), optimize="greedy").data


def dense(network, arrays, phi):
    """(batch, *outputs)."""
    x = whole(network, arrays)
    x = jnp.broadcast_to(x, (len(phi), *x.shape))
    for i in range(network.nsites):
        x = jnp.einsum("bi...,bi->b...", x, phi[:, i])
    return x


def embedded(structure, batch, seed=1):
    phi = np.random.default_rng(seed).normal(size=(batch, structure.nsites, structure.phys_dim))
    for i, dim in enumerate(structure.phys_dims):
        phi[:, i, dim:] = 0
    return on_device(phi)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12 * max(np.abs(b).max(), 1))


@pytest.mark.some(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_outputs_and_gradients_equal_a_dense_contraction(geometry):
    network = from_quimb(geometry(0))
    packed, structure = pack(network)
    phi = embedded(structure, 3)
    weights = np.random.default_rng(2).normal(size=(3, *structure.output_dims))

    def differentiated(outputs):
        def loss(packed, phi):
            x = outputs(packed, phi)
            return jnp.sum(weights * x), x

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(packed, phi)

    ours = differentiated(lambda packed, phi: contract(packed, structure, phi).dense())
    theirs = differentiated(lambda packed, phi: dense(network, packed, phi))
    assert ours[0][1].shape == (3, *structure.output_dims)
    assert_close(ours, theirs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch", [1, 7, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("geometry", [hyperindex, pytest.param(tree, marks=pytest.mark.long)])
def test_any_batch_size(geometry, batch):
    network = from_quimb(geometry(0))
    packed, structure = pack(network)
    phi = embedded(structure, batch)
    result = jax.jit(contract, static_argnums=1)(packed, structure, phi)
    assert result.value.shape == (batch, *structure.output_dims)
    assert result.exponent.shape == (batch,)
    assert result.exponent.dtype == jnp.int32
    assert_close(result.dense(), jax.jit(lambda *args: dense(network, *args))(packed, phi))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "geometry",
    [
        # Generic networks of few more tensors than these.
        pytest.param(g, marks=[pytest.mark.long] if g in (random_geometry, mpo, mera) else [])
        for g in GEOMETRIES
    ],
)
def test_log_norm_squared_equals_a_dense_contraction(geometry):
    network = from_quimb(geometry(0))
    packed, structure = pack(network)

    def reference(packed):
        return jnp.log(jnp.sum(whole(network, packed) ** 2))

    ours = jax.jit(jax.value_and_grad(log_norm_squared), static_argnums=1)(packed, structure)
    assert_close(ours, jax.jit(jax.value_and_grad(reference))(packed))


@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
@pytest.mark.parametrize(
    "geometry",
    [disconnected, *(pytest.param(g, marks=pytest.mark.long) for g in (ring, hyperindex))],
)
def test_scale_of_any_size_in_single_precision(geometry, magnitude):
    network = from_quimb(geometry(0))
    packed, structure = pack(network)
    large = tuple(magnitude * array for array in packed)
    phi = embedded(structure, 4)
    assert phi.dtype == packed[0].dtype == jnp.float32
    result = jax.jit(contract, static_argnums=1)(large, structure, phi)
    gradient = jax.jit(jax.grad(lambda p: contract(p, structure, phi).log_abs().sum()))(large)
    log_norm = jax.jit(log_norm_squared, static_argnums=1)(large, structure)
    shift = len(packed) * np.log(magnitude)
    with jax.enable_x64(True):
        packed = [np.asarray(array, float) for array in packed]
        expected = np.log(np.abs(dense(network, packed, np.asarray(phi, float)))) + shift
        expected_log_norm = np.log(np.sum(whole(network, packed) ** 2)) + 2 * shift
    np.testing.assert_allclose(result.log_abs(), expected, rtol=1e-5)
    np.testing.assert_allclose(log_norm, expected_log_norm, rtol=1e-5)
    assert (jnp.abs(result.value).max(axis=range(1, result.value.ndim)) < 2).all()
    assert all(jnp.isfinite(leaf).all() for leaf in gradient)
    # The amplitude is linear in every tensor, so that <array, d log / d array> is 1 a number.
    for array, leaf in zip(large, gradient):
        np.testing.assert_allclose(jnp.sum(array * leaf), result.value.size, rtol=1e-3)


def test_products_that_lose_all_digits_keep_their_scale():
    """Not all products are rescaled; here each loses more bits than a float has."""
    small, n = 1e-14, 12
    core = np.multiply.outer(np.eye(2), [1, small])
    tensors = [qtn.Tensor(core, [f"b{i}", f"b{(i + 1) % n}", f"k{i}"]) for i in range(n)]
    packed, structure = pack(from_quimb(qtn.TensorNetwork(tensors)))
    phi = jnp.broadcast_to(jnp.array([0.0, 1.0]), (1, n, 2))
    value_and_grad = jax.value_and_grad(lambda p: contract(p, structure, phi).log_abs().sum())
    log_abs, gradient = jax.jit(value_and_grad)(packed)
    np.testing.assert_allclose(log_abs, np.log(2) + n * np.log(small), rtol=1e-6)
    for array, leaf in zip(packed, gradient, strict=True):
        np.testing.assert_allclose(jnp.sum(array * leaf), 1, rtol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_pack_and_unpack_round_trip(geometry):
    network = from_quimb(geometry(0))
    packed, structure = pack(network)
    again = unpack(packed, structure)
    assert type(again) is Network
    assert again.output_inds == network.output_inds == structure.output_inds
    assert again.phys_dims == network.phys_dims == structure.phys_dims
    assert [t.tags for t in again] == [t.tags for t in network]
    for tensor, original in zip(again, network, strict=True):
        np.testing.assert_allclose(tensor.data, original.data, rtol=1e-6)
        assert tensor.left_inds is None or len(tensor.left_inds) == len(original.left_inds)
    assert pack(again)[1] == structure
    assert pack(network.copy())[1] == structure


def test_unpacked_network_takes_its_quimb_class_again():
    network = peps(0)
    again = unpack(*pack(network)).view_like(network)
    assert isinstance(again, qtn.PEPS)
    assert again.Lx, again.Ly == (2, 3)


def test_exponent_of_the_network_counts():
    network = peps(0)
    phi = embedded(pack(network)[1], 2)
    plain = contract(*pack(network), phi)
    network.exponent = 60.0
    scaled = contract(*pack(network), phi)
    shift = 60 * np.log(10)
    np.testing.assert_allclose(scaled.log_abs(), plain.log_abs() + shift, rtol=1e-5)


def test_complex_arrays_are_refused():
    with pytest.raises(ValueError, match="must be real"):
        pack(qtn.PEPS.rand(1, 2, 2, dtype=complex, site_ind_id="k{1}").view_as(qtn.TensorNetwork))


@pytest.mark.parametrize("std", [1e-3, 1e-9])
def test_calibration_scales_the_outputs_first_and_then_every_tensor_alike(std):
    packed, structure = pack(peps(seed=0))
    packed = calibrate(packed, structure, embedded(structure, 6))
    phi = embedded(structure, 6)
    scaled = calibrate(packed, structure, phi, std=std)
    outputs = np.asarray(contract(scaled, structure, phi).dense(), float)
    assert np.sqrt(np.mean(outputs**2)) == pytest.approx(std, rel=1e-3)
    ratios = np.array([b.ravel()[0] / a.ravel()[0] for a, b in zip(packed, scaled)])
    at_outputs = max(std, 2.0**-10)
    alike = (std / at_outputs) ** (1 / len(packed))
    expected = np.where(np.array(structure.output_tensors) > 0, alike * at_outputs, alike)
    np.testing.assert_allclose(ratios, expected, rtol=1e-3)


def test_calibration_scales_every_tensor_alike_where_none_has_the_outputs():
    packed, structure = pack(tree(seed=0))
    phi = embedded(structure, 6)
    scaled = calibrate(packed, structure, phi, std=1e-3)
    ratios = np.array([b.ravel()[0] / a.ravel()[0] for a, b in zip(packed, scaled)])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)


def test_a_bias_is_added_where_the_outputs_are():
    packed, structure = pack(peps(seed=0))
    other = jax.tree.map(lambda a: a + 1, packed)
    summed = structure.with_bias(packed, other)
    for inds, a, b, total in zip(structure.inds, packed, other, summed):
        np.testing.assert_array_equal(total, a + b if "out" in inds else a)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_one_geometry_is_one_structure(geometry):
    (_, one), (_, other) = pack(geometry(0)), pack(geometry(1))
    assert one == other
    assert hash(one) == hash(other)


def test_structures_differ_where_geometries_do():
    structures = {pack(geometry(0))[1] for geometry in GEOMETRIES}
    assert len(structures) == len(GEOMETRIES)


def test_a_second_network_of_one_geometry_compiles_and_searches_nothing():
    traces = []

    def evaluate(packed, structure, phi):
        traces.append(len(phi))
        return contract(packed, structure, phi)

    run = jax.jit(evaluate, static_argnums=1)
    packed, structure = pack(random_geometry(0))
    phi = embedded(structure, 6)
    run(packed, structure, phi)
    misses = _generic._find_steps.cache_info().misses
    run(*pack(random_geometry(1)), phi)
    assert traces == [6]
    run(*pack(random_geometry(2)), phi[:5])
    assert traces == [6, 5]
    assert _generic._find_steps.cache_info().misses == misses


def test_too_large_a_batch_names_one_that_fits(monkeypatch):
    packed, structure = pack(ring(0))
    monkeypatch.setattr(_generic, "MAX_INTERMEDIATE", 1000)
    with pytest.raises(ContractionTooLargeError, match=r"2\^.* elements .* samples") as error:
        contract(packed, structure, embedded(structure, 4096))
    fitting = int(str(error.value).split("at most ")[1].split()[0])
    assert 0 < fitting < 4096
    contract(packed, structure, embedded(structure, fitting))


@pytest.mark.parametrize("bond_dim", [pytest.param(64, marks=pytest.mark.long), 10**60])
def test_too_large_a_network_is_refused_before_anything_is_allocated(bond_dim):
    nodes = range(16)
    edges = [(i, j) for i in nodes for j in nodes if i < j and (i + j) % 3 == 0]
    network = qtn.TN_from_edges_rand(edges, 1, phys_dim=2, seed=0)
    _, structure = pack(from_quimb(network))
    shapes = tuple(
        tuple(bond_dim if isinstance(ind, int) else 2 for ind in inds) for inds in structure.inds
    )
    structure = _generic.dataclasses.replace(structure, shapes=shapes)
    phi = jax.ShapeDtypeStruct((8, structure.nsites, 2), jnp.float32)
    with pytest.raises(ContractionTooLargeError, match="smaller bond_dim"):
        contract(None, structure, phi)
    with pytest.raises(ContractionTooLargeError, match="smaller bond_dim"):
        log_norm_squared(None, structure)


def test_embedding_of_another_shape_is_refused():
    packed, structure = pack(ring(0))
    with pytest.raises(ValueError, match="embedded samples of shape"):
        contract(packed, structure, jnp.ones((2, structure.nsites, 3)))


def test_arrays_are_padded_along_the_inputs():
    network = from_quimb(hyperindex(0))
    packed, structure = pack(network)
    assert structure.phys_dims == (2, 3, 2, 1)
    padded = structure.padded()
    assert padded.phys_dims == (3,) * 4
    assert tuple(array.shape for array in packed) == padded.shapes
    assert padded.padded() == padded
    phi = embedded(structure, 3)
    ours, theirs = (contract(packed, s, phi).dense() for s in (structure, padded))
    np.testing.assert_array_equal(ours, theirs)
    assert from_quimb(unpack(packed, padded)).phys_dims == (3,) * 4


def test_too_large_a_bond_names_one_that_fits(monkeypatch):
    def grid(bond_dim):
        network = qtn.PEPS.rand(4, 4, bond_dim, seed=0)
        return network.reindex({f"k{i},{j}": f"k{4 * i + j}" for i in range(4) for j in range(4)})

    def plan(bond_dim):
        packed, structure = pack(grid(bond_dim))
        phi = jax.ShapeDtypeStruct((4, 16, 2), jnp.float32)
        return jax.eval_shape(lambda packed, phi: contract(packed, structure, phi), packed, phi)

    monkeypatch.setattr(_generic, "MAX_INTERMEDIATE", 2**10)
    with pytest.raises(ContractionTooLargeError, match="smaller bond_dim, at most") as error:
        plan(6)
    fitting = int(str(error.value).split("smaller bond_dim, at most ")[1].split()[0].strip(".,"))
    assert 1 < fitting < 6
    plan(fitting)
    with pytest.raises(ContractionTooLargeError):
        plan(fitting + 1)
