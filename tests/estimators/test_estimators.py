"""Estimators on tables as users have them."""

import dataclasses
import itertools
import pickle
import warnings

import jax
import numpy as np
import optax
import pandas as pd
import polars as pl
import pytest
import quimb.tensor as qtn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import compute_sample_weight

from tn4ml_plus import TNClassifier, TNRegressor
from tn4ml_plus._registry import _CLASSES, register
from tn4ml_plus.contraction import pack
from tn4ml_plus.embeddings import (
    Embedded,
    Legendre,
    LinearComplement,
    OneHot,
    Patches,
    PerFeature,
    WithMissing,
)
from tn4ml_plus.errors import DomainWarning, NotFiniteError
from tn4ml_plus.networks import MPS, TTN, MPSSpec, Tree, TTNSpec
from tn4ml_plus.training import EarlyStopping, Gradient, Step, Trainer

SMALL = {"bond_dim": 2, "max_epochs": 2, "batch_size": 16, "random_state": 0}
SINGLE = SMALL | {"n_members": 1}
LEARN = SINGLE | {"max_epochs": 30, "learning_rate": 0.05, "decay": 0.0, "feature_dropout": 0.0}


def weights_of(model):
    return [tensor.data for network in model.networks_ for tensor in network]


def assert_same_weights(one, other):
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


# Learning and what is predicted -----------------------------------------------------------------


def test_learns_labels_of_any_kind(data):
    X, y = data
    codes = TNClassifier(**LEARN).fit(X, y)
    assert codes.score(X, y) > 0.9
    for labels in (np.array(["no", "so-so", "yes"]), np.array([-5, 0, 7]), np.array([0.0, 1, 2])):
        model = TNClassifier(**LEARN).fit(X, labels[y])
        np.testing.assert_array_equal(model.classes_, labels)
        np.testing.assert_array_equal(model.predict(X), labels[codes.predict(X)])
        assert_same_weights(model, codes)


def test_probabilities_scores_and_labels_agree(data):
    X, y = data
    model = TNClassifier(**SMALL).fit(X, y)
    p = model.predict_proba(X)
    assert p.shape == (60, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert (p > 0).all()
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), p, rtol=1e-9)
    np.testing.assert_array_equal(model.decision_function(X), model.predict_log_proba(X))
    np.testing.assert_array_equal(model.predict(X), p.argmax(axis=1))


def test_two_classes_have_one_score(data):
    X, y = data
    model = TNClassifier(**SINGLE).fit(X, y == 1)
    scores, p = model.decision_function(X), model.predict_proba(X)
    assert scores.shape == (60,)
    np.testing.assert_allclose(scores, np.log(p[:, 1] / p[:, 0]), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(model.predict(X), scores > 0)


def test_probabilities_are_the_mean_over_members(data):
    X, y = data
    model = TNClassifier(**SMALL, n_members=2).fit(X, y)
    both = model.predict_proba(X)
    networks, orders = model.networks_, model.orders_
    np.testing.assert_array_equal(orders[0], range(4))
    alone = []
    for network, order in zip(networks, orders, strict=True):
        alike = {"networks": [network] * 2, "orders": np.stack([order] * 2)}
        model._ensemble = dataclasses.replace(model._ensemble, **alike)
        alone.append(model.predict_proba(X))
    assert np.abs(alone[0] - alone[1]).max() > 1e-4
    np.testing.assert_allclose(np.mean(alone, axis=0), both, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_regression_of_several_targets(data):
    X, y = data
    Y = np.stack([100.0 * y + 7, -1e-3 * X[:, 1]], axis=1)
    model = TNRegressor(**(LEARN | {"bond_dim": 4, "max_epochs": 60})).fit(X, Y)
    assert model.predict(X).shape == (60, 2)
    assert model.score(X, Y) > 0.8
    one = TNRegressor(**SINGLE).fit(X, Y[:, 0])
    assert one.predict(X).shape == (60,)
    assert one.network_.ind_size("out") == 1


def test_scale_of_the_target_does_not_matter(data):
    X, y = data
    plain = TNRegressor(**SINGLE).fit(X, y).predict(X)
    scaled = TNRegressor(**SINGLE).fit(X, 1e6 * y - 5e7).predict(X)
    np.testing.assert_allclose(scaled, 1e6 * plain - 5e7, rtol=1e-4, atol=100)


def test_a_constant_target_is_predicted(data):
    X, _ = data
    model = TNRegressor(**SINGLE).fit(X, np.full(60, 42.0))
    np.testing.assert_allclose(model.predict(X), 42, atol=2)


# Weights ----------------------------------------------------------------------------------------


def test_balanced_class_weight_equals_weights_by_hand(data):
    X, y = data
    y = np.where(y == 2, 1, y)
    balanced = TNClassifier(**SINGLE, class_weight="balanced").fit(X, y)
    weight = compute_sample_weight("balanced", y)
    assert_same_weights(balanced, TNClassifier(**SINGLE).fit(X, y, sample_weight=weight))
    named = TNClassifier(**SINGLE, class_weight={0: 1.5, 1: 0.75}).fit(X, y)
    assert_same_weights(balanced, named)
    plain = TNClassifier(**SINGLE).fit(X, y)
    assert balanced.predict_proba(X)[:, 0].mean() > plain.predict_proba(X)[:, 0].mean() + 0.02


def test_the_scale_of_the_weights_breaks_no_model(data):
    X, y = data
    model = TNClassifier(n_members=1, max_epochs=30, batch_size=16, random_state=0)
    plain = model.fit(X, y).predict_proba(X)
    for scale in (1e-6, 1 / 60):
        scaled = model.fit(X, y, sample_weight=np.full(60, scale)).predict_proba(X)
        np.testing.assert_allclose(scaled, plain, atol=1e-3)
    # A thousand repetitions of each sample need less decay.
    repeated = model.fit(X, y, sample_weight=np.full(60, 1e3)).predict_proba(X)
    assert log_loss(y, repeated) < log_loss(y, plain)


def test_samples_of_no_weight_do_not_exist(data):
    X, y = data
    weight = np.r_[np.zeros(4), np.ones(56)]
    spoilt = X.copy()
    spoilt[:4] = 1e9
    one = TNClassifier(**SINGLE).fit(spoilt, np.r_[[2] * 4, y[4:]], sample_weight=weight)
    assert_same_weights(one, TNClassifier(**SINGLE).fit(X[4:], y[4:]))


def test_unit_weights_change_nothing_and_others_do(data):
    X, y = data
    plain = TNRegressor(**SINGLE).fit(X, y)
    assert_same_weights(plain, TNRegressor(**SINGLE).fit(X, y, sample_weight=np.full(60, 1.0)))
    heavy = TNRegressor(**SINGLE).fit(X, y, sample_weight=np.where(y == 2, 10.0, 0.1))
    assert heavy.predict(X).mean() > plain.predict(X).mean() + 0.1


@pytest.mark.long
def test_weights_are_repetitions_where_nothing_is_drawn_by_sample(data):
    X, y = data[0][:30], data[1][:30] + data[0][:30, 0]
    weight = np.arange(30) % 3
    options = LEARN | {"batch_size": 64, "max_epochs": 100, "n_members": 1}
    weighted = TNRegressor(**options).fit(X, y, sample_weight=weight).predict(X)
    repeated = TNRegressor(**options).fit(np.repeat(X, weight, 0), np.repeat(y, weight)).predict(X)
    plain = TNRegressor(**options).fit(X, y).predict(X)
    difference = np.abs(weighted - repeated).max()
    assert difference < 0.02 * y.std()
    assert np.abs(weighted - plain).max() > 3 * difference


# Tables -----------------------------------------------------------------------------------------


def table(data, library):
    X, y = data
    rng = np.random.default_rng(1)
    columns = {
        "size": X[:, 0].tolist(),
        "count": rng.integers(0, 9, 60).tolist(),
        "colour": np.array(["red", "green", "blue"])[(y + (rng.random(60) < 0.1)) % 3].tolist(),
        "flag": (rng.random(60) < 0.5).tolist(),
        "grade": rng.choice(["a", "b"], 60).tolist(),
    }
    columns["size"][3] = None
    columns["colour"][5] = None
    if library is pl:
        return pl.DataFrame(columns).with_columns(pl.col("grade").cast(pl.Categorical)), y
    frame = pd.DataFrame(columns)
    frame["size"] = frame["size"].astype(float)
    return frame.astype({"grade": "category"}), y


def test_pandas_and_polars_give_the_same_model(data):
    models = {}
    for library in (pd, pl):
        frame, y = table(data, library)
        models[library] = TNClassifier(**LEARN).fit(frame, y)
        assert models[library].score(frame, y) > 0.7
        assert list(models[library].feature_names_in_) == list(frame.columns)
        assert models[library].n_features_in_ == 5
        assert models[library].embedding_.embeddings[2] == WithMissing(OneHot(3))
        assert models[library].embedding_.embeddings[4] == OneHot(2)
    assert_same_weights(models[pd], models[pl])


@pytest.mark.parametrize("library", [pd, pl])
def test_unknown_and_missing_categories_at_predict(data, library):
    frame, y = table(data, library)
    model = TNClassifier(**SINGLE).fit(frame, y)
    if library is pl:
        odd = frame.with_columns(pl.lit("violet").alias("colour"))
        gone = frame.with_columns(pl.lit(None, dtype=pl.String).alias("colour"))
    else:
        odd, gone = frame.assign(colour="violet"), frame.assign(colour=None)
        gone["colour"] = gone["colour"].astype(object)
    plain, unknown = model.predict_proba(frame), model.predict_proba(odd)
    assert np.isfinite(unknown).all()
    np.testing.assert_allclose(unknown.sum(axis=1), 1, atol=1e-12)
    assert np.abs(unknown - plain).max() > 1e-3
    assert np.isfinite(model.predict_proba(gone)).all()


def test_order_of_the_rows_of_a_category_does_not_matter(data):
    frame, y = table(data, pd)
    shuffled = frame.assign(colour=frame["colour"].astype("string"))
    one = TNClassifier(**SINGLE).fit(frame, y)
    assert_same_weights(one, TNClassifier(**SINGLE).fit(shuffled, y))
    np.testing.assert_allclose(
        one.predict_proba(frame[::-1])[::-1], one.predict_proba(frame), atol=1e-6
    )


def test_names_of_features_are_checked(data):
    frame, y = table(data, pd)
    model = TNClassifier(**SINGLE).fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"size": "extent"}))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[frame.columns[::-1]])
    with pytest.raises(
        ValueError, match=r"held categories such as '.*' when fitting and holds num"
    ):
        model.predict(frame.assign(colour=1.0))
    with pytest.raises(ValueError, match="held numbers when fitting"):
        model.predict(frame.assign(size="large"))


def test_missing_numbers_are_neutral(data):
    X, y = data
    X = X.copy()
    X[::7, 1] = np.nan
    X[:, 3] = np.where(y == 0, np.nan, X[:, 3])
    model = TNClassifier(**LEARN).fit(X, y)
    assert model.score(X, y) > 0.85
    assert np.isfinite(model.predict_proba(np.full((2, 4), np.nan))).all()


def test_a_column_that_is_missing_altogether(data):
    X, y = data
    X = X.copy()
    X[:, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TNClassifier(**SINGLE).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()


# Going on ---------------------------------------------------------------------------------------


def test_partial_fit(data):
    X, y = data
    model = TNClassifier(**LEARN)
    for epoch in range(12):
        model.partial_fit(X, y, classes=[0, 1, 2])
        assert model.n_iter_ == len(model.history_["loss"]) == epoch + 1
    assert model.history_["loss"][-1] < 0.7 * model.history_["loss"][0]
    model.partial_fit(X[:5], y[:5])
    with pytest.raises(ValueError, match="classes differ"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="not among"):
        model.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="classes must be given at the first call"):
        TNClassifier(**SINGLE).partial_fit(X, y)


def test_partial_fit_of_a_regressor(data):
    X, y = data
    model = TNRegressor(**SINGLE)
    losses = [model.partial_fit(X, y).history_["loss"][-1] for _ in range(6)]
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match="2 targets"):
        model.partial_fit(X, np.stack([y, y], axis=1))


def test_partial_fit_of_classes_that_come_later(data):
    X, y = data
    model = TNClassifier(**SINGLE).partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2])
    assert model.predict_proba(X).shape == (60, 3)


def test_warm_start_goes_on(data):
    X, y = data
    warm = TNClassifier(**LEARN | {"max_epochs": 3}, warm_start=True).fit(X, y)
    first = warm.history_["loss"][-1]
    warm.fit(X, y)
    assert warm.n_iter_ == 6
    assert warm.history_["loss"][3] < warm.history_["loss"][0]
    assert warm.history_["loss"][-1] < first
    cold = TNClassifier(**LEARN | {"max_epochs": 3}).fit(X, y).fit(X, y)
    assert cold.n_iter_ == 3


# Sameness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [TNClassifier, TNRegressor])
def test_clone_and_pickle_and_refit(data, estimator):
    X, y = data
    model = estimator(**SMALL, n_members=2).fit(X, y)
    predicted = model.predict(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), predicted)
    assert_same_weights(clone(model).fit(X, y), model)
    assert_same_weights(again.fit(X, y), model)
    other = clone(model).set_params(random_state=1).fit(X, y)
    assert np.abs(weights_of(other)[0] - weights_of(model)[0]).max() > 1e-4


@pytest.mark.long
def test_parallel_grid_search_equals_the_serial_one(data):
    X, y = data
    grid = {"learning_rate": [1e-3, 2e-2], "bond_dim": [2]}
    results = []
    for n_jobs in (None, 2, 2):
        search = GridSearchCV(
            TNClassifier(**SINGLE), grid, cv=StratifiedKFold(2), n_jobs=n_jobs,
            scoring="neg_log_loss", error_score="raise",
        )  # fmt: skip
        results.append(search.fit(X, y))
    serial = results[0]
    for parallel in results[1:]:
        for name in ("mean_test_score", "split0_test_score", "split1_test_score"):
            np.testing.assert_array_equal(parallel.cv_results_[name], serial.cv_results_[name])
        assert_same_weights(parallel.best_estimator_, serial.best_estimator_)


# The networks -----------------------------------------------------------------------------------


def test_network_is_live(data):
    X, y = data
    model = TNClassifier(**SINGLE | {"bond_dim": 4}).fit(X, y)
    network = model.network_
    assert isinstance(network, MPS)
    assert network.output_site == 2
    before = model.predict_proba(X)
    network.compress(cutoff=0.0)
    np.testing.assert_allclose(model.predict_proba(X), before, atol=1e-4)
    network.canonicalize_(1)
    np.testing.assert_allclose(model.predict_proba(X), before, atol=1e-4)
    network.compress(max_bond=1)
    assert model.network_.bond_sizes() == [1, 1, 1]
    assert np.abs(model.predict_proba(X) - before).max() > 1e-3
    network[2].modify(data=0 * network[2].data)
    np.testing.assert_allclose(model.predict_proba(X), 1 / 3, atol=1e-6)
    assert network.entropy(2) >= 0 or np.isnan(network.entropy(2))


def test_compressed_members_of_different_bonds_predict(data):
    X, y = data
    model = TNClassifier(**SMALL, n_members=2).fit(X, y)
    before = model.predict_proba(X)
    model.networks_[1].compress(max_bond=1)
    after = model.predict_proba(X)
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 0


def test_network_of_several_members(data):
    X, y = data
    model = TNClassifier(**SMALL, n_members=2)
    with pytest.raises(NotFittedError):
        model.network_  # noqa: B018
    model.fit(X, y)
    with pytest.raises(AttributeError, match="n_members=1"):
        model.network_  # noqa: B018
    assert len(model.networks_) == 2


@pytest.mark.parametrize("spec", [MPSSpec(output_site=0), MPSSpec(cyclic=True)], ids=repr)
def test_kinds_of_chains(data, spec):
    X, y = data
    model = TNClassifier(**LEARN, network=spec).fit(X, y)
    assert model.score(X, y) > 0.8
    assert model.network_.cyclic == spec.cyclic
    assert model.network_.output_site == (0 if spec.output_site == 0 else 2)


def quimb_chain():
    chain = qtn.MPS_rand_state(4, 3, phys_dim=2, seed=0, dtype="float32")
    tensor = chain[1]
    rng = np.random.default_rng(0)
    data = rng.normal(size=(*tensor.shape, 3)).astype("f4")
    tensor.modify(data=data, inds=(*tensor.inds, "label"))
    return chain


def quimb_plaquette():
    network = qtn.PEPS.rand(2, 2, 2, phys_dim=2, seed=0, dtype="float32")
    network.reindex_({f"k{i},{j}": f"k{2 * i + j}" for i in range(2) for j in range(2)})
    tensor = network["I0,0"]
    rng = np.random.default_rng(0)
    data = rng.normal(size=(*tensor.shape, 3)).astype("f4")
    tensor.modify(data=data, inds=(*tensor.inds, "label"))
    return network.view_as(qtn.TensorNetwork)


@pytest.mark.parametrize("make", [quimb_chain, quimb_plaquette])
def test_any_quimb_network(data, make):
    X, y = data
    network = make()
    before = [tensor.data.copy() for tensor in network]
    options = LEARN | {"embedding": LinearComplement(), "network": network}
    model = TNClassifier(**options).fit(X, y)
    losses = model.history_["loss"]
    assert losses[-1] < losses[0]
    assert model.network_.output_inds == ("label",)
    # What was given stays as it was.
    for tensor, data in zip(network, before, strict=True):
        np.testing.assert_array_equal(tensor.data, data)
    assert model.network_.num_tensors == network.num_tensors
    assert isinstance(pack(model.network_), tuple)


# Training options -------------------------------------------------------------------------------


def test_early_stopping_and_callbacks(data):
    X, y = data
    numbers = []
    options = SINGLE | {"max_epochs": 4, "early_stopping": True}
    model = TNClassifier(**options, callbacks=[lambda epoch: numbers.append(epoch.number)])
    model.fit(X, y)
    assert numbers == list(range(1, model.n_iter_ + 1))
    assert len(model.history_["validation_loss"]) == model.n_iter_
    stop = TNClassifier(**SINGLE, callbacks=[lambda epoch: True]).fit(X, y)
    assert stop.n_iter_ == 1


@pytest.mark.parametrize("estimator", [TNClassifier, TNRegressor])
def test_divergence_keeps_finite_networks(data, estimator):
    X, y = data
    # Three steps an epoch, so that the third one sees what its first step does.
    rates = optax.join_schedules([lambda _: 1e-6, lambda _: 1e30], [6])
    options = SINGLE | {"max_epochs": 9, "batch_size": len(X) // 3}
    model = estimator(**options, trainer=Gradient(optimizer=optax.sgd(rates)))
    with pytest.raises(NotFiniteError, match=r"Lower learning_rate.*epoch before were kept"):
        model.fit(X, y)
    assert all(np.isfinite(array).all() for array in weights_of(model))
    assert np.isfinite(model.predict(X)).all()
    assert model.n_iter_ == len(model.history_["loss"]) == 2


def test_what_diverges_at_once_is_not_fitted(data):
    X, y = data
    model = TNClassifier(**SINGLE, trainer=Gradient(optimizer=optax.sgd(1e30)))
    with pytest.raises(NotFiniteError, match=r"fault too\.$"):
        model.fit(X, y)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_default_precision_is_single_and_float64_on_request(data):
    X, y = data
    assert weights_of(TNClassifier(**SINGLE).fit(X, y))[0].dtype == np.float32
    with jax.enable_x64(True):
        model = TNClassifier(**SINGLE).fit(X, y)
        assert weights_of(model)[0].dtype == np.float64
        assert np.isfinite(model.predict_proba(X)).all()


# Bad input --------------------------------------------------------------------------------------

OPTIONS = [
    ({"bond_dim": 0}, "bond_dim must be an integer of at least 1"),
    ({"bond_dim": 2.5}, "bond_dim must be an integer of at least 1"),
    ({"bond_dim": True}, "bond_dim must be an integer"),
    ({"n_members": 0}, "n_members must be an integer of at least 1"),
    ({"embedding": "legendr"}, "Did you mean 'legendre'.*Valid names: .*'trigonometric'"),
    ({"network": "mpss"}, "Did you mean 'mps'.*Valid names: 'mera', 'mpo', 'mps'"),
    ({"initializer": "haar"}, "Valid names: .*'haar_unitary'"),
    ({"loss": "crossentropy"}, "Valid names: .*'cross_entropy'"),
    ({"trainer": "sgd"}, "Valid names: .*'gradient'"),
    ({"scaler": "standard"}, "Valid names: .*'min_max'"),
    ({"max_epochs": 0}, "max_epochs must be an integer of at least 1"),
    ({"learning_rate": -1.0}, "learning_rate must be a finite number above 0"),
    ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
    ({"feature_dropout": 1.5}, r"feature_dropout must be .* below 1"),
    ({"network": MPSSpec(output_site=9)}, "output_site must be between 0 and 3"),
    ({"network": quimb_chain()}, "needs? .* or another embedding|or another embedding"),
    ({"embedding": PerFeature((Legendre(),) * 3)}, "one for each feature"),
    ({"embedding": Patches((28, 28), (4, 4))}, "features"),
]


def untrained(model, X, y):
    """What fit raises, with proof that nothing was trained."""
    epochs = []
    model.set_params(callbacks=[epochs.append])
    with pytest.raises(ValueError) as info:  # noqa: PT011
        model.fit(X, y)
    assert epochs == []
    return info


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_bad_options(data, options, message):
    info = untrained(TNClassifier(**SINGLE | options), *data)
    assert info.match(message)


@pytest.mark.parametrize(
    ("estimator", "loss", "other"),
    [(TNClassifier, "squared_error", "regression"), (TNRegressor, "cross_entropy", "class")],
)
def test_losses_of_the_other_task(data, estimator, loss, other):
    info = untrained(estimator(**SINGLE, loss=loss), *data)
    assert info.match(f"{other}.*leave loss=None or choose another")


def test_a_network_of_other_outputs(data):
    X, y = data
    model = TNClassifier(**SINGLE, embedding=LinearComplement(), network=quimb_chain())
    assert untrained(model, X, y % 2).match("one output index of that size")
    assert untrained(model, X[:, :3], y).match("4 sites")


def test_bad_rows(data):
    X, y = data
    model = TNClassifier(**SINGLE)
    assert untrained(model, np.where(X > 1e3, np.inf, X), y).match("infinity")
    assert untrained(model, X[:0], y[:0]).match("0 sample")
    assert untrained(model, X[:, :0], y).match(r"0 feature\(s\)")
    assert untrained(model, X[:, 0], y).match("Expected 2D array")
    assert untrained(model, X, y[:-1]).match("inconsistent numbers of samples")
    assert untrained(model, X, np.zeros(60)).match("one class.*at least two")
    assert untrained(model, X, X[:, 0]).match("Unknown label type: continuous")
    assert untrained(model, [[1, 2], [3]], [0, 1]).match("inhomogeneous|sequence")
    objects = X.astype(object)
    objects[0, 0] = {"a": 1}
    with pytest.raises(TypeError, match="Column 0 holds a dict"):
        model.fit(objects, y)
    objects[0, 0] = "text"
    assert untrained(model, objects, y).match("holds 59 different numbers, and text such as 'text'")
    labels = y.astype(float)
    labels[0] = np.nan
    assert untrained(model, X, labels).match("contains NaN")
    assert untrained(TNRegressor(**SINGLE), X, labels).match("contains NaN")


def test_bad_rows_at_predict(data):
    X, y = data
    model = TNClassifier(**SINGLE).fit(X, y)
    with pytest.raises(ValueError, match="X has 3 features, but TNClassifier is expecting 4"):
        model.predict(X[:, :3])
    with pytest.raises(ValueError, match="infinity"):
        model.predict(np.full((1, 4), np.inf))
    with pytest.raises(NotFittedError):
        TNClassifier().predict(X)


def test_bad_sample_weights(data):
    X, y = data
    for weight, message in [
        (np.zeros(60), "at least one"),
        (-np.ones(60), "[Nn]egative"),
        (np.ones(59), "sample_weight.shape"),
        (np.full(60, np.nan), "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            TNRegressor(**SINGLE).fit(X, y, sample_weight=weight)


def test_missing_values_where_a_site_sees_several_features(data):
    X, y = data
    X = X.copy()
    X[0, 0] = np.nan
    model = TNClassifier(**SINGLE, embedding=Patches((2, 2), (1, 2)))
    assert untrained(model, X, y).match("impute them first")


def test_frames_of_strange_columns(data):
    X, y = data
    frame = pd.DataFrame({"a": X[:, 0], "b": [[1, 2]] * 60})
    with pytest.raises(TypeError, match="'b' holds a list"):
        TNClassifier(**SINGLE).fit(frame, y)
    frame["b"] = np.where(X[:, 1] > 0, np.inf, 1.0)
    assert untrained(TNClassifier(**SINGLE), frame, y).match("infinity")
    frame["c"] = "x"
    assert untrained(TNClassifier(**SINGLE), frame, y).match(r"infinity in column\(s\) b")
    polars = pl.DataFrame({"a": X[:, 0], "both": [{"b": 1}] * 60})
    with pytest.raises(TypeError, match="'both' has dtype Struct"):
        TNClassifier(**SINGLE).fit(polars, y)
    empty = pl.DataFrame({"c": pl.Series([], dtype=pl.String)})
    assert untrained(TNClassifier(**SINGLE), empty, y[:0]).match("0 sample")


def test_leaving_the_domain_warns_once(data):
    X, y = data
    options = SINGLE | {"embedding": LinearComplement(), "scaler": "passthrough"}
    U = np.clip(np.random.default_rng(0).uniform(0, 1, (60, 4)), 0, 1)
    inside = TNClassifier(**options).fit(U, y)
    U[:3, 0] = [-1, 2, 7]
    with pytest.warns(DomainWarning, match="3 values left the domain of LinearComplement") as seen:
        model = TNClassifier(**options).fit(U, y)
    assert len(seen) == 1
    assert_same_weights(model, TNClassifier(**options).fit(np.clip(U, 0, 1), y))
    with pytest.warns(DomainWarning, match="clipped.*scale the columns") as seen:
        clipped = inside.predict_proba(U)
    assert len(seen) == 1
    np.testing.assert_array_equal(clipped, inside.predict_proba(np.clip(U, 0, 1)))
    assert np.isfinite(X).all()


def test_early_stopping_needs_samples(data):
    X, y = data
    model = TNClassifier(**SINGLE, early_stopping=True)
    some = np.r_[np.flatnonzero(y == 0)[:3], np.flatnonzero(y == 1)[:1]]
    assert untrained(model, X[some], y[some]).match("set early_stopping=False")
    trainer = Gradient(early_stopping=EarlyStopping(patience=2, validation_fraction=0.5))
    fitted = TNClassifier(**SINGLE, trainer=trainer).fit(X, y)
    assert "validation_loss" in fitted.history_


def test_parameters_are_stored_as_given():
    given = {"bond_dim": 3, "embedding": "hat", "callbacks": [print], "trainer": Gradient()}
    for estimator in (TNClassifier, TNRegressor):
        params = estimator(**given).get_params()
        for (name, value), stored in zip(given.items(), itertools.repeat(params)):
            assert stored[name] is value


def test_discrete_embeddings_read_raw_codes():
    rng = np.random.RandomState(0)
    codes = rng.randint(3, size=200)
    X = np.stack([rng.rand(200) * 50, codes], axis=1)
    embedding = PerFeature((Legendre(), OneHot(3)))
    model = TNClassifier(embedding=embedding, n_members=1, bond_dim=2, random_state=0)
    assert model.fit(X, codes).score(X, codes) == 1.0


def test_perfeature_of_another_length_is_refused():
    embedding = PerFeature((Legendre(), OneHot(3)))
    with pytest.raises(ValueError, match="2 embeddings for 3 features"):
        TNClassifier(embedding=embedding).fit(np.ones((4, 3)), [0, 1, 0, 1])


def test_a_scaler_without_a_domain_to_scale_to_is_refused():
    X, y = np.random.RandomState(0).rand(20, 4), np.arange(20) % 2
    with pytest.raises(ValueError, match="leave scaler=None"):
        TNClassifier(embedding=Embedded(2), scaler="min_max").fit(X, y)
    model = TNClassifier(embedding=Embedded(2), **SINGLE).fit(X, y)
    assert model.predict_proba(X).shape == (20, 2)


# A user's second thoughts ------------------------------------------------------------------------


@pytest.mark.parametrize("generic", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_given_network_is_cloned(data, generic):
    X, y = data
    network = quimb_chain()
    if generic:
        network = qtn.TensorNetwork(network.tensors)
    model = TNClassifier(**SINGLE, embedding=LinearComplement(), network=network)
    copied = clone(model)
    assert copied.network is not network
    assert_same_weights(copied.fit(X, y), model.fit(X, y))
    assert len(cross_val_score(model, X, y, cv=2)) == 2
    grid = GridSearchCV(model, {"decay": [0.0, 1.0]}, cv=2).fit(X, y)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("going_on", "n_members"),
    [
        ("partial_fit", 2),
        ("warm_start", 2),
        *(pytest.param(how, 1, marks=pytest.mark.long) for how in ("partial_fit", "warm_start")),
    ],
)
def test_training_goes_on_from_networks_changed_by_hand(data, n_members, going_on):
    X, y = data
    model = TNClassifier(**(LEARN | {"bond_dim": 6, "n_members": n_members}), warm_start=True)
    model.partial_fit(X, y, classes=np.unique(y))
    for bond, network in zip((3, 4), model.networks_):
        network.compress(max_bond=bond)
    before = log_loss(y, model.predict_proba(X))
    model.partial_fit(X, y) if going_on == "partial_fit" else model.fit(X, y)
    assert log_loss(y, model.predict_proba(X)) < before
    assert max(model.networks_[0].bond_sizes()) == 3
    assert max(model.networks_[-1].bond_sizes()) == 2 + n_members


def test_what_training_on_cannot_change_is_refused(data):
    X, y = data
    model = TNClassifier(**SINGLE, warm_start=True).fit(X, y)
    for changed in ({"bond_dim": 3}, {"n_members": 2}, {"embedding": "hat"}, {"scaler": "min_max"}):
        (name,) = changed
        first = model.get_params()[name]
        model.set_params(**changed)
        for train in (model.fit, model.partial_fit):
            with pytest.raises(ValueError, match=f"{name} was .*warm_start=False"):
                train(X, y)
        model.set_params(**{name: first})
    model.set_params(max_epochs=1).fit(X, y)
    model.set_params(bond_dim=3, warm_start=False).fit(X, y)
    assert model.network_.bond_sizes() == [3, 3, 3]


def test_interrupted_training_keeps_the_last_epoch(data):
    X, y = data

    def interrupt(epoch):
        if epoch.number == 3:
            raise KeyboardInterrupt

    model = TNClassifier(**LEARN, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ >= 2
    untrained_loss = np.log(3)
    assert log_loss(y, model.predict_proba(X)) < untrained_loss


def test_predictions_keep_the_loss_of_the_fit(data):
    X, y = data
    model = TNClassifier(**SINGLE).fit(X, y)
    before = model.predict_proba(X)
    np.testing.assert_array_equal(model.set_params(loss="nonsense").predict_proba(X), before)


def test_losses_as_functions_and_by_their_optax_names(data):
    X, y = data
    for loss in (optax.softmax_cross_entropy_with_integer_labels, "softmax_cross_entropy"):
        model = TNClassifier(**LEARN, loss=loss).fit(X, y)
        plain = TNClassifier(**LEARN, loss="cross_entropy").fit(X, y)
        np.testing.assert_allclose(model.predict_proba(X), plain.predict_proba(X), atol=1e-3)
    assert np.isfinite(TNRegressor(**SINGLE, loss="log_cosh").fit(X, X[:, 0]).predict(X)).all()
    info = untrained(TNRegressor(**SINGLE, loss="nonsense"), X, y)
    assert info.match("'huber'.*'squared_error'")
    assert "objective" not in str(info.value)


@pytest.mark.parametrize("library", ["pandas", pytest.param("polars", marks=pytest.mark.long)])
def test_columns_without_any_entry_are_of_either_kind(data, library):
    X, y = data
    columns = {"a": X[:, 0], "c": np.where(X[:, 1] > 0, "u", "v")}
    make = {"pandas": pd.DataFrame, "polars": pl.DataFrame}[library]
    model = TNClassifier(**SINGLE).fit(make(columns), y)
    without_c = model.predict_proba(make({"a": [1.0], "c": [None]}))
    without_a = model.predict_proba(make({"a": [None], "c": ["u"]}))
    both = model.predict_proba(make({"a": [1.0], "c": ["u"]}))
    assert np.isfinite(without_a).all()
    assert np.isfinite(without_c).all()
    assert not np.allclose(without_a, both)
    assert not np.allclose(without_c, both)
    with pytest.raises(ValueError, match="Column 'c' held categories such as 'v' when fitting"):
        model.predict(make({"a": [1.0], "c": [3.0]}))
    with pytest.raises(ValueError, match="Column 'a' held numbers when fitting and holds categ"):
        model.predict(make({"a": ["x"], "c": ["u"]}))


def test_codes_that_a_discrete_embedding_does_not_know(data):
    X, y = data
    with pytest.warns(DomainWarning, match="240 values are none of the integer codes") as seen:
        TNClassifier(**SINGLE, embedding="one_hot").fit(X / 1e6 + 0.5, y)
    assert len(seen) == 1


def test_frames_that_cannot_be_read(data):
    X, y = data
    twice = pd.DataFrame(X, columns=["a", "b", "a", "c"])
    assert untrained(TNClassifier(**SINGLE), twice, y).match("twice: a")
    assert TNClassifier(**SINGLE).fit(pd.DataFrame(X, columns=["collect", "a", "b", "c"]), y)
    lazy = pl.DataFrame(X).lazy()
    assert untrained(TNClassifier(**SINGLE), lazy, y).match(r"X\.collect\(\)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stopping": "foo"}, "early_stopping must be True or False"),
        ({"warm_start": "foo"}, "warm_start must be True or False"),
        ({"verbose": "foo"}, "verbose must be True or False"),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, "class_weight must be positive"),
        ({"class_weight": {0: -1, 1: 1, 2: 1}}, "class_weight must be positive"),
        ({"class_weight": [1]}, "class_weight must be None, 'balanced' or a dict"),
        ({"network": MPS.random(4, n_outputs=3, key=jax.random.key(0)).astype("complex64"),
          "embedding": LinearComplement()}, "must be real"),
    ],
)  # fmt: skip
def test_more_bad_options(data, options, message):
    assert untrained(TNClassifier(**SINGLE | options), *data).match(message)


@pytest.mark.parametrize("callbacks", [print, [1]])
def test_callbacks_that_are_none(data, callbacks):
    with pytest.raises(ValueError, match="callbacks must be a sequence of functions"):
        TNClassifier(**SINGLE, callbacks=callbacks).fit(*data)


def test_trainers_without_what_is_asked(data):
    class Still(Trainer):
        def step(self, problem, params, state, epoch):
            return Step(params, state, 0.0)

    foreign = dataclasses.make_dataclass("Foreign", [])
    for cls in (Still, foreign):
        register("trainer")(cls)
    try:
        model = TNClassifier(n_members=1, trainer=Still())
        with pytest.raises(ValueError, match="Still cannot train on part of the samples"):
            model.partial_fit(*data, classes=[0, 1, 2])
        model.set_params(decay=1.0)
        assert untrained(model, *data).match("Still has no decay")
        model.set_params(decay=None, trainer=foreign())
        assert untrained(model, *data).match("Foreign is no Trainer: derive it from")
    finally:
        for name in ("still", "foreign"):
            _CLASSES["trainer"].pop(name)


def test_fields_of_fields_are_parameters():
    stopping = EarlyStopping(patience=3)
    model = TNClassifier(trainer=Gradient(early_stopping=stopping), embedding=Legendre())
    model.set_params(trainer__early_stopping__patience=7, trainer__decay=2.0)
    assert model.trainer == Gradient(early_stopping=EarlyStopping(patience=7), decay=2.0)
    with pytest.raises(ValueError, match=r"embedding is Legendre\(.*its fields are degree"):
        model.set_params(embedding__degre=1)
    with pytest.raises(ValueError, match="bond_dim is 8 and it has no fields"):
        model.set_params(bond_dim__x=1)


def test_trees_learn_and_stay_live(data):
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcd")).assign(e=np.where(y == 1, "u", "v"))
    model = TNClassifier(**LEARN, network="ttn").fit(frame, y)
    assert model.score(frame, y) > 0.9
    assert isinstance(model.network_, TTN)
    before = model.predict_proba(frame)
    model.network_.compress_all_tree_(max_bond=1)
    assert not np.allclose(model.predict_proba(frame), before, atol=1e-2)
    info = untrained(TNClassifier(**SINGLE, network=TTNSpec(Tree.balanced(5))), X, y)
    assert info.match("5 leaves, but there are 4 sites")


@pytest.mark.long
def test_networks_are_values_in_grids(data):
    X, y = data
    key = jax.random.key(0)
    sizes = {"phys_dim": 3, "n_outputs": 3, "key": key}
    chain, tree = MPS.random(4, bond_dim=2, **sizes), TTN.random(4, bond_dim=3, **sizes)
    plain = qtn.TensorNetwork(chain.tensors)  # of quimb's own class
    model = TNClassifier(network=chain, n_members=1, max_epochs=1)
    before = chain.arrays[0].copy()
    for grid in ([chain, tree, plain], [plain]):
        search = GridSearchCV(make_pipeline(model), {"tnclassifier__network": grid}, cv=2).fit(X, y)
        assert search.best_estimator_.predict(X).shape == y.shape
        assert clone(search).param_grid["tnclassifier__network"][0] is not None
        for text in (search._repr_html_(), repr(search), str(search.cv_results_)):
            assert "Tensor" in text or "MPS" in text
    # Neither searches nor fits change what was given.
    np.testing.assert_array_equal(chain.arrays[0], before)
    assert clone(model).network is not chain
