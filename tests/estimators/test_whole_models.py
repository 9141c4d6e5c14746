"""A fit replaces a model as a whole or not at all, also for those who predict meanwhile."""

import threading

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from tn4ml_plus import (
    DTTNClassifier,
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    TNTransformer,
)
from tn4ml_plus.image import Variant
from tn4ml_plus.networks import MPS
from tn4ml_plus.training import Gradient

SMALL = {"bond_dim": 2, "n_members": 1, "max_epochs": 1, "random_state": 0}
MODELS = {
    "classifier": (TNClassifier(**SMALL), "predict_proba"),
    "regressor": (TNRegressor(**SMALL), "predict"),
    "density": (TNBornMachine(**SMALL), "score_samples"),
    "detector": (TNAnomalyDetector(**SMALL, scaler="gaussian_cdf"), "score_samples"),
    "transformer": (TNTransformer(2), "transform"),
    "images": (
        DTTNClassifier(Variant((2,), (1,), stem=(1,)), max_epochs=1, random_state=0),
        "predict_proba",
    ),
}
# What these are refused, other than bad input.
WRONG = {
    "transformer": {"tree": "none"},
    "images": {"variant": "none"},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*no square image")


@pytest.fixture(scope="module", params=MODELS)
def fitted(request, data):
    """A fitted model of each kind, its predictions, and its name."""
    model, method = MODELS[request.param]
    model = clone(model).fit(*data)
    return request.param, model, getattr(model, method)(data[0])


def copied(fitted):
    """A model that tests may spoil, and what checks that they have not."""
    name, model, expected = fitted
    twin = clone(model)
    vars(twin).update(vars(model))
    params = set(twin.get_params(deep=False))
    before = {n: v for n, v in vars(twin).items() if n not in params}
    history = repr(before.get("history_"))

    def unchanged(X):
        now = {n: v for n, v in vars(twin).items() if n not in params}
        assert set(now) == set(before)
        assert all(now[n] is before[n] for n in before)
        assert repr(now.get("history_")) == history
        np.testing.assert_array_equal(getattr(twin, MODELS[name][1])(X), expected)

    return twin, unchanged


def test_refused_refits_change_nothing(fitted, data):
    X, y = data
    model, unchanged = copied(fitted)
    labels = np.array(["a", "b", "c"])[y] if hasattr(model, "classes_") else y
    for rows, target, weight in (
        (X[:, :2], labels, -np.ones(60)),
        (np.where(X > 1e3, np.inf, X), labels, None),
    ):
        with pytest.raises(ValueError, match=r"[Nn]egative|infinity"):
            model.fit(rows, target, sample_weight=weight)
        unchanged(X)
    model.set_params(**WRONG.get(fitted[0], {"bond_dim": 0}))
    with pytest.raises(ValueError, match=r"bond_dim|tree|variant"):
        model.fit(X[:, :3], labels)
    unchanged(X)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("method", ["fit", "warm_start", "partial_fit"])
def test_interrupted_refits_change_nothing(fitted, data, method, error):
    X, y = data
    model, unchanged = copied(fitted)
    goes_on = hasattr(model, "partial_fit" if method == "partial_fit" else method)
    if not (hasattr(model, "history_") or hasattr(model, "views_")) or not goes_on:
        pytest.skip("nothing of that kind is trained")

    def interrupt(epoch):
        raise error

    if hasattr(model, "callbacks"):
        model.set_params(callbacks=[interrupt])
    else:
        model.set_params(trainer=Gradient(callbacks=[interrupt]))
    if method == "warm_start":
        model.set_params(warm_start=True)
    # A refit from the start may see other rows and labels.
    target = np.array(["a", "b", "c"])[y] if hasattr(model, "classes_") and method == "fit" else y
    with pytest.raises(error):
        getattr(model, "fit" if method == "warm_start" else method)(X[::-1], target)
    unchanged(X)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_first_fit_refuses_leaves_nothing(data, name):
    model, method = MODELS[name]
    model = clone(model).set_params(**WRONG.get(name, {"bond_dim": 0}))
    before = dict(vars(model))
    with pytest.raises(ValueError, match=r"bond_dim|tree|variant"):
        model.fit(*data)
    assert vars(model) == before
    with pytest.raises(NotFittedError):
        getattr(model, method)(data[0])


def test_a_refit_forgets_the_columns_of_the_first(data):
    pd = pytest.importorskip("pandas")
    X, y = data
    model = TNClassifier(**SMALL).fit(pd.DataFrame(X, columns=list("abcd")), y)
    assert model.site_names() == list("abcd")
    model.fit(X[:, :3], y % 2)
    assert not hasattr(model, "feature_names_in_")
    assert (model.n_features_in_, model.classes_.tolist()) == (3, [0, 1])


def test_callbacks_see_the_model_before_and_may_set_parameters(data):
    X, y = data
    model = TNClassifier(**SMALL).fit(X, y)
    expected, seen = model.predict(X), []

    def watch(epoch):
        seen.append(model.predict(X))
        model.set_params(verbose=0)
        model.notes = "seen"

    labels = np.array(["a", "b", "c"])[y]
    model.set_params(callbacks=[watch]).fit(X, labels)
    np.testing.assert_array_equal(seen, [expected])
    assert (model.verbose, model.notes, model.classes_.tolist()) == (0, "seen", ["a", "b", "c"])


def test_threads_see_the_old_model_or_the_new_one(data):
    X, y = data
    names = np.array(["a", "b", "c"])
    model = TNClassifier(**SMALL)
    targets = [names[y], np.where(y == 0, "d", "e")]
    whole = {tuple(clone(model).fit(X, target).predict(X)) for target in targets}
    assert len(whole) == 2
    model.fit(X, targets[0])
    done, seen, errors = threading.Event(), set(), []

    def look():
        try:
            while not done.is_set():
                seen.add(tuple(model.predict(X)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(6):
        model.fit(X, targets[(i + 1) % 2])
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert seen <= whole
    assert seen


def test_a_given_network_is_shown(data):
    net = MPS.random(4, bond_dim=2, phys_dim=3, n_outputs=3, key=jax.random.key(0))
    free = MPS.random(4, bond_dim=2, phys_dim=5, key=jax.random.key(0))
    classifier = TNClassifier(network=net, n_members=1, max_epochs=1)
    models = [
        classifier,
        clone(classifier).fit(*data),
        TNRegressor(network=net),
        TNBornMachine(network=free),
        TNAnomalyDetector(network=free),
        make_pipeline(classifier),
        VotingClassifier([("a", classifier)]),
    ]
    for model in models:
        shown = model._repr_mimebundle_()
        assert "MPS" in shown["text/plain"]
        assert "network" in shown["text/html"]
        assert "MPS" in str(model)
    nested = make_pipeline(classifier).get_params()
    assert nested["tnclassifier__network"] is net
