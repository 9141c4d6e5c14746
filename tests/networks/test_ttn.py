"""Trees and the networks on them, as quimb objects."""

import jax
import numpy as np
import pytest
import quimb.tensor as qtn
from scipy.cluster.hierarchy import linkage

from tn4ml_plus._registry import from_json, names, resolve, to_json
from tn4ml_plus.networks import TTN, Tree, TTNSpec, from_quimb


def random(n=6, **options):
    return TTN.random(n, **({"bond_dim": 3, "n_outputs": 2, "key": jax.random.key(0)} | options))


@pytest.mark.parametrize("nsites", [1, 2, 3, 7, 784])
@pytest.mark.parametrize("arity", [2, 3])
def test_balanced_trees_are_as_flat_as_they_can_be(nsites, arity):
    tree = Tree.balanced(nsites, arity)
    assert tree.leaves[-1] == nsites
    assert max(map(len, tree.nodes)) <= arity
    assert tree.heights[-1] == max(1, int(np.ceil(np.log(nsites) / np.log(arity) - 1e-9)))
    assert len({child for children in tree.nodes for child in children}) == sum(
        map(len, tree.nodes)
    )


@pytest.mark.parametrize("blocks", [((2, 2),), ((1, 2), (2, 1)), ((3, 2), (2, 3))])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (28, 28), (5, 1), (1, 6)])
def test_image_trees_join_neighbours(shape, blocks):
    tree = Tree.image(*shape, blocks)
    places = [np.array([[r, c]]) for r in range(shape[0]) for c in range(shape[1])]
    for children in tree.nodes:
        below = np.concatenate([places[child] for child in children])
        height, width = below.max(axis=0) - below.min(axis=0) + 1
        # The pixels under a node fill a rectangle.
        assert len(below) == height * width
        places.append(below)
    assert len(places[-1]) == shape[0] * shape[1]


def test_quadtrees_halve_both_sides():
    assert Tree.image(8, 8).heights[-1] == 3
    assert len(Tree.image(8, 8).nodes) == 16 + 4 + 1
    assert Tree.image(8, 8, ((1, 2), (2, 1))).heights[-1] == 6


def test_trees_of_scipy_are_trees():
    points = np.random.default_rng(0).normal(size=(9, 2))
    merges = linkage(points)[:, :2].astype(int)
    tree = Tree(9, tuple(map(tuple, merges)))
    assert tree.leaves[-1] == 9
    assert from_json(to_json(tree)) == tree


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tree(3, ((0, 1),)), "each node but the last must be a child"),
        (lambda: Tree(3, ((0, 1), (1, 2))), "child of exactly one node"),
        (lambda: Tree(4, ((0, 5), (1, 2), (4, 3))), "smaller numbers"),
        (lambda: Tree(2, ((0, 1), (2,), ())), "exactly one node|smaller numbers"),
        (lambda: Tree(0, ()), "nsites must be an integer of at least 1"),
        (lambda: Tree.balanced(4, 1), "arity must be an integer of at least 2"),
        (lambda: Tree.image(0, 3), "height must be an integer of at least 1"),
        (lambda: Tree.image(3, 3, ((1, 2),)), "join both rows and columns"),
        (lambda: Tree.image(3, 3, ()), "join both rows and columns"),
        (lambda: TTNSpec(arity=1), "arity must be an integer of at least 2"),
        (lambda: random(bond_dim=0), "bond_dim must be an integer of at least 1"),
        (lambda: random(n_outputs=0), "n_outputs must be an integer of at least 1"),
        (lambda: random(tree=Tree.balanced(5)), "5 leaves, but there are 6 sites"),
        (lambda: random(weights=np.ones((6, 3))), r"weights must have the shape \(6, 2\)"),
        (lambda: TTN([np.ones((2, 2))], Tree.balanced(3)), "2 nodes, got 1 arrays"),
        (lambda: TTN([np.ones(2)], Tree.balanced(2)), "has 1 axes where 2 are expected"),
        (lambda: TTN([np.ones((2, 2, 3)), np.ones((2, 2))], Tree.balanced(3)), "share a bond"),
    ],
)
def test_bad_trees_and_arrays(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bonds_are_no_larger_than_what_they_carry():
    ttn = random(9, bond_dim=10, phys_dim=2)
    assert ttn.bond_sizes() == (4, 4, 4, 4, 10, 10, 10)
    assert random(4, bond_dim=10, phys_dim=[2, 3, 2, 2]).bond_sizes() == (9, 9)


def test_inputs_outputs_and_sites():
    ttn = random(5, phys_dim=[2, 3, 2, 2, 4])
    assert ttn.nsites == 5
    assert [ttn.ind_size(f"k{i}") for i in range(5)] == [2, 3, 2, 2, 4]
    assert ttn.output_inds == ("out",)
    assert set(ttn.outer_inds()) == {"out", *(f"k{i}" for i in range(5))}
    assert "k1" in ttn["I1"].inds
    assert random(n_outputs=None).output_inds == ()
    assert from_quimb(ttn) is ttn


def test_what_quimb_does_keeps_the_class():
    ttn = random(8, bond_dim=4)
    whole = ttn.contract(output_inds=ttn.outer_inds()).data
    copied = ttn.copy()
    assert isinstance(copied, TTN)
    assert copied.tree == ttn.tree
    copied.compress_all_tree_(max_bond=4, cutoff=0)
    np.testing.assert_allclose(
        copied.contract(output_inds=ttn.outer_inds()).data, whole, atol=1e-6 * abs(whole).max()
    )
    copied.compress_all_tree_(max_bond=2)
    assert max(copied.bond_sizes()) == 2
    assert isinstance(ttn / 2.0, TTN)
    assert isinstance(ttn.view_as(qtn.TensorNetwork), qtn.TensorNetwork)
    figure = ttn.draw(color=["I0", "I1"], return_fig=True)
    assert figure.axes


@pytest.mark.parametrize("name", names("initializer"))
def test_nodes_are_drawn_from_their_own_stream(name):
    initializer = resolve("initializer", name)

    def arrays(seed):
        return [t.data for t in random(8, initializer=initializer, key=jax.random.key(seed))]

    for one, again, other in zip(arrays(1), arrays(1), arrays(2), strict=True):
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - other).max() > 1e-3
    first, second, *_ = arrays(1)
    assert np.abs(first - second).max() > 1e-3


def test_haar_nodes_are_isometries():
    ttn = random(8, bond_dim=4, initializer=resolve("initializer", "haar_unitary"))
    for i in range(len(ttn.tree.nodes) - 1):
        matrix = ttn.node(i).data.reshape(-1, ttn.node(i).shape[-1])
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-5)


@pytest.mark.parametrize("name", ["least_squares_identity", "identity"])
def test_the_start_without_noise_answers_with_its_bias_where_nothing_is_known(name):
    initializer = type(resolve("initializer", name))(std=0.0)
    weights = np.random.default_rng(0).uniform(0.2, 1, (6, 2))
    bias = np.array([0.3, -2.0, 1.0])
    ttn = random(
        6, initializer=initializer, weights=weights, output_std=0.0, output_bias=bias, n_outputs=3
    )
    # w . phi = 1, and for the identity on every component sum(phi) = 1.
    phi = weights if name == "least_squares_identity" else np.ones((6, 2))
    phi = phi / (phi**2).sum(axis=1, keepdims=True)
    vectors = [qtn.Tensor(v, [f"k{i}"]) for i, v in enumerate(phi)]
    outputs = qtn.TensorNetwork([*ttn, *vectors]).contract(output_inds=["out"]).data
    np.testing.assert_allclose(outputs, bias, rtol=1e-5)
