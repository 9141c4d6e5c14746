"""Processes forked after JAX had run are told so at once, where they would hang."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from tn4ml_plus import (
    DTTNClassifier,
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    TNTransformer,
    load,
)
from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.errors import ForkedProcessError
from tn4ml_plus.image import Variant

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
# Seconds after which a child hangs.
LONG = 30
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*no square image"),
]


def in_child(function):
    """What a function says in a forked process; that of one which hangs is no answer."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of what is tried here.
        child = os.fork()
    if child == 0:
        try:
            function()
            answer = "done"
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    try:
        end = time.monotonic() + LONG
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "hangs"
            time.sleep(0.01)
        return os.read(read, 1 << 16).decode()
    finally:
        os.close(read)
        os.close(write)


def is_told(answer):
    """Whether an answer is the error, with its remedies."""
    return answer.startswith("ForkedProcessError") and "spawn" in answer and "loky" in answer


@pytest.fixture(scope="module", params=MODELS)
def fitted(request, data):
    model, method = MODELS[request.param]
    return model.fit(*data), method


def test_children_are_told(fitted, data, tmp_path):
    (X, y), (model, method) = data, fitted
    pickled = pickle.dumps(model)
    model.save(tmp_path / "model")
    for function in (
        lambda: model.fit(X, y),
        lambda: getattr(model, method)(X),
        # As the workers of a pool are given it: an error in unpickling would end them.
        lambda: getattr(pickle.loads(pickled), method)(X),
    ):
        assert is_told(in_child(function))
    assert in_child(lambda: pickle.loads(pickled)) == "done"
    if method != "transform":  # which has arrays of NumPy alone
        assert is_told(in_child(lambda: load(tmp_path / "model")))
    assert in_child(lambda: type(model)(**model.get_params(deep=False))) == "done"


def test_programs_by_themselves_are_told(data):
    packed, structure = pack(MODELS["classifier"][0].fit(*data).network_)
    phi = np.zeros((2, structure.nsites, structure.phys_dim), np.float32)
    assert is_told(in_child(lambda: contract(packed, structure, phi)))


def test_pools_hand_the_error_on(data):
    X, y = data
    model = TNTransformer(2).fit(X)
    TNClassifier(**SMALL).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # As joblib's backend "multiprocessing" makes them.
        pool = multiprocessing.get_context("fork").Pool(1)
    with pool, pytest.raises(ForkedProcessError, match="loky"):
        pool.map_async(model.transform, [X]).get(LONG)


FIRST = """
import os, warnings
warnings.simplefilter("ignore")
import jax, numpy as np
from tn4ml_plus import TNClassifier

def child():
    if os.fork():
        os.wait()
        return
    try:
        X = np.random.default_rng(0).normal(size=(60, 4))
        model = TNClassifier(2, n_members=1, max_epochs=1, random_state=0)
        print(model.fit(X, np.arange(60) % 3).predict(X).shape, flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
    os._exit(0)

child()
jax.numpy.zeros(3)
child()
"""


def test_children_of_processes_that_have_not_used_jax_work():
    # In the second JAX has run, though no part of this library has.
    run = subprocess.run(
        [sys.executable, "-c", FIRST], capture_output=True, text=True, check=True, timeout=4 * LONG
    )
    assert run.stdout.splitlines() == ["(60,)", "ForkedProcessError"]
