"""Exported programs compute what the estimators do, where the package is not."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from tn4ml_plus import (
    DTTNClassifier,
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
)
from tn4ml_plus.deployment import as_numpy
from tn4ml_plus.embeddings import Hat, OneHot
from tn4ml_plus.estimators import (
    CommonMinMax,
    GaussianCDF,
    LogisticCDF,
    MinMax,
    Passthrough,
    ProbabilisticPCA,
    QuantileSigmoid,
    Rotated,
)
from tn4ml_plus.image import Variant
from tn4ml_plus.losses import LogQuadratic, ReluLogNorm

pytest.importorskip("flatbuffers")

FEW = {"random_state": 0, "max_epochs": 2, "n_members": 2, "bond_dim": 3}
LENGTHS = 1, 70, 1100


def called(path, X):
    """Outputs of a program."""
    program = jax.export.deserialize(bytearray(Path(path).read_bytes()))
    with jax.enable_x64(True):
        return np.asarray(program.call(X))


@pytest.fixture(scope="module")
def rows():
    """Rows like those of fitting and beyond, some with gaps, (1100, 4)."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(1100, 4)) * [3.0, 3e3, 3e-3, 3.0]
    X[::7, 1] = np.nan
    X[::11] = np.nan
    return X


@pytest.fixture(scope="module")
def targets():
    """X (60, 4) with gaps in two columns, y of two columns."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)) * [1.0, 1e3, 1e-3, 1.0]
    X[::6, 1] = np.nan
    X[::9, 3] = np.nan
    return X, np.stack([X[:, 0] + 5, 1e4 * X[:, 2] ** 2], axis=1)


CLASSIFIERS = {
    "chain": {},
    "tree": {"network": "ttn"},
    "averaged": {"missing": "averaged"},
    "three members": {"n_members": 3},
    "hats": {"embedding": Hat(4), "scaler": MinMax()},
    "trigonometric": {"embedding": "trigonometric"},
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_probabilities_are_equal(name, targets, rows, tmp_path):
    X, y = targets
    clf = TNClassifier(**FEW | CLASSIFIERS[name]).fit(X, np.digitize(y[:, 0], [4.5, 5.5]))
    clf.export(tmp_path / "program")
    for length in LENGTHS:
        found = called(tmp_path / "program", rows[:length])
        np.testing.assert_allclose(found, clf.predict_proba(rows[:length]), rtol=1e-5)


@pytest.mark.parametrize("network", ["mps", "ttn"])
@pytest.mark.parametrize("columns", [slice(0, 1), slice(2)])
def test_predictions_are_equal(network, columns, targets, rows, tmp_path):
    X, y = targets
    reg = TNRegressor(network=network, **FEW).fit(X, y[:, columns].squeeze())
    reg.export(tmp_path / "program")
    for length in LENGTHS:
        found = called(tmp_path / "program", rows[:length])
        np.testing.assert_allclose(found, reg.predict(rows[:length]), rtol=1e-5)


DENSITIES = {
    "chain": TNBornMachine(**FEW),
    "tree": TNBornMachine(network="ttn", **FEW),
    "edges": TNBornMachine(scaler=MinMax(), **FEW),
    "committee": TNAnomalyDetector(**FEW),
    "components": TNAnomalyDetector(scaler=ProbabilisticPCA(2), **FEW),
    "operator": TNAnomalyDetector(
        network="smpo", loss=LogQuadratic() + 0.3 * ReluLogNorm(), scaler=GaussianCDF(), **FEW
    ),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_scores_are_equal(name, targets, rows, tmp_path):
    X, _ = targets
    X = X.copy()
    X[:, 2] = 0.5  # A constant, which detectors judge by itself.
    model = DENSITIES[name].fit(X)
    model.export(tmp_path / "program")
    found = called(tmp_path / "program", rows[:70])
    np.testing.assert_allclose(found, model.score_samples(rows[:70]), rtol=1e-10, atol=1e-10)


def test_codes_never_seen_are_equal(tmp_path):
    X = np.random.default_rng(0).integers(3, size=(40, 3)).astype(float)
    machine = TNBornMachine(embedding=OneHot(3), **FEW).fit(X)
    machine.export(tmp_path / "program")
    strange = np.array([[0, 1, 2], [5, 1, 2], [0.5, np.nan, -1]])
    with pytest.warns(match="integer codes"):
        expected = machine.score_samples(strange)
    np.testing.assert_allclose(called(tmp_path / "program", strange), expected, rtol=1e-12)


def test_huge_and_tiny_columns_are_equal(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 2)) * [1e200, 1e-200]
    clf = TNClassifier(**FEW).fit(X, X[:, 0] > 0)
    clf.export(tmp_path / "program")
    np.testing.assert_allclose(called(tmp_path / "program", X), clf.predict_proba(X), rtol=1e-5)


def test_images(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 64)), np.arange(30) % 3
    clf = DTTNClassifier(Variant((4,), (1,)), max_epochs=1, random_state=0).fit(X, y)
    clf.export(tmp_path / "program")
    found = called(tmp_path / "program", X)
    np.testing.assert_allclose(found, clf.predict_proba(X), rtol=0, atol=1e-5)


CALLED = """
import sys
sys.modules["tn4ml_plus"] = sys.modules["quimb"] = sys.modules["sklearn"] = None
from pathlib import Path
import jax
import numpy as np
folder = Path(sys.argv[1])
program = jax.export.deserialize(bytearray((folder / "program").read_bytes()))
call = jax.jit(program.call, compiler_options={"xla_backend_optimization_level": 1})
X = np.load(folder / "rows.npy")
with jax.enable_x64(True):
    np.savez(folder / "found.npz", *(call(X[:n]) for n in (1, 60, 1100)))
"""
FITTED = """
import sys
from pathlib import Path
import numpy as np
from tn4ml_plus import DTTNClassifier, TNClassifier, TNRegressor
from tn4ml_plus.image import Variant
folder = Path(sys.argv[1])
options = dict(random_state=0, max_epochs=2, network=sys.argv[3], n_members=3, bond_dim=3)
X, rows = np.load(folder / "X.npy"), np.load(folder / "rows.npy")
if sys.argv[2] == "images":
    options = dict(merge=sys.argv[3], max_epochs=1, random_state=0)
    model = DTTNClassifier(Variant((4,), (2,)), **options).fit(X, np.arange(len(X)) % 3)
    outputs = model.predict_proba
elif sys.argv[2] == "classifier":
    model = TNClassifier(**options).fit(X, np.arange(60) % 3)
    outputs = model.predict_proba
else:
    model = TNRegressor(**options).fit(X, np.arange(60) ** 0.5)
    outputs = model.predict
model.export(folder / "program")
np.savez(folder / "expected.npz", *(outputs(rows[:n]) for n in (1, 60, 1100)))
"""


def plainly(source, *arguments):
    """Run Python with the compiler's options of users, not of tests."""
    unlike = "XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS", "JAX_ENABLE_X64"
    env = {name: value for name, value in os.environ.items() if name not in unlike}
    subprocess.run([sys.executable, "-W", "ignore", "-c", source, *arguments], check=True, env=env)


@pytest.mark.long
@pytest.mark.parametrize("network", ["mps", "ttn"])
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_outputs_without_the_package_are_equal_bit_by_bit(kind, network, targets, rows, tmp_path):
    np.save(tmp_path / "X.npy", targets[0])
    np.save(tmp_path / "rows.npy", rows)
    plainly(FITTED, tmp_path, kind, network)
    plainly(CALLED, tmp_path)
    assert_equal_arrays(tmp_path)


@pytest.mark.parametrize(
    "merge", [pytest.param("batch_norm_product", marks=pytest.mark.long), "layer_norm_product"]
)
def test_outputs_of_images_are_equal_bit_by_bit(merge, tmp_path):
    X = np.random.default_rng(0).normal(size=(1100, 64))
    np.save(tmp_path / "X.npy", X[:60])
    np.save(tmp_path / "rows.npy", X)
    plainly(FITTED, tmp_path, "images", merge)
    plainly(CALLED, tmp_path)
    # A single image is evaluated by itself.
    assert_equal_arrays(tmp_path, first=1)


def assert_equal_arrays(folder, first=0):
    expected, found = (np.load(folder / f"{name}.npz") for name in ("expected", "found"))
    for name in expected.files[first:]:
        np.testing.assert_array_equal(found[name], expected[name])


def test_programs_run_without_the_package(targets, rows, tmp_path):
    X, y = targets
    reg = TNRegressor(**FEW).fit(X, y[:, 0])
    reg.export(tmp_path / "program")
    np.save(tmp_path / "rows.npy", rows)
    plainly(CALLED, tmp_path)
    found = np.load(tmp_path / "found.npz")["arr_1"]
    np.testing.assert_allclose(found, reg.predict(rows[:60]), rtol=1e-5)


@pytest.mark.parametrize(
    ("column", "kind"),
    [(list("ab") * 30, "categories"), (pd.date_range("2020", periods=60), "moments")],
)
def test_columns_that_are_no_numbers_are_refused(column, kind, tmp_path):
    frame = pd.DataFrame({"size": np.arange(60.0), "other": column})
    clf = TNClassifier(**FEW).fit(frame, np.arange(60) % 2)
    with pytest.raises(ValueError, match=f"Column 'other' holds {kind}.*OneHotEncoder"):
        clf.export(tmp_path / "program")
    assert not list(tmp_path.iterdir())


def test_flatbuffers_are_asked_for(targets, tmp_path, monkeypatch):
    def serialize(self):
        raise ImportError("Please install 'flatbuffers'")

    monkeypatch.setattr(jax.export.Exported, "serialize", serialize)
    X, y = targets
    reg = TNRegressor(**FEW).fit(X, y[:, 0])
    with pytest.raises(ImportError, match=r"tn4ml_plus\[export\]"):
        reg.export(tmp_path / "program")


# Scalers ------------------------------------------------------------------------------------------

SCALERS = [
    CommonMinMax(), GaussianCDF(), LogisticCDF(), MinMax(), Passthrough(), ProbabilisticPCA(2),
    QuantileSigmoid(), QuantileSigmoid(3), Rotated(), Rotated(LogisticCDF()),
]  # fmt: skip


@pytest.mark.parametrize("scaler", SCALERS, ids=str)
def test_scalers_take_arrays_of_jax(scaler):
    rng = np.random.default_rng(0)
    # Plateaus at both ends and inside, a constant column, values next to each other.
    X = np.stack(
        [rng.normal(size=40), rng.integers(3, size=40), np.full(40, 2.0), 1e-40 * np.arange(40)], 1
    )
    state = scaler.fit(X, np.ones(40))
    given = np.concatenate([X, X[:5] * 3, X[:5] - 2, np.full((1, 4), np.nan), X[:4] + np.eye(4)])
    functions = [scaler.transform, getattr(scaler, "log_derivative", scaler.transform)]
    for function in functions:
        with as_numpy():
            found = jax.jit(lambda X, function=function: function(X, state))(given)
        np.testing.assert_allclose(found, function(given, state), rtol=1e-12, atol=1e-14)
