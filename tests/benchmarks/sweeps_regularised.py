r"""What keeps sweeps of large bonds from overfitting: accuracy on images held out of training.

    python tests/benchmarks/sweeps_regularised.py --out docs/tables

3,000 of Fashion-MNIST's training images, pooled to 14 x 14 pixels, and 5,000 others of them to
score; no test image is touched. Six sweeps with bonds of 8 and of 32, one network a model, and one
thing changed at a time.
"""

import argparse
import dataclasses
import logging
from pathlib import Path

import numpy as np
from quality import machine
from sweeps import mean_bond
from threadpoolctl import threadpool_limits

from tn4ml_plus import TNClassifier
from tn4ml_plus.datasets import load_fashion_mnist, pool_images
from tn4ml_plus.embeddings import Legendre
from tn4ml_plus.losses import CrossEntropy
from tn4ml_plus.training import EarlyStopping, Sweep

logger = logging.getLogger("sweeps_regularised")

N_TRAIN, N_VALIDATION = 3000, 5000
SWEEP = Sweep(max_epochs=6)


def changed(**fields):
    """Options of a classifier with another sweep."""
    return {"trainer": dataclasses.replace(SWEEP, **fields)}


RECIPES = {
    "label smoothing 0.05": {},
    "no label smoothing": {"loss": CrossEntropy()},
    "label smoothing 0.2": {"loss": CrossEntropy(label_smoothing=0.2)},
    "feature dropout 0.05": changed(feature_dropout=0.05),
    "feature dropout 0.2": changed(feature_dropout=0.2),
    "validation stopping": changed(early_stopping=EarlyStopping(patience=1)),
    "ridge 0.001": changed(ridge=0.001),
    "ridge 0.1": changed(ridge=0.1),
    "metric of the samples (shrinkage 0.1)": changed(shrinkage=0.1),
    "cutoff 0.0003": changed(cutoff=3e-4),
}


def images(seed):
    """Features in [0, 1] and classes of the images to train on, and of those to score."""
    X, y, *_ = load_fashion_mnist()
    chosen = np.random.RandomState(seed).permutation(len(X))[: N_TRAIN + N_VALIDATION]
    X = pool_images(X[chosen], 2).reshape(len(chosen), -1) / 255
    return X[:N_TRAIN], y[chosen[:N_TRAIN]], X[N_TRAIN:], y[chosen[N_TRAIN:]]


def cell(options, bond_dim, n_seeds):
    """Accuracy on the images held out and on those of training, and the mean bond."""
    held_out, seen, bonds = [], [], []
    for seed in range(n_seeds):
        X, y, X_validation, y_validation = images(seed)
        common = {"embedding": Legendre(1), "scaler": "common_min_max", "n_members": 1}
        common |= {"trainer": SWEEP, "random_state": seed, "loss": CrossEntropy(0.05)}
        model = TNClassifier(bond_dim, **common | options).fit(X, y)
        held_out.append(100 * model.score(X_validation, y_validation))
        seen.append(100 * model.score(X, y))
        bonds.append(mean_bond(model.network_))
    text = f"{np.mean(held_out):.1f} ± {np.std(held_out):.1f} ({np.mean(seen):.1f})"
    return f"{text}, D {np.mean(bonds):.1f}"


def main():
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder of the markdown table")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    lines = ["| sweeps with | bonds of 8 | bonds of 32 |", "| --- | ---: | ---: |"]
    with threadpool_limits(2):
        for name, options in RECIPES.items():
            cells = [cell(options, bond_dim, args.seeds) for bond_dim in (8, 32)]
            logger.info("%s: %s", name, "; ".join(cells))
            lines.append("| " + " | ".join([name, *cells]) + " |")
    if args.out is not None:
        caption = (
            f"Accuracy % on {N_VALIDATION:,} images held out of training, mean ± standard "
            "deviation over seeds, which draw images and models; in brackets that on the "
            f"{N_TRAIN:,} images of training; mean size of the final bonds."
        )
        body = "\n".join(lines)
        (args.out / "sweeps_regularised.md").write_text(f"{caption}\n\n{body}\n\n{machine()}\n")


if __name__ == "__main__":
    main()
