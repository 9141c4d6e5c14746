"""Readers: one fit, then the same for a table whole or in blocks."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from tn4ml_plus import TNBornMachine, TNClassifier
from tn4ml_plus.embeddings import (
    GaussianRBF,
    Legendre,
    LinearComplement,
    OneHot,
    PerFeature,
    PrincipalPatches,
    Trigonometric,
    UnitNorm,
)
from tn4ml_plus.errors import DomainWarning
from tn4ml_plus.initializers import least_squares_weights
from tn4ml_plus.tables import (
    AVERAGED,
    TRACED,
    MinMax,
    Passthrough,
    ProbabilisticPCA,
    Rotated,
    Table,
    TableReader,
    _columns,
    _reader,
    read_weight,
)


@pytest.fixture
def table():
    """2500 rows of two numbers and a category, some missing."""
    rng = np.random.default_rng(0)
    floats = np.c_[rng.normal(size=(2500, 2)), np.full(2500, np.nan)]
    floats[::7, 1] = np.nan
    kinds = rng.choice(["x", "y", "z"], 2500).astype(object)
    kinds[::11] = None
    return Table(floats, (None, None, kinds))


def numbers(n_rows=40, n_columns=3):
    return Table(np.random.default_rng(0).normal(size=(n_rows, n_columns)), (None,) * n_columns)


def read(table, embedding, scaler, **options):
    weight = np.ones(len(table))
    return TableReader.fit_transform(table, weight, (embedding, scaler), **options)


@pytest.mark.parametrize("embedding", [Legendre(3), Trigonometric()], ids=repr)
def test_blocks_are_the_table(table, embedding, monkeypatch):
    reader, U = read(table, embedding, MinMax())
    vectors = reader.embed(U)
    assert vectors.shape == (2500, 3, reader.embedding.phys_dim)
    monkeypatch.setattr(_columns, "_NUMBERS", 1024)
    monkeypatch.setattr(_reader, "_NEAR", 100)
    blocks = list(reader.blocks(U))
    assert [(len(rows), n) for rows, n in blocks] == [(1024, 1024), (1024, 1024), (1024, 452)]
    np.testing.assert_array_equal(reader.transform(table), U)
    np.testing.assert_array_equal(reader.embed(U), vectors)
    np.testing.assert_array_equal(np.concatenate([rows[:n] for rows, n in blocks]), U.astype("f4"))


@pytest.mark.parametrize("embedding", [Legendre(3), Trigonometric(), None], ids=repr)
def test_rows_have_the_same_vectors_in_compiled_code(table, embedding):
    if embedding is None:
        images = np.random.default_rng(0).uniform(size=(40, 36))
        table, embedding = (
            Table(images, (None,) * 36),
            PrincipalPatches((6, 6), (4, 4), (2, 2), n_components=3),
        )
    reader, U = read(table, embedding, MinMax())
    rows = U.astype("f4")
    vectors = jax.jit(lambda embed, rows: embed(rows))(reader.vector_map, rows)
    assert isinstance(reader.vector_map(rows), np.ndarray)
    np.testing.assert_allclose(reader.vector_map(rows), vectors, rtol=2e-5, atol=2e-6)


@dataclasses.dataclass(frozen=True)
class OfJax(LinearComplement):
    """One that is written for JAX alone."""

    def __call__(self, x):
        x = jnp.asarray(x)
        return jnp.stack([x, 1 - x], axis=-1)


def test_embeddings_written_for_jax_work_on_the_host(table):
    (ours, U), (theirs, _) = (read(table, e, MinMax()) for e in (LinearComplement(), OfJax()))
    assert isinstance(theirs.embed(U), np.ndarray)
    np.testing.assert_allclose(theirs.embed(U), ours.embed(U), rtol=1e-6, atol=1e-7)


def test_predictions_do_not_depend_on_blocks(monkeypatch):
    X = np.random.default_rng(0).normal(size=(2100, 3))
    model = TNClassifier(2, n_members=2, max_epochs=1, random_state=0).fit(X[:60], X[:60, 0] > 0)
    expected = model.predict_proba(X), model.explain(X)
    monkeypatch.setattr(_columns, "_NUMBERS", 1024)
    np.testing.assert_allclose(model.predict_proba(X), expected[0], rtol=1e-6)
    np.testing.assert_allclose(model.explain(X), expected[1], rtol=1e-4, atol=1e-6)


def test_values_outside_are_counted_once_for_all_blocks(monkeypatch):
    monkeypatch.setattr(_columns, "_NUMBERS", 1024)
    U = np.random.default_rng(0).uniform(size=(3000, 2))
    U[[1, 1500, 2900], 0] = 2
    with pytest.warns(DomainWarning, match="3 values left the domain") as seen:
        read(Table(U, (None, None)), Trigonometric(), Passthrough())
    assert len(seen) == 1
    assert seen[0].filename == __file__


def test_missing_features_have_the_mean_vector(table):
    reader, U = read(table, Trigonometric(), MinMax())
    phi = reader.embed(U)
    gone = np.isnan(U)
    np.testing.assert_array_equal(
        phi[gone[:, 1], 1], np.tile(reader.neutral[1], (358, 1)).astype("f4")
    )
    np.testing.assert_allclose(reader.neutral[1], phi[~gone[:, 1], 1].mean(axis=0), rtol=1e-5)
    # Of unit weights there are none, so that vectors are divided by w . phi.
    assert reader.divides
    w_phi = np.einsum("bs,s->b", phi[~gone[:, 0], 0], reader.unit_weights[0])
    np.testing.assert_allclose(w_phi, 1, rtol=1e-5)


def test_missing_entries_are_the_middle_of_the_domain_until_they_have_a_vector():
    X = np.random.default_rng(0).uniform(size=(50, 2))
    X[::3, 1] = np.nan
    embedding = UnitNorm(GaussianRBF())
    reader, U = read(Table(X, (None, None)), embedding, Passthrough())
    weights = least_squares_weights(np.asarray(embedding.embed(np.nan_to_num(U, nan=0.5))))
    np.testing.assert_allclose(reader.unit_weights, weights, rtol=1e-3, atol=1e-4)


def test_densities_trace_missing_features_out(table):
    reader, U = read(table, Legendre(3, orthonormal=True), MinMax(), reading=TRACED)
    assert not reader.divides
    np.testing.assert_allclose(np.linalg.norm(reader.neutral, axis=1), 1)
    _, axes = np.linalg.eigh(reader.second_moments)
    np.testing.assert_array_equal(reader.neutral, axes[..., -1])
    other = Table(table.floats[:2], (None, None, np.array(["x", "new"], object)))
    averaged, _ = read(table, Legendre(3), MinMax(), reading=AVERAGED)
    assert np.isnan(reader.transform(other)[:, 2]).tolist() == [False, True]
    assert averaged.transform(other)[1, 2] == -1
    U, unseen = averaged.encode(other)
    assert np.isnan(U[1, 2])
    assert unseen.tolist() == [[False] * 3, [False, False, True]]


def test_what_sites_read():
    columns, _ = read(dataclasses.replace(numbers(), names=("a", "b", "c")), Legendre(2), MinMax())
    assert columns.explains_columns
    assert columns.site_names() == ["a", "b", "c"]
    for scaler, count in ((Rotated(), 3), (ProbabilisticPCA(2), 2)):
        mixed, U = read(numbers(), Legendre(2), scaler)
        assert not mixed.explains_columns
        assert mixed.site_names() == [f"component {i}" for i in range(count)]
        assert U.shape == (40, mixed.width) == (40, count)
    codes = Table(np.arange(40.0).reshape(-1, 1) % 3, (None,))
    reader, _ = read(codes, PerFeature((OneHot(3),)), MinMax())
    assert reader.site_names() == ["x0"]


def test_readers_are_frozen_and_leave_no_trace_of_later_tables(table):
    reader, U = read(table, Legendre(3), MinMax())
    with pytest.raises(dataclasses.FrozenInstanceError):
        reader.neutral = None
    other = table.rows(slice(0, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader.transform(Table(other.floats * 1e3, other.raw))
    np.testing.assert_array_equal(reader.transform(table), U)


def test_inverse_and_derivatives_go_with_columns():
    rows = numbers()
    reader, U = read(rows, Legendre(3, orthonormal=True), MinMax(), reading=TRACED)
    np.testing.assert_allclose(reader.inverse(U), rows.floats, atol=1e-12)
    width = np.ptp(rows.floats, axis=0)
    np.testing.assert_allclose(reader.log_derivatives(rows.floats)[3], np.log(2 / width))


def test_rows_of_tables(table):
    some = table.rows(np.arange(3))
    assert (len(some), some.shape) == (3, (3, 3))
    assert table.rows(np.ones(2500, bool)) is table
    kept = table.rows(np.arange(2500) % 2 == 0)
    np.testing.assert_array_equal(kept.raw[2], table.raw[2][::2])


def test_weights_are_numbers_of_samples():
    assert read_weight(None, 3).tolist() == [1, 1, 1]
    assert read_weight(2.0, 2).tolist() == [2, 2]
    assert read_weight([1, 0, 2], 3).dtype == float
    for weight, message in (
        ([[1], [2]], "1D array"),
        ([1, 2], r"sample_weight.shape == \(2,\), expected \(3,\)"),
        ([-1, 1, 1], "Negative values"),
        ([0, 0, 0], "at least one"),
        ([1, np.nan, 1], "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            read_weight(weight, 3 if weight != [[1], [2]] else 2)


def test_a_density_of_a_frame_reads_what_it_was_fitted_to():
    X = pd.DataFrame({"a": np.arange(30.0), "b": ["u", "v", "w"] * 10})
    machine = TNBornMachine(2, max_epochs=1, random_state=0).fit(X)
    assert machine._reader.names == ("a", "b")
    assert machine.embed(X).shape == (30, 2, 9)
    with pytest.raises(
        ValueError,
        match=r"'b' held categories such as 'u' when fitting and holds numbers such as 1\.0 now",
    ):
        machine.score_samples(X.assign(b=1.0))


@dataclasses.dataclass(frozen=True)
class InPlace(LinearComplement):
    """One that writes to what it is given."""

    def __call__(self, x):
        x *= 0.5
        return super().__call__(x)


@dataclasses.dataclass(frozen=True)
class OfOneKind(LinearComplement):
    """One that takes arrays of NumPy only, or those of JAX."""

    of_numpy: bool = True

    def __call__(self, x):
        if self.of_numpy:
            return np.stack([np.cos(np.asarray(x)), np.sin(np.asarray(x))], axis=-1)
        return super().__call__(x.at[..., 0].set(0))


def test_embeddings_cannot_change_what_they_are_given():
    points = np.full((3, 2), 0.5)
    with pytest.raises(ValueError, match="read-only"):
        InPlace().embed(points)
    with pytest.raises(ValueError, match="read-only"):
        read(numbers(), InPlace(), MinMax())
    assert (points == 0.5).all()


@pytest.mark.parametrize("of_numpy", [True, False])
def test_embeddings_for_arrays_of_one_kind_are_refused_in_fit(of_numpy):
    with pytest.raises(ValueError, match=r"OfOneKind.* must take arrays of NumPy and"):
        TNClassifier(embedding=OfOneKind(of_numpy=of_numpy)).fit(np.eye(4), [0, 1, 0, 1])
