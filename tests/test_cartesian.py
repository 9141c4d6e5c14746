"""Every embedding x every initializer x every topology, in pairs.

An embedding reaches a network by its vectors, sizes and weights alone; an initializer reads those
and the shapes; a topology reads arrays. So a fault lies in one of them or where two meet, and the
tests hold every pair of values of every two axes instead of all triples, some of them at length.
"""

import dataclasses
import functools
import itertools
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quimb.tensor as qtn
from covering import mostly_of, pairs
from short_products import short_products_of

from tn4ml_plus._registry import lookup, names
from tn4ml_plus.contraction import calibrate, contract, pack, unpack
from tn4ml_plus.contraction._generic import GenericStructure
from tn4ml_plus.embeddings import (
    Embedded,
    GaussianRBF,
    Hat,
    Legendre,
    LinearComplement,
    OneHot,
    PatchAmplitude,
    Patches,
    PatchFRQI,
    PerFeature,
    Polynomial,
    PrincipalPatches,
    QuantumBasis,
    Trigonometric,
    UnitNorm,
)
from tn4ml_plus.initializers import least_squares_weights
from tn4ml_plus.networks import MPS, MERASpec, SMPOSpec
from tn4ml_plus.tables._reader import VectorMap

# All are zero-padded to this phys_dim, so that chains of one kind share their compiled code.
WIDEST = 5
SITES, LONG = 4, 784


def principal_patches(nsites):
    """Patches that do not overlap, with components of random images."""
    embedding = PrincipalPatches((2 * nsites, 2), (2, 2), (2, 2), padding=0, n_components=4)
    images = np.random.default_rng(1).uniform(size=(8, 4 * nsites))
    return embedding.for_data(images, np.ones(8))


MADE_BY_HAND = {
    "patch_amplitude": lambda nsites: PatchAmplitude((2 * nsites, 2), (2, 2)),
    "patch_frqi": lambda nsites: PatchFRQI((2 * nsites, 1), (2, 1)),
    "patches": lambda nsites: Patches((2 * nsites, 2), (2, 2)),
    "per_feature": lambda nsites: PerFeature((Legendre(), OneHot(4)) * (nsites // 2)),
    "principal_patches": principal_patches,
}
PARAMETRISED = [
    Embedded(3),
    GaussianRBF((-1.0, 0.0, 2.0), 3.0),
    Hat((-1.0, 0.0, 3.0)),
    Legendre(4, orthonormal=True),
    LinearComplement(3),
    OneHot(4),
    Polynomial(2, n=2),
    QuantumBasis(((1.0, 0.0), (0.6, 0.8), (1.0, 1.0))),
    Trigonometric(2),
    UnitNorm(GaussianRBF()),
]
EMBEDDINGS = {name: MADE_BY_HAND.get(name) for name in names("embedding")}
EMBEDDINGS |= {repr(embedding): lambda _, e=embedding: e for embedding in PARAMETRISED}
INITIALIZERS = names("initializer")
# cyclic, outputs, where: at the edge, in the middle, absent.
GEOMETRIES = list(itertools.product((False, True), ("edge", "middle", "absent")))


def embedding_of(name, nsites):
    make = EMBEDDINGS[name]
    return lookup("embedding", name)() if make is None else make(nsites)


@functools.cache
def embedded(name, nsites, batch):
    """Embedding, float64 vectors (batch, nsites, phys_dim) of samples inside its domain."""
    embedding = embedding_of(name, nsites)
    n_features = nsites * embedding.site_features
    rng = np.random.default_rng(0)
    columns = []
    parts = getattr(embedding, "embeddings", (embedding,) * n_features)
    for part, (low, high) in zip(parts, embedding.domains(n_features), strict=True):
        if part.discrete:
            columns.append(rng.integers(int(low), int(high) + 1, batch))
        else:
            columns.append(rng.uniform(max(low, -3), min(high, 3), batch))
    with jax.enable_x64(True):
        phi = jax.jit(embedding.embed)(np.stack(columns, axis=1).astype(float))
        return embedding, np.asarray(phi)


def started(name, initializer, nsites, batch):
    """What networks are made with for an embedding, and its samples, as in the estimators."""
    embedding, phi = embedded(name, nsites, batch)
    n_features = nsites * embedding.site_features
    weights = embedding.site_unit_weights(n_features)
    if weights is None:
        weights = least_squares_weights(phi)
        phi = phi / np.maximum(np.einsum("bis,is->bi", phi, weights), 0.1)[..., None]
    options = {
        "phys_dim": embedding.phys_dims(n_features),
        "initializer": lookup("initializer", initializer)(),
        "weights": weights,
        "key": jax.random.key(len(name)),
    }
    return options, phi


def chain(name, initializer, geometry, nsites, batch, bond_dim):
    """MPS for an embedding and its samples."""
    cyclic, where = geometry
    options, phi = started(name, initializer, nsites, batch)
    mps = MPS.random(
        nsites,
        bond_dim=bond_dim,
        n_outputs=None if where == "absent" else 2,
        output_site=0 if where == "edge" else None,
        cyclic=cyclic,
        **options,
    )
    return mps, phi


def widened(mps, phi):
    """Packed chain, its structure and samples, all of phys_dim `WIDEST`."""
    packed, structure = pack(mps)
    missing = WIDEST - structure.phys_dim
    axes = {"left": 2, "center": 1, "right": 2}
    padded = {
        part: np.pad(array, [(0, missing * (axis == axes[part])) for axis in range(array.ndim)])
        for part, array in packed.items()
    }
    widest = dataclasses.replace(structure, phys_dims=(WIDEST,) * mps.L)
    return padded, widest, np.pad(phi, [(0, 0), (0, 0), (0, missing)])


def dense(mps, phi, weights):
    """Outputs, and the chain whose arrays are the gradients of sum(weights * outputs)."""
    letters = {}

    def subscripts(inds):
        for ind in inds:
            letters.setdefault(ind, string.ascii_letters[len(letters)])
        return "".join(map(letters.get, inds))

    sites = [mps[i] for i in range(mps.L)]
    terms = [subscripts(t.inds) for t in sites]
    terms += [subscripts(["batch", mps.site_ind(i)]) for i in range(mps.L)]
    out = subscripts(["batch", *mps.output_inds])
    vectors = [phi[:, i, : t.ind_size(mps.site_ind(i))] for i, t in enumerate(sites)]
    arrays = [*(t.data for t in sites), *vectors]
    outputs = np.einsum(",".join(terms) + "->" + out, *arrays, optimize=True)
    gradient = mps.copy()
    for i, term in enumerate(terms[: mps.L]):
        others = [*terms[:i], *terms[i + 1 :], out]
        operands = [*arrays[:i], *arrays[i + 1 :], weights]
        gradient[i].modify(data=np.einsum(",".join(others) + "->" + term, *operands, optimize=True))
    return outputs, gradient


@functools.partial(jax.jit, static_argnums=1)
def differentiate(packed, structure, phi, weights):
    """Outputs and the gradient of sum(weights * outputs)."""

    def total(packed):
        outputs = contract(packed, structure, phi).dense()
        return jnp.sum(weights * outputs), outputs

    gradient, outputs = jax.grad(total, has_aux=True)(packed)
    return outputs, gradient


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_vectors_ask_for_all_digits(name):
    embedding = embedding_of(name, SITES)
    U = np.ones((5, SITES * embedding.site_features), np.float32)
    divisors = np.ones((SITES, embedding.phys_dim), np.float32)
    embedding, learned = embedding.split()
    learned = jax.tree.map(lambda array: np.asarray(array, np.float32), learned)
    gaps = divisors if embedding.site_features == 1 else None
    vectors = VectorMap(embedding, learned, U[0], divisors, gaps)
    assert short_products_of(lambda embed, U: embed(U), vectors, U, least=0) == []


@functools.partial(jax.jit, static_argnums=1)
def mean_value(packed, structure, phi):
    """Amplitude and the gradient of the mean of its value."""

    def mean(packed):
        amplitude = contract(packed, structure, phi)
        return jnp.mean(amplitude.value), amplitude

    gradient, amplitude = jax.grad(mean, has_aux=True)(packed)
    return amplitude, gradient


def test_no_embedding_is_left_out():
    for name in EMBEDDINGS:
        embedding, phi = embedded(name, SITES, 5)
        assert phi.shape[1:] == (SITES, embedding.phys_dim)
        assert embedding.phys_dim <= WIDEST
    assert len(INITIALIZERS) >= 5
    # Those that come later shall be among the long networks, too.
    assert set(names("network")) <= {spec.partition(",")[0] for spec, *_ in NOT_LONG}


@pytest.mark.parametrize(
    ("name", "initializer", "geometry"), pairs(list(EMBEDDINGS), INITIALIZERS, GEOMETRIES), ids=str
)
def test_outputs_and_gradients_equal_a_dense_contraction(name, initializer, geometry):
    with jax.enable_x64(True):
        mps, phi = chain(name, initializer, geometry, SITES, batch=5, bond_dim=3)
        assert all(t.dtype == "float64" for t in mps)
        weights = np.random.default_rng(1).normal(size=(5, *(2,) * len(mps.output_inds)))
        packed, structure, wide = widened(mps, phi)
        outputs, gradient = differentiate(packed, structure, wide, weights)
        expected, expected_gradient = dense(mps, phi, weights)
        expected_gradient, _, _ = widened(expected_gradient, phi)
        assert outputs.dtype == np.float64
        close = functools.partial(np.testing.assert_allclose, rtol=1e-9)
        close(outputs, expected, atol=1e-12 * np.abs(expected).max())
        largest = max(np.abs(g).max(initial=0) for g in expected_gradient.values())
        assert largest > 0
        for part, array in gradient.items():
            close(array, expected_gradient[part], atol=1e-12 * largest)
        again = unpack(*pack(mps.copy()))
        np.testing.assert_array_equal(
            mps.contract(output_inds=mps.outer_inds()).data,
            again.contract(output_inds=mps.outer_inds()).data,
        )


def assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    ("name", "initializer", "geometry"),
    # Every chain and, by this seed, every initializer; each embedding is tried in single precision
    # by its own tests.
    mostly_of(pairs(names("embedding"), INITIALIZERS, GEOMETRIES), 2, seed=9),
    ids=str,
)
def test_long_chains_are_finite_in_single_precision(name, initializer, geometry):
    mps, phi = chain(name, initializer, geometry, LONG, batch=3, bond_dim=4)
    packed, structure, phi = widened(mps, phi.astype(np.float32))
    assert packed["center"].dtype == np.float32
    packed = calibrate(packed, structure, phi, std=0.1)
    amplitude, gradient = mean_value(packed, structure, phi)
    assert amplitude.exponent.dtype == np.int32
    assert_finite((amplitude, gradient))
    outputs = np.asarray(amplitude.dense())
    np.testing.assert_allclose(np.sqrt(np.mean(outputs**2)), 0.1, rtol=1e-3)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


# Those with their defaults are found by themselves. Beside them, what options change most.
SPECS = {name: lookup("network", name)() for name in names("network")} | {
    "mera, cyclic": MERASpec(cyclic=True),
    "smpo, spacing": SMPOSpec(spacing=2),
    "smpo, cyclic": SMPOSpec(spacing=2, cyclic=True),
    "smpo, one output": SMPOSpec(output_sites=(1,)),
}
# Each class, embedding and initializer once; of the MERAs, of seconds each, the open one.
NOT_LONG = [
    ("mera", "gram_schmidt", "legendre"),
    ("mpo", "least_squares_identity", "patches"),
    ("mps", "haar_unitary", "trigonometric"),
    ("smpo, cyclic", "random_normal", "per_feature"),
    ("ttn", "identity", "per_feature"),
]
# Name of the spec, n_outputs.
TOPOLOGIES = list(itertools.product(SPECS, (None, 2)))


@functools.partial(jax.jit, static_argnums=1)
def evaluate(packed, structure, phi):
    """Plain outputs."""
    return contract(packed, structure, phi).dense()


def made(topology, nsites, **options):
    """Network of a topology."""
    spec, n_outputs = topology
    return SPECS[spec].random(nsites, n_outputs=n_outputs, **options)


def whole(network):
    """Dense array of a network, inputs first."""
    inputs = [f"k{i}" for i in range(SITES)]
    return network.contract(output_inds=[*inputs, *network.output_inds]).data


# What meets here and not above are topologies and initializers; all else is long.
@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("name", "topology", "initializer"),
    mostly_of(pairs(names("embedding"), TOPOLOGIES, INITIALIZERS), 1, 2),
    ids=str,
)
def test_other_topologies_equal_a_dense_contraction(name, topology, initializer):
    with jax.enable_x64(True):
        options, phi = started(name, initializer, SITES, batch=5)
        network = made(topology, SITES, bond_dim=3, **options)
        packed, structure = pack(network)
        outputs = np.asarray(evaluate(packed, structure.padded(), phi))
        dense = whole(network)
        vectors = [phi[:, i, :d] for i, d in enumerate(dense.shape[:SITES])]
        expected = np.einsum("abcd...,za,zb,zc,zd->z...", dense, *vectors, optimize="greedy")
        np.testing.assert_allclose(
            outputs, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max()
        )
        again = unpack(packed, structure)
        assert type(again) is type(network)
        # What quimb contracts may differ in the last digit, with where its arrays lie.
        tiny = 1e-14 * np.abs(dense).max()
        np.testing.assert_allclose(whole(again), dense, rtol=1e-10, atol=tiny)
        jax.tree.map(np.testing.assert_array_equal, pack(again)[0], packed)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_networks_survive_what_quimb_does_with_them(topology):
    options, _ = started("legendre", INITIALIZERS[0], SITES, batch=5)
    network = made(topology, SITES, bond_dim=3, **options)
    plain = network.copy().view_as(qtn.TensorNetwork)
    assert type(plain) is qtn.TensorNetwork
    for again in (network.copy(), plain.view_like(network), unpack(*pack(network.copy()))):
        assert type(again) is type(network)
        assert again.output_inds == network.output_inds
        np.testing.assert_allclose(whole(again), whole(network), rtol=1e-5, atol=1e-6)


@functools.cache
def long(topology):
    """Number of sites that a topology is asked to bear: 784 of those with kernels of their own.

    On the generic route programs, and for some geometries intermediates, grow with the sites.
    """
    options, _ = started("legendre", INITIALIZERS[0], 8, batch=1)
    _, structure = pack(made(topology, 8, bond_dim=2, **options))
    return 32 if isinstance(structure, GenericStructure) else LONG


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("spec", "initializer", "name"),
    [
        *NOT_LONG,
        *(
            pytest.param(*row, marks=pytest.mark.long)
            for row in pairs(
                list(SPECS), INITIALIZERS, ["legendre", "trigonometric", "patches", "per_feature"]
            )
            if row not in NOT_LONG
        ),
    ],
)
def test_long_networks_are_finite_in_single_precision(spec, initializer, name):
    topology = spec, 2
    nsites = long(topology)
    options, phi = started(name, initializer, nsites, batch=3)
    packed, structure = pack(made(topology, nsites, bond_dim=4, **options))
    packed = calibrate(packed, structure.padded(), phi.astype(np.float32), std=0.1)
    amplitude, gradient = mean_value(packed, structure.padded(), phi.astype(np.float32))
    assert_finite((amplitude, gradient))
    outputs = np.asarray(amplitude.dense())
    np.testing.assert_allclose(np.sqrt(np.mean(outputs**2)), 0.1, rtol=1e-3)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
