"""Kinds of columns, whatever holds them: what is read, what is learned, and what comes back."""

import datetime
import decimal
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tn4ml_plus import (
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    TNTransformer,
    load,
)
from tn4ml_plus.embeddings import Legendre, OneHot, Periodic, WithMissing
from tn4ml_plus.errors import DomainWarning, InformationWarning
from tn4ml_plus.losses import CrossEntropy
from tn4ml_plus.networks import MPS
from tn4ml_plus.tables import Make, _dtypes, read_columns

SMALL = {"bond_dim": 2, "max_epochs": 2, "random_state": 0}
QUICK = SMALL | {"n_members": 1}
RNG = np.random.default_rng(0)
ROWS = 60
Y = RNG.integers(0, 2, ROWS)
NUMBERS = RNG.integers(0, 99, ROWS) / 4
DAYS = [datetime.date(2023, 12, 1) + datetime.timedelta(days=7 * i) for i in range(ROWS)]
HOURS = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=7 * i) for i in range(ROWS)]


def column(values):
    """Kind of a column of a frame, its floats, and its entries."""
    table = read_columns(pd.DataFrame({"c": values}))
    return table.make.kinds[0], table.floats[:, 0], table.raw[0]


def decimals(values):
    return [decimal.Decimal(str(v)) for v in values]


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(NUMBERS, dtype="float32"),
        pd.Series(NUMBERS, dtype="Float64"),
        pd.Series(NUMBERS, dtype="double[pyarrow]"),
        pd.Series(NUMBERS, dtype=object),
        pd.Series(decimals(NUMBERS), dtype=object),
        pd.Series(decimals(NUMBERS), dtype=pd.ArrowDtype(pa.decimal128(9, 2))),
        pd.Series(pd.arrays.SparseArray(NUMBERS)),
        pl.Series(decimals(NUMBERS)),
        pl.Series(NUMBERS, dtype=pl.Float32),
        pa.array(decimals(NUMBERS)),
        pa.array(NUMBERS),
    ],
)
def test_numbers_are_numbers(values):
    frame = pa.table if isinstance(values, pa.Array) else type(values.to_frame())
    table = read_columns(frame({"c": values}))
    np.testing.assert_allclose(table.floats[:, 0], NUMBERS, rtol=1e-7)
    assert table.raw == (None,)
    assert table.make.kinds[0] in ("number", "decimal")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", None, "b"], ["a", None, "b"]),
        ([b"a", float("nan"), b"b"], ["a", None, "b"]),
        ([uuid.UUID(int=1), pd.NA], [f"{uuid.UUID(int=1)}", None]),
        (pd.Categorical([3, None, 5]), [3, None, 5]),
        (pd.cut([1.0, np.nan, 9.0], [0, 5, 10]), ["(0, 5]", None, "(5, 10]"]),
        (pd.arrays.IntervalArray.from_tuples([(0, 1), None]), ["(0, 1]", None]),
        (["a", 1, True], ["a", 1, True]),
        ([np.str_("a"), np.int64(1), None], ["a", 1, None]),
    ],
)  # fmt: skip
def test_labels_are_categories_of_plain_values(values, expected):
    kind, floats, entries = column(values)
    assert kind in ("category", "bytes")
    assert entries.tolist() == expected
    assert {type(v) for v in entries} <= {str, int, bool, type(None)}
    assert np.isnan(floats).all()


def test_moments_of_every_kind_are_seconds_and_the_time_of_their_place():
    noon = [datetime.datetime(2024, 2, 29, 12), None]
    for values in (
        pd.to_datetime(noon),
        pd.Series(noon, dtype=object),
        pd.to_datetime(noon).astype("datetime64[ns]"),
        pd.Series(noon, dtype=pd.ArrowDtype(pa.timestamp("ms"))),
        np.array(noon, "datetime64[s]"),
    ):
        kind, floats, entries = column(values)
        assert kind == "moment"
        assert floats[0] == 1709208000
        assert np.isnan(floats[1])
        assert entries[0] == np.datetime64("2024-02-29T12:00")
        assert np.isnat(entries[1])
    berlin = pd.to_datetime(noon).tz_localize("Europe/Berlin")
    for values in (berlin, pd.Series(list(berlin), dtype=object)):
        _, floats, entries = column(values)
        assert floats[0] == 1709208000 - 3600
        assert entries[0] == np.datetime64("2024-02-29T12:00")
    for values in (
        [datetime.date(2024, 2, 29), None],
        pd.PeriodIndex(["2024-02-29", None], freq="D"),
        pd.Series([datetime.date(2024, 2, 29), None], dtype=pd.ArrowDtype(pa.date32())),
    ):
        assert column(values)[1][0] == 1709208000 - 12 * 3600
    polars = read_columns(pl.DataFrame({"c": [datetime.date(2024, 2, 29), None]}))
    assert polars.floats[0, 0] == 1709208000 - 12 * 3600
    for values in (pd.to_timedelta([90, None], unit="s"), [datetime.timedelta(seconds=90), None]):
        kind, floats, entries = column(values)
        assert (kind, floats[0], entries) == ("span", 90, None)
    kind, floats, entries = column([datetime.time(6, 30), None])
    assert (kind, floats[0]) == ("time of day", 6.5 * 3600)
    assert entries[0] == np.timedelta64(23400, "s")


def test_arrays_of_objects_and_lists_are_read_as_frames_are():
    frame = pd.DataFrame({"x": NUMBERS, "s": np.where(Y, "u", "v"), "d": HOURS})
    rows = frame.astype(object).to_numpy()
    model = TNClassifier(**QUICK).fit(frame, Y)
    expected = model.predict_proba(frame)
    for X in (rows, rows.tolist()):
        found = TNClassifier(**QUICK).fit(X, Y).predict_proba(X)
        np.testing.assert_array_equal(found, expected)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        np.testing.assert_array_equal(model.predict_proba(rows), expected)
    text = np.c_[NUMBERS, np.where(Y, "u", "v")]
    assert text.dtype.kind == "U"
    table = read_columns(text)
    np.testing.assert_array_equal(table.floats[:, 0], NUMBERS)
    assert table.make.kinds == ("number", "category")


def test_masked_entries_are_missing():
    X = np.c_[NUMBERS, RNG.normal(size=ROWS)]
    hidden = RNG.random(X.shape) < 0.3
    masked, gaps = np.ma.masked_array(X + 1e4 * hidden, hidden), np.where(hidden, np.nan, X)
    for model, ask in (
        (TNClassifier(**QUICK), "predict_proba"),
        (TNAnomalyDetector(**QUICK), "score_samples"),
        (TNTransformer(2), "transform"),
    ):
        expected = getattr(model.fit(gaps, Y), ask)(gaps)
        np.testing.assert_array_equal(getattr(model.fit(masked, Y), ask)(masked), expected)
    y = np.ma.masked_array(X[:, 0], hidden[:, 0])
    count = hidden[:, 0].sum()
    for name, fit in {
        "y": lambda: TNRegressor(**QUICK).fit(X, y),
        "sample_weight": lambda: TNRegressor(**QUICK).fit(X, X[:, 0], sample_weight=y),
    }.items():
        with pytest.raises(ValueError, match=f"{name} is masked in {count} places"):
            fit()
    labels = np.ma.masked_array(Y, hidden[:, 0])
    with pytest.raises(ValueError, match="y is masked"):
        TNClassifier(**QUICK).fit(X, labels)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ({"a": [1, 2]}, ValueError, r"X is a dict: make a frame of it"),
        (pd.DataFrame({"a": [[1], [2]]}), TypeError, "Column 'a' holds a list"),
        (pl.DataFrame({"a": [[1], [2]]}), TypeError, "Column 'a' has dtype List"),
        (pd.DataFrame({"a": [1j, 2]}), TypeError, "Column 'a' holds a complex"),
        (pd.DataFrame({"a": [object(), 2]}), TypeError, "object, which has no text of its own"),
        (pd.DataFrame({"a": [*range(17), "?"]}), ValueError, r"17 different numbers.*such as '\?'"),
        (pd.DataFrame({"a": decimals(["1e999", 2])}), ValueError, r"infinity in column\(s\) a"),
        (pd.DataFrame(index=range(3)), ValueError, r"0 feature\(s\)"),
        (pl.DataFrame({"a": [1]}).lazy(), ValueError, r"pass X.collect\(\)"),
    ],
)
def test_columns_of_no_known_kind(X, error, message):
    with pytest.raises(error, match=message):
        read_columns(X)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", None, "b"], "NaN or None in 20 places"),
        (np.array(["a", np.nan, "b"], object), "NaN or None in 20 places"),
        (["a", pd.NA, "b"], "NaN or None in 20 places"),
        (np.array(["a", 1, 2], object), "labels of several types, int and str"),
        (np.array(["2020", "NaT", "2021"], "M8[D]"), "NaN or None in 20 places"),
    ],
)
def test_labels_that_cannot_be_sorted(y, message):
    with pytest.raises(ValueError, match=message):
        TNClassifier(**QUICK).fit(np.ones((ROWS, 2)), np.tile(y, 20))
    with pytest.raises(ValueError, match=message):
        TNClassifier(**QUICK).fit(np.ones((ROWS, 2)), list(y) * 20)


def test_labels_are_checked_wherever_they_are_given():
    X, model = NUMBERS[:, None], TNClassifier(**QUICK).fit(NUMBERS[:, None], Y)
    for classes, message in (
        ([0, 1, np.nan], "Input classes contains NaN"),
        (["a", "b", None], "Input classes contains NaN or None in 1 places"),
        ([0, "b"], "classes holds labels of several types, int and str"),
    ):
        with pytest.raises(ValueError, match=message):
            TNClassifier(**QUICK).partial_fit(X, Y, classes=classes)
    with pytest.raises(ValueError, match="y contains NaN or None in 60 places"):
        model.explain(X, [None] * ROWS)
    with pytest.raises(ValueError, match=r"labels of type date: make them strings, by astype\(str"):
        TNClassifier(**QUICK).fit(X, DAYS)


def test_labels_of_text_of_their_own():
    text = np.array(["left", "right"], np.dtypes.StringDType())[Y]
    assert TNClassifier(**QUICK).fit(X := NUMBERS[:, None], text).classes_.tolist() == [
        "left",
        "right",
    ]
    assert TNClassifier(**QUICK).fit(X, text.tolist()).classes_.dtype.kind == "U"


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array(HOURS, "M8[us]"), r"y has dtype datetime64\[us\]: give numbers"),
        (np.arange(ROWS).astype("m8[s]"), "y has dtype timedelta64"),
        (pd.Series(pd.period_range("2020", periods=ROWS, freq="D")), "y has dtype period"),
        (pl.Series(DAYS), "y has dtype Date"),
        (DAYS, "y must hold numbers that are floats"),
        ([10**400] * ROWS, "y must hold numbers that are floats"),
        ({"y": 1}, "y is a dict"),
    ],
)
def test_targets_that_are_no_numbers(y, message):
    with pytest.raises(ValueError, match=message):
        TNRegressor(**QUICK).fit(NUMBERS[:, None], y)


@pytest.mark.parametrize("value", [1e-300, 1e-12, -5.0, 1e12])
def test_targets_that_are_all_the_same(value):
    found = (
        TNRegressor(**QUICK).fit(NUMBERS[:, None], np.full(ROWS, value)).predict(NUMBERS[:, None])
    )
    np.testing.assert_allclose(found, value, rtol=1e-3)


def test_weights_that_are_no_numbers():
    with pytest.raises(ValueError, match=r"sample_weight has dtype datetime64\[s\]: give numbers"):
        TNRegressor(**QUICK).fit(NUMBERS[:, None], Y, np.array(HOURS, "M8[s]"))


def test_series_are_no_tables():
    for values in (pd.Series(NUMBERS), pd.Series(COLUMNS["side"]), pl.Series(NUMBERS)):
        with pytest.raises(ValueError, match=r"Expected (a )?2"):
            TNClassifier(**QUICK).fit(values, Y)


@pytest.mark.parametrize("weight", [1e300, 1e-300])
def test_weights_of_classes_count_by_their_ratio(weight):
    X = NUMBERS[:, None]
    found, expected = (
        TNClassifier(**QUICK, class_weight={0: w, 1: 2 * w}).fit(X, Y).predict_proba(X)
        for w in (weight, 1.0)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-2)
    for given in ({0: np.inf, 1: 1}, {0: 1e-300, 1: 1}):
        with pytest.raises(ValueError, match="class_weight must be positive for every class"):
            TNClassifier(**QUICK, class_weight=given).fit(X, Y)


# Ends of the floats -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "factor", [1e-300, 1e307, *(pytest.param(f, marks=pytest.mark.long) for f in (1e-200, 1e200))]
)
def test_units_do_not_matter_however_large(factor):
    X = np.random.default_rng(0).normal(size=(ROWS, 2))
    y, Z = (X[:, 0] > 0).astype(int), X * factor
    for model, target, ask in (
        (TNClassifier(**QUICK), y, "predict_proba"),
        (TNRegressor(**QUICK), X[:, 1], "predict"),
    ):
        expected = getattr(model.fit(X, target), ask)(X)
        np.testing.assert_allclose(getattr(model.fit(Z, target), ask)(Z), expected, rtol=1e-12)
    found = TNRegressor(**QUICK).fit(X, X[:, 1] * factor).predict(X)
    np.testing.assert_allclose(found / factor, expected, rtol=1e-12)
    for density in (TNBornMachine(**QUICK), TNAnomalyDetector(**QUICK)):
        expected = density.fit(X).score_samples(X)
        found = density.fit(Z).score_samples(Z) + 2 * np.log(factor)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    one, other = (TNBornMachine(**QUICK).fit(A).sample(3, random_state=0) for A in (X, Z))
    np.testing.assert_allclose(other / factor, one, rtol=1e-9)


def test_the_largest_floats_are_told_apart():
    X = np.random.default_rng(0).normal(size=(ROWS, 2))
    ends = np.sign(X) * 1.7e308
    expected = TNClassifier(**QUICK).fit(np.sign(X), Y).predict_proba(np.sign(X))
    found = TNClassifier(**QUICK).fit(ends, Y).predict_proba(ends)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "trainer"),
    [
        (1e-300, "gradient"),
        (1.7e308, "sweep"),
        *(
            pytest.param(*pair, marks=pytest.mark.long)
            for pair in [(1.7e308, "gradient"), (1e-300, "sweep"), (1e-50, "sweep")]
        ),
    ],
)
def test_weights_of_any_size_that_are_equal_are_none(weight, trainer):
    X = np.random.default_rng(0).normal(size=(ROWS, 2))
    model = TNRegressor(**QUICK, trainer=trainer)
    expected = model.fit(X, X[:, 0]).predict(X)
    found = model.fit(X, X[:, 0], sample_weight=np.full(ROWS, weight)).predict(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    is_first = np.arange(ROWS) < 20
    mixed = np.where(is_first, weight, weight / 4)
    expected = model.fit(X, X[:, 0], sample_weight=np.where(is_first, 1, 1 / 4)).predict(X)
    found = model.fit(X, X[:, 0], sample_weight=mixed).predict(X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# What is missing --------------------------------------------------------------------------------


def test_what_is_missing_can_be_all_there_is_to_learn():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    gone = (y == 1) & (rng.random(300) < 0.9)
    X = rng.normal(size=(300, 2))
    kinds = pd.DataFrame({"a": np.where(gone, None, rng.choice(["u", "v"], 300)), "b": X[:, 1]})
    X[gone, 0] = np.nan
    for table in (X, kinds):
        options = QUICK | {"max_epochs": 30, "learning_rate": 0.03, "decay": 0.0}
        model = TNClassifier(**options).fit(table[:200], y[:200])
        assert model.score(table[200:], y[200:]) > 0.9
        assert isinstance(model.embedding_.embeddings[0], WithMissing)
        assert not isinstance(model.embedding_.embeddings[1], WithMissing)
        averaged = TNClassifier(**options, missing="averaged").fit(table[:200], y[:200])
        assert averaged.score(table[200:], y[200:]) < 0.75


def test_the_vector_of_what_is_missing():
    X = np.c_[NUMBERS, NUMBERS[::-1]]
    X[::3, 0] = np.nan
    model = TNClassifier(**QUICK).fit(X, Y)
    phi, d = model.embed(X), model.embedding_.phys_dim
    np.testing.assert_array_equal(phi[::3, 0], np.tile(np.eye(d)[-1], (20, 1)))
    assert (phi[1::3, 0, -1] == 0).all()
    # Of a column that had no gaps, one is averaged out.
    np.testing.assert_allclose(
        model.embed([[1.0, np.nan]])[0, 1], phi[:, 1].mean(axis=0), rtol=1e-5, atol=1e-6
    )
    # A dropped feature is the mean of all that the column holds, gaps among it.
    np.testing.assert_allclose(
        model._reader.neutral[0], phi[:, 0].mean(axis=0), rtol=1e-5, atol=1e-6
    )
    # Gaps are a point of weight 1 in the domain, so that compression keeps what they tell.
    assert model.grams()[0, -1, -1] == 1


def test_gaps_are_averaged_for_a_network_that_is_given_where_that_is_asked_for():
    X = np.c_[NUMBERS, NUMBERS[::-1]]
    X[::3, 0] = np.nan
    network = MPS.random(2, bond_dim=2, phys_dim=3, n_outputs=2, key=jax.random.key(0))
    model = TNClassifier(network=network, max_epochs=1, missing="averaged", n_members=1)
    assert np.isfinite(model.fit(X, Y).predict_proba(X)).all()
    with pytest.raises(ValueError, match=r"sites of phys_dim \(4, 3\)"):
        model.set_params(missing="learned").fit(X, Y)
    for name in ("missing", "dates"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            TNClassifier(**QUICK, **{name: "dropped"}).fit(X, Y)


def test_rare_classes_are_predicted_as_often_as_they_are():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3))
    p = 1 / (1 + np.exp(4.5 - 1.2 * X[:, 0] - X[:, 1]))
    y = rng.random(3000) < p
    for loss in (None, CrossEntropy(label_smoothing=0.1)):
        options = {"n_members": 1, "max_epochs": 4, "learning_rate": 0.01, "random_state": 0}
        options |= {"embedding": Legendre(2), "feature_dropout": 0.0}
        q = TNClassifier(3, loss=loss, **options).fit(X[:2000], y[:2000]).predict_proba(X[2000:])
        assert 0.75 < q[:, 1].mean() / p[2000:].mean() < 1.33
        assert q[:, 1].min() < 0.01


# Many categories --------------------------------------------------------------------------------


def many(n_levels, n_rows, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.permutation(np.arange(n_rows) % n_levels)
    side = rng.integers(0, 2, n_levels)
    return pd.DataFrame({"shop": [f"s{i}" for i in level], "q": rng.normal(size=n_rows)}), side[
        level
    ]


def test_as_many_categories_as_the_rows_bear():
    X, y = many(24, 1300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = QUICK | {"max_epochs": 6, "learning_rate": 0.05, "decay": 0.0}
        options |= {"feature_dropout": 0.2}
        model = TNClassifier(**options).fit(X[:1200], y[:1200])
    assert model.embedding_.embeddings[0] == OneHot(24)
    assert model.score(X[1200:], y[1200:]) > 0.95


@pytest.mark.parametrize("most", [None, 5])
def test_rare_categories_are_pooled_and_named(most):
    X, y = many(20, 200)
    with pytest.warns(InformationWarning, match="column 'shop' keeps") as seen:
        model = TNClassifier(**QUICK, max_categories=most).fit(X, y)
    assert len(seen) == 1
    kept = (most or 16) - 1
    text = str(seen[0].message)
    assert f"keeps {kept} of 20 ({(20 - kept) / 20:.1%} of the rows" in text
    assert "max_categories" in text
    assert model.embedding_.embeddings[0] == OneHot(kept + 1)
    codes = model._reader.transform(read_columns(X))[:, 0]
    np.testing.assert_array_equal(np.bincount(codes.astype(int))[-1], 200 - 10 * kept)
    # What was never seen is as rare as these.
    strange = X.assign(shop="new")
    assert (model._reader.transform(read_columns(strange))[:, 0] == kept).all()
    with pytest.raises(ValueError, match="max_categories must be"):
        TNClassifier(**QUICK, max_categories=1).fit(X, y)


def test_densities_warn_of_rare_categories_too():
    X, _ = many(20, 100)
    with pytest.warns(InformationWarning, match="count as unknown: column 'shop' keeps 16 of 20"):
        machine = TNBornMachine(**QUICK).fit(X)
    assert set(machine.sample(50, random_state=0)["shop"]) <= set(machine._reader.levels[0])


# Dates ------------------------------------------------------------------------------------------


def test_dates_are_the_time_and_phases():
    frame = pd.DataFrame({"x": NUMBERS, "when": HOURS, "day": DAYS})
    model = TNClassifier(**QUICK).fit(frame, Y)
    assert model.site_names() == [
        "x", "when", "when: time of year", "when: day of week", "when: time of day",
        "day", "day: time of year",
    ]  # fmt: skip
    assert model.embedding_.embeddings[2:5] == (Periodic(2), Periodic(3), Periodic(2))
    U = model._reader.transform(read_columns(frame))
    assert ((U[:, 2:5] >= 0) & (U[:, 2:5] < 1)).all()
    np.testing.assert_allclose(U[:, 4] * 24, [h.hour for h in HOURS])
    np.testing.assert_allclose(U[:, 3] * 7, [h.weekday() for h in HOURS])
    assert model.explain(frame).shape == (ROWS, 7)
    linear = TNClassifier(**QUICK, dates="linear").fit(frame, Y)
    assert linear.site_names() == ["x", "when", "day"]
    for other in (pl.from_pandas(frame), pa.Table.from_pandas(frame)):
        again = TNClassifier(**QUICK).fit(other, Y)
        np.testing.assert_array_equal(again.predict_proba(other), model.predict_proba(frame))
    with pytest.raises(ValueError, match="'when' held moments when fitting and holds numbers"):
        model.predict(frame.assign(when=1.0))
    gone = frame.assign(when=pd.NaT)
    assert np.isfinite(model.predict_proba(gone)).all()


def test_a_weekday_is_learned():
    rng = np.random.default_rng(0)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 365, 500), unit="D")
    frame, y = pd.DataFrame({"day": days}), days.day_of_week.isin([1, 4, 5]).astype(int)
    options = {"n_members": 1, "feature_dropout": 0.2, "random_state": 0}
    model = TNClassifier(4, embedding=Legendre(2), **options).fit(frame[:400], y[:400])
    assert model.score(frame[400:], y[400:]) > 0.95


# Frames come back -------------------------------------------------------------------------------

LAST = datetime.datetime.max.replace(tzinfo=datetime.timezone(-datetime.timedelta(hours=1)))
COLUMNS = {
    "count": RNG.integers(0, 9, ROWS),
    "mass": NUMBERS,
    "flag": Y == 1,
    "side": RNG.choice(["left", "right"], ROWS),
    "when": HOURS,
    "span": [datetime.timedelta(minutes=int(m)) for m in RNG.integers(0, 99, ROWS)],
}


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pd", "pl", "pa"])
def test_samples_are_frames_with_the_dtypes_of_fitting(library, tmp_path):
    frame = library(COLUMNS)
    machine = TNBornMachine(**QUICK).fit(frame)
    drawn = machine.sample(7, random_state=0)
    assert type(drawn) is type(frame)
    assert len(drawn) == 7
    schema = {pd.DataFrame: "dtypes"}.get(library, "schema")
    assert str(getattr(drawn, schema)) == str(getattr(frame, schema))
    assert np.isfinite(machine.score_samples(drawn)).all()
    machine.save(tmp_path / "machine")
    again = load(tmp_path / "machine").sample(7, random_state=0)
    assert again.equals(drawn)
    part = machine.marginal(["side", "count"])
    assert np.isfinite(part.score_samples(part.sample(3, random_state=0))).all()
    names = getattr(part.sample(1), "column_names", None) or list(part.sample(1).columns)
    assert names == ["side", "count"]


def test_pandas_own_dtypes_come_back():
    frame = pd.DataFrame(
        {
            "count": pd.Series(COLUMNS["count"], dtype="Int64"),
            "arrow": pd.Series(COLUMNS["count"], dtype="int64[pyarrow]"),
            "flag": pd.Series(Y == 1, dtype="boolean"),
            "kind": pd.Series(COLUMNS["side"], dtype="category"),
            "month": pd.period_range("2020", periods=ROWS, freq="M"),
            "place": pd.to_datetime(HOURS).tz_localize("Europe/Berlin"),
            "few": pd.arrays.SparseArray(NUMBERS),
        }
    )
    drawn = TNBornMachine(**QUICK).fit(frame).sample(5, random_state=0)
    assert drawn.dtypes.equals(frame.dtypes)


# That floats are the same for many integers.
ALIKE = pytest.mark.filterwarnings("ignore:Column .* different numbers")
# What floats and text alone would not give back, of pandas, polars and arrays.
ENTRIES = {
    "ranks": pd.Categorical(COLUMNS["side"], ["right", "none", "left"], ordered=True),
    "bins": pd.cut(NUMBERS, [-9, 5, 9, 99]),
    "bytes": np.array([b"left", b"right"], object)[Y],
    "large": pd.array(np.arange(ROWS) + 2**60, "Int64"),
    "unsigned": pl.Series(np.arange(ROWS, dtype=np.uint64) + 2**63),
    "unsigned, with gaps": pd.array(np.arange(ROWS, dtype=np.uint64) + 2**63, "UInt64"),
    "decimals": np.array([decimal.Decimal(i) / 4 for i in range(ROWS)], object),
    "days": np.array(DAYS, object),
    "nanoseconds": pd.to_datetime(np.arange(ROWS) * 10**9 + 123),
    "binary": pl.Series([b"left", b"right"] * (ROWS // 2)),
    "enum": pl.Series(["a", "b"] * (ROWS // 2), dtype=pl.Enum(["b", "c", "a"])),
}


@ALIKE
@pytest.mark.parametrize("name", ENTRIES)
def test_entries_are_of_the_type_of_fitting_and_stay_where_there_are_no_gaps(name, tmp_path):
    own, values = pl if isinstance(ENTRIES[name], pl.Series) else pd, ENTRIES[name]
    whole = own.DataFrame({"a": values, "b": NUMBERS})
    machine = TNBornMachine(**QUICK).fit(whole)
    machine.save(tmp_path / "machine")
    drawn = load(tmp_path / "machine").sample(5, random_state=0)["a"]
    assert drawn.dtype == whole["a"].dtype
    assert {type(v) for v in drawn.to_list()} == {type(v) for v in whole["a"].to_list()}
    if name.startswith("unsigned"):
        assert min(drawn.to_list()) >= 2**63
    entries = [None if i == 2 else v for i, v in enumerate(whole["a"].to_list())]
    gone = own.DataFrame({"a": own.Series(entries, dtype=whole["a"].dtype), "b": NUMBERS})
    drawn = machine.sample(2, given=gone, random_state=0)["a"].to_list()
    assert drawn[:4:2] + drawn[6::2] == entries[:2] + entries[3:]
    found = machine.impute(gone)["a"].to_list()
    assert found[:2] + found[3:] == entries[:2] + entries[3:]
    assert type(found[2]) is type(found[1])
    table = np.array([entries, NUMBERS], object).T
    filled = TNBornMachine(**QUICK).fit(table).impute(table)
    assert filled[:2, 0].tolist() + filled[3:, 0].tolist() == entries[:2] + entries[3:]


def test_entries_that_no_column_holds_together_stay():
    frame = pd.DataFrame({"a": pd.Categorical(COLUMNS["side"]), "b": NUMBERS})
    machine = TNBornMachine(**QUICK).fit(frame)
    other = pd.DataFrame({"a": pd.Categorical([None, "up"], ["up"]), "b": [0.0, 1.0]})
    assert machine.impute(other)["a"].tolist()[1] == "up"
    assert machine.impute(other)["a"].tolist()[0] in ("left", "right")


def test_arrays_of_integers_have_integer_samples():
    machine = TNBornMachine(**QUICK).fit(np.c_[COLUMNS["count"], COLUMNS["count"][::-1]])
    assert machine.sample(5, random_state=0).dtype.kind == "i"
    mixed = np.array([COLUMNS["count"], COLUMNS["side"]], object).T
    drawn = TNBornMachine(**QUICK).fit(mixed).sample(5, random_state=0)
    assert [type(v) for v in drawn[0]] == [int, str]


def test_rows_given_as_series_or_as_drawn():
    frame = pd.DataFrame({"shop": COLUMNS["side"], "sales": NUMBERS})
    machine = TNBornMachine(**QUICK).fit(frame)
    drawn = machine.sample(4, random_state=0)
    for given in (drawn.iloc[0], frame.iloc[0], drawn, frame.head(2)):
        n_rows = 1 if given.ndim == 1 else len(given)
        again = machine.sample(2, given=given, random_state=0)
        assert len(again) == 2 * n_rows
        assert again["shop"][0] == np.asarray(given).ravel()[0]
    gone = pd.DataFrame({"shop": [None, "left"], "sales": [1.0, np.nan]}, index=[5, 9])
    found = machine.impute(gone)
    assert found.index.tolist() == [5, 9]
    assert found.notna().all(axis=None)


def test_a_density_imputes_in_a_pipeline():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    X = np.c_[NUMBERS, Y + RNG.normal(size=ROWS) / 9]
    X[::5, 0] = np.nan
    machine = TNBornMachine(**QUICK)
    pipeline = make_pipeline(machine, LogisticRegression()).fit(X, Y)
    assert pipeline.score(X, Y) > 0.9
    np.testing.assert_array_equal(pipeline[0].transform(X), pipeline[0].impute(X))
    drawn = TNBornMachine(**QUICK, imputation="draw").fit(X)
    one, two = drawn.transform(X), drawn.transform(X)
    np.testing.assert_array_equal(one, two)
    assert (one[::5, 0] != pipeline[0].transform(X)[::5, 0]).all()
    np.testing.assert_array_equal(one[1::5], X[1::5])
    frame = pd.DataFrame(X, columns=["a", "b"])
    machine.set_output(transform="pandas").fit(frame)
    assert machine.transform(frame).columns.tolist() == ["a", "b"]
    assert machine.get_feature_names_out().tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="imputation must be"):
        TNBornMachine(**QUICK, imputation="median").fit(X)


def test_what_a_file_says_of_dtypes_is_not_believed():
    for library, text in (
        *(("polars", text) for text in ("from_dict", "object)", "Enum([", "__class__")),
        *(("pandas", text) for text in ("category{", 'category{"labels": 3, "ordered": 1}')),
    ):
        make = Make(library, ("number",), (text,), (None,), ("a",))
        frame = make.build(np.ones((2, 1)))
        assert frame["a"].to_list() == [1.0, 1.0]


# Containers other than that of fitting, and their dtypes -----------------------------------------

LARGE = 2**53 + 1 + np.arange(ROWS) % 3
NANOSECONDS = pd.Series(pd.to_datetime(np.arange(ROWS) * 10**9 + 123))
THERE = NANOSECONDS.dt.tz_localize("America/New_York")


def fitted(frame):
    return TNBornMachine(**QUICK | {"max_epochs": 1}).fit(frame)


@pytest.mark.parametrize("other", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pd", "pl", "pa"])
@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pd", "pl", "pa"])
@pytest.mark.parametrize("values", [LARGE, NANOSECONDS, THERE], ids=["large", "ns", "zone"])
def test_entries_stay_in_tables_of_every_library(values, library, other):
    def table(make, b):
        frame = pd.DataFrame({"a": values, "b": b})
        ways = {pl.DataFrame: pl.from_pandas, pa.table: pa.Table.from_pandas}
        return ways.get(make, pd.DataFrame)(frame)

    machine = fitted(table(library, NUMBERS))
    for found in (
        machine.transform(table(other, np.nan)),
        machine.sample(given=table(other, np.nan)),
    ):
        assert type(found) is type(table(library, 0.0))
        found = found if library is pd.DataFrame else found.to_pandas()
        pd.testing.assert_series_equal(found["a"], pd.Series(values, name="a"))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize(
    ("values", "entry", "dtype"),
    [
        (np.array([0, 1, 2], "int8"), 2, "int8"),
        (np.array([0, 1, 2], "int8"), 300, "int64"),
        (np.array([0, 1, 2], "int8"), 1.5, "float64"),
        (np.array([False, True, True]), 0.3, "float64"),
        (LARGE[:3], LARGE[0], "int64"),
        (np.array([0, 1, 2], "float32"), 0.1, "float64"),
        (np.array([0, 1, 2], "float32"), 0.5, "float32"),
    ],
)
@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
def test_entries_stay_where_the_dtype_of_fitting_does_not_hold_them(values, entry, dtype, library):
    machine = fitted(library({"a": np.tile(values, 20), "b": NUMBERS}))
    for given in ([entry, None], pd.Series([entry, None], ["a", "b"], object)):
        found = machine.sample(2, given=given)["a"]
        assert found.to_list() == [entry] * 2
        # Rows of pandas that hold several dtypes are of objects.
        own = "object" if isinstance(given, pd.Series) and library is pd.DataFrame else dtype
        assert str(found.dtype).lower() in (dtype, own)
    other = pl.DataFrame({"a": [entry, None], "b": [None, 1.0]}, strict=False)
    assert machine.transform(other)["a"].to_list()[0] == entry
    assert fitted(np.c_[values, values]).sample(given=[entry, None])[0, 0] == entry


def test_lists_hold_what_arrays_of_integers_do():
    machine = fitted(np.c_[LARGE, COLUMNS["count"]])
    for found in (
        machine.transform([[LARGE[0], 1]]),
        machine.transform([[LARGE[0], None]]),
        machine.sample(given=np.array([LARGE[0], 1])),
    ):
        assert found.dtype == int
        assert found[0, 0] == LARGE[0]


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pd", "pl", "pa"])
def test_bytes_are_told_apart_and_come_back(library, tmp_path):
    values = [b"\xff", b"\\xff", b"a"]
    fitted(library({"a": values * 20, "b": NUMBERS})).save(tmp_path / "machine")
    machine = load(tmp_path / "machine")
    drawn = machine.sample(60, random_state=0)["a"]
    assert set(drawn.to_pylist() if library is pa.table else drawn.to_list()) == set(values)
    with pytest.raises(TypeError, match=r"Column 'a' holds text and bytes.*: decode the bytes"):
        read_columns(pd.DataFrame({"a": [b"a", "a"]}))


LABELS = {
    "numbers beside their text": pd.Index([1, "1", 2.5], dtype=object),
    "bytes": pd.Index([b"a", b"\xff", b"c"], dtype=object),
    "moments": pd.to_datetime([0, 1, 10**9 + 123]),
    "zones": pd.date_range("2020", periods=3, tz="Japan"),
    "spans": pd.to_timedelta([1, 2, 3], unit="s"),
    "periods": pd.period_range("2020", periods=3, freq="M"),
    "intervals": pd.interval_range(0, 3),
}


@pytest.mark.parametrize("name", LABELS)
def test_categories_of_all_labels_come_back(name, tmp_path):
    labels = LABELS[name]
    codes = np.arange(ROWS) % 3
    frame = pd.DataFrame({"a": pd.Categorical.from_codes(codes, labels, ordered=True)})
    frame["b"] = NUMBERS
    fitted(frame).save(tmp_path / "machine")
    machine = load(tmp_path / "machine")
    drawn = machine.sample(60, random_state=0)["a"]
    assert drawn.dtype == frame["a"].dtype
    assert set(drawn.cat.codes) == {0, 1, 2}
    gone = frame.copy()
    gone.loc[0, "a"] = None
    found = machine.impute(gone)["a"]
    assert found[0] in list(labels)
    pd.testing.assert_series_equal(found[1:], frame["a"][1:])


def test_types_of_pyarrow_come_back(tmp_path):
    codes, dates = np.arange(ROWS) % 3, [datetime.date(2020, 1, 1 + i % 3) for i in range(ROWS)]
    names, clock = [b"abc"[i : i + 1] for i in codes], [datetime.time(int(i)) for i in codes]
    values = {
        pa.date64(): dates,
        pa.timestamp("ms"): codes,
        pa.timestamp("s", "Japan"): codes,
        pa.duration("ms"): codes,
        pa.time32("s"): clock,
        pa.time64("ns"): clock,
        pa.large_binary(): names,
        pa.binary(1): names,
        pa.decimal128(9, 2): codes.tolist(),
    }
    columns = [pa.array(v, t) for t, v in values.items()] + [
        pa.DictionaryArray.from_arrays(pa.array(codes, index), pa.array(labels))
        for index, labels in ((pa.int16(), [7, 8, 9]), (pa.int32(), ["u", "v", "w"]))
    ]
    names = [f"{j}" for j in range(len(columns))]
    table = pa.table(columns, names=names)
    fitted(table).save(tmp_path / "machine")
    machine = load(tmp_path / "machine")
    assert machine.sample(3).schema == table.schema
    gap = pa.table([pa.nulls(1, column.type) for column in columns], names=names)
    found = machine.transform(pa.concat_tables([table, gap]))
    assert found.schema == table.schema
    assert found.slice(0, ROWS).to_pylist() == table.to_pylist()
    assert None not in found.slice(ROWS).to_pylist()[0].values()


def test_enums_whose_names_have_quotes():
    names = ["it's", 'so "called"', "b, c"]
    frame = pl.DataFrame({"a": pl.Series(names * 20, dtype=pl.Enum([*names, "none"]))})
    machine = fitted(frame)
    assert machine.sample(2).schema == machine.marginal("a").sample(2).schema == frame.schema


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "float32", "bool", "M8[ns]", "M8[D]", "m8[s]", "m8[ns]"]
)
def test_dtypes_of_arrays_come_back(dtype):
    X = (np.arange(ROWS) % 2 * 100).astype(dtype)[:, None]
    hidden = np.arange(ROWS)[:, None] == 0
    machine, gone = fitted(X), np.ma.masked_array(X, hidden)
    for found in (machine.sample(99, random_state=0), machine.transform(gone)):
        assert found.dtype == X.dtype
    np.testing.assert_array_equal(found[1:], X[1:])


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_names_of_names_and_sparse_columns_come_back():
    names = pd.MultiIndex.from_product([["a"], [1, 2]], names=["u", None])
    frame = pd.DataFrame(np.c_[NUMBERS, NUMBERS], columns=names)
    frame = frame.astype(pd.SparseDtype(float))
    machine, gone = fitted(frame), frame.astype(float)
    gone.iloc[0, 0] = np.nan
    for found in (
        machine.sample(2),
        machine.transform(gone),
        machine.transform(gone.astype(pd.SparseDtype(float))),
        machine.sample(given=[1.0, None]),
    ):
        pd.testing.assert_index_equal(found.columns, names)
        assert found.dtypes.equals(frame.dtypes)
    one = fitted(pd.DataFrame(np.c_[NUMBERS], columns=pd.Index(["a"], name="u")))
    assert one.sample(2).columns.name == "u"


# More of what tables hold -----------------------------------------------------------------------


def test_masks_of_all_kinds_of_arrays():
    hidden = np.zeros((ROWS, 1), bool)
    hidden[0] = True
    for values, kind in (
        (np.array(COLUMNS["side"], object), "category"),
        (np.array(COLUMNS["side"]), "category"),
        (COLUMNS["count"], "integer"),
        (np.array(HOURS, "datetime64[us]"), "moment"),
        (np.arange(ROWS).astype("timedelta64[s]"), "span"),
    ):
        table = read_columns(np.ma.masked_array(values[:, None], hidden))
        assert table.make.kinds == (kind,)
        first = table.floats[0, 0] if table.raw[0] is None or kind == "moment" else table.raw[0][0]
        assert first is None or np.isnan(first)
        whole = read_columns(np.ma.masked_array(values[:, None], False))
        np.testing.assert_array_equal(whole.floats, read_columns(values[:, None]).floats)
    machine = TNBornMachine(**QUICK).fit(np.c_[NUMBERS, NUMBERS])
    drawn = machine.sample(2, given=np.ma.array([1.0, 5.0], mask=[0, 1]), random_state=0)
    assert (drawn[:, 0] == 1).all()
    assert (drawn[:, 1] != 5).all()


def test_a_single_category_is_all_that_is_drawn():
    frame = pd.DataFrame({"a": NUMBERS, "s": "always"})
    machine = TNBornMachine(**QUICK).fit(frame)
    assert (machine.sample(50, random_state=0)["s"] == "always").all()
    assert machine.marginal("s").score_samples(frame[["s"]])[0] == pytest.approx(0, abs=1e-6)


@ALIKE
def test_what_is_not_missing_stays_as_it_is():
    large = 1_700_000_000_000_000_001 + 7 * np.arange(ROWS)
    frame = pd.DataFrame({"id": large, "v": NUMBERS, "few": COLUMNS["count"].astype("uint8")})
    frame.loc[0, "v"] = np.nan
    machine = TNBornMachine(**QUICK).fit(frame)
    for found in (machine.impute(frame), machine.transform(frame.assign(few=300))):
        np.testing.assert_array_equal(found["id"], large)
        assert np.isfinite(found["v"]).all()
    assert (machine.transform(frame.assign(few=300))["few"] == 300).all()
    polars = pl.from_pandas(frame.assign(v=NUMBERS))
    assert TNBornMachine(**QUICK).fit(polars).impute(polars).equals(polars)


def test_small_integers_do_not_wrap():
    frame = pd.DataFrame({"p": RNG.choice([0, 250], ROWS).astype("uint8"), "q": NUMBERS})
    for table in (frame, frame.astype({"p": "UInt8"}), pl.from_pandas(frame)):
        drawn = TNBornMachine(**QUICK).fit(table).sample(300, random_state=0)["p"]
        assert drawn.dtype == table["p"].dtype
        # Tails beyond the ends of the type are put to its ends.
        assert np.mean(np.asarray(drawn) == 0) > 0.1
        assert np.mean(np.asarray(drawn) == 255) > 0.1


def test_names_are_checked_wherever_there_are_any():
    frame = pd.DataFrame({"a": NUMBERS, "b": 9 * NUMBERS})
    machine = TNBornMachine(**QUICK).fit(frame)
    part = machine.marginal(["a", "b"])
    with pytest.raises(ValueError, match=r"must be \['a', 'b'\] in this order, got \['b', 'a'\]"):
        part.score_samples(frame[["b", "a"]])
    wrapped = nw.from_native(pl.from_pandas(frame))
    model = TNClassifier(**QUICK).fit(wrapped, Y)
    with pytest.raises(ValueError, match="same order"):
        model.predict(wrapped[["b", "a"]])
    plain = TNBornMachine(**QUICK).fit(pd.DataFrame(frame.to_numpy()))
    assert plain.sample(2).columns.tolist() == [0, 1]


@pytest.mark.parametrize("zone", ["Japan", "GMT", "America/New_York"])
def test_time_zones_come_back(zone):
    frame = pd.DataFrame({"w": pd.to_datetime(HOURS).tz_localize(zone), "x": NUMBERS})
    for table in (frame, pl.from_pandas(frame)):
        drawn = TNBornMachine(**QUICK).fit(table).sample(2, random_state=0)["w"]
        assert drawn.dtype == table["w"].dtype
    coarse = pl.DataFrame({"w": pl.Series(HOURS, dtype=pl.Datetime("ms"))})
    assert TNBornMachine(**QUICK).fit(coarse).sample(1).schema == coarse.schema


def test_output_of_another_library_keeps_dtypes():
    frame = pl.DataFrame({"k": COLUMNS["count"], "when": HOURS, "s": COLUMNS["side"]})
    machine = TNBornMachine(**QUICK).set_output(transform="pandas").fit(frame)
    found = machine.transform(frame)
    assert isinstance(found, pd.DataFrame)
    assert [dtype.kind for dtype in found.dtypes[:2]] == ["i", "M"]


def test_text_of_arrays_is_read_as_in_fitting():
    X = np.array([["1", "a"], ["2", "b"], ["10+", "c"]] * 20)
    model = TNClassifier(**QUICK).fit(X, Y)
    expected = model.predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(X[:2]), expected[:2], rtol=1e-5)
    numbers = TNClassifier(**QUICK).fit(X[np.arange(ROWS) % 3 < 2][:, :1], Y[:40])
    with pytest.raises(ValueError, match="held numbers when fitting and holds categories"):
        numbers.predict(X[:, :1])


def test_categories_that_are_numbers_are_no_text():
    frame = pd.DataFrame({"z": pd.Categorical(Y + 1), "x": NUMBERS})
    model = TNClassifier(**QUICK).fit(frame, Y)
    as_numbers = model.predict_proba(frame.assign(z=Y + 1.0))
    np.testing.assert_array_equal(as_numbers, model.predict_proba(frame))
    with pytest.raises(
        ValueError, match=r"categories such as [12] when fitting and holds .*'[12]'"
    ):
        model.predict(frame.assign(z=(Y + 1).astype(str)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["300000-01-01"], "M8[s]"), "a moment in the year 300000"),
        (np.array([[LAST]], object)[:, 0], "moments at the ends of the calendar"),
        ([("a", 1)], "holds a tuple"),
        ([frozenset("ab")], "holds a frozenset"),
        ([len], "holds a builtin_function_or_method"),
    ],
)  # fmt: skip
def test_more_entries_of_no_known_kind(values, message):
    X = values[:, None] if isinstance(values, np.ndarray) else pd.DataFrame({"c": values})
    with pytest.raises((ValueError, TypeError), match=message):
        read_columns(X)


def test_more_entries():
    assert column([datetime.timedelta.max])[1][0] == datetime.timedelta.max.total_seconds()
    assert column([b"\x80", b"\x81"])[2].tolist() == ["\udc80", "\udc81"]
    assert np.isnan(column(decimals(["sNaN", 1]))[1][0])
    assert read_columns(np.array([["a"], ["b"]], np.dtypes.StringDType())).make.kinds == (
        "category",
    )
    assert read_columns(pl.DataFrame({"c": pl.Series([1, 2], dtype=pl.Int128)})).floats[1, 0] == 2
    machine = TNBornMachine(**QUICK).fit(np.c_[NUMBERS, NUMBERS])
    assert machine.sample(given=pl.Series([1.0, None]))[0, 0] == 1
    with pytest.raises(ValueError, match="given is a dict"):
        machine.sample(given={"a": 1.0})
    with pytest.raises(ValueError, match="structured array"):
        read_columns(np.zeros(3, [("a", float), ("b", int)]))


def test_what_reads_a_table_cannot_change_while_training_goes_on():
    X = np.c_[NUMBERS, NUMBERS]
    for name, value in {"missing": "averaged", "dates": "linear", "max_categories": 9}.items():
        model = TNClassifier(**QUICK, warm_start=True).fit(X, Y).set_params(**{name: value})
        with pytest.raises(ValueError, match=f"{name} was .* when the networks were made"):
            model.fit(X, Y)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(ROWS) % 3 + 2**60,
        np.array([10**30 + i % 3 for i in range(ROWS)], object),
        np.array([decimal.Decimal(10**30 + i % 3) for i in range(ROWS)], object),
        np.datetime64("2020-01-01", "ns") + np.arange(ROWS) % 3,
    ],
    ids=["int64", "objects", "decimals", "nanoseconds"],
)
def test_what_floats_do_not_tell_apart_is_told(values):
    told = r"Column .*0.* holds 3 different numbers or moments, of which 64-bit floats tell 1 apart"
    for X in (values[:, None], pd.DataFrame({"c0": values})):
        with pytest.warns(InformationWarning, match=told):
            TNClassifier(**QUICK).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_columns(pd.DataFrame({"c0": [f"{v}" for v in values]}))
        # Some are the same by accident.
        read_columns(np.append(np.arange(10**4, 2**60, 2**52), 2**60 + 1)[:, None])


def test_text_of_frames_is_text():
    codes = np.array(["01234", "90210", "00501"])[np.arange(ROWS) % 3]
    expected = None
    for frame in (pd.DataFrame({"zip": codes}), pl.DataFrame({"zip": codes})):
        model = TNBornMachine(**QUICK).fit(frame)
        assert set(model.sample(20, random_state=0)["zip"]) <= set(codes)
        found = model.score_samples(frame)
        expected = found if expected is None else expected
        np.testing.assert_array_equal(found, expected)
    mixed = pl.DataFrame({"a": np.where(codes == "01234", "12A", codes)})
    whole = TNClassifier(**QUICK).fit(mixed, Y)
    rows = np.flatnonzero(codes != "01234")
    found = whole.predict_proba(mixed[rows.tolist()])
    np.testing.assert_allclose(found, whole.predict_proba(mixed)[rows], rtol=1e-5)


def test_record_batches_are_frames():
    batch = pa.RecordBatch.from_pydict({"a": NUMBERS, "b": list(COLUMNS["side"])})
    model = TNBornMachine(**QUICK).fit(batch)
    assert model.sample(2, random_state=0).schema.equals(batch.schema)
    with pytest.raises(ValueError, match="same order"):
        model.score_samples(batch.select(["b", "a"]))


def test_columns_whose_names_are_no_text_keep_their_order():
    frame = pd.DataFrame({0: NUMBERS, 1: NUMBERS[::-1]})
    model = TNClassifier(**QUICK).fit(frame, Y)
    with pytest.raises(ValueError, match=r"in the order 0, 1 when fitting and are in .* 1, 0 now"):
        model.predict(frame[[1, 0]])
    marginal = TNBornMachine(**QUICK).fit(frame).marginal([1, 0])
    assert np.isfinite(marginal.score_samples(frame[[1, 0]])).all()
    with pytest.raises(ValueError, match=r"in the order 1, 0 when fitting and are in .* 0, 1 now"):
        marginal.score_samples(frame)
    expected = model.predict_proba(frame)
    for same in (frame.to_numpy(), frame.set_axis([7, 8], axis=1)):
        np.testing.assert_array_equal(model.predict_proba(same), expected)


def test_moments_and_spans_keep_their_units():
    zoned = pd.DataFrame({"t": pd.to_datetime(HOURS).tz_localize("America/New_York")})
    model = TNClassifier(**QUICK).fit(zoned, Y)
    for other, words in (
        (zoned["t"].dt.tz_convert("Asia/Tokyo"), "the time zone Asia/Tokyo"),
        (zoned["t"].dt.tz_localize(None), "without a time zone"),
    ):
        with pytest.raises(ValueError, match=f"America/New_York when .* {words} now"):
            model.predict(other.to_frame())
        marginal = TNBornMachine(**QUICK).fit(zoned).marginal([0])
        with pytest.raises(ValueError, match=f"America/New_York when .* {words} now"):
            marginal.score_samples(other.to_frame())
    spans = pd.DataFrame({"s": pd.to_timedelta(NUMBERS, unit="h")})
    for first, second in ((spans, spans["s"] / pd.Timedelta("1h")), (spans["s"].dt.days, spans)):
        fitted = TNClassifier(**QUICK).fit(pd.DataFrame(first), Y)
        with pytest.raises(ValueError, match=r"Column 's' held (spans of time|numbers) when"):
            fitted.predict(pd.DataFrame(second))
    # What is missing is of any kind.
    TNClassifier(**QUICK).fit(spans, Y).predict(pd.DataFrame({"s": [np.nan]}))


@pytest.mark.parametrize("weight", [1.0, 1 / ROWS, 1e-10])
def test_what_was_never_seen_is_rare_whatever_weights_sum_to(weight):
    frame = pd.DataFrame({"side": COLUMNS["side"]})
    for estimator in (TNBornMachine(**QUICK), TNAnomalyDetector(2, max_epochs=1, random_state=0)):
        model = estimator.fit(frame, sample_weight=np.full(ROWS, weight))
        known, unseen = model.score_samples(pd.DataFrame({"side": ["left", "above"]}))
        assert unseen < known - 1
    assert TNBornMachine(**QUICK).fit(frame).unseen_log_density_ == -np.log1p(ROWS)


@pytest.mark.parametrize("constant", [2.0**40, 1e-12, 0.0])
def test_constants_that_change_cost_the_same_however_far(constant):
    X = np.c_[NUMBERS, np.full(ROWS, constant)]
    model = TNAnomalyDetector(2, max_epochs=1, random_state=0).fit(X)
    unit = constant or 1.0
    shares = np.array([0, 1e-10, 1e-8, 1.0, 1e3])
    found = model.score_samples(np.c_[np.ones(5), constant + unit * shares])
    np.testing.assert_allclose(found - found[0], [0, 0, -10, -10, -10], atol=1e-6)


@pytest.mark.parametrize(
    "weight",
    ["balanced", {"a": 1}, [10**400] * ROWS, [1j] * ROWS, [datetime.timedelta(1)] * ROWS],
    ids=lambda weight: type(weight).__name__,
)
def test_weights_that_are_no_floats_are_named(weight):
    with pytest.raises(ValueError, match=r"sample_weight (must hold numbers|has dtype)"):
        TNClassifier(**QUICK).fit(NUMBERS[:, None], Y, sample_weight=weight)


@pytest.mark.parametrize("library", ["arrow", "list", "categorical", "objects"])
def test_dates_are_no_targets_whatever_holds_them(library):
    moments = np.array(HOURS, "datetime64[us]")
    target = {
        "arrow": pa.array(HOURS),
        "list": list(moments),
        "categorical": pd.Series(pd.Categorical(pd.to_datetime(HOURS))),
        "objects": np.array([np.timedelta64(1, "D")] * ROWS, object),
    }[library]
    with pytest.raises(ValueError, match=r"y has dtype .*: give numbers, such as days since"):
        TNRegressor(**QUICK).fit(NUMBERS[:, None], target)


def test_targets_at_both_ends_of_the_floats_are_refused():
    with pytest.raises(ValueError, match=r"y lies 1.7e\+308 away from 0"):
        TNRegressor(**QUICK).fit(NUMBERS[:, None], np.where(Y, 1.7e308, -1.7e308))


def test_one_entry_near_the_end_of_the_floats_leaves_the_others():
    X = np.where(np.arange(ROWS)[:, None] == 0, 1e308, RNG.normal(size=(ROWS, 3)))
    model = TNClassifier(**QUICK).fit(X, Y)
    assert np.isfinite(model.embed(X)).all()
    assert np.isfinite(model._reader.transform(model._read(X))).all()


def test_codes_that_are_unknown_are_told_at_any_time():
    codes = np.arange(ROWS)[:, None] % 3
    model = TNClassifier(**QUICK, embedding=OneHot(3)).fit(codes, Y)
    with pytest.warns(DomainWarning, match="3 values are none of the integer codes"):
        model.predict([[7], [1.5], [-1], [2]])


def test_a_gap_leaves_categories_of_intervals_alone():
    frame = pd.DataFrame({"bin": pd.cut(NUMBERS, [-9, 5, 15, 99])})
    plain = frame.astype({"bin": "interval"})
    gapped, plainly = frame.copy(), plain.astype({"bin": "interval[float64, right]"})
    gapped.iloc[0, 0] = plainly.iloc[0, 0] = None
    for first, second in ((frame, gapped), (gapped, frame), (plain, plainly), (plainly, frame)):
        model = TNClassifier(**QUICK).fit(first, Y)
        found = model.predict_proba(second)[1:]
        np.testing.assert_array_equal(found, model.predict_proba(first)[1:])


@pytest.mark.parametrize(
    "name",
    [pd.Timestamp("2020"), datetime.date(2020, 1, 1), b"raw", ("a", pd.Period("2020"))],
    ids=str,
)
def test_names_that_no_file_holds_are_text_there(name, tmp_path):
    model = TNBornMachine(**QUICK).fit(pd.DataFrame({name: NUMBERS, 1: NUMBERS}))
    with pytest.warns(InformationWarning, match="names of columns are text in the file"):
        model.save(tmp_path / "machine")
    columns = load(tmp_path / "machine").sample(1).columns
    plain = tuple(map(str, name)) if isinstance(name, tuple) else str(name)
    assert columns.tolist() == [plain, 1]
    assert model.sample(1).columns.tolist() == [name, 1]


def test_filters_of_warnings_stay_where_threads_convert_columns(monkeypatch):
    before, values, cast = list(warnings.filters), np.arange(3.0), _dtypes._cast
    # The second begins before the first has ended, and ends after it.
    seconds = iter((0.05, 0.1))

    def slowly(*args):
        time.sleep(next(seconds))
        return cast(*args)

    monkeypatch.setattr(_dtypes, "_cast", slowly)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: _dtypes.converted(values, np.dtype("f4")), range(2)))
    assert warnings.filters == before
