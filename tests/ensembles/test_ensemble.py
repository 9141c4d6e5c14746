"""Ensembles: made whole by start and by training, live networks, round trips."""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tn4ml_plus._amplitude import Amplitude
from tn4ml_plus._registry import names
from tn4ml_plus.contraction import pack
from tn4ml_plus.embeddings import Legendre
from tn4ml_plus.ensembles import Ensemble, resolve_objective, resolve_trainer
from tn4ml_plus.estimators import TNClassifier, TNRegressor
from tn4ml_plus.io import from_tree, to_tree
from tn4ml_plus.losses import CallableLoss, CrossEntropy, OptaxLoss
from tn4ml_plus.training import Gradient, Sequential, Sweep

SMALL = {"bond_dim": 2, "n_members": 2, "max_epochs": 1, "random_state": 0}


@pytest.fixture(scope="module")
def data():
    """X (60, 4) of three classes in turn."""
    y = np.arange(60) % 3
    return np.random.default_rng(0).normal(size=(60, 4)) + y[:, None], y


@pytest.fixture(scope="module")
def model(data):
    X, y = data
    return TNClassifier(**SMALL).partial_fit(X, y, classes=np.unique(y))


def outputs(model, ensemble, X):
    U = model._reader.transform(model._read(X))
    return ensemble.evaluate(model._reader.vector_map, model._reader.blocks(U), Amplitude.dense)


def test_training_makes_a_new_one(model, data):
    X, y = data
    first = model._ensemble
    before = outputs(model, first, X)
    arrays = [t.data.copy() for net in first.networks for t in net]
    twin = TNClassifier(**SMALL).partial_fit(X, y, classes=np.unique(y)).partial_fit(X, y)
    assert twin._ensemble is not first
    assert (first.n_seen, twin._ensemble.n_seen) == (60, 120)
    np.testing.assert_array_equal(outputs(model, first, X), before)
    for tensor, array in zip((t for net in first.networks for t in net), arrays, strict=True):
        np.testing.assert_array_equal(tensor.data, array)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.networks = []


def test_members_are_evaluated_in_order(model, data):
    X, _ = data
    both = outputs(model, model._ensemble, X)
    assert both.shape == (2, 60, 3)
    for m in range(2):
        alone = dataclasses.replace(
            model._ensemble,
            networks=model._ensemble.networks[m : m + 1],
            orders=model._ensemble.orders[m : m + 1],
        )
        np.testing.assert_allclose(outputs(model, alone, X)[0], both[m], rtol=1e-5, atol=1e-6)


def test_networks_are_live(model, data):
    ensemble = dataclasses.replace(
        model._ensemble, networks=[net.copy() for net in model._ensemble.networks]
    )
    before = outputs(model, ensemble, data[0])
    ensemble.networks[1].multiply_(2.0)
    after = outputs(model, ensemble, data[0])
    np.testing.assert_allclose(after[1], 2 * before[1], rtol=1e-5)
    np.testing.assert_array_equal(after[0], before[0])
    # Changes of every kind: of the scale, in the memory of an array, of an order in its place.
    ensemble.networks[1].exponent += 1
    after = outputs(model, ensemble, data[0])
    np.testing.assert_allclose(after[1], 20 * before[1], rtol=1e-5)
    tensor = ensemble.networks[0][0]
    tensor.modify(data=np.array(tensor.data))
    array = tensor.data
    np.testing.assert_array_equal(outputs(model, ensemble, data[0]), after)
    array *= 3
    assert tensor.data is array
    after = outputs(model, ensemble, data[0])
    np.testing.assert_allclose(after[0], 3 * before[0], rtol=1e-5)
    ensemble.orders[0] = ensemble.orders[0][::-1].copy()
    assert np.abs(outputs(model, ensemble, data[0])[0] - after[0]).max() > 1e-3


def test_compression_makes_a_new_one(model):
    smaller = model._ensemble.compress(1, 1e-6, model.grams())
    assert {max(net.bond_sizes()) for net in smaller.networks} == {1}
    assert {max(net.bond_sizes()) for net in model._ensemble.networks} == {2}
    assert smaller.trainer_state == {}
    assert model._ensemble.trainer_state


def test_what_it_says_of_itself_is_all(model, data):
    arrays = {}
    found = from_tree(to_tree(model._ensemble, "ensemble", arrays), arrays)
    assert isinstance(found, Ensemble)
    assert found.n_seen == model._ensemble.n_seen
    assert found.loss == CrossEntropy()
    (name,) = model._ensemble.trainer_state
    for ours, theirs in zip(
        found.trainer_state[name], model._ensemble.trainer_state[name], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    X = data[0]
    np.testing.assert_array_equal(outputs(model, found, X), outputs(model, model._ensemble, X))


def test_objectives_of_names_objects_and_functions():
    default = CrossEntropy()
    assert resolve_objective(None, default, "classification", "X").loss == default
    assert isinstance(
        resolve_objective("softmax_cross_entropy", default, "classification", "X").loss, OptaxLoss
    )
    given = resolve_objective(lambda p, t: p, default, "regression", "X").loss
    assert isinstance(given, CallableLoss)
    with pytest.raises(ValueError, match="regression loss, which Them cannot train on"):
        resolve_objective("squared_error", default, "classification", "Them")


def test_trainers_of_names_objects_and_sequences():
    default = Gradient(decay=2.0)
    assert resolve_trainer("gradient", default, {}, False) == default
    assert resolve_trainer("gradient", default, {"max_epochs": 3}, False).decay == 2.0
    stops = resolve_trainer("gradient", default, {}, True)
    assert stops.early_stopping is not None
    several = resolve_trainer((Sweep(), "gradient"), default, {"decay": 1.0}, False)
    assert isinstance(several, Sequential)
    assert several.trainers == (Sweep(), Gradient(decay=1.0))
    with pytest.raises(ValueError, match="Sweep has no decay"):
        resolve_trainer("sweep", default, {"decay": 1.0}, False)


# Starts -----------------------------------------------------------------------------------------


def started(initializer, n_features=40, **options):
    """Model whose networks have hardly moved from their start, and its rows."""
    X = np.random.default_rng(0).normal(size=(80, n_features))
    options = {"bond_dim": 4, "n_members": 1, "random_state": 0, "max_epochs": 1} | options
    model = TNClassifier(initializer=initializer, learning_rate=1e-9, **options)
    return model.fit(X, np.arange(80) % 2), X


@pytest.mark.parametrize("network", ["mps", "ttn"])
@pytest.mark.parametrize("name", names("initializer"))
def test_states_of_all_samples_start_alike_in_size(name, network):
    model, X = started(name, network=network)
    values = outputs(model, model._ensemble, X)[0]
    differences = np.abs(values[:, 0] - values[:, 1])
    assert 0.01 < differences.max() < 20 * np.median(differences)


@pytest.mark.parametrize("name", ["random_normal", "gram_schmidt", "haar_unitary"])
def test_random_cores_are_orthogonal_where_samples_are_at_their_mean(name):
    model, _ = started(name)
    mean = model._reader.neutral
    for i in (3, 30):
        core, others = model.network_[i], [model.network_[j] for j in (i - 1, i + 1)]
        inds = [f"k{i}", *(ind for other in others for ind in core.bonds(other))]
        matrix = np.tensordot(mean[i], core.transpose(*inds).data, 1)
        product = matrix @ matrix.T
        np.testing.assert_allclose(product / product[0, 0], np.eye(4), atol=0.05)


@pytest.mark.parametrize(
    ("name", "is_itself"), [("random_normal", True), ("least_squares_identity", False)]
)
def test_a_start_without_the_identity_is_its_own_anchor(name, is_itself):
    model, _ = started(name)
    packed, anchor = pack(model.network_)[0], model._ensemble.anchor
    pairs = zip(*map(jax.tree.leaves, (packed, anchor)), strict=True)
    gap = max(float(np.abs(one - other[0]).max()) for one, other in pairs)
    assert (gap < 1e-4) == is_itself


# A start without the identity; with it, other tests learn.
@pytest.mark.parametrize(
    "name",
    [
        name if name == "random_normal" else pytest.param(name, marks=pytest.mark.long)
        for name in names("initializer")
    ],
)
def test_a_long_chain_learns_from_every_start(name):
    X, y = load_digits(return_X_y=True)
    given = {"embedding": Legendre(2), "feature_dropout": 0.2}
    model = TNClassifier(n_members=1, max_epochs=30, initializer=name, random_state=0, **given)
    model.fit(X[1000:1250], y[1000:1250])
    assert model.score(X[1400:], y[1400:]) > 0.75


# Small bonds of chains, other pairs long.
@pytest.mark.parametrize(
    ("network", "bond_dim"),
    [
        ("mps", 2),
        *(
            pytest.param(*pair, marks=pytest.mark.long)
            for pair in [("ttn", 32), ("mps", 32), ("mps", 200), ("ttn", 2), ("ttn", 200)]
        ),
    ],
)
def test_bonds_of_all_sizes_learn_a_column_from_few_rows(bond_dim, network):
    rng = np.random.default_rng(1)
    X, T = rng.normal(size=(120, 6)), rng.normal(size=(1000, 6))
    options = {"n_members": 1, "network": network, "random_state": 0}
    model = TNClassifier(bond_dim, **options).fit(X, X[:, 2] > 0)
    assert max(model.history_["loss"]) < 2
    assert model.score(T, T[:, 2] > 0) > 0.85
    model = TNRegressor(bond_dim, **options).fit(X, X[:, 2])
    assert model.score(T, T[:, 2]) > 0.8
