"""Fashion-MNIST end to end: test accuracy and seconds of `TNClassifier.fit`, three seeds.

    python tests/benchmarks/fashion_mnist.py --out docs/tables/fashion_mnist.md
    python tests/benchmarks/fashion_mnist.py --validate --out docs/tables/fashion_mnist_choice.md

The second line trains the CANDIDATES, from which the recipes were chosen, on 55,000 of the training
images and scores them on the other 5,000.

The seconds are all of `fit`: validation, embedding, batching and callbacks included. The first seed
of a recipe compiles, which its own column shows; the goals are judged on the median over the seeds.
The estimator's overhead is its seconds over those of as many bare steps (see _ours.py).
"""

import argparse
import dataclasses
import logging
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from _contenders import Case, ours
from side_by_side import judged, processor, table
from sklearn.model_selection import train_test_split

from tn4ml_plus.datasets import load_fashion_mnist, pool_images
from tn4ml_plus.embeddings import Patches

logger = logging.getLogger("fashion_mnist")


def pixels(images):
    """(n, 196) features: 14 x 14 pooled pixels in [0, 1]."""
    return pool_images(images, 2).reshape(len(images), -1) / 255


def whole(images):
    """(n, 784) features: the pixels in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Features, parameters of the classifier, and the goal: accuracy within seconds."""

    name: str
    features: Callable
    parameters: dict
    accuracy: float
    seconds: float


SEEDS = (0, 1, 2)
BATCH_SIZE = 128
COMMON = {"n_members": 1, "batch_size": BATCH_SIZE, "feature_dropout": 0.0}
PIXELS = {
    "embedding": "linear_complement",
    "scaler": "common_min_max",
    "bond_dim": 20,
    "learning_rate": 1e-3,
}
# One site for each patch: a constant and the 16 pixels.
PATCHES = {"embedding": Patches((28, 28), (4, 4)), "bond_dim": 24, "learning_rate": 1e-3}
RECIPES = (
    Recipe("14x14 pooled, D = 20", pixels, {**PIXELS, "max_epochs": 3}, 0.87, 10),
    Recipe("14x14 pooled, D = 20", pixels, {**PIXELS, "max_epochs": 8}, 0.885, 20),
    Recipe("4x4 patches, D = 24", whole, {**PATCHES, "max_epochs": 8}, 0.894, 60),
)
QUICK_RECIPES = (
    Recipe("14x14 pooled, D = 20", pixels, {**PIXELS, "max_epochs": 1}, math.nan, math.nan),
)
CANDIDATES = (
    *((pixels, {**PIXELS, "max_epochs": 3, "learning_rate": r}) for r in (1e-3, 2e-3, 4e-3)),
    *((pixels, {**PIXELS, "max_epochs": 8, "learning_rate": r}) for r in (1e-3, 2e-3, 4e-3)),
    *(
        (whole, {**PATCHES, "bond_dim": bond, "max_epochs": epochs, "learning_rate": r})
        for bond, epochs in ((20, 11), (24, 8), (28, 6), (32, 5))
        for r in (1e-3, 2e-3, 4e-3)
    ),
)
N_VALIDATION = 5000
BARE_CASE = Case(n=196, d=2, D=20, B=BATCH_SIZE)
BARE_STEPS = 300
OVERHEAD_GOAL = 1.3


def evaluate(recipe, seeds, data):
    """Accuracies and seconds of `fit`, by seed."""
    from tn4ml_plus import TNClassifier

    images, y, test_images, test_y = data
    X, test_X = recipe.features(images), recipe.features(test_images)
    accuracies, seconds = [], []
    for seed in seeds:
        model = TNClassifier(**COMMON, **recipe.parameters, random_state=seed)
        start = time.perf_counter()
        model.fit(X, y)
        seconds.append(time.perf_counter() - start)
        accuracies.append(model.score(test_X, test_y))
        logger.info("  seed %d: %.4f after %.1f s", seed, accuracies[-1], seconds[-1])
    return accuracies, seconds


def bare_step_seconds():
    run = ours(BARE_CASE)
    run(3)
    start = time.perf_counter()
    run(BARE_STEPS)
    return (time.perf_counter() - start) / BARE_STEPS


def validation_table(images, y):
    """Every candidate's accuracy on training images set aside, as a markdown table."""
    kept, aside = train_test_split(
        np.arange(len(y)), test_size=N_VALIDATION, random_state=0, stratify=y
    )
    rows = []
    for features, parameters in CANDIDATES:
        recipe = Recipe("", features, parameters, math.nan, math.nan)
        data = images[kept], y[kept], images[aside], y[aside]
        (accuracy,), (seconds,) = evaluate(recipe, SEEDS[:1], data)
        name = "14x14 pooled" if features is pixels else "4x4 patches"
        chosen = [f"{parameters[key]:g}" for key in ("bond_dim", "max_epochs", "learning_rate")]
        rows.append([name, *chosen, f"{100 * accuracy:.2f}", f"{seconds:.1f}"])
    return table(
        ["features", "D", "epochs", "learning rate", "validation accuracy, %", "fit, s"], rows
    )


def row(recipe, accuracies, seconds, n_samples, bare):
    accuracy, fit = statistics.mean(accuracies), statistics.median(seconds)
    spread = f" +- {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    overhead = ""
    if recipe.features is pixels:
        steps = recipe.parameters["max_epochs"] * math.ceil(n_samples / BATCH_SIZE)
        value = fit / (steps * bare)
        overhead = judged(value, f"{value:.2f}", OVERHEAD_GOAL, at_most=True)
    goal = None if math.isnan(recipe.accuracy) else recipe.accuracy * 100
    limit = None if math.isnan(recipe.seconds) else recipe.seconds
    return [
        recipe.name,
        str(recipe.parameters["max_epochs"]),
        judged(100 * accuracy, f"{100 * accuracy:.2f}{spread}", goal),
        judged(fit, f"{fit:.1f}", limit, at_most=True),
        f"{seconds[0]:.1f}",
        overhead,
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="markdown file to write")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch")
    parser.add_argument("--validate", action="store_true", help="score the candidates instead")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    data = load_fashion_mnist()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.validate:
        arguments.out.write_text(f"""# Fashion-MNIST, the choice of the recipes

`TNClassifier.fit` on 55,000 training images, seed 0, the score on the other {N_VALIDATION:,}.

{validation_table(*data[:2])}
""")
        return
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    rows = []
    for recipe in QUICK_RECIPES if arguments.quick else RECIPES:
        logger.info("%s, %s", recipe.name, recipe.parameters)
        accuracies, seconds = evaluate(recipe, seeds, data)
        bare = bare_step_seconds() if recipe.features is pixels else math.nan
        rows.append(row(recipe, accuracies, seconds, len(data[0]), bare))
    head = ["features", "epochs", "test accuracy, %", "fit, s", "first fit, s", "fit / bare steps"]
    parameters = {**COMMON, **PIXELS}
    arguments.out.write_text(f"""# Fashion-MNIST, end to end

`TNClassifier.fit` on the 60,000 training images, the score on the 10,000 test images; mean and
standard deviation of the accuracy and median of the seconds over {len(seeds)} seed(s), with the
goals in brackets. The first fit compiles.

{table(head, rows)}

- Parameters: {", ".join(f"{name}={value!r}" for name, value in parameters.items())} for the pooled
  images; {", ".join(f"{name}={value!r}" for name, value in PATCHES.items())} for the patches.
- "fit / bare steps": the seconds over those of as many bare training steps timed right after.
- {processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, jax {version("jax")}.
""")
    logger.info("wrote %s", arguments.out)


if __name__ == "__main__":
    main()
