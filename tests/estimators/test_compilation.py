"""What has been compiled once is not compiled again: traces and compilations are counted."""

import jax
import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold, cross_val_score

from tn4ml_plus import (
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    TNTransformer,
)
from tn4ml_plus.embeddings import PrincipalPatches

SMALL = {"bond_dim": 2, "n_members": 2, "max_epochs": 2, "batch_size": 16, "random_state": 0}


# Starts of two resolutions, training and losses of the candidates, training, predictions; noise.
@pytest.mark.parametrize(
    ("estimator", "method", "count"),
    [
        (TNClassifier(2, max_epochs=2), "predict", 5),
        (TNRegressor(2, max_epochs=2), "predict", 6),
        (TNBornMachine(2, max_epochs=2), "score_samples", 1),
        (TNAnomalyDetector(2, max_epochs=2), "predict", 2),
        (TNTransformer(2), "transform", 0),
    ],
)
def test_programs_of_a_first_fit_and_prediction(data, compilations, estimator, method, count):
    X, y = (np.resize(array, (400, *array.shape[1:])) for array in data)
    jax.clear_caches()
    compilations.clear()
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=0)
    getattr(estimator.fit(X, y), method)(X[:10])
    assert sum("backend_compile" in event for event in compilations) == count


@pytest.mark.parametrize("estimator", [TNClassifier, TNRegressor])
def test_a_second_fit_of_the_same_shapes_compiles_nothing(data, compilations, estimator):
    X, y = data
    model = estimator(**SMALL).fit(X, y)
    model.predict(X)
    compilations.clear()
    model.fit(X[::-1], y[::-1])
    model.predict(X[::-1])
    assert compilations == []


@pytest.mark.parametrize("estimator", [TNClassifier, TNRegressor])
def test_a_second_estimator_compiles_nothing(data, compilations, estimator):
    X, y = data
    estimator(**SMALL).fit(X, y).predict(X)
    compilations.clear()
    other = {"random_state": 7, "learning_rate": 1e-3, "max_epochs": 3, "decay": 0.3}
    other |= {"feature_dropout": 0.4}
    estimator(**SMALL | other).fit(X * 2, y).predict(X)
    assert compilations == []


@pytest.mark.parametrize(
    ("estimator", "method"),
    [
        (TNClassifier(**SMALL), "predict"),
        pytest.param(TNBornMachine(**SMALL), "score_samples", marks=pytest.mark.long),
    ],
)
def test_all_numbers_of_rows_are_served_by_few_programs(data, compilations, estimator, method):
    X, y = data
    predict = getattr(estimator.fit(X, y), method)
    whole = predict(X)
    compilations.clear()
    for n in range(1, len(X)):
        # NumPy's products of one row may differ in the last digit from those of many.
        np.testing.assert_allclose(predict(X[:n]), whole[:n], rtol=1e-13)
    assert compilations == []
    for n in (65, 130, 257, 300, 600, 1000, 1025, 2100, 4000, 17_000):
        found = predict(np.resize(X, (n, X.shape[1])))
        np.testing.assert_allclose(found, np.resize(whole, n), rtol=1e-4)
    lengths = 128, 256, 512, 1024, 16_384
    assert sum("backend_compile" in event for event in compilations) <= 2 * len(lengths)


@pytest.mark.parametrize(
    "estimator", [TNClassifier(**SMALL), TNAnomalyDetector(2, network="smpo", max_epochs=1)]
)
def test_explanations_of_few_rows_compile_little(data, compilations, estimator):
    X, y = (array[:60] for array in data)
    whole = estimator.fit(X, y).explain(X)
    compilations.clear()
    for n in (1, 2, 3, 5, 8, 13, 21, 34, 55):
        np.testing.assert_allclose(estimator.explain(X[:n]), whole[:n], rtol=1e-3, atol=1e-4)
    # Probabilities of as many rows as there are sites: of 64 and 128 of them, beside 256.
    assert sum("backend_compile" in event for event in compilations) <= 2


def test_trees_in_other_feature_orders_compile_nothing(data, compilations):
    X, y = data
    TNClassifier(network="ttn", **SMALL).fit(X, y).predict(X)
    compilations.clear()
    TNClassifier(network="ttn", **SMALL | {"random_state": 7}).fit(X, y).predict(X)
    assert compilations == []


def test_other_principal_components_compile_nothing(data, compilations):
    X, y = data
    images = np.concatenate([X, X**2], axis=1)[:, :6]
    embedding = PrincipalPatches((2, 3), (2, 2), (1, 1), padding=0, n_components=3)
    options = {**SMALL, "n_members": 1, "embedding": embedding}
    first = TNClassifier(**options).fit(images, y)
    first.predict(images)
    compilations.clear()
    second = TNClassifier(**options).fit(images**3, y)
    second.predict(images)
    assert compilations == []
    assert first.embedding_ != second.embedding_
    assert first.embedding == second.embedding == embedding


def test_cross_validation_compiles_in_its_first_fold_only(data, compilations):
    X, y = data
    X, y = X[:57], y[:57]
    counts = []

    class Counted(TNClassifier):
        def fit(self, X, y):
            counts.append(len(compilations))
            return super().fit(X, y)

    scores = cross_val_score(Counted(**SMALL), X, y, cv=StratifiedKFold(5), error_score="raise")
    assert len(scores) == len(counts) == 5
    # Folds differ by a sample in size: 45 or 46 for training, 11 or 12 for testing.
    assert counts[1:] == [counts[1]] * 4
    assert len(compilations) == counts[1]


def test_nearby_sizes_share_compiled_code(data, compilations):
    X, y = data
    TNClassifier(**SMALL).fit(X, y).predict(X)
    compilations.clear()
    TNClassifier(**SMALL).fit(X[:58], y[:58]).predict(X[:57])
    assert compilations == []


def test_shapes_that_differ_do_compile(data, compilations):
    X, y = data
    TNClassifier(**SMALL).fit(X, y)
    compilations.clear()
    TNClassifier(**SMALL | {"bond_dim": 7}).fit(X, y)  # of which no other test compiles anything
    assert compilations
