r"""Sweeps over all training images of Fashion-MNIST and MNIST: test accuracy and seconds of a fit.

    python tests/benchmarks/sweeps_images.py --mnist FOLDER --out docs/tables

Chains over 14 x 14 pooled pixels with bonds of 20: gradients alone, sweeps alone, and sweeps
followed by gradients. Chains over 15 x 15 pooled pixels with bonds of 50, the size of the sweeps in
a peer's notebook on MNIST, which reports 75.1 %. All settings are defaults of the library but for
what the table names; they were chosen on 5000 of Fashion-MNIST's training images. Test images are
scored once a seed.
"""

import argparse
import dataclasses
import logging
import time
from pathlib import Path

import numpy as np
from quality import machine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from tn4ml_plus import TNClassifier
from tn4ml_plus.datasets import load_fashion_mnist, load_mnist, pool_images
from tn4ml_plus.training import Gradient, Sweep

logger = logging.getLogger("sweeps_images")


def pixels(images, side):
    """(n, side**2) features in [0, 1]: means of 2 x 2 pixels, in a black frame for a side of 15."""
    frame = side - 14
    images = np.pad(images, [(0, 0), (frame, frame), (frame, frame)])
    return pool_images(images, 2).reshape(len(images), -1) / 255


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model of images of some size; goals: accuracy in % within seconds, None for no goal."""

    name: str
    side: int
    build: object
    accuracy: float | None = None
    seconds: float | None = None


def chain(bond_dim, trainer):
    """A function of the seed."""
    options = {"embedding": "linear_complement", "scaler": "common_min_max", "n_members": 1}
    return lambda seed: TNClassifier(
        bond_dim=bond_dim, trainer=trainer, random_state=seed, **options
    )


ONE = Sweep(max_epochs=1)
THEN = [ONE, Gradient(max_epochs=3, learning_rate=1e-3, feature_dropout=0.0)]
WIDE = Recipe("sweeps, D = 50", 15, chain(50, ONE), 75.1)
BASELINES = (
    Recipe("logistic regression", 14, lambda seed: LogisticRegression(max_iter=200)),
    Recipe("SVM (RBF)", 14, lambda seed: SVC()),
    Recipe(
        "random forest", 14, lambda seed: RandomForestClassifier(300, n_jobs=2, random_state=seed)
    ),
)
FASHION = (
    Recipe("gradients, D = 20", 14, chain(20, Gradient())),
    Recipe("sweeps, D = 20", 14, chain(20, ONE), 86.5, 90),
    Recipe("sweeps, then gradients, D = 20", 14, chain(20, THEN), 87.5),
    WIDE,
    *BASELINES,
)
MNIST = (WIDE, *BASELINES)


def measured(recipe, data, n_seeds):
    """A row of the table."""
    images, y, test_images, test_y = data
    X, test_X = pixels(images, recipe.side), pixels(test_images, recipe.side)
    scores, seconds = [], []
    for seed in range(n_seeds):
        model, start = recipe.build(seed), time.perf_counter()
        model.fit(X, y)
        seconds.append(time.perf_counter() - start)
        scores.append(100 * model.score(test_X, test_y))
        logger.info("%s, seed %d: %.2f after %.1f s", recipe.name, seed, scores[-1], seconds[-1])
    spread = f" ± {np.std(scores):.2f}" if n_seeds > 1 else ""
    cells = [f"{np.mean(scores):.2f}{spread}", f"{np.median(seconds):.0f}"]
    for i, (goal, value, sign) in enumerate(
        ((recipe.accuracy, np.mean(scores), 1), (recipe.seconds, np.median(seconds), -1))
    ):
        if goal is not None:
            met = "met" if sign * (value - goal) >= 0 else "not met"
            cells[i] += f" (goal {goal:g}: {met})"
    return [recipe.name, f"{recipe.side} x {recipe.side}", *cells, f"{seconds[0]:.0f}"]


def main():
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files, left out without it")
    parser.add_argument("--out", type=Path, help="folder of the markdown table")
    parser.add_argument("--seeds", type=int, default=3, help="of chains; baselines have one")
    parser.add_argument("--models", help="only recipes whose name begins so")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    sets = [("Fashion-MNIST", FASHION, load_fashion_mnist())]
    if args.mnist:
        sets.append(("MNIST", MNIST, load_mnist(args.mnist)))
    lines = [
        "| data | model | pixels | test accuracy, % | fit, s | first fit, s |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    with threadpool_limits(2):
        for name, recipes, data in sets:
            for recipe in recipes:
                if recipe.name.startswith(args.models or ""):
                    n_seeds = 1 if recipe in BASELINES else args.seeds
                    lines.append("| " + " | ".join([name, *measured(recipe, data, n_seeds)]) + " |")
    if args.out is not None:
        caption = (
            "One pass over the 60,000 training images by sweeps, then three epochs of gradients "
            "where both are named; the defaults of gradients where they are alone; the 10,000 "
            "test images; mean ± standard deviation over seeds, "
            "median seconds of a fit, the first of which compiles."
        )
        body = "\n".join(lines)
        (args.out / "sweeps_images.md").write_text(f"{caption}\n\n{body}\n\n{machine()}\n")


if __name__ == "__main__":
    main()
