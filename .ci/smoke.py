"""One short fit of each estimator on frames and arrays, saved and loaded, and a picture."""

import tempfile
from pathlib import Path

import jax
import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
from sklearn.datasets import load_digits, load_iris

import tn4ml_plus
from tn4ml_plus import (
    DTTNClassifier,
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    TNTransformer,
)
from tn4ml_plus.generators import ATTNGenerator
from tn4ml_plus.image import Variant
from tn4ml_plus.inspection import EntanglementDisplay

mpl.use("agg")
X, y = load_iris(return_X_y=True)
images, digits = load_digits(return_X_y=True)
names = np.array(["setosa", "versicolor", "virginica"])[y]
mixed = pd.DataFrame({"length": X[:, 0], "colour": np.array(["red", "blue"])[y % 2]})
polar = pl.DataFrame({"length": X[:, 0], "colour": list(mixed["colour"])})
short = {"max_epochs": 1, "random_state": 0}
fits = [
    (TNClassifier(2, **short), mixed, names),
    (TNClassifier(2, network="ttn", trainer="sweep", **short), polar, names),
    (TNClassifier(2, n_members=1, network="mera", **short), X, y),
    (TNRegressor(2, **short), X[:, :3], X[:, 3]),
    (TNBornMachine(2, **short), mixed, None),
    (TNAnomalyDetector(2, **short), X, None),
    (TNTransformer(2), X, None),
    (DTTNClassifier(Variant((8,), (1,)), **short), images[:200], digits[:200]),
]
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.safetensors"
    for model, rows, target in fits:
        model.fit(rows, target).save(path)
        methods = ("predict_proba", "predict", "score_samples", "transform")
        method = next(name for name in methods if hasattr(model, name))
        before, after = (getattr(m, method)(rows) for m in (model, tn4ml_plus.load(path)))
        assert np.isfinite(before).all(), f"{type(model).__name__}.{method} is not finite"
        assert np.array_equal(before, after), f"{type(model).__name__} changed in its file"
EntanglementDisplay.from_estimator(fits[0][0]).plot()
assert ATTNGenerator((64, 64), key=jax.random.key(0))().shape == (64, 64)
