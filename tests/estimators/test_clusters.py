"""Searches on the workers of Dask and Ray: the results of serial ones, and errors that arrive."""

import os
import pickle

import jax
import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_validate

import tn4ml_plus
from tn4ml_plus import TNBornMachine, TNClassifier, TNRegressor, errors
from tn4ml_plus.training import Gradient, Sequential, Sweep

SMALL = {"bond_dim": 2, "n_members": 1, "max_epochs": 1, "random_state": 0}
PLAIN = {"cv": 2, "error_score": "raise"}


@pytest.fixture(scope="module")
def client():
    """Client of two processes of Dask, which fit on two threads each."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def dask(client):
    """The client, to which joblib sends what is parallel."""
    with joblib.parallel_config("dask"):
        yield client


@pytest.fixture(scope="module")
def two_of_ray():
    """Ray with two processes."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.util.joblib").register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def ray(two_of_ray):
    """Ray, to which joblib sends what is parallel."""
    with joblib.parallel_config("ray", n_jobs=2):
        yield


def serially(function, *args):
    """What a function returns where nothing is parallel."""
    with joblib.parallel_config("sequential"):
        return function(*args)


def assert_same(found, expected):
    """Scores and parameters are the same, bit for bit; times are not compared."""
    assert set(found) == set(expected)
    for name in found:
        if "time" not in name:
            np.testing.assert_array_equal(found[name], expected[name], strict=True)


def assert_same_search(search, X, y):
    """A search finds what it finds serially, and its best model is the same."""
    expected = serially(lambda: clone(search).fit(X, y))
    found = clone(search).fit(X, y)
    assert_same(found.cv_results_, expected.cv_results_)
    assert found.best_params_ == expected.best_params_
    best = [each.best_estimator_ for each in (found, expected)]
    for method in ("predict_proba", "predict", "score_samples"):
        if hasattr(best[0], method):
            np.testing.assert_array_equal(*(getattr(each, method)(X) for each in best))


def seen(epoch):
    """A callback, which workers take by its name."""
    return epoch.number > 1


CLASSIFIER = TNClassifier(**SMALL)
WATCHED = TNClassifier(**SMALL | {"max_epochs": 2}, verbose=True, callbacks=[seen])
IN_SEQUENCE = Sequential((Sweep(max_epochs=1), Gradient(max_epochs=1)))
SEARCHES = {
    "classifier": GridSearchCV(WATCHED, {"bond_dim": [2, 3], "network": ["mps", "ttn"]}, **PLAIN),
    "regressor": GridSearchCV(TNRegressor(**SMALL), {"decay": [0.0, 0.1]}, **PLAIN),
    "density": GridSearchCV(TNBornMachine(**SMALL), {"bond_dim": [2, 3]}, **PLAIN),
    "trainers": GridSearchCV(
        clone(CLASSIFIER).set_params(max_epochs=None),
        {"trainer": [Sweep(max_epochs=1), IN_SEQUENCE]},
        **PLAIN,
    ),
    "halving": HalvingGridSearchCV(
        CLASSIFIER, {"bond_dim": [2, 3]}, resource="max_epochs", max_resources=3, random_state=0,
        **PLAIN,
    ),
}  # fmt: skip
# JAX warns where Ray is started after it.
of_ray = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")


def validated(data):
    """Scores of folds."""
    return cross_validate(CLASSIFIER, *data, cv=3, return_train_score=True)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n == "trainers")) for n in SEARCHES]
)
def test_dask_finds_what_is_found_serially(dask, data, name):
    assert_same_search(SEARCHES[name], *data)


def test_folds_are_validated_by_dask_as_serially(dask, data):
    assert_same(validated(data), serially(validated, data))


@of_ray
@pytest.mark.parametrize("name", ["classifier", "halving"])
def test_ray_finds_what_is_found_serially(ray, data, name):
    assert_same_search(SEARCHES[name], *data)


@of_ray
def test_folds_are_validated_by_ray_as_serially(ray, data):
    assert_same(validated(data), serially(validated, data))


def programs_read():
    """Folder of compiled programs, the process, and how many of its programs a fit reads there."""
    read = []

    def listener(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            read.append(event)

    jax.monitoring.register_event_listener(listener)
    X = np.random.default_rng(0).normal(size=(60, 5))
    clone(CLASSIFIER).fit(X, np.arange(60) % 3)
    jax.monitoring.unregister_event_listener(listener)
    return jax.config.jax_compilation_cache_dir, os.getpid(), len(read)


def test_workers_of_dask_read_the_programs_of_others(dask):
    folder, process, _ = programs_read()
    if folder is None:
        pytest.skip("others could write to the folder of compiled programs")
    for found, worker, n_read in dask.run(programs_read).values():
        assert found == folder
        assert worker != process
        assert n_read > 0


def fails(epoch):
    """A callback that raises an error of this library once something was trained."""
    raise tn4ml_plus.errors.NotFiniteError(f"epoch {epoch.number}")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"learning_rate": 1e30}, errors.NotFiniteError, "in epoch 1"),
        ({"callbacks": [fails]}, errors.NotFiniteError, "epoch 1"),
        ({"bond_dim": -1}, ValueError, "bond_dim"),
    ],
    ids=["too fast", "callback", "refused"],
)
def test_errors_of_workers_of_dask_arrive(dask, data, options, error, words):
    search = GridSearchCV(CLASSIFIER, {name: [value] for name, value in options.items()}, **PLAIN)
    with pytest.raises(error, match=words) as raised:
        search.fit(*data)
    if error is errors.NotFiniteError:
        assert raised.value.result.n_iter == ("callbacks" in options)


def test_dask_scores_what_fails_as_serially(dask, data):
    search = GridSearchCV(CLASSIFIER, {"learning_rate": [0.01, 1e30]}, cv=2)
    scores_warn = pytest.warns(UserWarning, match="test scores are non-finite")
    with pytest.warns(FitFailedWarning, match="NotFiniteError"), scores_warn:
        found = search.fit(*data).cv_results_["mean_test_score"]
    assert np.isnan(found).tolist() == [False, True]


ERRORS = [error for error in vars(errors).values() if isinstance(error, type)]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_the_same_after_its_pickle(error, data):
    model = clone(CLASSIFIER).set_params(callbacks=[fails])
    with pytest.raises(errors.NotFiniteError) as raised:
        model.fit(*data)
    first = error("what", 1)
    vars(first).update(vars(raised.value))
    again = pickle.loads(pickle.dumps(first))
    assert type(again) is error
    assert again.args == ("what", 1)
    assert str(again) == str(first)
    # What was trained is what the model has kept.
    assert vars(again).keys() == vars(first).keys() == {"result", "trained"}
    ensemble, history, n_iter = again.trained
    assert n_iter == again.result.n_iter == 1
    assert history == again.result.history == first.result.history
    for found, expected in zip(ensemble.networks[0].arrays, model.network_.arrays, strict=True):
        np.testing.assert_array_equal(found, expected)
