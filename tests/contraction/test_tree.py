"""Trees, against dense contractions by quimb."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quimb.tensor as qtn

from tn4ml_plus import contraction
from tn4ml_plus.contraction import calibrate, pack, unpack
from tn4ml_plus.contraction._tree import climb
from tn4ml_plus.networks import TTN, Tree

contract = jax.jit(contraction.contract, static_argnums=1)
log_norm_squared = jax.jit(contraction.log_norm_squared, static_argnums=1)
log_norm_and_gradient = jax.jit(jax.value_and_grad(contraction.log_norm_squared), static_argnums=1)

TREES = {
    "one": Tree.balanced(1),
    "two": Tree.balanced(2),
    "odd": Tree.balanced(7),
    "ternary": Tree.balanced(5, 3),
    "quadtree": Tree.image(2, 3),
    "alternate": Tree.image(3, 3, ((1, 2), (2, 1))),
    "ladder": Tree(4, ((0, 1), (2, 4), (5, 3))),
    "crossed": Tree(6, ((5, 0), (3, 1), (2, 7, 4), (6, 8))),
    "through": Tree(3, ((0,), (1, 2), (4, 3))),
}
every_tree = pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())


def random_tree(tree, n_outputs=2, seed=0, dtype="float64"):
    """TTN of normal entries, ragged bonds and phys_dims."""
    rng = np.random.default_rng(seed)
    sizes = [2 + i % 2 for i in range(tree.nsites)] + [2 + i % 3 for i in range(len(tree.nodes))]
    arrays = []
    for i, children in enumerate(tree.nodes):
        up = [sizes[tree.nsites + i]] if i < len(tree.nodes) - 1 else [n_outputs] * bool(n_outputs)
        shape = [sizes[child] for child in children] + up
        arrays.append(rng.normal(size=shape).astype(dtype))
    return TTN(arrays, tree, output_inds=("out",) if n_outputs else ())


def samples(ttn, batch=5, seed=1):
    rng = np.random.default_rng(seed)
    widest = max(ttn.ind_size(ttn.site_ind(i)) for i in range(ttn.nsites))
    phi = rng.normal(size=(batch, ttn.nsites, widest))
    for i in range(ttn.nsites):
        phi[:, i, ttn.ind_size(ttn.site_ind(i)) :] = 0
    return phi


def dense(arrays, ttn, phi):
    """Outputs by one einsum over all tensors."""
    number = {}

    def numbered(inds):
        return [number.setdefault(ind, len(number)) for ind in inds]

    operands = []
    for i, array in enumerate(arrays):
        operands += [array, numbered(ttn.node(i).inds)]
    for i in range(ttn.nsites):
        size = ttn.ind_size(ttn.site_ind(i))
        operands += [phi[:, i, :size], numbered(["batch", ttn.site_ind(i)])]
    return jnp.einsum(*operands, numbered(["batch", *ttn.output_inds]), optimize="greedy")


def assert_close(ours, theirs, rtol):
    scale = np.abs(theirs).max(initial=0)
    assert scale > 0
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * scale)


@pytest.mark.some(2)
@every_tree
@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [("float64", 1e-12), pytest.param("float32", 2e-5, marks=pytest.mark.long)],
)
def test_outputs_and_gradients_equal_a_dense_contraction(tree, dtype, rtol):
    with jax.enable_x64(True):
        ttn = random_tree(tree)
        arrays = [ttn.node(i).data for i in range(len(tree.nodes))]
        phi, weights = samples(ttn), np.random.default_rng(2).normal(size=(5, 2))

        def ours(packed, phi):
            outputs = contract(packed, structure, phi).dense()
            return jnp.sum(weights.astype(outputs.dtype) * outputs), outputs

        def theirs(arrays, phi):
            outputs = dense(arrays, ttn, phi)
            return jnp.sum(weights * outputs), outputs

        single = ttn.copy()
        single.apply_to_arrays(lambda a: a.astype(dtype))
        packed, structure = pack(single)
        assert all(leaf.dtype == dtype for leaf in packed)

        def gradient(function):
            return jax.jit(jax.grad(function, argnums=(0, 1), has_aux=True))

        (d_packed, d_phi), outputs = gradient(ours)(packed, jnp.asarray(phi, dtype))
        (d_arrays, d_phi_dense), expected = gradient(theirs)(arrays, jnp.asarray(phi))
        assert_close(outputs, expected, rtol)
        expected_gradient, _ = pack(TTN(d_arrays, tree, output_inds=("out",)))
        for mine, dense_one in zip(d_packed, expected_gradient, strict=True):
            assert_close(mine, dense_one, 5 * rtol)
        real = np.abs(phi).max(axis=0) > 0
        assert_close(np.where(real, d_phi, 0), d_phi_dense, 5 * rtol)


@pytest.mark.some(2)
@every_tree
def test_norms_and_plain_amplitudes(tree):
    with jax.enable_x64(True):
        for n_outputs in (None, 3):
            ttn = random_tree(tree, n_outputs)
            packed, structure = pack(ttn)
            expected = 2 * np.log(np.linalg.norm(ttn.contract(output_inds=ttn.outer_inds()).data))
            value, gradient = log_norm_and_gradient(packed, structure)
            assert float(value) == pytest.approx(expected, rel=1e-10)
            # A change of the whole network in all of its numbers; padding has no gradient.
            rng = np.random.default_rng(3)
            change = [np.where(core != 0, rng.normal(size=core.shape), 0) for core in packed]
            moved = [
                log_norm_squared(tuple(p + s * c for p, c in zip(packed, change)), structure)
                for s in (1e-5, -1e-5)
            ]
            inner = sum(np.vdot(g, c) for g, c in zip(gradient, change))
            assert float(inner) == pytest.approx(float(moved[0] - moved[1]) / 2e-5, rel=1e-6)
            assert all(not g[core == 0].any() for g, core in zip(gradient, packed))
        phi = samples(ttn)
        plain, structure = pack(random_tree(tree, None))
        amplitude = contract(plain, structure, phi)
        assert amplitude.value.shape == (5,)
        arrays = [random_tree(tree, None).node(i).data for i in range(len(tree.nodes))]
        assert_close(amplitude.dense(), dense(arrays, random_tree(tree, None), phi), 1e-12)


@every_tree
def test_pack_and_unpack_round_trip(tree):
    ttn = random_tree(tree, dtype="float32")
    packed, structure = pack(ttn)
    again = unpack(packed, structure)
    assert again.tree == tree
    for i in range(len(tree.nodes)):
        np.testing.assert_array_equal(again.node(i).data, ttn.node(i).data)
        assert again.node(i).tags == ttn.node(i).tags
    _, same = pack(random_tree(tree, seed=3))
    assert same == structure
    assert hash(same) == hash(structure)


def test_the_order_of_a_tensors_axes_and_an_exponent_count():
    with jax.enable_x64(True):
        ttn = random_tree(TREES["odd"])
        phi = samples(ttn)
        before = contract(*pack(ttn), phi).log_abs()
        ttn.node(2).transpose_(*reversed(ttn.node(2).inds))
        ttn.exponent = 70.0
        after = contract(*pack(ttn), phi).log_abs()
        np.testing.assert_allclose(after, before + 70 * np.log(10), rtol=1e-10)


@pytest.mark.parametrize("magnitude", [1e-20, 1e20])
def test_scale_of_any_size_in_single_precision(magnitude):
    ttn = random_tree(Tree.balanced(100), dtype="float32")
    phi = samples(ttn).astype("f4")
    packed, structure = pack(ttn)
    scaled = jax.tree.map(lambda leaf: leaf * np.float32(magnitude), packed)

    def total(packed):
        return contract(packed, structure, phi).log_abs().sum()

    expected = total(packed) + phi.shape[0] * 2 * 99 * np.log(magnitude)
    assert float(total(scaled)) == pytest.approx(float(expected), rel=1e-5)
    gradient = jax.jit(jax.grad(total))
    plain, large = gradient(packed), gradient(scaled)
    for a, b in zip(plain, large, strict=True):
        np.testing.assert_allclose(b * magnitude, a, rtol=1e-3, atol=1e-3 * np.abs(a).max())


@pytest.mark.parametrize(
    "tree",
    [Tree.balanced(784), pytest.param(Tree.image(28, 28), marks=pytest.mark.long)],
    ids=["1d", "2d"],
)
def test_large_trees_are_finite_and_calibrated(tree):
    ttn = TTN.random(784, tree=tree, bond_dim=8, n_outputs=3, key=jax.random.key(0))
    packed, structure = pack(ttn)
    x = np.random.default_rng(0).uniform(size=(8, 784)).astype("f4")
    phi = np.stack([x, 1 - x], axis=-1)
    packed = calibrate(packed, structure, phi, std=0.1)
    amplitude = contract(packed, structure, phi)
    assert np.sqrt(np.mean(np.square(amplitude.dense()))) == pytest.approx(0.1, rel=1e-3)
    gradient = jax.jit(jax.grad(lambda p: contract(p, structure, phi).dense().sum()))(packed)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0
    assert np.isfinite(log_norm_squared(packed, structure))


def test_the_gradient_of_a_tree_against_finite_differences():
    with jax.enable_x64(True):
        ttn = random_tree(TREES["crossed"])
        packed, structure = pack(ttn)
        leaves = jnp.asarray(samples(ttn).transpose(1, 2, 0))
        weights = np.random.default_rng(0).normal(size=(2, 5))
        _, exponent = climb(structure.tree, packed, leaves)

        # What climb leaves to its caller: the exponent is constant under differentiation.
        def total(packed, leaves, exponent=exponent):
            return jnp.sum(
                weights * jnp.ldexp(climb(structure.tree, packed, leaves)[0], exponent[None])
            )

        def exact(packed, leaves):
            return total(packed, leaves, climb(structure.tree, packed, leaves)[1])

        gradient = jax.grad(total, (0, 1))(packed, leaves)
        flat, build = jax.flatten_util.ravel_pytree((packed, leaves))
        direction = np.random.default_rng(1).normal(size=flat.shape)
        step = 1e-6
        difference = exact(*build(flat + step * direction)) - exact(*build(flat - step * direction))
        slope = jax.flatten_util.ravel_pytree(gradient)[0] @ direction
        assert float(difference) / (2 * step) == pytest.approx(float(slope), rel=1e-7)


def test_second_derivatives_equal_those_of_a_dense_contraction():
    with jax.enable_x64(True):
        # A node is a layer here, and nothing is padded.
        rng, shapes = np.random.default_rng(0), [(2, 2), (2, 2, 2), (2, 2, 2)]
        arrays = [rng.normal(size=shape) for shape in shapes]
        ttn = TTN(arrays, TREES["through"], output_inds=("out",))
        packed, structure = pack(ttn)
        phi = samples(ttn)
        direction = jax.tree.map(jnp.cos, packed)
        towards = [d[0] for d in direction]

        def change(function, arrays, towards):
            """Of the squared gradient's length, backward, and of the gradient, forward."""
            gradient = jax.grad(lambda arrays: jnp.sum(function(arrays) ** 2))
            length = jax.grad(lambda a: sum(jnp.sum(g**2) for g in gradient(a)))(arrays)
            return length, jax.jvp(gradient, (arrays,), (towards,))[1]

        ours = change(lambda p: contract(p, structure, phi).dense(), packed, direction)
        theirs = change(lambda arrays: dense(arrays, ttn, phi), arrays, towards)
        for mine, dense_one in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert_close(mine.reshape(dense_one.shape), dense_one, 1e-10)


def test_a_second_tree_of_the_same_shape_compiles_nothing():
    traces = itertools.count()

    @functools.partial(jax.jit, static_argnums=1)
    def run(packed, structure, phi):
        next(traces)
        return contract(packed, structure, phi).value

    for seed in (0, 1, 2):
        ttn = random_tree(Tree.balanced(9), seed=seed, dtype="float32")
        run(*pack(ttn), samples(ttn).astype("f4"))
    assert next(traces) == 1


def test_quimb_contracts_what_we_contract():
    ttn = random_tree(TREES["quadtree"], dtype="float32")
    phi = samples(ttn).astype("f4")
    outputs = contract(*pack(ttn), phi).dense()
    for row, expected in zip(phi, outputs, strict=True):
        vectors = [qtn.Tensor(v[: ttn.ind_size(f"k{i}")], [f"k{i}"]) for i, v in enumerate(row)]
        network = qtn.TensorNetwork([*ttn.copy(), *vectors])
        np.testing.assert_allclose(
            network.contract(output_inds=["out"]).data, expected, rtol=1e-3, atol=1e-4
        )
