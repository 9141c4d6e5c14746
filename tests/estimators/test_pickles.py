"""Pickles of estimators: plain parts, one version, the same predictions; copies, and skops."""

import copy
import io
import pickle

import numpy as np
import pytest
from joblib.externals.loky.backend.reduction import dumps
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tn4ml_plus
from tn4ml_plus import (
    DTTNClassifier,
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    TNTransformer,
)
from tn4ml_plus.image import Variant

SMALL = {"bond_dim": 2, "n_members": 1, "max_epochs": 1, "random_state": 0}
MODELS = {
    "classifier": (TNClassifier(**SMALL), "predict_proba"),
    "trees": (TNClassifier(**SMALL | {"n_members": 2}, network="ttn"), "predict_proba"),
    "regressor": (TNRegressor(**SMALL), "predict"),
    "density": (TNBornMachine(**SMALL), "score_samples"),
    "detector": (TNAnomalyDetector(**SMALL), "score_samples"),
    "transformer": (TNTransformer(2), "transform"),
    "images": (
        DTTNClassifier(Variant((2,), (1,), stem=(1,)), max_epochs=1, random_state=0),
        "predict_proba",
    ),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*no square image")


@pytest.fixture(scope="module", params=MODELS)
def fitted(request, data):
    """A fitted model, its method, and what that gives."""
    X, y = data
    model, method = MODELS[request.param]
    model = clone(model).fit(X, y)
    return model, method, getattr(model, method)(X)


class Recorder(pickle.Unpickler):
    """Unpickler that keeps the packages of what it is asked for."""

    def __init__(self, pickled):
        super().__init__(io.BytesIO(pickled))
        self.packages = set()

    def find_class(self, module, name):
        """The class or function of that name."""
        self.packages.add(module.partition(".")[0])
        return super().find_class(module, name)


def test_pickles_are_of_plain_parts_and_predict_the_same(fitted, data):
    (X, y), (model, method, expected) = data, fitted
    reader = Recorder(pickle.dumps(model))
    again = reader.load()
    assert reader.packages <= {"tn4ml_plus", "numpy", "builtins"}
    assert set(vars(again)) == set(vars(model))
    np.testing.assert_array_equal(getattr(again, method)(X), expected)
    if hasattr(model, "warm_start"):
        for each in (again, twin := copy.copy(model)):
            each.set_params(warm_start=True).fit(X, y)
        np.testing.assert_array_equal(getattr(again, method)(X), getattr(twin, method)(X))


def test_copies_share_their_parts(fitted, data):
    model, method, expected = fitted
    twin = copy.copy(model)
    assert type(twin) is type(model)
    assert set(vars(twin)) == set(vars(model))
    assert all(vars(twin)[name] is value for name, value in vars(model).items())
    deep = copy.deepcopy(model)
    assert getattr(deep, "_ensemble", deep) is not getattr(model, "_ensemble", None)
    np.testing.assert_array_equal(getattr(deep, method)(data[0]), expected)


@pytest.mark.parametrize(
    ("version", "words"), [("0.0.7", "version 0.0.7"), (None, "earlier development version")]
)
def test_pickles_of_other_versions_are_refused(fitted, version, words):
    model, _, _ = fitted
    state = model.__getstate__()
    assert state.pop("_tn4ml_plus_version") == tn4ml_plus.__version__
    if version:
        state["_tn4ml_plus_version"] = version
    new = type(model).__new__(type(model))
    with pytest.raises(ValueError, match=rf"{words} of .*{tn4ml_plus.__version__}.*save.*load"):
        new.__setstate__(state)
    assert vars(new) == {}


def test_losses_that_are_functions_travel_with_the_estimator(data):
    X, y = data
    scale = 2.0
    model = TNRegressor(**SMALL, loss=lambda p, t: scale * ((p - t) ** 2).sum(axis=-1)).fit(X, y)
    again = pickle.loads(dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    again = pickle.loads(dumps(clone(model))).fit(X, y)
    np.testing.assert_allclose(again.predict(X), model.predict(X), rtol=1e-6)


def test_skops_stores_pipelines(fitted, data):
    skops = pytest.importorskip("skops.io")
    (X, y), (model, method, _) = data, fitted
    pipeline = make_pipeline(StandardScaler(), clone(model)).fit(X, y)
    stored = skops.dumps(pipeline)
    asked = skops.get_untrusted_types(data=stored)
    assert all(name.startswith("tn4ml_plus.") for name in asked)
    loaded = skops.loads(stored, trusted=asked)
    np.testing.assert_array_equal(getattr(loaded, method)(X), getattr(pipeline, method)(X))
