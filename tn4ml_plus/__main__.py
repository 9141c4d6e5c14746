"""``python -m tn4ml_plus``: cross-validated accuracies on data that scikit-learn ships."""

import argparse
import sys

import jax
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from ._compiled import cache_compilations
from .estimators import TNClassifier

TABLES = {"iris": load_iris, "wine": load_wine}
TABLES |= {"breast_cancer": load_breast_cancer, "digits": load_digits}
QUICK = ("iris", "wine")
FOLDS = 5
MODELS = {
    "TNClassifier": TNClassifier(random_state=0),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "SVM (RBF)": make_pipeline(StandardScaler(), SVC()),
    "random forest": RandomForestClassifier(random_state=0),
}
NEXT = """
How to go on:
  from tn4ml_plus import TNClassifier; clf = TNClassifier().fit(X, y); clf.predict_proba(X)
  README.md shows it in ten lines, tutorials/01_first_classifier.ipynb step by step.
  docs/ explains how it works and how to extend it; start with docs/start.md.
"""


def keep_compilations():
    """Have the next run start quickly, unless JAX has a folder already or there can be none."""
    if jax.config.jax_compilation_cache_dir:
        return
    try:
        cache_compilations()
    except (OSError, RuntimeError) as error:  # The latter where there is no home.
        sys.stderr.write(f"Compiled programs are not kept for the next run: {error}\n")


def evaluate(names):
    """Accuracies and seconds of every fold, two arrays (tables, models, folds)."""
    accuracy, seconds = np.zeros((2, len(names), len(MODELS), FOLDS))
    with tqdm(total=accuracy.size, unit="fit") as progress:
        for t, name in enumerate(names):
            X, y = TABLES[name](return_X_y=True)
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
            for m, (name_of_model, model) in enumerate(MODELS.items()):
                progress.set_description(f"{name}, {name_of_model}")
                found = cross_validate(model, X, y, cv=folds, error_score="raise")
                accuracy[t, m] = found["test_score"]
                seconds[t, m] = found["fit_time"] + found["score_time"]
                progress.update(FOLDS)
    return accuracy, seconds


def table(names, accuracy, seconds):
    """Text table of mean and standard deviation over the folds, in percent, and seconds."""
    mean, deviation = 100 * accuracy.mean(axis=2), 100 * accuracy.std(axis=2)
    rows = [["accuracy in %", *MODELS]]
    for name, means, deviations in zip(names, mean.round(1), deviation, strict=True):
        stars = np.where(means == means.max(), "*", " ")
        cells = zip(means, deviations, stars, strict=True)
        rows.append([name, *(f"{m:5.1f} ± {d:3.1f} {star}" for m, d, star in cells)])
    rows.append(["seconds in all", *(f"{s:.1f}  " for s in seconds.sum(axis=(0, 2)))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    lines = list(map("  ".join, rows))
    lines.insert(1, "-" * len(lines[0]))
    note = f"Stratified {FOLDS}-fold cross-validation, mean ± standard deviation; * best of a row."
    return "\n".join([*lines, note, ""])


def main(argv=None):
    """Run the comparison and write its table to standard output."""
    parser = argparse.ArgumentParser(prog="python -m tn4ml_plus", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    names = QUICK if parser.parse_args(argv).quick else tuple(TABLES)
    keep_compilations()
    sys.stdout.write("\n" + table(names, *evaluate(names)) + NEXT)


if __name__ == "__main__":
    main()
