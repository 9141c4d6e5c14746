"""Compression: exact where nothing is cut, bounded and near optimal where something is."""

import jax
import numpy as np
import pytest

from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.inspection import bond_entropies, compress
from tn4ml_plus.networks import MPO, MPS, SMPO, TTN, Tree

NSITES = 8
NETWORKS = {
    "chain": lambda key, **o: MPS.random(NSITES, key=key, **o),
    "end": lambda key, **o: MPS.random(NSITES, output_site=0, key=key, **o),
    "tree": lambda key, **o: TTN.random(NSITES, key=key, **o),
    "ternary": lambda key, **o: TTN.random(
        NSITES, tree=Tree(8, ((0, 1, 2), (8, 3), (9, 4, 5, 6, 7))), key=key, **o
    ),
}
SIZES = {"bond_dim": 5, "phys_dim": 2, "n_outputs": 3}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def gram(seed=0):
    matrix = np.random.default_rng(seed).normal(size=(2, 2))
    return matrix @ matrix.T + 0.3 * np.eye(2)


def made(kind, seed=0, noise=1.0):
    """A network far from a product, with all bonds in use."""
    network = NETWORKS[kind](jax.random.key(seed), **SIZES)
    rng = np.random.default_rng(seed)
    network.apply_to_arrays(lambda a: np.asarray(a, float) + noise * rng.normal(size=a.shape))
    return network


def dense(network, grams=None):
    """The states of all outputs, (2**NSITES, outputs), in orthonormal bases of the sites."""
    sites = [network.site_ind(i) for i in range(NSITES)]
    state = network.to_dense(sites, network.output_inds)
    for i in range(NSITES if grams is not None else 0):
        values, vectors = np.linalg.eigh(grams)
        root = vectors * np.sqrt(values) @ vectors.T
        state = np.tensordot(state.reshape(2**i, 2, -1), root, (1, 1)).swapaxes(1, 2)
    return state.reshape(2**NSITES, -1)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("grams", [None, gram()], ids=["one", "gram"])
def test_nothing_is_lost_without_limits(kind, grams, x64):
    network = made(kind)
    found = compress(network, cutoff=0.0, grams=grams)
    assert type(found) is type(network)
    np.testing.assert_allclose(dense(found), dense(network), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("grams", [None, gram()], ids=["one", "gram"])
def test_the_error_is_at_most_what_all_bonds_leave_out(kind, grams, x64):
    network = made(kind)
    before, whole = dense(network, grams), compress(network, cutoff=0.0, grams=grams)
    total = np.sum(before**2)
    for max_bond, cutoff in ((2, 0.0), (None, 0.01)):
        found = compress(network, max_bond, cutoff, grams)
        error = np.sum((dense(found, grams) - before) ** 2) / total
        assert 1e-6 < error < 1
        sizes = found.bond_sizes()
        assert sizes != whole.bond_sizes()
        # Of each bond the best that any network of its size can do, from the dense state.
        best = [
            1 - np.sum(np.linalg.svd(matrix, compute_uv=False)[:size] ** 2) / total
            for matrix, size in zip(unfoldings(network, before), sizes, strict=True)
        ]
        assert max(best) - 1e-12 <= error <= sum(best) + 1e-12
        if cutoff:
            assert max(best) <= cutoff
            # One direction less would leave out more than it may.
            fewer = [
                1 - np.sum(np.linalg.svd(matrix, compute_uv=False)[: size - 1] ** 2) / total
                for matrix, size in zip(unfoldings(network, before), sizes, strict=True)
            ]
            assert min(fewer) > cutoff


def unfoldings(network, state):
    """The dense state (2**n, outputs) as a matrix of what is below a bond and what is above."""
    tensor = state.reshape(*(2,) * NSITES, -1)
    if isinstance(network, TTN):
        below = [{site} for site in range(NSITES)]
        for children in network.tree.nodes:
            below.append(set.union(*(below[child] for child in children)))
        below = below[NSITES:-1]
    else:
        # All of what is to the left; where that has the outputs, what is to the right.
        center = next(i for i in range(NSITES) if network.output_inds[0] in network[i].inds)
        below = [
            set(range(i + 1)) if i < center else set(range(i + 1, NSITES))
            for i in range(NSITES - 1)
        ]
    for sites in below:
        order = [*sorted(sites), *sorted(set(range(NSITES)) - sites), NSITES]
        yield tensor.transpose(order).reshape(2 ** len(sites), -1)


def test_the_gram_matrix_decides_what_is_kept(x64):
    network = made("chain")
    grams = np.diag([1.0, 1e-8])
    with_metric, without = (compress(network, 2, 0.0, g) for g in (grams, None))
    before = dense(network, grams)
    errors = [np.sum((dense(n, grams) - before) ** 2) for n in (with_metric, without)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("kind", [SMPO, MPO])
def test_operators(kind, x64):
    more = {"spacing": 2} if kind is SMPO else {}
    network = kind.random(6, bond_dim=6, key=jax.random.key(0), **more)
    network.apply_to_arrays(lambda a: np.asarray(a, float))
    rng = np.random.default_rng(0)
    network.apply_to_arrays(lambda a: a + rng.normal(size=a.shape))
    same, smaller = compress(network, cutoff=0.0), compress(network, 3)
    assert max(smaller.bond_sizes()) == 3
    before, after, cut = (n.contract(all).data for n in (network, same, smaller))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9 * np.abs(before).max())
    assert 0 < np.linalg.norm(cut - before) < np.linalg.norm(before)


@pytest.mark.parametrize("kind", [MPS, pytest.param(TTN, marks=pytest.mark.long)])
def test_many_sites_in_single_precision(kind):
    network = kind.random(
        784, bond_dim=6, n_outputs=3, weights=np.ones((784, 2)), key=jax.random.key(0)
    )  # fmt: skip
    smaller = compress(network, 3, 0.0)
    assert max(smaller.bond_sizes()) == 3
    assert {t.dtype for t in smaller} == {t.dtype for t in network}
    entropies = bond_entropies(smaller)
    assert np.isfinite(entropies).all()
    # Near the identity, three directions are almost all that there is.
    phi = np.random.default_rng(0).uniform(size=(5, 784, 2))
    phi[..., 1] = 1 - phi[..., 0]
    outputs = [np.asarray(contract(*pack(n), phi).dense()) for n in (network, smaller)]
    assert np.isfinite(outputs[1]).all()
    assert 0 < np.abs(outputs[1] - outputs[0]).max() < 0.2 * np.abs(outputs[0]).max()


def test_bad_input():
    ring = MPS.random(6, bond_dim=3, cyclic=True, key=jax.random.key(0))
    with pytest.raises(ValueError, match="needs open ends, cyclic=False"):
        compress(ring)
    chain = MPS.random(6, bond_dim=3, key=jax.random.key(0))
    for options, message in (
        ({"max_bond": 0}, "max_bond must be"),
        ({"cutoff": 1.0}, "cutoff must be"),
        ({"grams": np.eye(3)}, "grams must have the shape"),
    ):
        with pytest.raises(ValueError, match=message):
            compress(chain, **options)
