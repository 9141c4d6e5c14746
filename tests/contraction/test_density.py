"""Densities and squared norms, against dense contractions in float64."""

import functools

import jax
import numpy as np
import pytest
import scipy.cluster.hierarchy
import scipy.stats

from tn4ml_plus.contraction import (
    BornDensity,
    SquaredNorm,
    _density,
    as_tree,
    contract,
    log_norm_squared,
    pack,
    unpack,
)
from tn4ml_plus.networks import MERA, MPS, SMPO, TTN, MPSSpec, Tree


def chain(nsites, exponent=0.0, seed=0):
    """Open MPS of normal entries, ragged bonds and phys_dims."""
    rng = np.random.default_rng(seed)
    bonds = [2 + i % 3 for i in range(nsites - 1)]
    arrays = []
    for i in range(nsites):
        left, right = bonds[i - 1 : i] if i else [], bonds[i : i + 1]
        arrays.append(rng.normal(size=(*left, *right, 2 + i % 2)))
    network = MPS(arrays)
    network.exponent = exponent
    return network


def tree(tree, exponent=0.0, seed=0):
    """TTN of normal entries, ragged bonds and phys_dims."""
    rng = np.random.default_rng(seed)
    sizes = [2 + i % 2 for i in range(tree.nsites)] + [2 + i % 3 for i in range(len(tree.nodes))]
    arrays = []
    for i, children in enumerate(tree.nodes):
        up = [sizes[tree.nsites + i]] if i < len(tree.nodes) - 1 else []
        arrays.append(rng.normal(size=[sizes[child] for child in children] + up))
    network = TTN(arrays, tree)
    network.exponent = exponent
    return network


def linkage():
    merges = scipy.cluster.hierarchy.linkage([[0.0], [5.0], [0.4], [5.1], [2.0], [2.1]], "average")
    return Tree(6, tuple((int(a), int(b)) for a, b, *_ in merges))


NETWORKS = {
    "chain of 1": lambda: chain(1),
    "chain of 2": lambda: chain(2),
    "chain of 6": lambda: chain(6, exponent=-3.0),
    "chain, huge": lambda: chain(3, exponent=400.0),
    "tree of 1": lambda: tree(Tree.balanced(1)),
    "balanced": lambda: tree(Tree.balanced(5), exponent=2.5),
    "ternary": lambda: tree(Tree.balanced(6, 3)),
    "quadtree": lambda: tree(Tree.image(2, 3)),
    "linkage": lambda: tree(linkage()),
    "through": lambda: tree(Tree(3, ((0,), (1, 2), (4, 3)))),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def case(name):
    """Density, its probability tensor by a dense contraction, samples' vectors."""
    network = NETWORKS[name]()
    density = BornDensity(network)
    plain = network.copy()
    plain.exponent = 0.0
    inds = [f"k{i}" for i in range(density.nsites)]
    psi = plain.contract(output_inds=inds).transpose(*inds).data
    psi = psi / np.linalg.norm(psi)
    assert psi.shape == density.phys_dims
    rng = np.random.default_rng(1)
    phi = rng.normal(size=(7, density.nsites, max(density.phys_dims)))
    for i, d in enumerate(density.phys_dims):
        phi[:, i, d:] = 0
    return density, psi, phi


def patterns(density, batch=7, seed=2):
    """Which sites are missing: none, all, one site in all rows, and mixtures."""
    missing = np.random.default_rng(seed).random((batch, density.nsites)) < 0.5
    one = np.zeros_like(missing)
    one[:, 0] = True
    return [np.zeros_like(missing), np.ones_like(missing), one, ~one, missing]


def dense_environment(psi, phi, missing, kept=None):
    """Density matrix of one site, or the number without one, by brute force, of one sample."""
    nsites = psi.ndim
    operands = [psi, range(nsites), psi, range(nsites, 2 * nsites)]
    for i, d in enumerate(psi.shape):
        if i != kept:
            matrix = np.eye(d) if missing[i] else np.outer(phi[i, :d], phi[i, :d])
            operands += [matrix, [i, nsites + i]]
    out = [] if kept is None else [kept, nsites + kept]
    return np.einsum(*operands, out, optimize="greedy")


@every_network
def test_log_density_with_any_sites_missing(name):
    density, psi, phi = case(name)
    for missing in patterns(density):
        expected = [dense_environment(psi, *row) for row in zip(phi, missing, strict=True)]
        found = density.log_density(phi, missing)
        np.testing.assert_allclose(found, np.log(expected), rtol=0, atol=1e-11)
    np.testing.assert_array_equal(density.log_density(phi), density.log_density(phi, 0 * missing))


@every_network
def test_vectors_of_missing_sites_are_ignored(name):
    density, _, phi = case(name)
    missing = patterns(density)[-1]
    spoilt = np.where(missing[..., None], 1e6, phi)
    for method in (density.log_density, density.conditionals):
        np.testing.assert_allclose(method(spoilt, missing), method(phi, missing), rtol=1e-12)


@every_network
def test_conditionals(name):
    density, psi, phi = case(name)
    for missing in patterns(density):
        found = density.conditionals(phi, missing)
        for b, site in np.ndindex(len(phi), density.nsites):
            d = psi.shape[site]
            rho = dense_environment(psi, phi[b], missing[b], site)
            np.testing.assert_allclose(
                found[b, site, :d, :d], rho / np.trace(rho), rtol=0, atol=1e-11
            )
            assert not found[b, site, d:].any()


def draw_one_hot(rng, states):
    """A `draw` that picks basis vectors by the diagonal of rho and notes them in `states`."""

    def draw(site, rows, rho):
        p = np.diagonal(rho, axis1=1, axis2=2)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-9)
        drawn = (np.cumsum(p, axis=1) <= rng.random((len(rows), 1))).sum(axis=1)
        states[rows, site] = drawn
        return np.eye(rho.shape[-1])[drawn]

    return draw


def frequencies(density, missing, states):
    """Counts of all joint states when the sites that are not missing are in `states`."""
    phi = np.eye(max(density.phys_dims))[states]
    density.sample(phi, missing, draw_one_hot(np.random.default_rng(3), states))
    return np.bincount(np.ravel_multi_index(states.T, density.phys_dims))


def p_value(counts, p):
    """That of Pearson's test, the states expected less than 10 times taken together."""
    counts = np.append(counts, np.zeros(p.size - len(counts)))
    assert not counts[p.ravel() == 0].any()
    expected = p.ravel() * counts.sum()
    rare = (expected < 10) & (expected > 0)
    parts = [np.append(x[expected >= 10], x[rare].sum()) for x in (counts, expected)]
    return scipy.stats.chisquare(*(part if rare.any() else part[:-1] for part in parts)).pvalue


@every_network
def test_samples_follow_the_joint_probabilities(name):
    density, psi, _ = case(name)
    everything = np.ones((20000, density.nsites), bool)
    counts = frequencies(density, everything, np.zeros(everything.shape, int))
    assert p_value(counts, psi**2) > 1e-3
    if density.nsites > 1:
        # What sites drawn one by one from their marginals would follow.
        axes = set(range(psi.ndim))
        marginals = [np.sum(psi**2, axis=tuple(axes - {i})) for i in range(psi.ndim)]
        assert p_value(counts, functools.reduce(np.multiply.outer, marginals)) < 1e-9


@pytest.mark.parametrize("name", ["chain of 6", "quadtree", "linkage"])
def test_samples_given_some_sites_follow_the_conditional_probabilities(name):
    density, psi, _ = case(name)
    given = {1: 1, 4: 0}
    missing = np.ones((20000, 6), bool)
    missing[:, list(given)] = False
    states = np.tile([given.get(i, 0) for i in range(6)], (20000, 1))
    p = np.zeros_like(psi)
    where = tuple(given.get(i, slice(None)) for i in range(6))
    p[where] = psi[where] ** 2
    counts = frequencies(density, missing, states)
    assert p_value(counts, p / p.sum()) > 1e-3
    # Samples that forget what is given would have the marginal probabilities.
    forgotten = np.zeros_like(psi)
    forgotten[where] = np.sum(psi**2, axis=tuple(given))
    assert p_value(counts, forgotten) < 1e-9


def test_rows_of_different_given_sites_are_drawn_together():
    density, psi, _ = case("balanced")
    rng = np.random.default_rng(5)
    missing = rng.random((20000, 5)) < 0.5
    flat = rng.choice(psi.size, 20000, p=psi.ravel() ** 2)
    states = np.stack(np.unravel_index(flat, psi.shape), axis=1)
    given = states.copy()
    counts = frequencies(density, missing, states)
    np.testing.assert_array_equal(states[~missing], given[~missing])
    assert (states != given).any()
    # Exact samples with sites drawn anew given the rest are exact samples.
    assert p_value(counts, psi**2) > 1e-3


@pytest.mark.parametrize("name", ["chain of 6", "quadtree"])
def test_blocks_change_nothing(name, monkeypatch):
    density, _, phi = case(name)
    missing = patterns(density)[-1]

    def results():
        states = np.zeros(missing.shape, int)
        seen = []

        def draw(site, rows, rho):
            states[rows, site] = np.argmax(np.diagonal(rho, axis1=1, axis2=2), axis=1)
            seen.append(len(rows))
            return np.eye(rho.shape[-1])[states[rows, site]]

        density.sample(phi, missing, draw)
        found = density.log_density(phi, missing), density.conditionals(phi, missing), states
        return found, max(seen)

    whole, most = results()
    monkeypatch.setattr(_density, "_BLOCK", 1)
    parts, one = results()
    assert most > one == 1
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_no_rows():
    density, _, phi = case("balanced")
    assert density.log_density(phi[:0]).shape == (0,)
    assert density.conditionals(phi[:0]).shape == (0, 5, 3, 3)


@pytest.mark.parametrize("make", [MPS.random, TTN.random])
def test_784_sites_are_finite(make):
    network = make(784, bond_dim=4, key=jax.random.key(0))
    density = BornDensity(network)
    x = np.random.default_rng(0).uniform(size=(3, 784))
    phi = np.stack([1e3 * x, 1e-3 * (1 - x)], axis=-1)
    missing = x > 0.9
    assert np.isfinite(density.log_density(phi, missing)).all()
    rho = density.conditionals(phi, missing)
    np.testing.assert_allclose(np.trace(rho, axis1=2, axis2=3), 1)
    if make == MPS.random:
        packed, structure = pack(network)
        log_psi = contract(packed, structure, phi.astype("f4")).log_abs()
        expected = 2 * log_psi - log_norm_squared(packed, structure)
        np.testing.assert_allclose(density.log_density(phi), expected, rtol=1e-5)


def test_the_network_is_left_alone():
    network = chain(4)
    network[1].transpose_(*reversed(network[1].inds))
    before = [tensor.copy() for tensor in network]
    np.testing.assert_allclose(
        BornDensity(network).log_density(np.ones((1, 4, 3))),
        BornDensity(chain(4)).log_density(np.ones((1, 4, 3))),
    )
    for tensor, old in zip(network, before, strict=True):
        assert tensor.inds == old.inds
        np.testing.assert_array_equal(tensor.data, old.data)


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MPSSpec(cyclic=True).random(4, bond_dim=2, key=KEY), "cyclic=False"),
        (lambda: MPS.random(4, n_outputs=2, key=KEY), "without outputs.*isel or sum"),
        (lambda: TTN.random(4, n_outputs=2, key=KEY), "without outputs"),
        (lambda: MERA.random(4, bond_dim=2, key=KEY), "open chains or trees, this is a mera"),
        (lambda: SMPO.random(4, bond_dim=2, key=KEY), "without outputs.*b0"),
        (lambda: MPS([np.zeros((2, 2)), np.zeros((2, 2))]), "zero or not finite"),
        (lambda: MPS([np.full((2, 2), np.nan), np.ones((2, 2))]), "zero or not finite"),
    ],
)
def test_networks_without_a_density(make, message):
    with pytest.raises(ValueError, match=message):
        BornDensity(make())


def test_vectors_of_another_shape():
    density, _, phi = case("balanced")
    for wrong in (phi[:, :4], phi[..., :2], phi[0]):
        with pytest.raises(ValueError, match=r"shape \(batch, 5, 3\)"):
            density.log_density(wrong)


def test_as_tree_gives_the_same_network():
    for network in (chain(5), tree(Tree.image(2, 3))):
        shape, cores = as_tree(network)
        cores[-1] = cores[-1][..., 0]
        again = TTN(cores, shape)
        inds = [f"k{i}" for i in range(shape.nsites)]
        ours, theirs = (n.contract(output_inds=inds).transpose(*inds) for n in (again, network))
        np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-12)


# Squared norms ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "n_outputs"), [(MPS, 3), (TTN, None)])
def test_squared_norm(kind, n_outputs):
    with jax.enable_x64(True):
        network = kind.random(5, bond_dim=3, n_outputs=n_outputs, output_std=1.0, key=KEY)
        packed, structure = pack(network)
        squared = SquaredNorm(structure)
        phi = np.random.default_rng(0).normal(size=(4, 5, 2))
        outputs = np.asarray(contract(packed, structure, phi).dense()).reshape(4, -1)
        amplitude = contract(packed, squared, phi)
        np.testing.assert_allclose(amplitude.dense(), (outputs**2).sum(axis=1), rtol=1e-12)
        assert amplitude.value.shape == amplitude.exponent.shape == (4,)
        assert float(log_norm_squared(packed, squared)) == float(
            log_norm_squared(packed, structure)
        )
        scaled = squared.rescale(packed, 1.7)
        np.testing.assert_allclose(
            contract(scaled, squared, phi).log_abs(), amplitude.log_abs() + 1.7, rtol=1e-12
        )
        assert type(unpack(packed, squared)) is kind
        assert pack(unpack(packed, squared))[1] == structure
        assert squared.padded() == SquaredNorm(structure.padded())
        assert hash(squared) == hash(SquaredNorm(structure))
        sizes = squared.nsites, squared.phys_dim, squared.phys_dims, squared.output_dims
        assert sizes == (5, 2, (2,) * 5, ())


def test_squared_norm_has_no_limit_of_scale():
    packed, structure = pack(MPS.random(784, bond_dim=3, key=KEY))
    phi = np.full((2, 784, 2), 1e-3, "f4")
    squared = contract(packed, SquaredNorm(structure), phi).log_abs()
    np.testing.assert_allclose(squared, 2 * contract(packed, structure, phi).log_abs(), rtol=1e-5)
    assert (squared < -1e3).all()
