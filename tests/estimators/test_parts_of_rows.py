"""Large arrays are read in parts, whose results are those of the whole."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tn4ml_plus import TNAnomalyDetector, TNBornMachine, TNClassifier, TNRegressor, TNTransformer
from tn4ml_plus.embeddings import LinearComplement
from tn4ml_plus.errors import DomainWarning
from tn4ml_plus.estimators import _estimator
from tn4ml_plus.tables import _sources

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


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table])
def test_large_frames_are_read_in_parts(library, X, monkeypatch):
    columns = {"a": X[:, 0], "b": X[:, 1], "word": np.where(X[:, 2] > 0, "x", "y").tolist()}
    frame = library(columns)
    model = TNClassifier(**SMALL).fit(frame, X[:, 0] > 0)
    whole, read = model.predict_proba(frame), []
    monkeypatch.setattr(_sources, "_MANY_ROWS", 100)
    monkeypatch.setattr(_sources, "_MANY_NUMBERS", 100)
    model._read = lambda part: read.append(len(part)) or type(model)._read(model, part)
    np.testing.assert_allclose(model.predict_proba(frame), whole, rtol=1e-5)
    assert read == [64, 64, 22]
    # Names that fit did not have are told once.
    plain = TNClassifier(**SMALL).fit(X, X[:, 0] > 0)
    with pytest.warns(UserWarning, match="has feature names, but TNClassifier was") as told:
        plain.predict_proba(pd.DataFrame(X, columns=[*"abc"]))
    assert len(told) == 1


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
