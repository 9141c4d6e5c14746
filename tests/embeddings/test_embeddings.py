"""Every registered embedding against formulas written here in NumPy and SciPy."""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.special
from sklearn.decomposition import PCA

from tn4ml_plus import embeddings
from tn4ml_plus._registry import from_json, lookup, names, resolve, snake_case, to_json
from tn4ml_plus.embeddings import (
    Embedded,
    Embedding,
    Fourier,
    GaussianRBF,
    Hat,
    Hermite,
    Laguerre,
    Legendre,
    LinearComplement,
    OneHot,
    Orthonormal,
    PatchAmplitude,
    Patches,
    PatchFRQI,
    PerFeature,
    Periodic,
    Polynomial,
    PrincipalPatches,
    QuantumBasis,
    SpinCoherent,
    Trigonometric,
    TrigonometricAverage,
    TrigonometricChain,
    UnitNorm,
    UnitSum,
    WithMissing,
)


def trigonometric(x, k=1):
    return [f(math.pi * x / 2**i) / math.sqrt(k) for i in range(1, k + 1) for f in (np.cos, np.sin)]


def waves(x, harmonics):
    angles = 2 * math.pi * x * np.arange(1, harmonics + 1)
    return [1, *(math.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], 1).ravel())]


def fourier(x, p):
    k = np.arange(p)
    return [abs(np.exp(2j * np.pi * k * ((p - 1) * x - j) / p).sum()) / p for j in range(p)]


def spin_coherent(x, d):
    c, s = math.cos(math.pi * x / 2), math.sin(math.pi * x / 2)
    return [math.sqrt(math.comb(d - 1, m)) * c ** (d - 1 - m) * s**m for m in range(d)]


def legendre(x, degree, orthonormal=False):
    return [
        scipy.special.eval_legendre(k, x) * (math.sqrt((2 * k + 1) / 2) if orthonormal else 1)
        for k in range(degree + 1)
    ]


def laguerre(x, degree):
    return [math.exp(-x / 2) * scipy.special.eval_laguerre(k, x) for k in range(degree + 1)]


def hermite(x, degree, orthonormal=False):
    values = []
    for k in range(degree + 1):
        norm = math.sqrt(2**k * math.factorial(k) * math.sqrt(math.pi)) if orthonormal else 1
        values.append(math.exp(-(x**2) / 2) * scipy.special.eval_hermite(k, x) / norm)
    return values


def rbf(x, centers, gamma):
    bumps = np.exp(-gamma * (x - np.array(centers)) ** 2)
    return bumps / bumps.sum()


def hat(x, knots):
    return [np.interp(x, knots, row) for row in np.eye(len(knots))]


def one_of(x, states):
    known = x in range(len(states))
    return np.array(states[int(x)], float) if known else np.mean(states, axis=0)


def unit_norm(phi):
    return np.array(phi) / np.linalg.norm(phi)


def unit_sum(phi, w):
    return np.array(phi) / np.dot(w, phi)


def orthonormal(phi, gram):
    return np.linalg.solve(np.linalg.cholesky(gram), phi)


def patches(image, height, width, h, w):
    """Patches that tile the image, channels kept, by the definition."""
    return windows(image, height, width, h, w, (h, w), 0)


def windows(image, height, width, h, w, stride, padding):
    """Patches of a padded image, row by row, by the definition."""
    image = np.reshape(image, (height, width, -1))
    image = np.pad(image, [(padding, padding)] * 2 + [(0, 0)])
    tops = range(0, image.shape[0] - h + 1, stride[0])
    lefts = range(0, image.shape[1] - w + 1, stride[1])
    return [image[i : i + h, j : j + w].ravel() for i in tops for j in lefts]


def frqi(pixels):
    cos, sin = np.cos(np.pi / 2 * pixels), np.sin(np.pi / 2 * pixels)
    address = np.eye(len(pixels))
    state = sum(np.kron([c, s], address[j]) for j, (c, s) in enumerate(zip(cos, sin, strict=True)))
    return state / math.sqrt(len(pixels))


def amplitude(pixels):
    norm = np.linalg.norm(pixels)
    return pixels / norm if norm > 0 else np.full(len(pixels), len(pixels) ** -0.5)


def affine(pixels, offset=0.3, scale=0.5):
    return np.concatenate([[1.0], scale * (pixels - offset)])


IMAGES = np.random.default_rng(4).uniform(size=(60, 24)) ** np.arange(1, 25)
overlapping = functools.partial(windows, height=3, width=4, h=2, w=2, stride=(1, 2), padding=1)
PRINCIPAL = PrincipalPatches((3, 4, 2), (2, 2), (1, 2), padding=1, n_components=3, scale=0.7)


@functools.cache
def pca():
    return PCA(3).fit(np.concatenate([overlapping(image) for image in IMAGES]))


def principal(patch):
    """The leading components, by scikit-learn."""
    signs = [np.sign(c[np.abs(c).argmax()]) for c in pca().components_]
    z = pca().transform(patch[None])[0] * signs
    n = len(IMAGES) * len(overlapping(IMAGES[0]))
    return [1, *(0.7 * z / np.sqrt(pca().explained_variance_[0] * (n - 1) / n))]


@dataclasses.dataclass(eq=False)
class Case:
    embedding: Embedding
    site: Callable  # the features of one site -> its vector
    n_features: int = 3
    split: Callable = None  # row -> the features of each site

    def row(self, x):
        if self.split is None:
            m = self.embedding.site_features
            sites = x if m == 1 else x.reshape(-1, m)
        else:
            sites = self.split(x)
        return np.array([self.site(features) for features in sites])


DEPENDENT = ((1.0, 0.0), (0.0, 1.0), (1.0, 0.5))
SKEWED = ((1.0, 0.0, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, 2.0))
CASES = [
    Case(Trigonometric(), trigonometric),
    Case(Trigonometric(2), functools.partial(trigonometric, k=2)),
    Case(
        TrigonometricChain(2, group=2),
        lambda x: np.concatenate([trigonometric(v, 2) for v in x]),
        6,
    ),
    Case(TrigonometricChain(group=1), trigonometric),
    Case(TrigonometricAverage(2, group=2), lambda x: trigonometric(np.mean(x), 2), 6),
    Case(Periodic(), lambda x: waves(x, 1)),
    Case(Periodic(3), lambda x: waves(x, 3)),
    Case(WithMissing(Legendre()), lambda x: [*legendre(x, 2), 0]),
    Case(WithMissing(OneHot(4)), lambda x: [*one_of(x, np.eye(4)), 0]),
    Case(Fourier(1), lambda x: fourier(x, 1)),
    Case(Fourier(), lambda x: fourier(x, 2)),
    Case(Fourier(4), lambda x: fourier(x, 4)),
    Case(LinearComplement(), lambda x: [x, 1 - x]),
    Case(LinearComplement(3), lambda x: [1, x, 1 - x]),
    Case(QuantumBasis(), lambda x: one_of(x, np.eye(2))),
    Case(QuantumBasis(SKEWED), lambda x: one_of(x, SKEWED)),
    Case(QuantumBasis(((1, 0), (0, 1), (1, 1))), lambda x: one_of(x, ((1, 0), (0, 1), (1, 1)))),
    Case(OneHot(4), lambda x: one_of(x, np.eye(4))),
    Case(GaussianRBF(), lambda x: rbf(x, (0, 0.25, 0.5, 0.75, 1), 8.0)),
    Case(GaussianRBF((-1, 0, 2), 3.0), lambda x: rbf(x, (-1, 0, 2), 3.0)),
    Case(Polynomial(3), lambda x: [1, x, x**2, x**3]),
    Case(Polynomial(2, include_bias=False), lambda x: [x, x**2]),
    Case(Polynomial(2, n=2), lambda x: [1, x[0], x[1], x[0] ** 2, x[1] ** 2], 6),
    Case(
        Polynomial(2, n=2, include_cross_terms=True),
        lambda x: [1, x[0], x[1], x[0] ** 2, x[0] * x[1], x[1] ** 2],
        6,
    ),
    Case(Legendre(), lambda x: legendre(x, 2)),
    Case(Legendre(7, orthonormal=True), lambda x: legendre(x, 7, True)),
    Case(Laguerre(), lambda x: laguerre(x, 2)),
    Case(Laguerre(5, upper=20.0), lambda x: laguerre(x, 5)),
    Case(Hermite(), lambda x: hermite(x, 2)),
    Case(Hermite(6, half_width=5.0, orthonormal=True), lambda x: hermite(x, 6, True)),
    Case(Hat(), lambda x: hat(x, np.linspace(0, 1, 5))),
    Case(Hat((-1.0, 0.0, 3.0)), lambda x: hat(x, (-1, 0, 3))),
    *(Case(SpinCoherent(d), functools.partial(spin_coherent, d=d)) for d in (2, 3, 4, 7)),
    Case(Embedded(2), lambda x: x, 6),
    Case(Embedded(1), lambda x: [x]),
    Case(UnitNorm(), lambda x: unit_norm([x, 1 - x])),
    Case(UnitNorm(GaussianRBF()), lambda x: unit_norm(rbf(x, (0, 0.25, 0.5, 0.75, 1), 8.0))),
    Case(UnitNorm(OneHot(3)), lambda x: one_of(x, np.eye(3))),
    Case(UnitSum(), lambda x: unit_sum(trigonometric(x), (1, 1))),
    Case(
        UnitSum(TrigonometricChain(group=2), (0.5, 0.5, 0.25, 0.25)),
        lambda x: unit_sum(np.concatenate([trigonometric(v) for v in x]), (0.5, 0.5, 0.25, 0.25)),
        4,
    ),
    Case(Orthonormal(), lambda x: orthonormal([x, 1 - x], [[1 / 3, 1 / 6], [1 / 6, 1 / 3]])),
    Case(Orthonormal(Legendre(5)), lambda x: legendre(x, 5, True)),
    Case(
        Orthonormal(QuantumBasis(DEPENDENT)),
        lambda x: orthonormal(one_of(x, DEPENDENT), np.transpose(DEPENDENT) @ DEPENDENT),
    ),
    Case(
        Patches((4, 6), (2, 3)),
        affine,
        24,
        lambda x: patches(x, 4, 6, 2, 3),
    ),
    Case(
        Patches((2, 4, 2), (1, 2), offset=0.5, scale=2.0),
        lambda pixels: affine(pixels, 0.5, 2.0),
        16,
        lambda x: patches(x, 2, 4, 1, 2),
    ),
    Case(
        Patches((2, 3), (1, 1)), lambda p: affine(np.ravel(p)), 6, lambda x: patches(x, 2, 3, 1, 1)
    ),
    Case(PRINCIPAL.for_data(IMAGES, np.ones(60)), principal, 24, overlapping),
    Case(PatchFRQI((4, 2), (2, 1)), frqi, 8, lambda x: patches(x, 4, 2, 2, 1)),
    Case(PatchFRQI((2, 4), (2, 2)), frqi, 8, lambda x: patches(x, 2, 4, 2, 2)),
    Case(PatchAmplitude((4, 2), (2, 1)), amplitude, 8, lambda x: patches(x, 4, 2, 2, 1)),
    Case(PatchAmplitude((2, 4), (2, 2)), amplitude, 8, lambda x: patches(x, 2, 4, 2, 2)),
]
MIXED_SITES = (
    lambda x: np.pad(legendre(x, 2), (0, 1)),
    lambda x: one_of(x, np.eye(4)),
    lambda x: np.pad(legendre(x, 2), (0, 1)),
)
CASES += [
    Case(
        PerFeature((Legendre(), OneHot(4), Legendre())),
        lambda pair: MIXED_SITES[pair[0]](pair[1]),
        3,
        enumerate,
    ),
    Case(
        PerFeature((Trigonometric(), LinearComplement())),
        lambda pair: (trigonometric, lambda x: [x, 1 - x])[pair[0]](pair[1]),
        2,
        enumerate,
    ),
]


def label(case):
    return repr(case.embedding)[:60]


every_case = pytest.mark.parametrize("case", CASES, ids=label)


def sample(case, n_samples=200, seed=0):
    """Random rows inside the domains, integers for discrete features."""
    rng = np.random.default_rng(seed)
    parts = getattr(case.embedding, "embeddings", (case.embedding,) * case.n_features)
    columns = []
    for part, (low, high) in zip(parts, case.embedding.domains(case.n_features), strict=True):
        if part.discrete:
            columns.append(rng.integers(int(low), int(high) + 1, n_samples).astype(float))
        else:
            columns.append(rng.uniform(max(low, -1e1), min(high, 1e1), n_samples))
    return np.stack(columns, axis=1)


def corners(case, n_samples=8):
    """Rows made of the domain ends only; -10 and 10 stand for infinite ones."""
    bounds = np.clip(case.embedding.domains(case.n_features), -10, 10)
    choice = np.random.default_rng(1).integers(0, 2, (n_samples, case.n_features))
    choice[0], choice[1] = 0, 1
    return np.take_along_axis(bounds, choice.T, axis=1).T


STEP = 1e-6


@functools.partial(jax.jit, static_argnums=0)
def differentiate(embedding, X, inner, direction):
    """Embedded X; derivatives at `inner` along `direction`: exact, by central difference."""
    rows = jnp.concatenate([X, inner + STEP * direction, inner - STEP * direction])
    phi, ahead, behind = jnp.split(embedding.embed(rows), [len(X), len(X) + len(inner)])
    exact = jax.jvp(embedding.embed, (inner,), (direction,))[1]
    return phi, exact, (ahead - behind) / (2 * STEP)


@functools.partial(jax.jit, static_argnums=0)
def gradient(embedding, X, weights):
    """Embedded X and the gradient of its sum with `weights`."""

    def total(X):
        phi = embedding.embed(X)
        return (phi * jnp.broadcast_to(weights, phi.shape)).sum(), phi

    slopes, phi = jax.grad(total, has_aux=True)(X)
    return phi, slopes


@functools.cache
def results(case):
    """Rows inside and at the ends of the domain; the float64 results of `differentiate`."""
    rng = np.random.default_rng(2)
    X = np.concatenate([sample(case), corners(case)])
    low, high = np.clip(np.transpose(case.embedding.domains(case.n_features)), -10, 10)
    inner = low + (high - low) * rng.uniform(0.02, 0.98, (50, case.n_features))
    with jax.enable_x64(True):
        found = differentiate(case.embedding, X, inner, rng.normal(size=inner.shape))
        return X, *map(np.asarray, found)


def test_every_registered_embedding_has_a_case_and_is_public():
    tested = {snake_case(type(case.embedding).__name__) for case in CASES}
    assert tested == set(names("embedding"))
    for name in names("embedding"):
        assert lookup("embedding", name).__name__ in embeddings.__all__


def test_complex_numbers_are_refused():
    for embedding in (Legendre(), PerFeature((OneHot(2), Legendre())), Patches((1, 2), (1, 2))):
        with pytest.raises(ValueError, match="real numbers, not complex"):
            embedding.embed(np.ones((2, 2), complex))


def test_what_is_missing_has_a_vector_of_its_own():
    for inner in (Legendre(), OneHot(3), Hermite(2)):
        embedding = WithMissing(inner)
        phi = np.asarray(embedding([0.5, np.nan]))
        np.testing.assert_array_equal(phi[1], np.eye(embedding.phys_dim)[-1])
        np.testing.assert_allclose(phi[0, :-1], inner([0.5])[0], rtol=1e-6)
        assert phi[0, -1] == 0
    points, weights = WithMissing(Legendre()).quadrature()
    expected = WithMissing(Legendre()).gram()
    np.testing.assert_allclose((points.T * weights) @ points, expected, atol=1e-14)
    with pytest.raises(ValueError, match="single features"):
        WithMissing(TrigonometricChain())


@every_case
def test_value(case):
    X, phi, _, _ = results(case)
    assert phi.dtype == np.float64
    np.testing.assert_allclose(phi, [case.row(x) for x in X], rtol=1e-10, atol=1e-12)


@every_case
def test_arrays_of_the_host_are_embedded_there(case, compilations):
    X, phi, _, _ = results(case)
    compilations.clear()
    for dtype, rtol in ((np.float64, 1e-10), (np.float32, 1e-4)):
        found = case.embedding.embed(X.astype(dtype))
        assert isinstance(found, np.ndarray)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, phi, rtol=rtol, atol=rtol)
    # Patches that overlap are convolved by JAX.
    assert not compilations or isinstance(case.embedding, PrincipalPatches)


@every_case
def test_shapes_and_sizes(case):
    embedding, n = case.embedding, case.n_features
    phi = results(case)[1]
    nsites = embedding.nsites(n)
    assert phi.shape[1:] == (nsites, embedding.phys_dim)
    assert isinstance(embedding.phys_dim, int)
    assert len(embedding.phys_dims(n)) == nsites
    assert max(embedding.phys_dims(n)) == embedding.phys_dim
    assert len(embedding.domains(n)) == n
    assert all(low < high for low, high in embedding.domains(n))
    own = embedding.phys_dims(n)
    assert all(not phi[:, i, size:].any() for i, size in enumerate(own))
    empty = jax.eval_shape(embedding.embed, sample(case, 0))
    assert empty.shape == (0, nsites, embedding.phys_dim)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.split is None and c.embedding.site_features == 1], ids=label
)
@pytest.mark.parametrize("shape", [(), (4,), (2, 0, 3)])
def test_call_is_elementwise(case, shape):
    x = np.zeros(shape, np.float32)
    assert jax.eval_shape(case.embedding, x).shape == (*shape, case.embedding.phys_dim)


@every_case
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "bool"])
def test_dtype_is_kept(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        X = jax.ShapeDtypeStruct((2, case.n_features), dtype)
        phi = jax.eval_shape(case.embedding.embed, X)
        assert phi.dtype == (dtype if dtype.startswith("float") else "float32")


def test_float64_is_kept_beside_the_default_float32():
    with jax.enable_x64(True):
        for case in CASES:
            X = jax.ShapeDtypeStruct((2, case.n_features), jnp.float32)
            assert jax.eval_shape(case.embedding.embed, X).dtype == jnp.float32, case.embedding


@every_case
def test_partition_of_unity_exactly_when_claimed(case):
    embedding = case.embedding
    phi = results(case)[1]
    weights = embedding.site_unit_weights(case.n_features)
    assert embedding.is_partition_of_unity == (weights is not None)
    if weights is None:
        residuals = []
        for site in range(phi.shape[1]):
            w = np.linalg.lstsq(phi[:, site], np.ones(len(phi)), rcond=None)[0]
            residuals.append(np.abs(phi[:, site] @ w - 1).max())
        assert max(residuals) > 1e-6
    else:
        assert weights.shape == phi.shape[1:]
        assert weights.dtype == np.float64
        np.testing.assert_allclose((phi * weights).sum(-1), 1, rtol=0, atol=1e-10)
    if embedding.unit_weights is not None:
        assert embedding.unit_weights.shape == (embedding.phys_dim,)
        assert (weights == embedding.unit_weights).all()


@every_case
def test_norm_exactly_when_claimed(case):
    norms = np.linalg.norm(results(case)[1], axis=-1)
    if case.embedding.norm is None:
        assert np.ptp(norms) > 1e-6
    else:
        np.testing.assert_allclose(norms, case.embedding.norm, rtol=1e-12)


def quadrature(case):
    """Integral of phi phi^T over one site's features, from the formulas of this file."""
    embedding = case.embedding
    if isinstance(embedding, WithMissing):
        inner = Case(embedding.embedding, lambda x: case.site(x)[:-1])
        # Being missing is one more point.
        return scipy.linalg.block_diag(quadrature(inner), 1)
    if embedding.discrete:
        phi = np.array([case.site(x) for x in range(int(embedding.domain[1]) + 1)])
        return phi.T @ phi
    if embedding.site_features == 1:
        inner = np.unique([*np.linspace(*embedding.domain, 13), *getattr(embedding, "centers", ())])

        def integrand(x):
            phi = np.asarray(case.site(x), float).ravel()
            return np.outer(phi, phi)

        return scipy.integrate.quad_vec(
            integrand, *embedding.domain, points=inner[1:-1], epsabs=1e-13, epsrel=1e-13
        )[0]
    # A tensor product of rules over the cube.
    m = embedding.site_features
    nodes, weights = scipy.special.roots_legendre({2: 60, 4: 8, 6: 3}[m])
    nodes, weights = (nodes + 1) / 2, weights / 2
    points = np.array(list(itertools.product(nodes, repeat=m)))
    volume = np.prod(list(itertools.product(weights, repeat=m)), axis=1)
    phi = np.array([case.site(x) for x in points])
    return (phi.T * volume) @ phi


WITH_GRAM = [
    c
    for c in CASES
    if not isinstance(c.embedding, Embedded | PerFeature | PrincipalPatches)
    and not isinstance(getattr(c.embedding, "embedding", None), TrigonometricChain)
]


@pytest.mark.parametrize("case", WITH_GRAM, ids=label)
def test_gram(case):
    gram = case.embedding.gram()
    assert gram.dtype == np.float64
    # The amplitude map jumps at zero, which slows the tensor rule down.
    loose = isinstance(case.embedding, PatchAmplitude)
    atol = 1e-3 if loose else 1e-10 * max(1.0, np.abs(gram).max())
    np.testing.assert_allclose(gram, quadrature(case), rtol=0, atol=atol)
    assert np.linalg.eigvalsh(gram).min() > -1e-12
    grams = case.embedding.site_grams(case.n_features)
    np.testing.assert_array_equal(grams, [gram] * case.embedding.nsites(case.n_features))


def test_gram_of_the_amplitude_map():
    exact = math.log(2) / 2  # double integral of x y / (x^2 + y^2) over the unit square
    gram = PatchAmplitude((1, 2), (1, 2)).gram()
    np.testing.assert_allclose(gram, [[0.5, exact], [exact, 0.5]], rtol=1e-12)


def test_gram_of_per_feature_embeddings():
    mixed = PerFeature((Legendre(), OneHot(4)))
    grams = mixed.site_grams(2)
    np.testing.assert_allclose(grams[0], np.diag([2, 2 / 3, 2 / 5, 0]), atol=1e-15)
    np.testing.assert_allclose(grams[1], np.eye(4))
    np.testing.assert_allclose(PerFeature((Legendre(),) * 2).gram(), Legendre().gram())
    with pytest.raises(ValueError, match="site_grams"):
        mixed.gram()


SINGLE = [
    c
    for c in WITH_GRAM
    if c.embedding.site_features == 1
    and c.embedding != LinearComplement(3)
    and c.split is None
    and not isinstance(c.embedding, WithMissing)
]


@pytest.mark.parametrize("case", SINGLE, ids=label)
def test_orthonormal_embeddings_of_all_others(case):
    embedding = Orthonormal(case.embedding)
    changed = Case(embedding, lambda x: embedding._evaluate(np.array([x]))[0])
    np.testing.assert_allclose(quadrature(changed), np.eye(embedding.phys_dim), atol=1e-9)
    np.testing.assert_array_equal(embedding.gram(), np.eye(embedding.phys_dim))
    assert embedding.domain == case.embedding.domain
    assert embedding.is_partition_of_unity == case.embedding.is_partition_of_unity
    if embedding.is_partition_of_unity:
        phi = embedding._evaluate(embedding._grid(33))
        np.testing.assert_allclose(phi @ embedding.unit_weights, 1, rtol=0, atol=1e-9)


def test_gram_inside_a_traced_function():
    traced = jax.jit(lambda x: x * jnp.asarray(GaussianRBF().gram(), x.dtype))(np.float32(1))
    np.testing.assert_allclose(traced, GaussianRBF().gram(), rtol=1e-6)


def test_gram_refuses_an_unknown_integral():
    embedding = UnitSum(TrigonometricChain(group=2), (1.0,) * 4)
    with pytest.raises(ValueError, match="single features"):
        embedding.gram()


def test_orthogonal_functions_are_orthogonal_on_wide_domains():
    np.testing.assert_allclose(Laguerre(4, upper=80.0).gram(), np.eye(5), atol=1e-10)
    wide = Hermite(4, half_width=10.0, orthonormal=True).gram()
    np.testing.assert_allclose(wide, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(Legendre(4, orthonormal=True).gram(), np.eye(5), atol=1e-15)


@every_case
def test_gradient_against_finite_differences(case):
    _, _, exact, difference = results(case)
    scale = max(1.0, np.abs(exact).max())
    np.testing.assert_allclose(exact, difference, rtol=0, atol=1e-7 * scale)


# The first of each class: what options change is tried in double precision.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            marks=[pytest.mark.long]
            if type(case.embedding) in {type(other.embedding) for other in CASES[:i]}
            else [],
        )
        for i, case in enumerate(CASES)
    ],
    ids=label,
)
def test_value_and_finite_gradient_in_float32(case):
    X = np.concatenate([corners(case), sample(case, 5), (corners(case) + corners(case)[:1]) / 2])
    weights = np.random.default_rng(3).normal(
        size=(case.embedding.nsites(case.n_features), case.embedding.phys_dim)
    )
    phi, slopes = gradient(case.embedding, np.float32(X), np.float32(weights))
    assert phi.dtype == slopes.dtype == np.float32
    assert np.isfinite(slopes).all()
    expected = np.array([case.row(x.astype(float)) for x in np.float32(X)])
    assert np.abs(phi - expected).max() < 2e-5 * max(1, np.abs(expected).max())


def test_principal_patches_count_weights_as_repetitions():
    weight = np.random.default_rng(0).integers(1, 4, len(IMAGES))
    repeated = np.repeat(IMAGES, weight, axis=0)
    weighted = PRINCIPAL.for_data(IMAGES, weight.astype(float))
    expected = PRINCIPAL.for_data(repeated, np.ones(len(repeated)))
    np.testing.assert_allclose(weighted.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.components, expected.components, rtol=1e-9, atol=1e-12)


def test_principal_patches_of_more_images_than_are_looked_at():
    rng = np.random.default_rng(5)
    X, weight = rng.uniform(size=(3000, 24)) ** np.arange(1, 25), rng.uniform(0.1, 2, 3000)
    learned = PRINCIPAL.for_data(X, weight)
    rows = [int(row) for row in np.linspace(0, 2999, 1024)]
    expected = PRINCIPAL.for_data(X[rows], weight[rows])
    np.testing.assert_allclose(learned.components, expected.components, rtol=1e-12)
    assert learned.for_data(X[:10], weight[:10]) is learned


def test_principal_patches_of_images_that_are_all_the_same():
    inner = dataclasses.replace(PRINCIPAL, padding=0, stride=(1, 1))
    for grey in (0, 0.3, 0.5):
        X = np.full((5, 24), grey)
        assert np.isfinite(PRINCIPAL.for_data(X, np.ones(5)).embed(IMAGES)).all()
        flat = inner.for_data(X, np.ones(5))
        np.testing.assert_allclose(flat.embed(X)[..., 1:], 0, atol=1e-6)
        assert np.abs(flat.embed(IMAGES)).max() < 10


@every_case
def test_split_and_join(case):
    part, arrays = case.embedding.split()
    X = np.float32(sample(case, 3))
    whole = part.join(arrays)
    if whole is not case.embedding:
        np.testing.assert_array_equal(jax.jit(whole.embed)(X), jax.jit(case.embedding.embed)(X))
    if arrays:
        assert part == PRINCIPAL


@pytest.mark.parametrize("scale", [1e-6, 1e-12, 1e-20, 1e-38, 0.0])
def test_gradient_of_the_amplitude_map_is_finite_in_the_dark(scale):
    embedding = PatchAmplitude((1, 4), (1, 4))
    X = scale * jnp.asarray([[0.0, 1.0, 2.0, 3.0]], jnp.float32)
    phi, slopes = gradient(embedding, X, np.float32([0, 1, 0, 0]))
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(np.linalg.norm(phi), 1, rtol=1e-6)


@every_case
def test_json_hash_and_equality(case):
    embedding = case.embedding
    twin = from_json(json.loads(json.dumps(to_json(embedding))))
    assert twin == embedding
    assert hash(twin) == hash(embedding)
    assert repr(twin) == repr(embedding)
    assert all(twin != other.embedding for other in CASES if other is not case)
    assert resolve("embedding", embedding) is embedding


def test_equal_embeddings_compile_once():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def counted(embedding, X):
        traces.append(embedding)
        return embedding.embed(X)

    X = np.zeros((2, 3), np.float32)
    first = counted(GaussianRBF([0, 0.5, 1], 4), X)
    second = counted(GaussianRBF((0.0, 0.5, 1.0), 4.0), X)
    assert len(traces) == 1
    np.testing.assert_array_equal(first, second)


@every_case
def test_embedding_varies_with_every_feature(case):
    phi = results(case)[1]
    if case.embedding != Fourier(1):
        assert (np.ptp(phi, axis=0).max(axis=-1) > 0.1).all()


def test_rbf_has_its_maximum_at_its_center():
    phi = GaussianRBF((0.0, 0.5, 1.0), gamma=20.0)(np.array([0.0, 0.5, 1.0], np.float32))
    assert np.argmax(phi, axis=-1).tolist() == [0, 1, 2]
    far = GaussianRBF((0.0, 1.0), gamma=1e6)(np.float32(0.4))
    np.testing.assert_array_equal(far, [1, 0])


def test_unknown_categories_are_uniform():
    X = np.array([2.0, -1.0, 0.5, np.nan, np.inf], np.float32)
    np.testing.assert_allclose(OneHot(2)(X), 0.5)
    np.testing.assert_allclose(QuantumBasis(((1, 0), (0, 3)))(X), [[0.5, 1.5]] * 5)


def test_embedded_takes_both_layouts():
    X = np.arange(12, dtype=np.float32).reshape(2, 6)
    flat = Embedded(3).embed(X)
    np.testing.assert_array_equal(flat, X.reshape(2, 2, 3))
    np.testing.assert_array_equal(Embedded(3).embed(flat), flat)
    with pytest.raises(ValueError, match="phys_dim=3"):
        Embedded(2).embed(flat)


def test_per_feature_embeds_equal_embeddings_together():
    calls = []

    @dataclasses.dataclass(frozen=True)
    class Counted(LinearComplement):
        def __call__(self, x):
            calls.append(x.shape)
            return super().__call__(x)

    mixed = PerFeature((Counted(), OneHot(), Counted(), Counted()))
    phi = mixed.embed(np.array([[0.1, 1, 0.3, 0.4]], np.float32))
    assert calls == [(1, 3)]
    np.testing.assert_allclose(phi[0, :, 0], [0.1, 0, 0.3, 0.4])


def test_per_feature_shares_only_what_is_common():
    mixed = PerFeature((LinearComplement(), OneHot(3)))
    assert mixed.unit_weights is None
    assert mixed.is_partition_of_unity
    assert mixed.domain == (0.0, 2.0)
    assert mixed.norm is None
    assert PerFeature((OneHot(2), OneHot(2))).unit_weights.tolist() == [1, 1]
    assert PerFeature((OneHot(2), Trigonometric())).norm == 1


def test_columnwise_marks_the_embeddings_that_mix_features():
    mixing = {type(c.embedding).__name__ for c in CASES if not c.embedding.columnwise}
    assert mixing == {"Embedded", "Patches", "PatchFRQI", "PatchAmplitude", "PrincipalPatches"}
    assert not UnitNorm(Patches((2, 2), (1, 2))).columnwise


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Trigonometric(0), "k must be an integer of at least 1"),
        (lambda: Trigonometric(1.5), "k must be an integer"),
        (lambda: Trigonometric(True), "k must be an integer"),
        (lambda: TrigonometricChain(0), "k must be"),
        (lambda: TrigonometricChain(group=0), "group must be"),
        (lambda: TrigonometricAverage(0), "k must be"),
        (lambda: TrigonometricAverage(group=0), "group must be"),
        (lambda: TrigonometricChain(group=2).nsites(5), "multiple of 2"),
        (lambda: TrigonometricChain(group=2).embed(np.ones((3, 5))), "multiple of 2"),
        (lambda: TrigonometricChain(group=2)(np.ones((3, 4))), "use embed"),
        (lambda: Fourier(0), "p must be"),
        (lambda: LinearComplement(4), "p must be 2"),
        (lambda: LinearComplement(2.0), "p must be an integer"),
        (lambda: LinearComplement().nsites(0), "got 0"),
        (lambda: QuantumBasis(3), "sequence of vectors"),
        (lambda: QuantumBasis(((1, 0),)), "two or more"),
        (lambda: QuantumBasis(((1, 0), (1,))), "equal size"),
        (lambda: QuantumBasis((1, 0)), "sequence of numbers"),
        (lambda: QuantumBasis(((1, 0), (0, math.nan))), "finite"),
        (lambda: OneHot(0), "levels must be"),
        (lambda: GaussianRBF((0.0,)), "increasing"),
        (lambda: GaussianRBF((0.0, 0.0)), "increasing"),
        (lambda: GaussianRBF(3), "sequence of numbers"),
        (lambda: GaussianRBF(gamma=0.0), "gamma must be"),
        (lambda: GaussianRBF(gamma=math.inf), "gamma must be"),
        (lambda: Polynomial(0), "degree must be"),
        (lambda: Polynomial(n=0), "n must be"),
        (lambda: Polynomial(n=2).nsites(3), "multiple of 2"),
        (lambda: Legendre(0), "degree must be"),
        (lambda: Laguerre(0), "degree must be"),
        (lambda: Laguerre(upper=0), "upper must be"),
        (lambda: Hermite(0), "degree must be"),
        (lambda: Hermite(half_width=-1.0), "half_width must be"),
        (lambda: Hat(1), "knots must be"),
        (lambda: Hat(2.5), "knots must be"),
        (lambda: Hat((0.0, 1.0, 0.5)), "increasing"),
        (lambda: SpinCoherent(1), "phys_dim must be"),
        (lambda: Embedded(0), "phys_dim must be"),
        (lambda: Embedded(2).nsites(3), "multiple of 2"),
        (lambda: PerFeature(), "one embedding for each feature"),
        (lambda: PerFeature(("legendre",)), "embedding objects"),
        (lambda: PerFeature((PerFeature((Hat(),)),)), "embedding objects"),
        (lambda: PerFeature((Polynomial(n=2),)), "single features"),
        (lambda: PerFeature((Hat(), Hat())).embed(np.ones((1, 3))), "2 embeddings for 3"),
        (lambda: Patches((28,)), "image_shape must be"),
        (lambda: Patches(patch_shape=(4, 4, 1)), "patch_shape must be"),
        (lambda: Patches(patch_shape=4), "patch_shape must be"),
        (lambda: Patches(patch_shape=(0, 4)), "each size in patch_shape"),
        (lambda: Patches((28, 28), (5, 4)), r"height 5 .* \[1, 2, 4, 7, 14, 28\]"),
        (lambda: Patches((28, 30), (4, 4)), r"width 4 .* \[1, 2, 3, 5, 6, 10, 15, 30\]"),
        (lambda: Patches().nsites(100), "784 features"),
        (lambda: Patches().embed(np.ones((2, 100))), "784 features"),
        (lambda: PrincipalPatches(stride=4), "stride must be"),
        (lambda: PrincipalPatches(stride=(4, 0)), "each step in stride"),
        (lambda: PrincipalPatches(padding=1), r"height 7 every 3 .* by 1 does: change padding"),
        (lambda: PrincipalPatches((8, 8), (9, 9), padding=0), "height 9"),
        (lambda: PrincipalPatches((8, 8), (2, 2), (2, 2), 0, n_components=5), "fewer than 5"),
        (lambda: PrincipalPatches(patch_shape=(1, 1), n_components=1), "use Patches"),
        (lambda: PrincipalPatches(mean=(0.0,)), "leave them to for_data"),
        (lambda: PrincipalPatches().embed(np.ones((2, 784))), "for_data"),
        (lambda: PrincipalPatches().for_data(np.ones((2, 100)), np.ones(2)), "784 features"),
        (lambda: PrincipalPatches().gram(), "Use an embedding of single features"),
        (lambda: PatchFRQI((6, 6), (3, 2)), "2, 4, 8"),
        (lambda: PatchAmplitude((6, 6), (1, 1)), "2, 4, 8"),
        (lambda: UnitNorm("legendre"), "embedding object"),
        (lambda: UnitNorm(PerFeature((Hat(),))), "each embedding by itself"),
        (lambda: UnitNorm(Embedded()), "finite domain"),
        (lambda: UnitNorm(Polynomial(include_bias=False)), "positive"),
        (lambda: Orthonormal("legendre"), "embedding object"),
        (lambda: Orthonormal(PerFeature((Hat(),))), "each embedding by itself"),
        (lambda: Orthonormal(LinearComplement(3)), "linearly dependent"),
        (lambda: Orthonormal(QuantumBasis(((1, 1), (2, 2)))), "linearly dependent"),
        (lambda: Orthonormal(UnitSum(TrigonometricChain(group=2), (1.0,) * 4)), "single features"),
        (lambda: UnitSum(weights=(1.0,)), "must be 2 numbers"),
        (lambda: UnitSum(weights=(1.0, -1.0)), "positive"),
        (lambda: UnitSum(Legendre(1), (0.5, 1.0)), "positive"),
        (lambda: UnitSum(weights=3), "sequence of numbers"),
        (lambda: UnitSum(weights="11"), "each number in weights"),
        (lambda: GaussianRBF("abc"), "each number in centers"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_is_no_number_is_refused():
    for X in ([[None, 1.0]], [["0.5"]], np.array([["2020-01-01"]], "M8[D]")):
        with pytest.raises(ValueError, match="take real numbers, got dtype"):
            Legendre().embed(X)
    with pytest.raises(ValueError, match="X is masked"):
        Legendre().embed(np.ma.array([[0.5, 1.0]], mask=[[0, 1]]))
