"""Files that the first format holds, written before readers and ensembles were objects."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tn4ml_plus import load
from tn4ml_plus.errors import ModelFileError
from tn4ml_plus.io import read, write
from tn4ml_plus.losses import unsmoothed

FOLDER = Path(__file__).parent / "format_1"
METHODS = {
    "tn_classifier": "predict_proba",
    "tn_regressor": "predict",
    "tn_born_machine": "score_samples",
    "tn_anomaly_detector": "score_samples",
    "tn_transformer": "transform",
    "dttn_classifier": "predict_proba",
}


@pytest.mark.parametrize("name", METHODS)
def test_files_of_format_1_predict_the_same(name, tmp_path):
    expected = np.load(FOLDER / "predictions.npz")
    X = expected["images" if name == "dttn_classifier" else "X"]
    if name in ("tn_classifier", "tn_born_machine"):
        X = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(c=np.where(X[:, 2] > 0, "u", "v"))
    model = load(FOLDER / f"{name}.safetensors")
    found = getattr(model, METHODS[name])(X)
    wanted = expected[name]
    if name == "tn_classifier":
        # Label smoothing showed in what was predicted then.
        wanted = unsmoothed(wanted, model._ensemble.loss.label_smoothing)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "again")
    again = load(tmp_path / "again")
    np.testing.assert_array_equal(getattr(again, METHODS[name])(X), found)
    assert set(vars(again)) == set(vars(model))
    assert again.get_params() == model.get_params()


def test_files_of_format_1_are_trained_on():
    X = np.load(FOLDER / "predictions.npz")["X"]
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(c=np.where(X[:, 2] > 0, "u", "v"))
    model = load(FOLDER / "tn_classifier.safetensors")
    assert model._ensemble.trainer_state
    assert model._ensemble.n_seen == 40
    model.partial_fit(frame, np.where(X[:, 0] > 0, "high", "low"))
    assert model.n_iter_ == len(model.history_["loss"]) == 2


@pytest.mark.parametrize("value", ["-3.7", None, float("nan")])
def test_views_of_format_1_are_held_to_their_fields(value, tmp_path):
    arrays, metadata = read(FOLDER / "tn_anomaly_detector.safetensors")
    metadata["views"][0]["attributes"]["unseen_log_density_"] = value
    write(tmp_path / "file", arrays, metadata)
    with pytest.raises(ModelFileError, match=r"unseen_log_density of .*Score must be float"):
        load(tmp_path / "file")
