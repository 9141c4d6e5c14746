"""Numbers at the ends of what floats hold: they are right, or they are refused in words."""

import numpy as np
import pytest
from sklearn.base import clone

from tn4ml_plus import (
    DTTNClassifier,
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    TNTransformer,
)
from tn4ml_plus.errors import NotFiniteError
from tn4ml_plus.image import Variant

SMALL = {"bond_dim": 2, "n_members": 1, "max_epochs": 2, "random_state": 0}
SCALERS = (None, "min_max", "common_min_max", "gaussian_cdf", "logistic_cdf", "rotated")
IMAGES = DTTNClassifier(Variant((2,), (1,), stem=(1,)), max_epochs=2, random_state=0)
MODELS = {
    "classifier": (TNClassifier(**SMALL), "predict_proba"),
    "sweeps": (TNClassifier(**SMALL, trainer="sweep"), "predict_proba"),
    "regressor": (TNRegressor(**SMALL), "predict"),
    "density": (TNBornMachine(**SMALL), "score_samples"),
    "detector": (TNAnomalyDetector(**SMALL), "score_samples"),
    "transformer": (TNTransformer(2), "transform"),
    "images": (IMAGES, "predict_proba"),
}
every_model = pytest.mark.parametrize("name", MODELS)
pytestmark = pytest.mark.filterwarnings("ignore:.*no square image")


def results(name, X, y, weight=None, queries=None):
    """What a model of that name says of queries, or of its own rows."""
    model, method = MODELS[name]
    given = {} if weight is None else {"sample_weight": weight}
    fitted = clone(model).fit(X, y, **given)
    return getattr(fitted, method)(X if queries is None else queries)


@every_model
def test_weights_count_by_their_ratios(data, name):
    X, y = data
    powers = np.random.default_rng(0).uniform(-300, 300, len(X))
    powers[:2] = -300, 300
    weight = 10.0**powers
    found = results(name, X, y, weight)
    np.testing.assert_array_equal(found, results(name, X, y, np.ldexp(weight, -40)))
    assert np.isfinite(found).all()
    expected = results(name, X, y)
    for size in (1e-50, 1e30, 1e300):
        equal = results(name, X, y, np.full(len(X), size))
        np.testing.assert_allclose(equal, expected, rtol=1e-4, atol=1e-5)


@every_model
def test_any_floats_are_the_same_numbers(data, name):
    X, y = data
    X = np.round(X, 3).astype("f4")
    expected = results(name, X.astype(float), y, np.ones(len(X)))
    for dtype in ("longdouble", ">f8", ">f4"):
        found = results(name, X.astype(dtype), y.astype(dtype), np.ones(len(X), dtype))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def far(X):
    """Rows with what stands for missing values elsewhere, and with the ends of the floats."""
    queries = np.where(np.arange(X.size).reshape(X.shape) % 5 == 0, -999.0, X)
    queries[:4, 0] = 9e307, -9e307, 1.7e308, 1e-310
    queries[4] = -1.7e308
    return queries


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("factor", [1.0, 1e-300])
def test_what_is_far_away_counts_as_that(data, scaler, factor):
    X, y = data
    model = TNClassifier(**SMALL, scaler=scaler).fit(X * factor, y)
    assert np.isfinite(model.predict_proba(far(X))).all()


@pytest.mark.parametrize(
    "model", [TNBornMachine(**SMALL), TNAnomalyDetector(**SMALL)], ids=["density", "detector"]
)
def test_scores_of_what_is_far_away_are_floats(data, model):
    X, _ = data
    model = clone(model).fit(X)
    for values in (model.score_samples(far(X)), model.explain(far(X))):
        assert np.isfinite(values).all()
    assert model.score_samples(far(X))[0] < model.score_samples(X).min()


def test_values_drawn_beyond_the_floats_are_the_last_of_them(data):
    X = far(data[0])
    model = TNBornMachine(**SMALL).fit(X)
    gaps = np.where(np.arange(X.size).reshape(X.shape) % 3 == 0, np.nan, X)
    assert np.isfinite(model.impute(gaps)).all()
    assert np.isfinite(model.sample(50, random_state=0)).all()


@pytest.mark.parametrize(("factor", "word"), [(1e-300, "small"), (1e300, "large")])
def test_images_without_squares_are_refused(data, factor, word):
    X, y = data
    with pytest.raises(ValueError, match=f"deviation is too {word}.*divide the images"):
        clone(IMAGES).fit(X * factor, y)


@pytest.mark.parametrize("name", ["classifier", "regressor", "images"])
def test_rates_that_overflow_in_one_step_are_told(data, name):
    X, y = data
    options = {"learning_rate": 1e30, "max_epochs": 1, "batch_size": len(X)}
    model = clone(MODELS[name][0]).set_params(**options)
    with pytest.raises(NotFiniteError, match=r"epoch 1\. Lower learning_rate"):
        model.fit(X, y)
    assert not model.__sklearn_is_fitted__()
    before = clone(MODELS[name][0]).set_params(max_epochs=1).fit(X, y)
    expected = before.predict(X)
    with pytest.raises(NotFiniteError):
        before.set_params(**options, warm_start=True).fit(X, y)
    np.testing.assert_array_equal(before.predict(X), expected)
