"""Selection of the embedding and of feature dropout: what is chosen, and from what."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
import quimb.tensor as qtn
from sklearn.metrics import log_loss

import tn4ml_plus
from tn4ml_plus.embeddings import Hat, Legendre
from tn4ml_plus.ensembles import Candidate, Ensemble
from tn4ml_plus.estimators import Selection, TNClassifier, TNRegressor, _selection
from tn4ml_plus.estimators._recipes import Data
from tn4ml_plus.losses import CrossEntropy
from tn4ml_plus.tables import read_columns
from tn4ml_plus.training import Gradient, Samples, Sweep

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
SMALL = {"bond_dim": 3, "n_members": 1, "max_epochs": 2, "random_state": 0}


@pytest.fixture(scope="module")
def data():
    """X (300, 3), of which the product of two columns is the class."""
    X = np.random.default_rng(0).normal(size=(300, 3))
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


def degrees(selection):
    return [candidate.embedding.degree for candidate in selection.candidates]


def shares(selection):
    return [candidate.feature_dropout for candidate in selection.candidates]


@pytest.fixture
def trainings(monkeypatch):
    """A function that returns trainers, problems and results of all choices, by embedding."""
    seen = []

    class Spy(_selection._Brief):
        def train(self, problem):
            seen.append((self, problem, super().train(problem)))
            return seen[-1][-1]

    monkeypatch.setattr(_selection, "_Brief", Spy)
    return lambda: {
        problem.samples.phi.shape[2]: found for found in seen for _, problem, _ in [found]
    }


def test_a_rule_of_several_columns_loses_none_of_them():
    # Whether three marks are in line on a board of nine.
    board = np.random.default_rng(0).integers(0, 2, (600, 9))
    X = pd.DataFrame(board).add_prefix("cell ").astype(str)
    y = board[:, LINES].all(axis=2).any(axis=1).astype(int)
    model = TNClassifier(n_members=2, random_state=0).fit(X[:400], y[:400])
    # Categories have no resolution.
    assert shares(model.selection_) == [0.2, 0.0, 0.2]
    assert model.selection_.best.feature_dropout == 0.0
    dropped = TNClassifier(n_members=2, feature_dropout=0.2, random_state=0).fit(X[:400], y[:400])
    assert shares(dropped.selection_) == [0.2]
    kept, lost = (log_loss(y[400:], each.predict_proba(X[400:])) for each in (model, dropped))
    assert kept < 0.9 * lost


def test_noise_is_not_learned_by_heart():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(400, 11)), rng.integers(0, 2, 400)
    selection = TNClassifier(n_members=1, random_state=0).fit(X, y).selection_
    # The less is learned, the better.
    assert selection.best == Candidate(Legendre(2), 0.2, 6.0)
    assert (selection.losses[1:-1] > selection.losses[0]).all()
    assert selection.errors[0] == 0
    assert (selection.errors[1:] > 0).all()


@pytest.mark.parametrize(("n_members", "n_networks"), [(4, 3), (12, 10)])
def test_each_row_is_judged_by_networks_that_have_not_seen_it(
    data, trainings, n_members, n_networks
):
    X, y = data
    selection = TNClassifier(**SMALL | {"n_members": n_members}).fit(X, y).selection_
    n_parts = min(n_networks, 5)
    found, all_subsets = {}, []
    for phys_dim, (trainer, problem, result) in trainings().items():
        own = [c for c in selection.candidates if c.embedding.phys_dim == phys_dim]
        assert trainer.feature_dropout == tuple(
            np.repeat([c.feature_dropout for c in own], n_networks)
        )
        # Every candidate has the same parts, of which no two share a row.
        subsets = problem.subsets.reshape(len(own), -1, n_parts, 240)
        all_subsets += [*subsets.reshape(-1, n_parts, 240)]
        losses = []
        for m, rows in enumerate(problem.subsets):
            rows = np.setdiff1d(np.arange(300), rows)
            samples = Samples(*(array[rows] for array in problem.samples))
            judged = dataclasses.replace(problem, validation=samples)
            losses.append(judged.validation_losses(result.params)[0][m])
        losses = np.reshape(losses, (len(own), -1, n_parts, 60))
        # Networks of one part are averaged.
        means = -np.log(np.exp(-losses).mean(axis=1)).mean(axis=(1, 2))
        found |= zip(own, means, strict=True)
    assert len(all_subsets) == 4 * n_networks // n_parts
    assert (np.array(all_subsets) == all_subsets[0]).all()
    left = [set(range(300)) - set(rows) for rows in all_subsets[0]]
    assert len(set.union(*left)) == sum(map(len, left)) == 60 * n_parts
    expected = [found[candidate] for candidate in selection.candidates]
    np.testing.assert_allclose(selection.losses, expected, rtol=1e-5)


def test_filters_of_warnings_are_left_to_other_threads(data, monkeypatch):
    before, seen, held_out = list(warnings.filters), [], _selection._held_out

    def spied(*args):
        seen.append(list(warnings.filters))
        return held_out(*args)

    monkeypatch.setattr(_selection, "_held_out", spied)
    TNClassifier(**SMALL).fit(*data)
    assert seen == [before]


def test_fine_structure_is_resolved():
    X = np.random.default_rng(2).uniform(size=(500, 11))
    y = (np.sin(12 * X[:, 0]) > 0).astype(int)
    selection = TNClassifier(n_members=1, random_state=0).fit(X[:400], y[:400]).selection_
    assert degrees(selection) == [2, 2, 4, 2]
    assert selection.best.embedding == Legendre(4)


@pytest.mark.parametrize(
    ("n_samples", "n_features", "expected"),
    [
        (299, 3, [2]),
        (300, 3, [2, 4]),
        (300, 101, [2]),
        (2000, 11, [2, 4, 7]),
        (2000, 4, [7, 2, 4]),
        (10_000, 11, [2, 7, 20]),
    ],
)
def test_more_rows_have_finer_candidates(n_samples, n_features, expected):
    recipe = TNClassifier()._recipe((n_samples, n_features))
    found = list(dict.fromkeys(candidate.embedding.degree for candidate in recipe.candidates))
    assert found == expected
    shares = [candidate.feature_dropout for candidate in recipe.candidates]
    star = [0.2, *[0.0] * len(found)]
    # Where rows are few some may be noisy.
    few = [*star, 0.2]
    some = [0.2, 0.0] * len(found)
    sizes = {299: [0.2], 300: few, 2000: some, 10_000: star}
    assert shares == sizes[n_samples]
    decays = [candidate.decay for candidate in recipe.candidates]
    assert decays == (
        [None] * (len(shares) - 1) + [6.0] if n_samples == 300 else [None] * len(shares)
    )
    # What is given is not chosen.
    for given in ({"decay": 1.0}, {"feature_dropout": 0.1}):
        recipe = TNClassifier(**given)._recipe((n_samples, n_features))
        assert {candidate.decay for candidate in recipe.candidates} <= {None}


@pytest.mark.parametrize(
    "options",
    [
        {"embedding": Hat(3), "feature_dropout": 0.1},
        {"trainer": Gradient(max_epochs=2)},
        pytest.param({"trainer": Sweep(max_epochs=1)}, marks=pytest.mark.long),
    ],
    ids=lambda options: next(reversed(options)),
)
def test_what_is_given_is_taken(data, options):
    X, y = data
    options = SMALL | options if "trainer" not in options else options | {"n_members": 1}
    model = TNClassifier(3, **{n: v for n, v in options.items() if n != "bond_dim"}).fit(X, y)
    assert model.selection_ is None
    assert model.embedding_ == options.get("embedding", Legendre(2))


@pytest.mark.long
def test_a_given_embedding_leaves_the_dropout_to_choose(data):
    X, y = data
    model = TNClassifier(**SMALL, embedding=Legendre(4)).fit(X, y)
    assert degrees(model.selection_) == [4, 4, 4]
    assert shares(model.selection_) == [0.2, 0.0, 0.2]
    assert degrees(TNClassifier(**SMALL, feature_dropout=0.1).fit(X, y).selection_) == [2, 4]


def flawed(n_samples, n_features, n_classes=2, seed=0):
    """Rows of noise and a weak rule, of which networks learn more by heart than there is."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features))
    return X, np.digitize(X[:, 0] + rng.normal(size=n_samples), [0.0, 1.0][: n_classes - 1])


@pytest.mark.parametrize("n_classes", [2, pytest.param(3, marks=pytest.mark.long)])
def test_outputs_are_as_sure_as_they_may_be_of_rows_set_aside(n_classes):
    X, y = flawed(360, 20, n_classes)
    options = {"n_members": 2, "random_state": 0}
    model = TNClassifier(**options).fit(X[:120], y[:120])
    (candidate,), temperature = model.selection_.candidates, model.selection_.temperature
    assert candidate == Candidate(Legendre(2), 0.2)
    assert temperature > 1.5
    sure = model._ensemble.rescaled(np.log(temperature))
    tempered = log_loss(y[120:], model.predict_proba(X[120:]))
    model._ensemble = sure
    assert tempered < 0.85 * log_loss(y[120:], model.predict_proba(X[120:]))


def test_a_temperature_leaves_the_order_of_classes():
    X, y = flawed(120, 20)
    model = TNClassifier(n_members=1, random_state=0).fit(X, y)
    temperature = model.selection_.temperature
    assert temperature != 1
    p, (network,) = model.predict_proba(X), model.networks_
    log_odds = np.log(p[:, 1] / p[:, 0])
    model._ensemble = model._ensemble.rescaled(np.log(temperature))
    p = model.predict_proba(X)
    np.testing.assert_allclose(np.log(p[:, 1] / p[:, 0]), temperature * log_odds, rtol=1e-4)
    assert isinstance(network, qtn.TensorNetwork)


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 39},
        {"early_stopping": True},
        {"loss": CrossEntropy(label_smoothing=0.1)},
        {"trainer": Gradient(max_epochs=1)},
        {"trainer": "sweep", "max_epochs": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_learns_nothing_by_heart_has_no_temperature(options):
    recipe = TNClassifier(**options)._recipe((200, 3))
    assert not recipe.tempered
    assert not recipe.candidates


@pytest.mark.parametrize("n_samples", [59, 60])
def test_fewer_than_sixty_rows_say_nothing(n_samples):
    X, y = flawed(64, 2)
    options = {"n_members": 1, "bond_dim": 2, "max_epochs": 40, "random_state": 0}
    model = TNClassifier(**options).fit(X[:n_samples], y[:n_samples])
    assert (model.selection_ is None) == (n_samples < 60)
    # Those of a single class, neither.
    assert TNClassifier(**options).fit(X, np.arange(64) < 3).selection_ is None


def test_a_stream_has_nothing_to_choose_from(data):
    X, y = data
    model = TNClassifier(**SMALL).partial_fit(X, y, classes=[0, 1])
    assert model.selection_ is None
    assert model.partial_fit(X, y).selection_ is None


def test_training_on_keeps_the_choice(data):
    X, y = data
    model = TNClassifier(**SMALL, warm_start=True).fit(X, y)
    selection = model.selection_
    assert model.embedding_ == selection.best.embedding
    shown = []

    class Watching(Gradient):
        def step(self, problem, *rest):
            shown.append(self.feature_dropout)
            return super().step(problem, *rest)

    trainer = Watching(max_epochs=1, feature_dropout=0.3)
    recipe = dataclasses.replace(model._recipe((300, 3)), trainer=trainer)
    model._recipe = lambda shape: recipe
    # Few rows more, from which nothing would be chosen.
    assert model.fit(X[:60], y[:60]).selection_ is selection
    assert set(shown) == {selection.best.feature_dropout} <= {0.0, 0.2}
    # What is given meanwhile counts more.
    model.set_params(feature_dropout=0.3).fit(X[:60], y[:60])
    assert shown[-1] == 0.3


def test_a_decay_that_was_chosen_is_kept_unless_one_is_given(data):
    X, y = data
    options = SMALL | {"max_epochs": 1}
    model = TNClassifier(**options, embedding=Legendre(2), warm_start=True).fit(X, y)
    shown = []

    class Watching(Gradient):
        def step(self, problem, *rest):
            shown.append(self.decay)
            return super().step(problem, *rest)

    recipe = dataclasses.replace(
        model._recipe((300, 3)), trainer=Watching(max_epochs=1, decay=1.0), candidates=()
    )
    model._recipe = lambda shape: recipe
    chosen = Candidate(Legendre(2), 0.0, 5.0)
    model.selection_ = Selection((chosen,), np.zeros(1), np.zeros(1))
    model.fit(X, y)
    model.set_params(decay=1.0).fit(X, y)
    assert shown == [5.0, 1.0]


def test_it_repeats_exactly_and_is_stored(data, tmp_path):
    X, y = data
    first, second = (TNClassifier(**SMALL).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.selection_.losses, second.selection_.losses)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    first.save(tmp_path / "model")
    found = tn4ml_plus.load(tmp_path / "model").selection_
    assert found.candidates == first.selection_.candidates
    np.testing.assert_array_equal(found.losses, first.selection_.losses)
    np.testing.assert_array_equal(found.errors, first.selection_.errors)


def test_regressors_choose_too(data):
    X, _ = data
    y = np.stack([X[:, 0], X[:, 1] + X[:, 2]], axis=1)
    selection = TNRegressor(**SMALL | {"max_epochs": 200}).fit(X, y).selection_
    assert shares(selection) == [0.05, 0.0, 0.0, 0.05]
    # The mean has an error of one.
    assert selection.losses.max() < 0.5


def test_what_does_not_stay_finite_is_not_chosen(data, monkeypatch):
    X, y = data
    model = TNClassifier(**SMALL)
    real = Ensemble.problem

    def problem(*args):
        made = real(*args)
        if len(made.structures) == 3:
            left = np.array(made.params["left"])
            left[:2] = np.nan
            made = dataclasses.replace(made, params=made.params | {"left": left})
        return made

    monkeypatch.setattr(Ensemble, "problem", problem)
    selection = model.fit(X, y).selection_
    assert (selection.losses[:2] > 1e99).all()
    assert (selection.losses[2:] < 1).all()
    assert selection.best.embedding == Legendre(4)
    assert np.isfinite(model.predict_proba(X)).all()


def test_a_second_fit_of_the_same_shapes_compiles_nothing(data, compilations):
    X, y = data
    TNClassifier(**SMALL).fit(X, y)
    compilations.clear()
    TNClassifier(**SMALL | {"random_state": 1}).fit(X + 0.1, y)
    assert compilations == []


@pytest.mark.long
def test_classes_too_rare_to_be_set_aside_take_no_part(data):
    X, _ = data
    y = np.arange(300) % 2
    y[:3] = 2, 3, 3
    model = TNClassifier(**SMALL).fit(X, y)
    assert len(model.selection_.candidates) == 4
    assert model.predict_proba(X).shape == (300, 4)
    # Of a hundred classes no row of each can be.
    assert TNClassifier(**SMALL).fit(X, np.arange(300) % 100).selection_ is None


def test_shares_are_one_or_one_for_each_network(data):
    X, y = data
    options = SMALL | {"n_members": 2, "embedding": Legendre(2)}
    model = TNClassifier(**options, feature_dropout=(0.0, 0.3)).fit(X, y)
    assert model.selection_ is None
    # Embeddings are chosen by networks of another number.
    model.set_params(embedding=None).fit(X, y)
    assert shares(model.selection_) == [(0.0, 0.3)] * 2
    with pytest.raises(ValueError, match=r"feature_dropout must be one number, or one for each of"):
        TNClassifier(**options, feature_dropout=(0.0, 0.3, 0.1)).fit(X, y)


def test_large_tables_are_thinned_out(monkeypatch):
    monkeypatch.setattr(_selection, "_FEW_ROWS", 100)
    monkeypatch.setattr(_selection, "_MOST_ROWS", 120)
    rng = np.random.default_rng(0)
    table = read_columns(rng.normal(size=(300, 3)))
    data = Data(table, rng.integers(0, 2, 300), np.ones(300))
    recipe = TNClassifier()._recipe((300, 3))
    few = _selection._few(recipe, recipe.candidates, data, np.random.RandomState(0))
    assert len(few.target) == 120
    rows = [np.flatnonzero((table.floats == row).all(axis=1)).item() for row in few.table.floats]
    assert rows == sorted(set(rows))
    np.testing.assert_array_equal(few.target, data.target[rows])
    # Wide vectors leave fewer, but never less than a few.
    monkeypatch.setattr(_selection, "_BYTES", 1)
    few = _selection._few(recipe, recipe.candidates, data, np.random.RandomState(0))
    assert len(few.target) == 100


@pytest.mark.parametrize(("few", "n_networks"), [(300, 3), (299, 1)])
def test_many_rows_are_read_by_one_network_of_each_candidate(
    data, monkeypatch, trainings, few, n_networks
):
    X, y = data
    monkeypatch.setattr(_selection, "_FEW_ROWS", few)
    model = TNClassifier(**SMALL | {"n_members": 4}).fit(X, y)
    n_members = [problem.n_members for _, problem, _ in trainings().values()]
    assert sum(n_members) == n_networks * len(model.selection_.candidates)


@pytest.mark.parametrize("network", ["mps", pytest.param("ttn", marks=pytest.mark.long)])
def test_the_choice_and_the_fit_share_a_program(network, compilations):
    # Of columns as no other test has.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 19)), rng.integers(2, size=300)
    model = TNClassifier(**SMALL | {"network": network, "n_members": 4}).fit(X, y)
    # One for each resolution, and a third for the fit only where it drops nothing and others of its
    # resolution do.
    is_new = model.selection_.best == Candidate(Legendre(2), 0.0)
    assert compilations.functions["_epoch"] == 2 + is_new


@pytest.mark.parametrize("n_rows", [60, pytest.param(1600, marks=pytest.mark.long)])
def test_any_number_of_rows_judges(n_rows):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5 * n_rows, 2))
    model = TNClassifier(**SMALL).fit(X, X[:, 0] > 0)
    assert np.isfinite(model.selection_.losses).all()
    assert (model.selection_.losses < 0.8).all()
