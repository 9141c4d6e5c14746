"""Interrupts keep the best weights of a first fit and leave all other models as they were."""

import copy
import multiprocessing
import signal
import threading

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tn4ml_plus import DTTNClassifier, TNAnomalyDetector, TNClassifier, TNRegressor
from tn4ml_plus.ensembles import Ensemble
from tn4ml_plus.estimators import _estimator
from tn4ml_plus.image import Variant
from tn4ml_plus.tables import TableReader
from tn4ml_plus.training import Gradient, ImageProblem, Problem, Sweep, _trainer

SMALL = {"bond_dim": 2, "n_members": 1, "max_epochs": 2, "random_state": 0}
CLASSIFIER, REGRESSOR = TNClassifier(**SMALL), TNRegressor(**SMALL | {"n_members": 2})
IMAGES = DTTNClassifier(Variant((2,), (1,), stem=(1,)), max_epochs=2, random_state=0)
pytestmark = pytest.mark.filterwarnings("ignore:.*no square image")


@pytest.fixture(autouse=True)
def handled():
    """Ctrl-C as a terminal has it: a shell has it ignored in what runs in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupted(monkeypatch):
    """Function that makes the first call of another one an interrupt."""

    def once(owner, name):
        original, calls = getattr(owner, name), []

        def call(*args, **kwargs):
            calls.append(args)
            if len(calls) == 1:
                signal.raise_signal(signal.SIGINT)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    return once


@pytest.mark.parametrize(
    ("model", "owner", "name"),
    [
        (CLASSIFIER, Problem, "outcome"),
        (CLASSIFIER, Ensemble, "rescaled"),
        (CLASSIFIER, _estimator, "_take"),
        (REGRESSOR, Ensemble, "_noise"),
        (IMAGES, ImageProblem, "outcome"),
        (IMAGES, _estimator, "_take"),
    ],
)
def test_what_comes_after_the_last_epoch_loses_nothing(data, interrupted, model, owner, name):
    X, y = data
    expected = clone(model).fit(X, y).predict(X)
    model = clone(model)
    interrupted(owner, name)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ == len(model.history_["loss"]) == 2
    np.testing.assert_array_equal(model.predict(X), expected)


def test_what_comes_between_two_trainers_keeps_the_first(data, interrupted):
    X, y = data
    model = clone(CLASSIFIER).set_params(max_epochs=None)
    expected = clone(model).set_params(trainer=Sweep(max_epochs=2)).fit(X, y).predict_proba(X)
    model.set_params(trainer=[Sweep(max_epochs=2), Gradient(max_epochs=1)])
    interrupted(_trainer, "trimmed")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ == 2
    np.testing.assert_array_equal(model.predict_proba(X), expected)


@pytest.mark.parametrize("model", [CLASSIFIER, IMAGES])
def test_early_stopping_keeps_the_best_weights(data, model):
    X, y = data
    options = {"learning_rate": 0.3, "max_epochs": 9, "early_stopping": True}
    model = clone(model).set_params(**options)

    def worse(epoch):
        losses = epoch.history["validation_loss"]
        return epoch.number > 1 and losses[-1] > min(losses)

    def interrupt(epoch):
        if worse(epoch):
            signal.raise_signal(signal.SIGINT)

    stopped = clone(model).set_params(callbacks=[worse]).fit(X, y)
    model.set_params(callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    losses = model.history_["validation_loss"]
    assert losses == stopped.history_["validation_loss"]
    assert losses[-1] > min(losses)
    np.testing.assert_array_equal(model.predict_proba(X), stopped.predict_proba(X))


class Fields:
    """A part of arguments, of which JAX compares the static field."""

    def __init__(self, static):
        self.static = static


class Interrupting:
    """A value whose comparison is cut off."""

    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise KeyboardInterrupt


def compare(*_, **options):
    """Call a compiled program as an interrupt comes between."""
    for _ in range(2):
        PROGRAM(Fields(Interrupting()))


jax.tree_util.register_pytree_node(
    Fields, lambda fields: ((), fields.static), lambda static, _: Fields(static)
)
PROGRAM = jax.jit(lambda fields: 0)


def test_interrupts_of_comparisons_within_jax_are_interrupts(data, monkeypatch):
    with pytest.raises(ValueError, match="equality"):
        compare()
    X, y = data
    model = clone(CLASSIFIER)
    step = Gradient.step

    def second(trainer, problem, params, state, epoch):
        if epoch == 1:
            compare()
        return step(trainer, problem, params, state, epoch)

    monkeypatch.setattr(Gradient, "step", second)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ == 1
    monkeypatch.setattr(Ensemble, "evaluate", compare)
    with pytest.raises(KeyboardInterrupt):
        model.predict(X)
    monkeypatch.setattr(TableReader, "fit_transform", compare)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)


def test_a_choice_that_is_interrupted_ends_on_all_threads(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    begun, step = [], Gradient.step

    def counted(*args):
        begun.append(threading.current_thread())
        if len(begun) == 3:
            # To the process, as from a terminal: the thread that waits for the others gets it.
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(Gradient, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        TNClassifier(max_epochs=20_000).fit(X, X[:, 0] > 0)
    # An epoch or two after that, of thousands.
    assert threading.main_thread() not in begun
    assert 3 <= len(begun) < 1000
    assert not any(each.is_alive() for each in begun)


def test_a_committee_is_kept_whole_or_not_at_all(data, interrupted):
    X, _ = data
    model = TNAnomalyDetector(**SMALL)
    interrupted(TNAnomalyDetector, "_scores")  # after all training, for the threshold
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_predictions_that_are_interrupted_change_nothing(data, interrupted):
    X, y = data
    model = clone(CLASSIFIER).fit(X, y)
    before, expected = dict(vars(model)), model.predict_proba(X)
    interrupted(Ensemble, "evaluate")
    with pytest.raises(KeyboardInterrupt):
        model.predict_proba(X)
    assert all(vars(model)[name] is value for name, value in before.items())
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_sixteen_threads_predict_and_fit_as_one(data):
    X, y = data
    model = clone(CLASSIFIER).fit(X, y)
    expected, found = model.predict_proba(X), [None] * 16

    def work(i):
        each = model if i % 4 else clone(CLASSIFIER).fit(X, y)
        found[i] = each.predict_proba(X)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(each, expected) for each in found)


@pytest.mark.long
def test_four_spawned_workers_predict_and_fit_as_one(data):
    X, y = data
    model = clone(CLASSIFIER).fit(X, y)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.map(model.predict_proba, [X] * 8, chunksize=1)
        fitted = pool.starmap(copy.copy(model).fit, [(X, y)] * 4, chunksize=1)
    expected = model.predict_proba(X)
    assert all(np.array_equal(each, expected) for each in found)
    assert all(np.array_equal(each.predict_proba(X), expected) for each in fitted)
