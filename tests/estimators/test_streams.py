"""Fits on sources that are read in parts: as in memory where they are small, bounded otherwise."""

import dataclasses
import functools
from functools import partial

import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning

from tn4ml_plus import TNAnomalyDetector, TNBornMachine, TNClassifier, TNRegressor
from tn4ml_plus.embeddings import Legendre
from tn4ml_plus.errors import InformationWarning
from tn4ml_plus.estimators import _streams
from tn4ml_plus.tables import Blocks, TableSource, _sources
from tn4ml_plus.training import Checkpoint, EarlyStopping, Gradient, Problem, Sweep

N_ROWS = 3000
FRAMES = pd.DataFrame, pl.DataFrame, pa.table
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N_ROWS, 3))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
SMALL = {"bond_dim": 3, "n_members": 2, "random_state": 0, "embedding": Legendre(3)}
CLASSIFIER = TNClassifier(**SMALL, trainer=Gradient(max_epochs=2))
ROWS = X
MODELS = {
    "classifier": (CLASSIFIER, Y),
    "regressor": (TNRegressor(**SMALL, trainer=Gradient(max_epochs=2)), X[:, 0] * X[:, 1]),
    "Born machine": (TNBornMachine(bond_dim=3, max_epochs=1, random_state=0), None),
    "detector": (TNAnomalyDetector(bond_dim=2, max_epochs=1, random_state=0), None),
}


def predicted(model, rows=X[:50]):
    """What a model makes of rows."""
    names = "predict_proba", "score_samples", "predict"
    return next(getattr(model, name) for name in names if hasattr(model, name))(rows)


def blocks_of(X, *others, size=700):
    """Blocks of rows, with what belongs to them."""
    arrays = (X, *others)

    def make():
        for i in range(0, len(X), size):
            rows = tuple(a[i : i + size] for a in arrays)
            yield rows if others else rows[0]

    return Blocks(make)


@pytest.fixture
def bounded(monkeypatch):
    """Few rows are kept and read at a time."""
    monkeypatch.setattr(_streams, "_MOST_KEPT", 500)
    monkeypatch.setattr(_streams, "_FEWEST_KEPT", 500)
    monkeypatch.setattr(_streams, "_NUMBERS", 3 * 1024)


@pytest.fixture
def memory_map(tmp_path):
    mapped = np.memmap(tmp_path / "X", float, "w+", shape=X.shape)
    mapped[:] = X
    return mapped


@pytest.mark.parametrize("name", MODELS)
def test_what_memory_holds_is_trained_on_as_a_table(name, memory_map):
    model, y = MODELS[name]
    given = () if y is None else (y,)
    whole = clone(model).fit(X, *given)
    mapped = clone(model).fit(memory_map, *given)
    in_blocks = clone(model).fit(blocks_of(X, *given))
    for each in (mapped, in_blocks):
        np.testing.assert_array_equal(predicted(each), predicted(whole))


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", MODELS)
def test_sources_of_many_rows_train_as_well(name, memory_map):
    model, y = MODELS[name]
    given, model = () if y is None else (y,), clone(model).set_params(max_epochs=None)
    if name in ("classifier", "regressor"):
        model.set_params(trainer=Gradient(max_epochs=12))
    whole = clone(model).fit(X, *given)
    for source in (memory_map, blocks_of(X, *given)):
        targets = given if source is memory_map else ()
        found = clone(model).fit(source, *targets)
        again = clone(model).fit(source, *targets)
        np.testing.assert_array_equal(predicted(found), predicted(again))
        if y is None:
            mean = predicted(whole, X).mean()
            assert abs(predicted(found, X).mean() - mean) < 0.1
            assert abs(predicted(found, X) - predicted(whole, X)).mean() < 0.3
        else:
            score = whole.score(X, y)
            assert score > 0.85
            assert found.score(X, y) > score - 0.05


@pytest.mark.usefixtures("bounded")
def test_all_rows_but_those_set_aside_are_in_every_epoch(monkeypatch):
    seen = []
    scaled = _streams.StreamWindows._windows

    def recorded(self, *args):
        seen.append([])
        for samples in scaled(self, *args):
            n_real = int(np.sum(samples.weight > 0))
            seen[-1].append(np.asarray(samples.target[:n_real]))
            assert len(samples.weight) == len(samples.phi.columns) == 1024
            yield samples

    monkeypatch.setattr(_streams.StreamWindows, "_windows", recorded)
    monkeypatch.setattr("tn4ml_plus.estimators._recipes._ASIDE", 100)
    y = np.arange(N_ROWS, dtype=float)
    model = TNRegressor(**SMALL, trainer=Gradient(max_epochs=2)).fit(blocks_of(X, y))
    mean, deviation = model._target.mean, model._target.deviation
    epochs = [np.concatenate(windows)[:, 0] * deviation + mean for windows in seen]
    assert [list(map(len, windows)) for windows in seen] == [[1024, 1024, 852]] * 2
    rows = [np.sort(np.round(epoch).astype(int)) for epoch in epochs]
    np.testing.assert_array_equal(*rows)
    assert len(np.unique(rows[0])) == N_ROWS - 100
    # By the rows that none of the networks has seen.
    _, deviations = model.predict(X[:5], return_std=True)
    assert (deviations > 0).all()
    assert len(model.history_["validation_loss"]) == 2


@pytest.mark.usefixtures("bounded")
def test_rows_of_memory_maps_come_in_random_order(memory_map):
    order = np.argsort(Y, kind="stable")
    memory_map[:] = X[order]
    model = TNClassifier(**SMALL, trainer=Gradient(max_epochs=12)).fit(memory_map, Y[order])
    assert model.score(X, Y) > 0.85


@pytest.mark.usefixtures("bounded")
def test_few_rows_are_in_memory_at_a_time():
    class Counted:
        chunks, dtype, shape = None, X.dtype, (20 * N_ROWS, 3)
        largest, total = 0, 0

        def __len__(self):
            return self.shape[0]

        def __getitem__(self, rows):
            found = np.tile(X, (20, 1))[rows]
            Counted.largest = max(Counted.largest, len(found))
            Counted.total += len(found)
            return found

    CLASSIFIER.fit(Counted(), np.tile(Y, 20))
    assert Counted.largest <= 1024
    # Once before training, and once for each epoch.
    assert Counted.total == 3 * 20 * N_ROWS


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", ["classifier", "regressor"])
def test_nothing_is_kept_of_each_target(name, monkeypatch):
    model, y = MODELS[name]
    found = []

    def counted(before, y, weight):
        found.append(count(before, y, weight))
        return found[-1]

    count = _streams._with_labels
    monkeypatch.setattr(_streams, "_with_labels", counted)
    clone(model).fit(blocks_of(X, y))
    assert [len(each.names) for each in found] == ([2] * 5 if name == "classifier" else [])


@pytest.mark.usefixtures("bounded")
def test_categories_are_counted_in_all_rows():
    words = np.array(["often", "seldom"], object)[(np.arange(N_ROWS) % 1500 == 7).astype(int)]
    numbers = np.where(np.arange(N_ROWS) == 2999, np.nan, X[:, 0])
    frame = pd.DataFrame({"word": words, "number": numbers, "label": Y})
    source = Blocks(lambda: (frame[i : i + 700] for i in range(0, N_ROWS, 700)))
    model = clone(CLASSIFIER).set_params(embedding=None).fit(source, "label")
    assert model._reader.levels[0] == ("often", "seldom")
    # A gap that none of the rows in memory has is learned.
    assert "WithMissing" in str(model.embedding_.embeddings[1])
    expected = model.predict_proba(frame.drop(columns="label"))
    np.testing.assert_array_equal(predicted(model, source_of_columns(frame)), expected)


def source_of_columns(frame):
    """Blocks of a frame without its label."""
    return Blocks(lambda: [frame.drop(columns="label")[:1000], frame.drop(columns="label")[1000:]])


@pytest.mark.usefixtures("bounded")
def test_constants_of_detectors_are_those_of_all_rows():
    rows = np.stack(
        [X[:, 0], np.where(np.arange(N_ROWS) == 1234, 1.0, 0.0), np.full(N_ROWS, 2.0)], 1
    )
    rows[::7, 2] = np.nan
    detector = clone(MODELS["detector"][0]).fit(blocks_of(rows))
    np.testing.assert_array_equal(detector.constants_, [np.nan, np.nan, 2.0])


@pytest.mark.usefixtures("bounded")
def test_rare_categories_are_pooled_by_all_rows():
    words = np.where(np.arange(N_ROWS) % 5 == 0, np.arange(N_ROWS) % 400, -1).astype(str)
    frame = pd.DataFrame({"word": words.astype(object), "number": X[:, 0], "label": Y})
    source = Blocks(lambda: [frame[:1500], frame[1500:]])
    model = clone(CLASSIFIER).set_params(embedding=None, max_categories=4)
    with pytest.warns(InformationWarning, match=r"'word' keeps 3 of 81 \(19.\d% of the rows"):
        model.fit(source, "label")
    assert model._reader.levels[0][0] == "-1"


@pytest.mark.usefixtures("bounded")
def test_classes_are_weighed_by_how_many_rows_have_them():
    y = np.where(np.arange(N_ROWS) < 100, "rare", "other")
    factors = []

    def weights(self, *args):
        for rows in scaled(self, *args):
            factors.extend(zip(rows[1].tolist(), rows[2].tolist(), strict=True))
            yield rows

    scaled = _streams.StreamWindows._scaled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_streams.StreamWindows, "_scaled", weights)
        clone(CLASSIFIER).set_params(class_weight="balanced").fit(blocks_of(X, y))
    found = dict(factors)
    assert found == {0: pytest.approx(N_ROWS / 2 / 2900), 1: pytest.approx(N_ROWS / 2 / 100)}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1.0, 1: 2.0, 2: 3.0}])
def test_priors_of_classes_are_those_of_all_rows(class_weight, monkeypatch):
    rng = np.random.default_rng(0)
    y, weight = (rng.random(N_ROWS) < 0.5).astype(int), rng.uniform(0, 2, N_ROWS)
    y[[7, 1800]] = 2  # which a sample is likely to lack
    given = []
    train = TNClassifier._train
    monkeypatch.setattr(
        TNClassifier, "_train", lambda *args: given.append(args[2][1]) or train(*args)
    )
    model = clone(CLASSIFIER).set_params(class_weight=class_weight)
    model.fit(X, y, weight)
    model.fit(blocks_of(X, y, weight))
    np.testing.assert_allclose(given[1], given[0], rtol=1e-10)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", ["classifier", "regressor", "Born machine"])
def test_networks_that_fail_give_their_places_to_copies(name, monkeypatch):
    model, y = MODELS[name]
    model = clone(model).set_params(n_members=3)
    given = () if y is None else (y,)
    plain = clone(model).fit(blocks_of(X, *given))
    judged = Problem.validation_losses

    def worse(self, *args):
        losses, weight = judged(self, *args)
        return losses + 9.0 * (np.arange(3) == 1)[:, None], weight

    monkeypatch.setattr(Problem, "validation_losses", worse)
    found = clone(model).fit(blocks_of(X, *given))
    assert len(found.networks_) == 3
    assert {number_of(network, plain) for network in found.networks_} <= {0, 2}
    for order, network in zip(found.orders_, found.networks_, strict=True):
        assert order.tolist() == plain.orders_[number_of(network, plain)].tolist()
    # Copies are networks of their own, and a table in memory has no rows to judge by.
    assert len({id(network) for network in found.networks_}) == 3
    whole = clone(model).fit(X, *given)
    assert [number_of(network, whole) for network in whole.networks_] == [0, 1, 2]


def number_of(network, model):
    """Number of the first network of a model with the same arrays."""
    return next(
        number
        for number, other in enumerate(model.networks_)
        if all(np.array_equal(a.data, b.data) for a, b in zip(network, other, strict=True))
    )


@pytest.fixture
def large(bounded, monkeypatch):
    """Tables in memory count as large; numbers of rows that are read together."""
    monkeypatch.setattr(_sources, "_MANY_ROWS", 1000)
    monkeypatch.setattr(_sources, "_MANY_NUMBERS", 1000)
    sizes, parts = [], TableSource.parts

    def recorded(self, *args):
        for part in parts(self, *args):
            sizes.append(len(part.numbers))
            yield part

    monkeypatch.setattr(TableSource, "parts", recorded)
    return sizes


OBJECTS = ["x"] * 200 + [1] * (N_ROWS - 200)
FRAME = {"a": X[:, 0], "b": X[:, 1], "word": np.where(X[:, 2] > 0, "yes", "no").tolist()}


@pytest.mark.parametrize("make", [lambda: X, *(partial(f, FRAME) for f in FRAMES)])
def test_large_tables_in_memory_are_trained_on_in_parts(make, large):
    model = clone(CLASSIFIER).set_params(trainer=Gradient(max_epochs=12), embedding=None)
    table = make()
    found = clone(model).fit(table, pd.Series(Y, index=Y), np.ones(N_ROWS))
    # Once before training, and once for each epoch.
    assert sum(large) == 13 * N_ROWS
    assert max(large) == 1024
    again = clone(model).fit(table, Y.tolist(), 1.0)
    np.testing.assert_array_equal(found.predict_proba(table), again.predict_proba(table))
    assert found.score(table, Y) > 0.85


@pytest.mark.parametrize(
    ("change", "make"),
    [
        ({"trainer": Sweep(max_epochs=1)}, lambda: X),
        ({}, lambda: pd.DataFrame({"a": X[:, 0], "b": [1, "x"] * (N_ROWS // 2)})),
        ({}, lambda: pd.DataFrame({"a": X[:, 0], "b": pd.Series(OBJECTS, dtype=object)})),
        ({}, X.tolist),
    ],
)
def test_what_needs_all_rows_of_large_tables_has_them(change, make, large):
    model, table = clone(CLASSIFIER).set_params(**change), make()
    model.fit(table, Y)
    assert model.predict(table[:10]).shape == (10,)
    assert not large


def test_targets_of_large_tables_are_standardised_by_all(large):
    y = np.stack([np.exp(X[:, 0]), np.full(N_ROWS, 3.0)], axis=1)
    model = clone(MODELS["regressor"][0]).set_params(trainer=Gradient(max_epochs=1))
    with pytest.warns(DataConversionWarning, match="column-vector y") as told:
        found = clone(model).fit(X, y[:, :1])
    assert len(told) == 1
    assert found._target.deviation == pytest.approx(y[:, 0].std())
    weight = np.where(X[:, 1] > 0, 0.0, 1.0)
    found = clone(model).fit(X, y, weight)
    assert found._target.deviation.tolist() == pytest.approx([y[weight > 0, 0].std(), 0])
    assert (found.predict(X)[:, 1] == 3.0).all()
    assert large


def test_tiny_weights_of_large_tables_stay_tiny(large):
    order = np.argsort(Y, kind="stable")
    model = clone(CLASSIFIER).fit(X[order], Y[order], np.where(Y[order] == 0, 1e-22, 1.0))
    assert (model.predict_proba(X)[:, 1] > 0.9).all()
    assert large


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.where(X > 3, np.inf, X), Y, "^Input X contains infinity"),
        (X, Y[1:], "^Found input variables with inconsistent numbers"),
        (X, np.ma.masked_array(Y, Y == 1), "^y is masked in"),
        (X, ["a", 1] * (N_ROWS // 2), "^y holds labels of several types"),
        (X, None, "^TNClassifier requires y to be passed"),
        (pd.DataFrame(X, columns=[*"aba"]), Y, "^Columns appear twice: a"),
    ],
)
def test_errors_of_large_tables_are_those_of_others(X, y, words, large):
    with pytest.raises(ValueError, match=words), np.errstate(invalid="ignore"):
        clone(CLASSIFIER).fit(X, y)


def test_targets_of_memory_maps_hide_nothing(memory_map):
    with pytest.raises(ValueError, match="y is masked in"):
        clone(CLASSIFIER).fit(memory_map, np.ma.masked_array(Y, Y == 1))
    with pytest.raises(ValueError, match="y holds labels of several types"):
        clone(CLASSIFIER).fit(memory_map, ["a", 1] * (N_ROWS // 2))


@pytest.mark.parametrize("name", ["classifier", "regressor"])
def test_scores_of_sources_are_those_of_their_rows(name, tmp_path):
    model, y = MODELS[name]
    weight = 1.0 + np.arange(N_ROWS) % 3
    frame = pd.DataFrame(X, columns=[*"abc"])
    model = clone(model).fit(frame, y)
    expected = model.score(frame, y), model.score(frame, y, weight)
    frame.assign(target=y, times=weight).to_parquet(tmp_path / "rows.parquet")
    path = tmp_path / "rows.parquet"
    assert model.score(path, "target") == pytest.approx(expected[0])
    assert model.score(path, "target", "times") == pytest.approx(expected[1])
    blocks = Blocks(lambda: [(frame[i : i + 900], y[i : i + 900]) for i in range(0, N_ROWS, 900)])
    assert model.score(blocks) == pytest.approx(expected[0])
    assert model.score(Blocks(lambda: [frame]), y) == pytest.approx(expected[0])
    with pytest.raises(ValueError, match="score needs targets"):
        model.score(frame)
    with pytest.raises(ValueError, match="score needs targets"):
        model.score(path)
    with pytest.raises(ValueError, match="score needs targets: block 1 of X brings none"):
        model.score(Blocks(lambda: [(frame, y), frame]))
    with pytest.raises(ValueError, match="must both be arrays, or names"):
        model.score(path, y, "times")
    with pytest.raises(ValueError, match="must both be arrays, or names"):
        model.score(frame, "target")
    named = frame.assign(target=y, times=weight)
    named = Blocks(lambda frame=named: [frame[:1000], frame[1000:]])
    assert model.score(named, "target", "times") == pytest.approx(expected[1])
    # Rows without a weight have the weight one.
    ones = np.concatenate([np.ones(1000), weight[1000:]])
    some = Blocks(lambda: [(frame[:1000], y[:1000]), (frame[1000:], y[1000:], weight[1000:])])
    assert model.score(some) == pytest.approx(model.score(frame, y, ones))
    with pytest.raises(ValueError, match="y is 'label', and the dataset has the columns"):
        model.score(path, "label")


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", ["classifier", "regressor", "Born machine"])
def test_rows_without_weight_are_none(name):
    model, y = MODELS[name]
    weight = np.ones(N_ROWS)
    weight[:700] = 0
    others = np.ones(N_ROWS) if y is None else y
    rows = blocks_of(X, others, weight), blocks_of(X[700:], others[700:], weight[700:])
    found = [predicted(clone(model).fit(each)) for each in rows]
    np.testing.assert_array_equal(*found)


@pytest.mark.usefixtures("bounded")
def test_trainings_go_on_from_checkpoints(tmp_path):
    whole = clone(CLASSIFIER).fit(blocks_of(X, Y))

    def cut(epoch):
        if epoch.number == 1:
            raise KeyboardInterrupt

    trainer = dataclasses.replace(CLASSIFIER.trainer, checkpoint=Checkpoint(tmp_path / "run"))
    model = clone(CLASSIFIER).set_params(trainer=trainer, callbacks=[cut])
    with pytest.raises(KeyboardInterrupt):
        model.fit(blocks_of(X, Y))
    resumed = clone(model).set_params(callbacks=None).fit(blocks_of(X, Y))
    assert resumed.history_["loss"] == whole.history_["loss"]
    np.testing.assert_array_equal(predicted(resumed), predicted(whole))
    with pytest.raises(ValueError, match="differs in start, samples"):
        clone(resumed).fit(blocks_of(X[::-1], Y))


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("early_stopping", [None, EarlyStopping(patience=3)])
def test_trainings_go_on_within_epochs(name, early_stopping, tmp_path, monkeypatch):
    monkeypatch.setattr("tn4ml_plus.training._run._OFTEN", 0.0)
    model, y = MODELS[name]
    trainer = Gradient(max_epochs=2, early_stopping=early_stopping)
    model = clone(model).set_params(trainer=trainer, n_members=1, max_epochs=None)
    given = () if y is None else (y,)
    whole = clone(model).fit(blocks_of(X, *given))
    trainer = dataclasses.replace(trainer, checkpoint=Checkpoint(tmp_path / "run"))
    model.set_params(trainer=trainer)
    trained, step = [], Gradient._trained

    def cut(self, *args):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(1)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Gradient, "_trained", cut)
        with pytest.raises(KeyboardInterrupt):
            clone(model).fit(blocks_of(X, *given))
    with pytest.raises(ValueError, match=r"differs in .*rows"):
        clone(model).fit(blocks_of(X[::-1], *given))
    resumed = clone(model).fit(blocks_of(X, *given))
    np.testing.assert_array_equal(predicted(resumed), predicted(whole))


@pytest.mark.usefixtures("bounded")
def test_checkpoints_are_those_of_all_rows(tmp_path):
    trainer = dataclasses.replace(CLASSIFIER.trainer, checkpoint=Checkpoint(tmp_path / "run"))
    model = clone(CLASSIFIER).set_params(trainer=trainer).fit(blocks_of(X, Y))
    seen = []
    model.set_params(trainer=dataclasses.replace(trainer, checkpoint=None))
    kept = _streams._Kept.rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_streams._Kept, "rows", lambda self: seen.append(kept(self)) or seen[-1])
        model.fit(blocks_of(X, Y))
    other = X.copy()
    # A single number of a row that memory does not hold.
    other[np.setdiff1d(np.arange(N_ROWS), seen[0][3])[0], 0] += 1e-9
    model.set_params(trainer=trainer)
    with pytest.raises(ValueError, match="is of another training: it differs in rows"):
        clone(model).fit(blocks_of(other, Y))
    with pytest.raises(ValueError, match="differs in rows"):
        clone(model).fit(blocks_of(X, Y, size=500))


@pytest.mark.usefixtures("bounded")
def test_later_rows_may_lack_classes_and_bring_no_others():
    y = np.where(np.arange(N_ROWS) % 3 == 2, 2, Y)
    model = clone(CLASSIFIER).partial_fit(blocks_of(X, Y), classes=[0, 1, 2])
    model.partial_fit(blocks_of(X, Y)).partial_fit(blocks_of(X, y))
    assert model.predict_proba(X).shape == (N_ROWS, 3)
    warm = clone(CLASSIFIER).set_params(warm_start=True).fit(blocks_of(X, y))
    warm.fit(blocks_of(X, Y))
    with pytest.raises(ValueError, match=r"y has labels \[5\] that are not among \[0 1 2\]"):
        warm.fit(blocks_of(X, Y * 5))


@pytest.mark.usefixtures("bounded")
def test_classes_without_weight_are_classes():
    y, weight = np.where(np.arange(N_ROWS) % 3 == 2, 2, Y), np.ones(N_ROWS)
    weight[y == 2] = 0
    assert clone(CLASSIFIER).fit(blocks_of(X, y, weight)).classes_.tolist() == [0, 1, 2]
    weight[y == 1] = 0
    found = clone(CLASSIFIER).fit(blocks_of(X, y, weight)).predict_proba(X[:5])
    assert (found[:, 0] > 0.5).all()


@pytest.mark.usefixtures("bounded")
def test_early_stopping_and_more_epochs_on_sources():
    model = clone(CLASSIFIER).set_params(early_stopping=True, warm_start=True)
    model.fit(blocks_of(X, Y))
    assert len(model.history_["validation_loss"]) == 2
    before = model.networks_
    model.fit(blocks_of(X, Y))
    assert len(model.history_["loss"]) == 4
    assert model.networks_ is not before
    part = clone(CLASSIFIER).partial_fit(blocks_of(X, Y), classes=[0, 1])
    part.partial_fit(blocks_of(X, Y))
    assert part.n_iter_ == 2
    assert part._ensemble.n_seen == 2 * (N_ROWS - 500 // 2)


@pytest.mark.usefixtures("bounded")
def test_predictions_of_sources_are_those_of_their_rows(memory_map):
    model = clone(CLASSIFIER).fit(X, Y)
    expected = model.predict_proba(X)
    for source in (memory_map, blocks_of(X)):
        np.testing.assert_allclose(model.predict_proba(source), expected, rtol=1e-6)
    born = clone(MODELS["Born machine"][0]).fit(X)
    np.testing.assert_allclose(born.score_samples(blocks_of(X)), born.score_samples(X))
    regressor = clone(MODELS["regressor"][0]).fit(X, X[:, 0])
    for found, other in zip(
        regressor.predict(blocks_of(X), return_std=True), regressor.predict(X, return_std=True)
    ):
        np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-6)


def unlike(first, second):
    """Blocks that are others from the second pass on."""
    passes = []

    def make():
        passes.append(1)
        return iter(first if len(passes) == 1 else second)

    return Blocks(make)


HALVES = [(X[:1500], Y[:1500]), (X[1500:], Y[1500:])]
TEXT = X.astype(str)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (Blocks(list), "X has no rows"),
        (
            Blocks(lambda: [HALVES[0], (X[:, :2], Y)]),
            "Block 1 of X: X has 2 features",
        ),
        (Blocks(lambda: [HALVES[0], (X, Y[:-1])]), "Block 1 of X: .*inconsistent numbers"),
        (Blocks(lambda: [HALVES[0], (X, Y.astype(str))]), "Block 1 of X: y holds text in some"),
        (Blocks(lambda: [HALVES[0], X]), "Block 1 of X: TNClassifier requires y to be passed"),
        (Blocks(lambda: [HALVES[0], (X * np.inf, Y)]), "Block 1 of X: Input X contains"),
        (Blocks(lambda: [HALVES[0], (X, Y, -np.ones(len(X)))]), "Block 1 of X: Negative values"),
        (Blocks(lambda: [HALVES[0], (X, Y - np.nan)]), "Block 1 of X: Input y contains NaN"),
        (Blocks(lambda: [(X, Y * 0)]), "y has only one class"),
        (unlike(HALVES, HALVES[:1]), "had 2750 rows to train on .* and 1[234]"),
        (unlike(HALVES, HALVES + HALVES), "had 2750 rows to train on"),
        (
            unlike(HALVES, [HALVES[0], (X[1500:], Y[1500:] + 5)]),
            r"Block 1 of X: y has labels",
        ),
        (Blocks(lambda: [(pd.DataFrame(X).astype(object), Y), (pd.DataFrame(TEXT), Y)]), "Block 1"),
    ],
)
def test_what_is_wrong_names_the_block_and_leaves_the_model(blocks, words):
    model = clone(CLASSIFIER).fit(X, Y)
    before = predicted(model)
    with pytest.raises(ValueError, match=words), np.errstate(invalid="ignore"):
        model.fit(blocks)
    np.testing.assert_array_equal(predicted(model), before)


@pytest.mark.usefixtures("bounded")
def test_trainers_that_need_all_rows_say_so():
    model = clone(CLASSIFIER).set_params(trainer=Sweep(max_epochs=1))
    with pytest.raises(ValueError, match="Sweep trains on rows in memory, and X has 2750"):
        model.fit(blocks_of(X, Y))


@pytest.mark.usefixtures("bounded")
def test_progress_tells_rows(capsys):
    clone(CLASSIFIER).set_params(verbose=True).fit(blocks_of(X, Y))
    shown = capsys.readouterr().err
    assert "rows read" in shown
    assert "rows/s" in shown


@pytest.mark.usefixtures("bounded")
def test_windows_share_one_program(compilations):
    jax.clear_caches()
    clone(CLASSIFIER).fit(blocks_of(X, Y))
    before = len(compilations)
    clone(CLASSIFIER).set_params(random_state=1).fit(blocks_of(X[::-1], Y[::-1]))
    assert len(compilations) == before
    assert before > 0


@functools.cache
def gradient():
    return Gradient(max_epochs=2, feature_dropout=0.1, decay=1.0)


@pytest.mark.usefixtures("bounded")
def test_precision_is_that_of_the_caller():
    with jax.enable_x64(True):
        model = clone(CLASSIFIER).set_params(trainer=gradient()).fit(blocks_of(X, Y))
    assert model.networks_[0].tensors[0].data.dtype == np.float64


@pytest.mark.parametrize(
    ("X", "words"),
    [
        ("rows.parquet", r"X is a str\. Files, datasets and Blocks are read by fit"),
        (blocks_of(X), r"X is a Blocks\. Files"),
        ((row for row in X), "X is a generator, which can be read once"),
    ],
)
def test_what_takes_tables_in_memory_says_so(X, words):
    model = clone(CLASSIFIER).fit(ROWS, Y)
    with pytest.raises(ValueError, match=words):
        model.embed(X)
