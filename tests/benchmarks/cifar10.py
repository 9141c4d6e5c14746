"""CIFAR-10 in colour by chains and trees: test accuracy and seconds of `TNClassifier.fit`.

    python tests/benchmarks/cifar10.py --data FOLDER --out docs/tables/cifar10.md
    python tests/benchmarks/cifar10.py --data FOLDER --validate --out docs/tables/cifar10_choice.md

The second line trains candidates on 45,000 of the training images and scores them on the other
5,000; from these the recipes were chosen. The first takes half an hour on two cores, the second a
quarter. --source: a sentence on the files, for the table.
"""

import argparse
import logging
import math
import os
import statistics
import time
from pathlib import Path

import numpy as np
from fashion_mnist import Recipe, evaluate, mirrored, whole
from quality import machine
from side_by_side import table
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tn4ml_plus.datasets import load_cifar10
from tn4ml_plus.embeddings import Patches, PrincipalPatches
from tn4ml_plus.losses import CrossEntropy
from tn4ml_plus.networks import Tree, TTNSpec
from tn4ml_plus.training import Gradient

logger = logging.getLogger("cifar10")

SEEDS = (0, 1, 2)
N_VALIDATION = 5000
SHAPE = (32, 32, 3)
ROW_BY_ROW = Patches(SHAPE, (4, 4))
# 8 x 8 and 16 x 16 sites.
COARSE = PrincipalPatches(SHAPE, (8, 8), (4, 4), n_components=24, padding=2)
FINE = PrincipalPatches(SHAPE, (6, 6), (2, 2), n_components=24, padding=2)


def recipe(name, embedding, bond_dim, max_epochs, learning_rate, augment=mirrored):
    parameters = {
        "embedding": embedding,
        "loss": CrossEntropy(label_smoothing=0.1),
        "trainer": Gradient(clip_norm=1.0),
        "bond_dim": bond_dim,
        "max_epochs": max_epochs,
        "learning_rate": learning_rate,
    }
    if name.startswith("tree"):
        parameters["network"] = TTNSpec(Tree.image(*embedding.grid, blocks=((1, 2), (2, 1))))
    return Recipe(name, whole, parameters, math.nan, math.nan, augment)


RECIPES = (
    recipe("chain, 4 x 4 patches", ROW_BY_ROW, 24, 4, 1e-3),
    recipe("chain, 8 x 8 components", COARSE, 24, 6, 2e-3),
    recipe("tree, 8 x 8 components", COARSE, 24, 6, 2.5e-3),
)
CANDIDATES = (
    *(recipe("chain, 4 x 4 patches", ROW_BY_ROW, 24, 3, r) for r in (1e-3, 2e-3)),
    *(recipe("chain, 8 x 8 components", COARSE, 24, 3, r) for r in (1e-3, 2e-3)),
    *(recipe("tree, 8 x 8 components", COARSE, 24, 3, r) for r in (2.5e-3, 5e-3)),
    *(recipe("tree, 16 x 16 components", FINE, 24, 3, r) for r in (1.5e-3, 3e-3)),
)
BASELINES = {
    "logistic regression, pixels": lambda seed: make_pipeline(
        StandardScaler(), LogisticRegression(C=1e-3, max_iter=100)
    ),
    "random forest, pixels": lambda seed: RandomForestClassifier(200, n_jobs=-1, random_state=seed),
    "SVM (RBF), 64 principal components": lambda seed: make_pipeline(
        PCA(64, whiten=True, random_state=seed), SVC(gamma=0.02, C=5)
    ),
}


def n_parameters(one):
    """Of the networks that a recipe makes."""
    from tn4ml_plus import TNClassifier

    rng = np.random.default_rng(0)
    X, parameters = rng.random((64, math.prod(SHAPE))), one.parameters | {"max_epochs": 1}
    model = TNClassifier(n_members=1, random_state=0, **parameters).fit(X, np.arange(64) % 10)
    return sum(tensor.size for tensor in model.network_)


def listed(one):
    return [f"{one.parameters[k]:g}" for k in ("bond_dim", "max_epochs", "learning_rate")]


def validation_rows(images, y):
    """Rows of the table of candidates."""
    kept, aside = train_test_split(
        np.arange(len(y)), test_size=N_VALIDATION, random_state=0, stratify=y
    )
    for one in CANDIDATES:
        data = images[kept], y[kept], images[aside], y[aside]
        (accuracy,), (seconds,) = evaluate(one, SEEDS[:1], data)
        logger.info("%s, %s: %.4f, %.0f s", one.name, listed(one), accuracy, seconds)
        yield [one.name, *listed(one), f"{100 * accuracy:.1f}", f"{seconds:.0f}"]


def test_rows(data, seeds):
    """Rows of the table of recipes and of baselines."""
    for one in RECIPES:
        accuracies, seconds = evaluate(one, seeds, data)
        mean = f"{100 * statistics.mean(accuracies):.2f}"
        if len(accuracies) > 1:
            mean += f" ± {100 * statistics.stdev(accuracies):.2f}"
        logger.info("%s: %s, %s", one.name, mean, seconds)
        size = f"{n_parameters(one):,}"
        yield [one.name, *listed(one), size, mean, f"{statistics.median(seconds):.0f}"]
    images, y, test_images, test_y = data
    for name, build in BASELINES.items():
        start = time.perf_counter()
        model = build(0).fit(whole(images), y)
        seconds = time.perf_counter() - start
        score = 100 * model.score(whole(test_images), test_y)
        logger.info("%s: %.2f, %.0f s", name, score, seconds)
        yield [name, "", "", "", "", f"{score:.2f}", f"{seconds:.0f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10's .bin files")
    parser.add_argument("--out", type=Path, required=True, help="markdown file to write")
    parser.add_argument("--source", default="", help="a sentence on the files, for the table")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--validate", action="store_true", help="score the candidates instead")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data, settings = load_cifar10(arguments.data), ["D", "epochs", "learning rate"]
    if arguments.validate:
        rows = list(validation_rows(*data[:2]))
        head = ["network", *settings, "validation accuracy, %", "fit, s"]
        text = f"45,000 training images, seed 0, the score on the other {N_VALIDATION:,}."
    else:
        seeds = SEEDS[:1] if arguments.quick else SEEDS
        rows = list(test_rows(data, seeds))
        head = ["model", *settings, "parameters", "test accuracy, %", "fit, s"]
        text = f"""\
50,000 training images and their mirror images, predictions averaged over both; the score on the
10,000 test images, mean ± standard deviation over {len(seeds)} seed(s), median of the seconds.
Baselines: one seed, without mirror images."""
    arguments.out.write_text(f"""\
CIFAR-10 in colour: `TNClassifier.fit` with one network, {os.cpu_count()} cores. {text}
{arguments.source}

{table(head, rows)}

{machine()}
""")


if __name__ == "__main__":
    main()
