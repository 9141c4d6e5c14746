"""Fashion-MNIST end to end: test accuracy and seconds of `TNClassifier.fit`, three seeds.

    python tests/benchmarks/fashion_mnist.py --out docs/tables/fashion_mnist.md
    python tests/benchmarks/fashion_mnist.py --validate --out docs/tables/fashion_mnist_choice.md

The second line trains the candidates, from which the recipes were chosen, on 55,000 of the training
images and scores them on the other 5,000. With --trees, both are about trees on patches' principal
components instead of chains, and take about an hour on two cores.

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
from tn4ml_plus.embeddings import Patches, PrincipalPatches
from tn4ml_plus.losses import CrossEntropy
from tn4ml_plus.networks import Tree, TTNSpec
from tn4ml_plus.training import Gradient

logger = logging.getLogger("fashion_mnist")


def pixels(images):
    """(n, 196) features: 14 x 14 pooled pixels in [0, 1]."""
    return pool_images(images, 2).reshape(len(images), -1) / 255


def whole(images):
    """(n, 784) features: the pixels in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def mirrored(images):
    """The images and their mirror images."""
    return np.concatenate([images, images[:, :, ::-1]])


def moved(images, copies=6):
    """`mirrored`, and copies of either, by chance, moved by up to one pixel along both axes."""
    rng = np.random.default_rng(0)
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:], (1, 2))
    found = [mirrored(images)]
    for _ in range(copies):
        down, right = rng.integers(0, 3, (2, len(images)))
        copy = windows[np.arange(len(images)), down, right]
        turned = rng.random(len(images)) < 0.5
        copy[turned] = copy[turned, :, ::-1]
        found.append(copy)
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Features, parameters of the classifier, and the goal: accuracy within seconds.

    With `augment`, a function that returns more training images, predictions are averaged over an
    image and its mirror image.
    """

    name: str
    features: Callable
    parameters: dict
    accuracy: float
    seconds: float
    augment: Callable | None = None


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


def tree(n_components, bond_dim, max_epochs, learning_rate):
    """Binary tree that merges columns and rows in turn, over 8 x 8 overlapping patches."""
    embedding = PrincipalPatches(n_components=n_components)
    return {
        "embedding": embedding,
        "network": TTNSpec(Tree.image(*embedding.grid, blocks=((1, 2), (2, 1)))),
        "loss": CrossEntropy(label_smoothing=0.1),
        "trainer": Gradient(clip_norm=1.0),
        "bond_dim": bond_dim,
        "max_epochs": max_epochs,
        "learning_rate": learning_rate,
    }


RECIPES = (
    Recipe("14x14 pooled, D = 20", pixels, {**PIXELS, "max_epochs": 3}, 0.87, 10),
    Recipe("14x14 pooled, D = 20", pixels, {**PIXELS, "max_epochs": 8}, 0.885, 20),
    Recipe("4x4 patches, D = 24", whole, {**PATCHES, "max_epochs": 8}, 0.894, 60),
)
TREE_RECIPES = (
    Recipe("tree, D = 12", whole, tree(16, 12, 4, 6e-3), 0.893, 15),
    Recipe("tree, D = 24, mirrored", whole, tree(24, 24, 5, 2.5e-3), 0.906, 180, mirrored),
    Recipe("tree, D = 24, moved", whole, tree(24, 24, 6, 2.5e-3), 0.915, 900, moved),
)
QUICK_RECIPES = (
    Recipe("14x14 pooled, D = 20", pixels, {**PIXELS, "max_epochs": 1}, math.nan, math.nan),
)


def candidate(name, features, parameters, augment=None):
    return Recipe(name, features, parameters, math.nan, math.nan, augment)


CANDIDATES = (
    *(
        candidate("14x14 pooled", pixels, {**PIXELS, "max_epochs": epochs, "learning_rate": r})
        for epochs in (3, 8)
        for r in (1e-3, 2e-3, 4e-3)
    ),
    *(
        candidate(
            "4x4 patches",
            whole,
            {**PATCHES, "bond_dim": bond, "max_epochs": epochs, "learning_rate": r},
        )
        for bond, epochs in ((20, 11), (24, 8), (28, 6), (32, 5))
        for r in (1e-3, 2e-3, 4e-3)
    ),
)
TREE_CANDIDATES = (
    *(
        candidate(f"{components} components", whole, tree(components, bond, epochs, r))
        for components, bond, epochs in ((16, 12, 4), (20, 12, 4), (24, 16, 3))
        for r in (3e-3, 6e-3)
    ),
    *(candidate("mirrored", whole, tree(24, bond, 5, 2.5e-3), mirrored) for bond in (16, 24, 32)),
    *(candidate("moved", whole, tree(24, bond, 6, 2.5e-3), moved) for bond in (24, 32)),
)
N_VALIDATION = 5000
BARE_CASE = Case(n=196, d=2, D=20, B=BATCH_SIZE)
BARE_STEPS = 300
OVERHEAD_GOAL = 1.3


def evaluate(recipe, seeds, data):
    """Accuracies and seconds of `fit`, by seed."""
    from tn4ml_plus import TNClassifier

    images, y, test_images, test_y = data
    if recipe.augment:
        n_images = len(images)
        images = recipe.augment(images)
        y = np.tile(y, len(images) // n_images)
    X, test_X = recipe.features(images), recipe.features(test_images)
    accuracies, seconds = [], []
    for seed in seeds:
        model = TNClassifier(**COMMON, **recipe.parameters, random_state=seed)
        start = time.perf_counter()
        model.fit(X, y)
        seconds.append(time.perf_counter() - start)
        probabilities = model.predict_proba(test_X)
        if recipe.augment:
            probabilities += model.predict_proba(recipe.features(test_images[:, :, ::-1]))
        accuracies.append(np.mean(model.classes_[probabilities.argmax(axis=1)] == test_y))
        logger.info("  seed %d: %.4f after %.1f s", seed, accuracies[-1], seconds[-1])
    return accuracies, seconds


def listed(parameters):
    return ", ".join(f"{name}={value!r}" for name, value in parameters.items())


CHAIN_NOTES = f"""\
- Parameters: {listed({**COMMON, **PIXELS})} for the pooled images;
  {listed(PATCHES)} for the patches.
- "fit / bare steps": the seconds over those of as many bare training steps timed right after."""
TREE_NOTES = """\
- One tree of 8 x 8 leaves; what they read is linear in the pixels, but learned from the images: the
  principal components of patches of 7 x 7, every 3 pixels, 16 of them for D = 12 and 24 for D = 24.
- Mirrored: trained on the images and their mirror images, predictions averaged over both, an epoch
  being twice as long. Moved: beside these, six copies of each image moved by up to one pixel along
  both axes, so that an epoch is eight times as long.
- Learning rates 0.006, 0.0025 and 0.0025, label smoothing 0.1, gradients clipped at norm 1,
  batches of 128."""


def bare_step_seconds():
    run = ours(BARE_CASE)
    run(3)
    start = time.perf_counter()
    run(BARE_STEPS)
    return (time.perf_counter() - start) / BARE_STEPS


def validation_table(candidates, images, y):
    """Every candidate's accuracy on training images set aside, as a markdown table."""
    kept, aside = train_test_split(
        np.arange(len(y)), test_size=N_VALIDATION, random_state=0, stratify=y
    )
    rows = []
    for recipe in candidates:
        logger.info("%s, %s", recipe.name, recipe.parameters)
        data = images[kept], y[kept], images[aside], y[aside]
        (accuracy,), (seconds,) = evaluate(recipe, SEEDS[:1], data)
        keys = ("bond_dim", "max_epochs", "learning_rate")
        chosen = [f"{recipe.parameters[key]:g}" for key in keys]
        rows.append([recipe.name, *chosen, f"{100 * accuracy:.2f}", f"{seconds:.1f}"])
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
    parser.add_argument("--trees", action="store_true", help="trees instead of chains")
    parser.add_argument("--quick", action="store_true", help="one seed of the shortest recipe")
    parser.add_argument("--validate", action="store_true", help="score the candidates instead")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    data = load_fashion_mnist()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.validate:
        arguments.out.write_text(f"""# Fashion-MNIST, the choice of the recipes

`TNClassifier.fit` on 55,000 training images, seed 0, the score on the other {N_VALIDATION:,}.

{validation_table(TREE_CANDIDATES if arguments.trees else CANDIDATES, *data[:2])}
""")
        return
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    recipes = TREE_RECIPES if arguments.trees else RECIPES
    if arguments.quick:
        recipes = TREE_RECIPES[:1] if arguments.trees else QUICK_RECIPES
    rows = []
    for recipe in recipes:
        logger.info("%s, %s", recipe.name, recipe.parameters)
        accuracies, seconds = evaluate(recipe, seeds, data)
        bare = bare_step_seconds() if recipe.features is pixels else math.nan
        rows.append(row(recipe, accuracies, seconds, len(data[0]), bare))
    head = ["recipe", "epochs", "test accuracy, %", "fit, s", "first fit, s", "fit / bare steps"]
    if arguments.trees:
        head, rows = head[:-1], [row[:-1] for row in rows]
    arguments.out.write_text(f"""# Fashion-MNIST, end to end

`TNClassifier.fit` on the 60,000 training images, the score on the 10,000 test images; mean and
standard deviation of the accuracy and median of the seconds over {len(seeds)} seed(s), with the
goals in brackets. The first fit compiles.

{table(head, rows)}

{TREE_NOTES if arguments.trees else CHAIN_NOTES}
- {processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, jax {version("jax")}.
""")
    logger.info("wrote %s", arguments.out)


if __name__ == "__main__":
    main()
