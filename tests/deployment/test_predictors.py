"""Predictors by NumPy alone agree with the estimators, dense contractions, and their own files."""

import json
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest

from tn4ml_plus import TNAnomalyDetector, TNBornMachine, TNClassifier, TNRegressor
from tn4ml_plus.deployment import _predictor, _translation
from tn4ml_plus.embeddings import Fourier, Hat, Hermite, Legendre, OneHot, Patches
from tn4ml_plus.estimators import (
    GaussianCDF,
    LogisticCDF,
    MinMax,
    ProbabilisticPCA,
    QuantileSigmoid,
    Rotated,
)
from tn4ml_plus.losses import BornCrossEntropy, CrossEntropy, LogQuadratic, Quadratic
from tn4ml_plus.networks import SMPO, MPSSpec

FEW = {"random_state": 0, "max_epochs": 2, "n_members": 2, "bond_dim": 3}


@pytest.fixture(scope="module")
def table():
    """X (60, 4) with gaps, a constant column, and labels."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)) * [1.0, 1e3, 1e-3, 1.0]
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    X[::6, 1] = np.nan
    X[:, 3] = 0.5
    return X, y


@pytest.fixture(scope="module")
def rows():
    """Rows like those of fitting and beyond, some with gaps, (1100, 4)."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(1100, 4)) * [3.0, 3e3, 3e-3, 0.0] + [0, 0, 0, 0.5]
    X[::7, 1] = np.nan
    X[::11] = np.nan
    X[3, 3] = 7.0
    return X


def assert_alike(function, expected, rows, atol=1e-5):
    """The values of many rows, and of one at a time."""
    found = function(rows)
    np.testing.assert_allclose(found, expected(rows), rtol=1e-5, atol=atol)
    singly = np.concatenate([function(rows[i : i + 1]) for i in range(12)])
    np.testing.assert_allclose(singly, found[:12], rtol=1e-9, atol=1e-12)


CLASSIFIERS = {
    "chain": {},
    "one end": {"network": MPSSpec(output_site=0), "n_members": 1},
    "tree": {"network": "ttn"},
    "averaged": {"missing": "averaged"},
    "degree 9": {"embedding": Legendre(9)},
    "hats": {"embedding": Hat(4), "scaler": MinMax()},
    "fourier": {"embedding": Fourier(3)},
    "hermite": {"embedding": Hermite(3), "scaler": QuantileSigmoid(5)},
    "trigonometric": {"embedding": "trigonometric"},
    "rotated": {"scaler": Rotated(LogisticCDF())},
    "smoothed": {"loss": CrossEntropy(label_smoothing=0.2)},
    "squares": {"loss": BornCrossEntropy(label_smoothing=0.1)},
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name, table, rows):
    X, y = table
    labels = np.array(["low", "middle", "high"])[y]
    clf = TNClassifier(**FEW | CLASSIFIERS[name]).fit(X, labels)
    predictor = clf.to_numpy()
    assert_alike(predictor.predict_proba, clf.predict_proba, rows)
    np.testing.assert_array_equal(predictor.predict(rows), clf.predict(rows))


def test_dense_contraction(table):
    X, y = table
    clf = TNClassifier(random_state=0, max_epochs=3, n_members=1).fit(X[1:6], y[1:6])
    with jax.enable_x64(True):
        phi = clf.embed(X[:20])
    network = clf.network_
    inds = [*(f"k{i}" for i in range(4)), *network.output_inds]
    dense = network.contract(output_inds=inds).data.astype(float)
    sites = [phi[:, i, :size] for i, size in enumerate(dense.shape[:4])]
    outputs = np.einsum("abcdo,na,nb,nc,nd->no", dense, *sites)
    powers = np.exp(outputs)
    expected = powers / powers.sum(axis=1, keepdims=True)
    found = clf.to_numpy().predict_proba(X[:20])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("site", range(4))
def test_operators_of_one_output(site, table):
    X, y = table
    key = jax.random.key(0)
    sizes = {"bond_dim": 2, "phys_dim": 3, "out_dim": 3}
    network = SMPO.random(4, output_sites=[site], key=key, **sizes)
    options = FEW | {"network": network, "embedding": Legendre(2), "missing": "averaged"}
    clf = TNClassifier(**options).fit(X, y)
    assert_alike(clf.to_numpy().predict_proba, clf.predict_proba, X)


@pytest.mark.parametrize("network", ["mps", "ttn"])
@pytest.mark.parametrize("n_targets", [1, 2])
def test_regressors(network, n_targets, table, rows):
    X, _ = table
    targets = np.stack([X[:, 0] + 5, 10 * X[:, 0] ** 2], axis=1)[:, :n_targets]
    reg = TNRegressor(network=network, **FEW).fit(X, targets.squeeze())
    assert_alike(reg.to_numpy().predict, reg.predict, rows)


DENSITIES = {
    "chain": TNBornMachine(**FEW),
    "tree": TNBornMachine(network="ttn", **FEW),
    "edges": TNBornMachine(scaler=MinMax(), **FEW),
    "committee": TNAnomalyDetector(**FEW),
    "components": TNAnomalyDetector(scaler=ProbabilisticPCA(2), **FEW),
    "operator": TNAnomalyDetector(network="smpo", loss=LogQuadratic(), scaler=GaussianCDF(), **FEW),
    "normalised operator": TNAnomalyDetector(network="smpo", scaler=GaussianCDF(), **FEW),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_densities(name, table, rows):
    model = DENSITIES[name].fit(table[0])
    predictor = model.to_numpy()
    assert_alike(predictor.score_samples, model.score_samples, rows, atol=1e-4)
    if hasattr(model, "offset_"):
        np.testing.assert_array_equal(predictor.predict(rows), model.predict(rows))
    else:
        with pytest.raises(AttributeError, match="score_samples"):
            predictor.predict(rows)


def test_codes_never_seen():
    X = np.random.default_rng(0).integers(3, size=(40, 3)).astype(float)
    machine = TNBornMachine(embedding=OneHot(3), **FEW).fit(X)
    strange = np.array([[0, 1, 2], [5, 1, 2], [0.5, np.nan, -1]])
    with pytest.warns(match="integer codes"):
        expected = machine.score_samples(strange)
    found = machine.to_numpy().score_samples(strange)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_categories():
    rng = np.random.default_rng(0)
    words = rng.choice(["a", "b", "c", "d", None], size=60, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    X = np.stack([rng.normal(size=60).astype(object), words], axis=1)
    with pytest.warns(match="Rare categories"):
        clf = TNClassifier(max_categories=3, **FEW).fit(X, rng.integers(2, size=60))
    given = np.array([[0.5, "a"], [None, "d"], [0.1, None], [0.1, "never seen"]], object)
    found = clf.to_numpy().predict_proba(given)
    np.testing.assert_allclose(found, clf.predict_proba(given), rtol=0, atol=1e-5)


def test_huge_and_tiny_columns():
    X = np.random.default_rng(0).normal(size=(60, 2)) * [1e200, 1e-200]
    clf = TNClassifier(**FEW).fit(X, X[:, 0] > 0)
    np.testing.assert_allclose(clf.to_numpy().predict_proba(X), clf.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("is_open", [False, True])
def test_long_chains_neither_overflow_nor_vanish(is_open):
    # Every core adds its two children's products: the value doubles and doubles.
    n, outputs = 2000, (1,) if is_open else ()
    children = [((), (0,)), *(((i,), (i + 1,)) for i in range(n - 1))]
    cores = [np.full((2, *outputs, 2), 0.5), *(np.full((2, 2, *outputs, 2), 0.5),) * (n - 2)]
    cores.append(np.full((2, 2, *outputs, 1), 0.5))
    network = _translation._Network(tuple(children), cores, is_open)
    group = _predictor._Group(**_translation._group([(network, np.arange(n))], 2))
    phi = np.full((n, 1, 2), 3.0)
    expected = 2 * (np.log(3.0) + (n - 2) * np.log(6.0) + np.log(6.0))
    np.testing.assert_allclose(group.log_squares(phi), [[expected]], rtol=1e-12)


# Files --------------------------------------------------------------------------------------------

ALONE = """
import sys


class NumPyOnly:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tn4ml_plus", "jax", "scipy", "sklearn", "quimb", "pandas"):
            raise ImportError(name)


sys.meta_path.insert(0, NumPyOnly())
sys.path.insert(0, "")
import numpy as np
from predictor import load

found = load(".").predict_proba(np.load("rows.npy"))
assert not {"tn4ml_plus", "jax", "scipy"} & set(sys.modules)
np.save("found.npy", found)
"""


def test_files_need_numpy_only(table, rows, tmp_path):
    clf = TNClassifier(**FEW).fit(*table)
    folder = tmp_path / "deeper" / "edge"
    clf.to_numpy().save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["predictor.npz", "predictor.py"]
    np.save(folder / "rows.npy", rows)
    subprocess.run([sys.executable, "-I", "-c", ALONE], cwd=folder, check=True)
    found = np.load(folder / "found.npy")
    np.testing.assert_allclose(found, clf.predict_proba(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["regressor", "detector"])
def test_files_hold_everything(name, table, rows, tmp_path):
    X, y = table
    model = TNRegressor(**FEW).fit(X, y) if name == "regressor" else TNAnomalyDetector(**FEW).fit(X)
    predictor = model.to_numpy()
    predictor.save(tmp_path)
    again = _predictor.load(tmp_path)
    function = "predict" if name == "regressor" else "score_samples"
    values = (getattr(each, function)(rows) for each in (again, predictor))
    np.testing.assert_array_equal(*values)


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "predictor.npz"
    np.savez(path, other=np.zeros(2))
    with pytest.raises(ValueError, match="holds no predictor"):
        _predictor.load(tmp_path)
    np.savez(path, tree=np.array(json.dumps({"format": "tn4ml_plus predictor 99"})))
    with pytest.raises(ValueError, match="99"):
        _predictor.load(tmp_path)
    np.savez(path, tree=np.array([{}], object))
    with pytest.raises(ValueError, match="pickle"):
        _predictor.load(tmp_path)


# Refusals -----------------------------------------------------------------------------------------


def test_tables_that_do_not_fit_are_refused(table):
    predictor = TNClassifier(**FEW).fit(*table).to_numpy()
    with pytest.raises(ValueError, match=r"\(n_samples, 4\), got \(2, 3\)"):
        predictor.predict_proba(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="infinities"):
        predictor.predict_proba(np.full((2, 4), np.inf))


def test_dates_are_refused():
    frame = pd.DataFrame({"size": np.arange(60.0), "day": pd.date_range("2020", periods=60)})
    clf = TNClassifier(**FEW).fit(frame, np.arange(60) % 2)
    with pytest.raises(ValueError, match="'day' holds dates"):
        clf.to_numpy()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"network": "smpo"}, "open chains or trees, this is a layered network"),
        ({"network": MPSSpec(cyclic=True)}, "open ends"),
        ({"embedding": Patches((2, 2), (1, 2)), "missing": "averaged"}, "one column at a site"),
    ],
)
def test_models_beyond_numpy_are_refused(options, match):
    X = np.random.default_rng(0).uniform(size=(20, 4))
    clf = TNClassifier(**FEW | options).fit(X, np.arange(20) % 2)
    with pytest.raises(ValueError, match=match):
        clf.to_numpy()


def test_losses_beyond_numpy_are_refused(table):
    detector = TNAnomalyDetector(network="smpo", loss=Quadratic(), scaler=GaussianCDF(), **FEW)
    detector.fit(table[0])
    with pytest.raises(ValueError, match="no scores of Quadratic"):
        detector.to_numpy()
