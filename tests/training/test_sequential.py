"""Trainers in sequence: nothing is lost between them, nor when one of them fails."""

import numpy as np
import pytest
from sklearn.datasets import load_iris

from tn4ml_plus import TNClassifier
from tn4ml_plus.contraction import pack
from tn4ml_plus.networks import MPSSpec
from tn4ml_plus.training import Gradient, IsometricSweep, Sequential, Sweep

pytestmark = pytest.mark.usefixtures("quick")

X, y = load_iris(return_X_y=True)
NARROW = Sweep(max_bond=2, max_epochs=1)


def classifier(*trainers, **options):
    options = {"n_members": 1, "random_state": 0} | options
    return TNClassifier(4, trainer=list(trainers), **options)


@pytest.mark.parametrize(
    "second",
    [IsometricSweep(max_epochs=1), pytest.param(Sweep(max_epochs=1), marks=pytest.mark.long)],
    ids=str,
)
def test_sweeps_follow_sweeps_of_other_sizes(second):
    model = classifier(NARROW, second, n_members=2).fit(X, y)
    assert model.n_iter_ == 2
    assert model.score(X, y) > 0.9


@pytest.mark.long
def test_members_of_different_ranks_become_isometric():
    model = classifier(Sweep(cutoff=1e-3), n_members=3, warm_start=True).fit(X, y)
    assert len({max(network.bond_sizes()) for network in model.networks_}) > 1
    model.set_params(trainer=IsometricSweep(max_epochs=1)).fit(X, y)
    assert model.score(X, y) > 0.9


def test_gradients_train_no_padding_and_stay_near_the_sweep():
    seen = []
    step = Gradient(max_epochs=1, learning_rate=1e-4, callbacks=[seen.append])
    model = classifier(Sweep(max_bond=8, cutoff=1e-2), step, warm_start=True).fit(X, y)
    assert max(model.network_.bond_sizes()) < 4
    # What decay pulls toward is what the sweep has found, of the same shapes.
    now, start = pack(model.network_)[0], model._ensemble.anchor
    for name, leaf in now.items():
        np.testing.assert_allclose(start[name][0], leaf, atol=0.02)
    before = model.history_["loss"][-1]
    model.set_params(trainer="gradient", max_epochs=40).fit(X, y)
    assert model.history_["loss"][-1] < 1.5 * before


def test_seconds_go_on():
    seconds = classifier(NARROW, Gradient(max_epochs=3)).fit(X, y).history_["seconds"]
    assert (np.diff(seconds) > 0).all()


def test_a_callback_that_is_true_stops_all_trainers():
    model = classifier(NARROW, Gradient(max_epochs=3), callbacks=[lambda epoch: True]).fit(X, y)
    assert model.n_iter_ == 1


def test_networks_that_a_later_trainer_refuses_are_not_trained():
    model = classifier(Gradient(max_epochs=5), NARROW, network=MPSSpec(cyclic=True))
    with pytest.raises(ValueError, match="open ends"):
        model.fit(X, y)
    assert not hasattr(model, "networks_")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_trained_before_an_error_is_kept(error):
    def fail(epoch):
        if epoch.number == 2:
            raise error

    model = classifier(NARROW, Gradient(max_epochs=5), callbacks=[fail])
    with pytest.raises(error):
        model.fit(X, y)
    assert model.n_iter_ == 3
    assert model.score(X, y) > 0.9


def test_an_error_before_an_epoch_keeps_the_trainers_before():
    class Broken(Gradient):
        def train(self, problem):
            raise RuntimeError

    model = classifier(NARROW, Broken())
    with pytest.raises(RuntimeError):
        model.fit(X, y)
    assert model.n_iter_ == 1
    assert model.score(X, y) > 0.9


def test_an_optimizer_begins_anew_where_another_trainer_was():
    model = classifier(Gradient(max_epochs=1), warm_start=True)
    model.set_params(trainer="gradient").partial_fit(X, y, classes=[0, 1, 2])
    model.set_params(trainer=NARROW).fit(X, y)
    model.set_params(trainer="gradient").partial_fit(X, y)
    model.set_params(trainer="sweep").partial_fit(X, y)
    model.set_params(trainer="gradient").partial_fit(X, y)
    assert model.n_iter_ == 5
    assert model.score(X, y) > 0.9


def test_an_object_takes_the_options_of_its_trainers():
    trainer = Sequential((Sequential((NARROW,)), Gradient(learning_rate=1e-3)))
    assert trainer.trainers == (NARROW, Gradient(learning_rate=1e-3))
    model = TNClassifier(4, trainer=trainer, n_members=1, max_epochs=2, random_state=0).fit(X, y)
    assert model.n_iter_ == 4
    with pytest.raises(ValueError, match="one or more trainers, such as"):
        Sequential("sweep")
    with pytest.raises(ValueError, match="use one trainer that can"):
        classifier(NARROW, NARROW).partial_fit(X, y, classes=[0, 1, 2])


def test_what_fails_before_an_epoch_is_not_fitted():
    class Interrupted(Gradient):
        def step(self, problem, params, state, epoch):
            raise KeyboardInterrupt

    model = classifier(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert not hasattr(model, "networks_")
