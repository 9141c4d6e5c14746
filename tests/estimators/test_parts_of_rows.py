"""Large arrays are read in parts, whose results are those of the whole."""

import numpy as np
import pytest

from tn4ml_plus import TNAnomalyDetector, TNBornMachine, TNClassifier, TNRegressor, TNTransformer
from tn4ml_plus.embeddings import LinearComplement
from tn4ml_plus.errors import DomainWarning
from tn4ml_plus.estimators import _estimator

SMALL = {"bond_dim": 2, "n_members": 2, "max_epochs": 1, "random_state": 0}


@pytest.fixture
def parts(monkeypatch):
    """Arrays of more than 64 rows are read in parts."""
    monkeypatch.setattr(_estimator, "_NUMBERS", 1)
    monkeypatch.setattr(_estimator, "_FEW_ROWS", 64)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(150, 3))


@pytest.mark.parametrize(
    ("estimator", "method"),
    [
        (TNClassifier(**SMALL), "predict_proba"),
        (TNRegressor(**SMALL), "explain"),
        (TNBornMachine(**SMALL), "score_samples"),
        (TNBornMachine(**SMALL), "explain"),
        (TNAnomalyDetector(2, max_epochs=1, random_state=0), "score_samples"),
        (TNTransformer(2), "transform"),
    ],
)
def test_parts_give_what_the_whole_gives(X, estimator, method, request):
    model = estimator.fit(X, X[:, 0] > 0)
    whole = getattr(model, method)(X)
    request.getfixturevalue("parts")
    read = []
    model._read = lambda part: read.append(len(part)) or type(model)._read(model, part)
    found = getattr(model, method)(X)
    assert read == [64, 64, 22]
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)
    # What is no plain array of numbers is read whole.
    read.clear()
    getattr(model, method)(X.tolist())
    assert read == [150]


def test_deviations_come_in_parts_too(X, parts):
    model = TNRegressor(**SMALL).fit(X, X[:, 0])
    assert [len(part) for part in model.predict(X, return_std=True)] == [150, 150]


@pytest.mark.usefixtures("parts")
def test_parts_warn_once_and_refuse_what_the_whole_refuses(X):
    model = TNClassifier(**SMALL, embedding=LinearComplement(), scaler="passthrough")
    model.fit(np.clip(X, 0, 1), X[:, 0] > 0)
    with pytest.warns(DomainWarning, match=f"{(abs(X - 0.5) > 0.5).sum()} values left") as seen:
        model.predict(X)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with pytest.raises(ValueError, match="expecting 3 features"):
        model.predict(X[:, :2])
    X[149, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        model.predict(X)
