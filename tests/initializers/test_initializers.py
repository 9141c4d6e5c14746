"""Fresh cores: one stream of numbers a site, the identity, orthonormality, statistics."""

import functools

import jax
import numpy as np
import pytest

from tn4ml_plus._registry import from_json, lookup, names, resolve, to_json
from tn4ml_plus.embeddings import GaussianRBF, Hat, Legendre, LinearComplement, Polynomial
from tn4ml_plus.initializers import (
    GramSchmidt,
    HaarUnitary,
    Identity,
    LeastSquaresIdentity,
    Noiseless,
    RandomNormal,
    generators,
    least_squares_weights,
)
from tn4ml_plus.networks import MPS

SHAPE = (3, 2, 3)
WEIGHTS = (0.75, 0.25)
every_initializer = pytest.mark.parametrize(
    "initializer", [resolve("initializer", name) for name in names("initializer")], ids=repr
)


def core(initializer, shape=SHAPE, seed=0, fan=100):
    return initializer(np.random.default_rng(seed), shape, WEIGHTS[: shape[1]], fan)


@every_initializer
def test_each_site_differs(initializer):
    mps = MPS.random(6, bond_dim=4, n_outputs=2, initializer=initializer, key=jax.random.key(0))
    bulk = [mps[i].data for i in (1, 2, 4)]
    for i, array in enumerate(bulk):
        for other in bulk[:i]:
            assert np.abs(array - other).max() > 1e-3


@every_initializer
def test_same_key_same_arrays_and_other_key_other_arrays(initializer):
    def arrays(seed):
        mps = MPS.random(4, n_outputs=2, initializer=initializer, key=jax.random.key(seed))
        return [tensor.data for tensor in mps]

    for one, again, other in zip(arrays(1), arrays(1), arrays(2), strict=True):
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()


def test_old_style_keys_work_and_generators_are_independent():
    one, other = generators(jax.random.PRNGKey(3), 2)
    assert abs(np.corrcoef(one.normal(size=4000), other.normal(size=4000))[0, 1]) < 0.06
    first, _ = generators(jax.random.key(3), 2)
    assert first.normal(size=4000).mean() != other.normal(size=4000).mean()


@every_initializer
def test_add_identity_adds_the_identity(initializer):
    added = type(initializer)(add_identity=True)
    plain = type(initializer)(add_identity=False)
    scale = (1.0, 1.0) if isinstance(initializer, Identity) else WEIGHTS
    for shape in (SHAPE, (1, 2, 4), (4, 2, 1)):
        difference = core(added, shape) - core(plain, shape)
        eye = np.eye(shape[0], shape[2])
        np.testing.assert_allclose(difference[:, 0], scale[0] * eye, atol=1e-15)
        np.testing.assert_allclose(difference[:, 1], scale[1] * eye, atol=1e-15)
    noiseless = core(Noiseless(added))
    np.testing.assert_array_equal(noiseless, core(Noiseless(added), seed=5))
    np.testing.assert_allclose(noiseless, core(added) - core(plain), atol=1e-15)
    assert not core(Noiseless(plain)).any()


def test_the_identity_shows_in_the_cores_of_a_chain():
    for name in names("initializer"):
        arrays = {}
        for add_identity in (True, False):
            initializer = lookup("initializer", name)(add_identity=add_identity)
            mps = MPS.random(5, bond_dim=3, initializer=initializer, key=jax.random.key(0))
            arrays[add_identity] = mps[1].data
        difference = (arrays[True] - arrays[False]) / (1 if name == "identity" else 0.5)
        np.testing.assert_allclose(difference, np.eye(3)[..., None] * np.ones(2), atol=1e-5)


@pytest.mark.parametrize("initializer", [GramSchmidt(), HaarUnitary()], ids=repr)
@pytest.mark.parametrize("shape", [(3, 2, 3), (1, 2, 3), (2, 5, 4), (6, 2, 3)])
def test_rows_are_orthonormal(initializer, shape):
    rows = core(initializer, shape).reshape(shape[0], -1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(shape[0]), atol=1e-12)


@pytest.mark.parametrize("initializer", [GramSchmidt(), HaarUnitary()], ids=repr)
def test_columns_are_orthonormal_where_there_are_more_rows(initializer):
    matrix = core(initializer, (9, 2, 3)).reshape(9, 6)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(6), atol=1e-12)


def test_gram_schmidt_starts_from_its_first_row():
    rows = core(GramSchmidt()).reshape(3, 6)
    uniform = np.random.default_rng(0).uniform(size=SHAPE).reshape(3, 6)
    np.testing.assert_allclose(rows[0], uniform[0] / np.linalg.norm(uniform[0]), rtol=1e-12)
    assert (rows[0] > 0).all()
    # Every row lies in the span of the uniform rows up to its own.
    np.testing.assert_allclose(np.triu(rows @ uniform.T).diagonal() > 0, True)
    np.testing.assert_allclose(np.triu((uniform @ rows.T), 1), 0, atol=1e-12)


def test_haar_isometries_have_the_moments_of_the_haar_measure():
    rng = np.random.default_rng(0)
    count, n = 4000, 4
    q = np.stack([HaarUnitary().noise(rng, (n, 1, n), 1).reshape(n, n) for _ in range(count)])
    # Of an orthogonal n x n matrix: E q = 0, E q^2 = 1/n, E q^4 = 3 / (n (n + 2)), E tr = 0,
    # E tr^2 = 1; signs of the determinant are equally frequent.
    error = 5 / np.sqrt(count)
    np.testing.assert_allclose(q.mean(axis=0), 0, atol=error / 2)
    np.testing.assert_allclose((q**2).mean(axis=0), 1 / n, atol=error / 4)
    np.testing.assert_allclose((q**4).mean(), 3 / (n * (n + 2)), atol=error / 8)
    trace = np.trace(q, axis1=1, axis2=2)
    assert abs(trace.mean()) < error
    assert abs((trace**2).mean() - 1) < 2 * error
    assert abs(np.linalg.det(q).mean()) < error


@pytest.mark.parametrize(
    ("initializer", "std"),
    [
        (RandomNormal(0.3), 0.3),
        (Identity(0.3, add_identity=False), 0.3),
        (LeastSquaresIdentity(0.3, add_identity=False), 0.3),
        (LeastSquaresIdentity(None, add_identity=False), (0.5 / 100) ** 0.5),
    ],
    ids=repr,
)
def test_normal_entries(initializer, std):
    entries = core(initializer, (40, 2, 40)).ravel() / std
    assert abs(entries.mean()) < 5 / np.sqrt(entries.size)
    assert abs(entries.std() - 1) < 5 / np.sqrt(2 * entries.size)
    assert abs((entries**4).mean() - 3) < 0.5


@pytest.mark.parametrize("nsites", [16, 400])
def test_noise_grows_a_state_to_about_its_identity_part(nsites):
    rng, bond = np.random.default_rng(0), 8
    state = np.eye(bond)[0]
    for _ in range(nsites):
        state = (
            state @ LeastSquaresIdentity(None)(rng, (bond, 1, bond), (1.0,), nsites * bond)[:, 0]
        )
    assert 0.3 < np.linalg.norm(state) < 3


@pytest.mark.parametrize(
    "embedding",
    [Legendre(4), LinearComplement(), LinearComplement(3), Hat(), GaussianRBF(), Polynomial(2)],
    ids=repr,
)
def test_weights_are_exact_for_partitions_of_unity(embedding):
    low, high = embedding.domain
    X = np.random.default_rng(0).uniform(low, high, (50, 3))
    with jax.enable_x64(True):
        phi = np.asarray(embedding.embed(X))
    w = least_squares_weights(phi, ridge=1e-13)
    np.testing.assert_allclose(np.einsum("bis,is->bi", phi, w), 1, atol=1e-5)
    ridged = least_squares_weights(phi)
    assert np.abs(np.einsum("bis,is->bi", phi, ridged) - 1).max() < 0.05


def test_weights_solve_the_normal_equations():
    phi = np.random.default_rng(1).normal(size=(200, 2, 3)) + 1
    w = least_squares_weights(phi, ridge=0)
    for i in range(2):
        expected = np.linalg.lstsq(phi[:, i], np.ones(200), rcond=None)[0]
        np.testing.assert_allclose(w[i], expected, rtol=1e-10)


def test_sample_weights_count_as_repetitions():
    rng = np.random.default_rng(2)
    phi = rng.normal(size=(30, 2, 3)) + 0.5
    repeats = rng.integers(0, 4, 30)
    weighted = least_squares_weights(phi, sample_weight=repeats)
    repeated = least_squares_weights(np.repeat(phi, repeats, axis=0))
    np.testing.assert_allclose(weighted, repeated, rtol=1e-10)
    assert not np.allclose(weighted, least_squares_weights(phi))


def test_components_that_never_occur_get_no_weight():
    phi = np.random.default_rng(3).uniform(size=(20, 2, 3))
    phi[:, 0, 2] = 0
    w = least_squares_weights(phi)
    assert w[0, 2] == 0
    np.testing.assert_allclose(
        w[0, :2], least_squares_weights(phi[:, :, :2], ridge=1e-3 * 2 / 3)[0], rtol=1e-10
    )
    assert np.isfinite(least_squares_weights(np.zeros((4, 1, 2)))).all()


def test_all_but_the_identity_bring_samples_together():
    for initializer in (LeastSquaresIdentity(), RandomNormal(add_identity=True)):
        assert initializer.spread(64) == Noiseless(initializer).spread(64) == 1
    for initializer in (
        RandomNormal(), LeastSquaresIdentity(add_identity=False), Identity(), GramSchmidt(),
        GramSchmidt(add_identity=True), HaarUnitary(),
    ):  # fmt: skip
        assert initializer.spread(64) == Noiseless(initializer).spread(64) == 1 / 8


@every_initializer
def test_storable_and_hashable(initializer):
    assert from_json(to_json(initializer)) == initializer
    assert hash(initializer) == hash(resolve("initializer", initializer))


@pytest.mark.parametrize("cls", [RandomNormal, Identity, LeastSquaresIdentity])
@pytest.mark.parametrize("std", [-1.0, float("nan"), float("inf"), "0.1", [0.1], True])
def test_bad_std(cls, std):
    with pytest.raises(ValueError, match="std must be a finite number of at least 0"):
        cls(std=std)


def test_shapes_and_dtype():
    for name in names("initializer"):
        make = functools.partial(core, resolve("initializer", name))
        for shape in (SHAPE, (1, 2, 1), (5, 2, 1)):
            assert make(shape).shape == shape
            assert make(shape).dtype == np.float64
