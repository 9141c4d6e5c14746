"""Scalers: ranges, inverses and derivatives against finite differences."""

import dataclasses
import warnings

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from tn4ml_plus._registry import names, snake_case
from tn4ml_plus.embeddings import Legendre, PerFeature
from tn4ml_plus.errors import DomainWarning
from tn4ml_plus.estimators import (
    CommonMinMax,
    GaussianCDF,
    LogisticCDF,
    MinMax,
    Passthrough,
    PrincipalComponents,
    ProbabilisticPCA,
    QuantileSigmoid,
    Rotated,
)
from tn4ml_plus.tables import Table, TableReader

BIJECTIONS = [GaussianCDF(), GaussianCDF(0.7), LogisticCDF(), LogisticCDF(2.0)]
BIJECTIONS += [MinMax(), CommonMinMax(), Passthrough()]
ROTATED = [Rotated(), Rotated(LogisticCDF(0.5)), ProbabilisticPCA()]
SCALERS = [*BIJECTIONS, *ROTATED, QuantileSigmoid(), QuantileSigmoid(7)]
every_scaler = pytest.mark.parametrize("scaler", SCALERS, ids=repr)
every_bijection = pytest.mark.parametrize("scaler", BIJECTIONS, ids=repr)
every_differentiable = pytest.mark.parametrize("scaler", BIJECTIONS + ROTATED, ids=repr)

STEP = 1e-6


def table(n_samples=40, seed=0):
    """Three correlated columns of very different scales."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, 3)) @ [[1.0, 0.8, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 1.0]]
    return X * [1.0, 1e3, 1e-2] + [5.0, -2e3, 0.0]


def fitted(scaler, X, weight=None):
    return scaler.fit(X, np.ones(len(X)) if weight is None else weight)


def test_every_scaler_is_here():
    assert {snake_case(type(scaler).__name__) for scaler in SCALERS} == set(names("scaler"))


class Same(MinMax):
    """Columns that are in [0, 1] already."""

    def transform(self, X, state):
        del state
        return X


@pytest.mark.parametrize("scaler", [*SCALERS, Same()], ids=repr)
def test_the_callers_table_is_left_alone(scaler):
    X = table()
    X.setflags(write=False)
    read = Table(X, (None,) * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DomainWarning)
        _, U = TableReader.fit_transform(read, np.ones(len(X)), (Legendre(2), scaler))
    if isinstance(scaler, Same):
        np.testing.assert_allclose(U, 2 * X - 1)


@every_scaler
def test_values_are_in_the_unit_interval(scaler):
    if isinstance(scaler, Passthrough):
        pytest.skip("columns are left as they are")
    X = table()
    state = fitted(scaler, X)
    inside = scaler.transform(X, state)
    outside = scaler.transform(X + 1e3 * (X - X.mean(axis=0)), state)
    for u in (inside, outside):
        assert u.shape == X.shape
        assert ((u >= 0) & (u <= 1)).all()
    assert (np.ptp(inside, axis=0).max() > 0.3).all()


@every_scaler
def test_columns_are_increasing(scaler):
    if isinstance(scaler, PrincipalComponents):
        pytest.skip("columns are mixed")
    X = np.sort(table(), axis=0)
    u = scaler.transform(X, fitted(scaler, X))
    assert (np.diff(u, axis=0) > 0).all()


@every_scaler
def test_integer_weights_are_repetitions(scaler):
    X, weight = table(), np.arange(40) % 3 + 1
    X[3, 1] = np.nan
    weighted = scaler.transform(X, fitted(scaler, X, weight.astype(float)))
    repeated = scaler.transform(X, fitted(scaler, np.repeat(X, weight, axis=0)))
    np.testing.assert_allclose(weighted, repeated, rtol=1e-10, atol=1e-12)
    if not isinstance(scaler, MinMax | Passthrough):
        assert np.nanmax(np.abs(weighted - scaler.transform(X, fitted(scaler, X)))) > 1e-4


@every_bijection
def test_inverse(scaler):
    X = table()
    state = fitted(scaler, X)
    np.testing.assert_allclose(scaler.inverse(scaler.transform(X, state), state), X, rtol=1e-9)
    u = np.random.default_rng(1).uniform(size=(50, 3))
    np.testing.assert_allclose(scaler.transform(scaler.inverse(u, state), state), u, atol=1e-12)
    assert np.isfinite(scaler.inverse(np.array([[0.0] * 3, [1.0] * 3]), state)).all()


@every_differentiable
def test_log_derivative_is_that_of_the_jacobian_determinant(scaler):
    X = table()
    state = fitted(scaler, X)
    log = scaler.log_derivative(X, state)
    assert log.shape == X.shape
    low, high = X.min(axis=0), X.max(axis=0)
    for x, log_x in zip(X[:15], log[:15], strict=True):
        if (x == low).any() or (x == high).any():
            continue  # MinMax has a kink there.
        steps = STEP * np.diag(X.std(axis=0))
        rows = np.concatenate([x + steps, x - steps])
        ahead, behind = np.split(scaler.transform(rows, state), 2)
        jacobian = (ahead - behind) / (2 * STEP * X.std(axis=0)[:, None])
        assert np.linalg.slogdet(jacobian)[1] == pytest.approx(log_x.sum(), abs=1e-4)
        if not isinstance(scaler, PrincipalComponents):
            np.testing.assert_allclose(np.log(np.diag(jacobian)), log_x, atol=1e-4)


@pytest.mark.parametrize("scaler", [MinMax(), CommonMinMax()], ids=repr)
def test_outside_the_range_is_no_density(scaler):
    X = np.array([[0.0, 10.0], [4.0, 6.0]])
    state = fitted(scaler, X)
    far = np.array([[-1.0, 8.0], [2.0, 11.0]])
    log = scaler.log_derivative(far, state)
    np.testing.assert_array_equal(np.isneginf(log), [[True, False], [False, True]])
    assert np.isfinite(scaler.log_derivative(X, state)).all()


@every_bijection
def test_missing_values_stay_and_are_left_out_of_fitting(scaler):
    X = table()
    gone = X.copy()
    gone[::4, 1] = np.nan
    state = fitted(scaler, gone)
    for found in (scaler.transform(gone, state), scaler.log_derivative(gone, state)):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(gone))
    if not isinstance(scaler, CommonMinMax):
        kept = ~np.isnan(gone[:, 1])
        alone = fitted(scaler, X[kept][:, 1:2])
        np.testing.assert_allclose(
            scaler.transform(gone, state)[kept, 1], scaler.transform(X[kept, 1:2], alone)[:, 0]
        )


@pytest.mark.parametrize("scaler", ROTATED, ids=repr)
def test_missing_values_count_as_the_mean_where_columns_are_mixed(scaler):
    X = table()
    state = fitted(scaler, X)
    gone = np.array([[np.nan, 1.0, 0.0]])
    filled = np.where(np.isnan(gone), X.mean(axis=0), gone)
    np.testing.assert_allclose(scaler.transform(gone, state), scaler.transform(filled, state))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9 / 3])
@every_differentiable
def test_constant_columns(scaler, value):
    X = table(101)
    X[:, 1] = value
    state = fitted(scaler, X)
    u, log = scaler.transform(X, state), scaler.log_derivative(X, state)
    assert np.isfinite(u).all()
    assert np.isfinite(log).all()
    if not isinstance(scaler, PrincipalComponents | CommonMinMax | Passthrough):
        # One unit of the column is the unit of its density.
        np.testing.assert_allclose(u[:, 1], 0.5, atol=1e-6)
        assert np.abs(log[:, 1]).max() < 3
        np.testing.assert_allclose(scaler.inverse(u, state)[:, 1], value)


@every_differentiable
def test_a_column_without_entries(scaler):
    X = table()
    X[:, 2] = np.nan
    state = fitted(scaler, X)
    u = scaler.transform(X, state)
    assert np.isfinite(u[:, :2]).all()


def test_dependent_columns_are_told_apart_from_noise():
    X = table()
    X[:, 2] = X[:, 0] + X[:, 1]
    scaler = Rotated()
    state = fitted(scaler, X)
    assert (np.ptp(scaler.transform(X, state), axis=0) > 1e-3).tolist() == [True, True, False]
    components = state["components"]
    np.testing.assert_allclose(components.T @ components, np.diag([1, 1, 0]), atol=1e-12)


@pytest.mark.parametrize("n_components", [1, 2, 3, 20])
def test_probabilistic_pca_of_a_uniform_density_is_its_normal_distribution(n_components):
    """The closed form of Tipping and Bishop, equation 7, by another route."""
    X = table() / [1.0, 1e3, 1e-2]
    weight = np.arange(40) % 3 + 1.0
    scaler = ProbabilisticPCA(n_components, GaussianCDF(1.0))
    state = fitted(scaler, X, weight)
    count = min(n_components, 3)
    assert scaler.transform(X, state).shape == (40, count)
    mean = np.average(X, axis=0, weights=weight)
    _, s, V = np.linalg.svd(np.sqrt(weight / weight.sum())[:, None] * (X - mean))
    variances = s**2
    variances[count:] = variances[count:].mean() if count < 3 else 0
    expected = multivariate_normal(mean, V.T * variances @ V).logpdf(X)
    np.testing.assert_allclose(scaler.log_derivative(X, state).sum(axis=1), expected, rtol=1e-9)


@pytest.mark.parametrize("n_components", [2, 3])
def test_probabilistic_pca_of_samples_in_a_plane(n_components):
    X = np.random.default_rng(0).normal(size=(30, 2)) @ [[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]
    scaler = ProbabilisticPCA(n_components)
    state = fitted(scaler, X)
    off = X + 1e-2 * np.cross([1.0, 2.0, 0.0], [0.0, 1.0, 1.0])
    inside = scaler.log_derivative(X, state).sum(axis=1)
    assert (inside > scaler.log_derivative(off, state).sum(axis=1)).all()
    assert np.isfinite(inside).all()


def test_probabilistic_pca_needs_rows_to_tell_noise():
    X = table(4)
    assert np.isfinite(fitted(ProbabilisticPCA(3), X[:2])["components"]).all()
    assert np.isfinite(fitted(ProbabilisticPCA(2), X)["components"]).all()
    with pytest.raises(ValueError, match="3 rows are too few to tell 2 components"):
        fitted(ProbabilisticPCA(2), X[:3])


def test_a_mixing_scaler_narrows_tables_of_numbers_only():
    X = table()

    def read(raw, embedding):
        columns = embedding, ProbabilisticPCA(2)
        return TableReader.fit_transform(Table(X, raw), np.ones(40), columns)

    reader, U = read((None,) * 3, Legendre(2))
    assert U.shape == (40, 2)
    # A factor 2 for the width of [-1, 1] at each component, none for the noise.
    expected = reader.scaler.log_derivative(X, reader.scaler_state) + np.log([2, 2, 1])
    np.testing.assert_allclose(reader.log_derivatives(X), expected)
    with pytest.raises(ValueError, match="takes numbers only: encode"):
        read((None, None, np.array(["a", "b"] * 20, object)), Legendre(2))
    three = PerFeature((Legendre(2),) * 3)
    with pytest.raises(ValueError, match="one embedding for all"):
        read((None,) * 3, three)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianCDF(0.0), "scale must be"),
        (lambda: LogisticCDF(-1.0), "scale must be"),
        (lambda: Rotated(QuantileSigmoid()), "instance of Bijection"),
        (lambda: ProbabilisticPCA(2, QuantileSigmoid()), "instance of Bijection"),
        (lambda: ProbabilisticPCA(0), "n_components must be"),
        (lambda: ProbabilisticPCA(2, Passthrough()), "no range of their own"),
        (lambda: Rotated(Passthrough()), "no range of their own"),
        (lambda: QuantileSigmoid(1), "knots must be"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@every_scaler
def test_scalers_are_values(scaler):
    assert dataclasses.replace(scaler) == scaler
    assert hash(dataclasses.replace(scaler)) == hash(scaler)
