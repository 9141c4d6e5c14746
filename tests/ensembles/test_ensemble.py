"""Ensembles: made whole by start and by training, live networks, round trips."""

import dataclasses

import numpy as np
import pytest

from tn4ml_plus._amplitude import Amplitude
from tn4ml_plus.ensembles import Ensemble, resolve_objective, resolve_trainer
from tn4ml_plus.estimators import TNClassifier
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
    return ensemble.evaluate(model._reader.blocks(U), Amplitude.dense)


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
