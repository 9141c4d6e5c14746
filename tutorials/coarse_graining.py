r"""Two classes of CIFAR-10 through the layers of trees and of a convolutional network.

    python tutorials/coarse_graining.py --cifar FOLDER --out docs

Aeroplanes and horses as grey images of 32 x 32 pixels. A tree of five layers joins 2 x 2 blocks
until one vector is left, trained by isometric sweeps and by gradients; a convolutional network
halves the image five times, too. Written are one figure a model, with t-SNE of every layer on the
test images of the first seed, the images at each scale, and a table over seeds of how well nearest
neighbours, a linear probe and the silhouette tell the classes apart in every layer. Needs
``pip install equinox matplotlib``. Sizes and epochs were chosen on 2,000 of the training images.
"""

import argparse
import logging
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from tn4ml_plus import TNClassifier
from tn4ml_plus.datasets import load_cifar10
from tn4ml_plus.embeddings import SpinCoherent
from tn4ml_plus.inspection import CoarseGrainDisplay, LayerDisplay, separability_by_layer
from tn4ml_plus.networks import Tree, TTNSpec
from tn4ml_plus.training import Gradient, IsometricSweep

logger = logging.getLogger("coarse_graining")

SIDE = 32
CLASSES = {0: "aeroplane", 7: "horse"}
# Luma of red, green and blue, ITU-R BT.601.
GREY = np.array([0.299, 0.587, 0.114]) / 255


def images(path):
    """Grey images (n, 1024) in [0, 1] and names of classes, of training and of test."""
    parts = load_cifar10(path)
    for X, y in (parts[:2], parts[2:]):
        chosen = np.isin(y, list(CLASSES))
        yield (X[chosen] @ GREY).reshape(-1, SIDE**2)
        yield np.array([CLASSES[label] for label in y[chosen]])


def tree(trainer, bond_dim):
    """A function of the seed: a classifier whose network is one tree."""
    spec = TTNSpec(tree=Tree.image(SIDE, SIDE))
    options = {"embedding": SpinCoherent(3), "scaler": "common_min_max", "n_members": 1}
    return lambda seed: TNClassifier(
        bond_dim, network=spec, trainer=trainer, random_state=seed, **options
    )


class Convolutions(eqx.Module):
    """Five times a convolution, a rectifier and a mean over 2 x 2 pixels; then a linear layer."""

    convolutions: list
    pool: eqx.nn.AvgPool2d
    head: eqx.nn.Linear

    def __init__(self, widths, key):
        *keys, last = jax.random.split(key, 6)
        sizes = zip((1, *widths), widths, keys, strict=False)
        self.convolutions = [eqx.nn.Conv2d(a, b, 3, padding=1, key=k) for a, b, k in sizes]
        self.pool = eqx.nn.AvgPool2d(2, 2)
        self.head = eqx.nn.Linear(widths[-1], len(CLASSES), key=last)

    def layers(self, image):
        """The image (1, 32, 32) and the states (width, side, side) after each of the layers."""
        found = [image]
        for convolution in self.convolutions:
            found.append(self.pool(jax.nn.relu(convolution(found[-1]))))
        return found

    def __call__(self, image):
        return self.head(self.layers(image)[-1].ravel())


class ConvolutionalClassifier:
    """`Convolutions` with the methods of a classifier that this script calls."""

    def __init__(self, seed, widths=(16, 16, 32, 32, 32), n_epochs=15, learning_rate=2e-3):
        self.seed, self.widths = seed, widths
        self.n_epochs, self.learning_rate = n_epochs, learning_rate

    def fit(self, X, y):
        """Adam in batches of 64 with a learning rate that falls to zero as a cosine."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        rng, batch = np.random.default_rng(self.seed), 64
        n_steps = self.n_epochs * (len(X) // batch)
        optimizer = optax.adam(optax.cosine_decay_schedule(self.learning_rate, n_steps))
        model = Convolutions(self.widths, jax.random.key(self.seed))
        state = optimizer.init(eqx.filter(model, eqx.is_array))

        @eqx.filter_jit
        def step(model, state, images, codes):
            def loss(model):
                logits = jax.vmap(model)(images)
                return optax.softmax_cross_entropy_with_integer_labels(logits, codes).mean()

            updates, state = optimizer.update(eqx.filter_grad(loss)(model), state)
            return eqx.apply_updates(model, updates), state

        for _ in range(self.n_epochs):
            order = rng.permutation(len(X))
            for i in range(0, len(X) - batch + 1, batch):
                rows = order[i : i + batch]
                model, state = step(model, state, _as_images(X[rows]), jnp.asarray(codes[rows]))
        self.model_ = model
        return self

    def score(self, X, y):
        """Accuracy."""
        logits = jax.vmap(self.model_)(_as_images(X))
        return float(np.mean(self.classes_[np.argmax(logits, axis=1)] == y))

    def activations(self, X):
        """States of all layers, (n, width, side, side) each."""
        return [np.asarray(layer) for layer in jax.vmap(self.model_.layers)(_as_images(X))]


def _as_images(X):
    return jnp.asarray(X, jnp.float32).reshape(-1, 1, SIDE, SIDE)


MODELS = {
    "tree, isometric sweeps": tree(IsometricSweep(max_epochs=8), 4),
    "tree, gradients": tree(Gradient(max_epochs=20), 4),
    "convolutional network": ConvolutionalClassifier,
}
BASELINES = {
    "logistic regression": lambda seed: LogisticRegression(C=0.01, max_iter=2000),
    "SVM (RBF)": lambda seed: SVC(),
    "random forest": lambda seed: RandomForestClassifier(300, n_jobs=2, random_state=seed),
}


def measured(name, build, data, n_seeds, figures):
    """Accuracy in %, seconds of a fit, and (seeds, layers) of each kind of separability."""
    X, y, X_test, y_test = data
    scores, seconds, found = [], [], []
    for seed in range(n_seeds):
        started = time.perf_counter()
        model = build(seed).fit(X, y)
        seconds.append(time.perf_counter() - started)
        scores.append(100 * model.score(X_test, y_test))
        logger.info("%s, seed %d: %.1f after %.0f s", name, seed, scores[-1], seconds[-1])
        if name in BASELINES:
            continue
        layers = model.activations(X_test)
        found.append(separability_by_layer(layers, y_test, random_state=seed))
        logger.info("%s", np.round(found[-1], 3))
        if seed == 0 and figures is not None:
            display = LayerDisplay.from_layers(layers, y_test)
            stem = "coarse_graining_" + name.replace(",", "").replace(" ", "_")
            _save(display.plot(), figures / f"{stem}.png")
            if isinstance(model, TNClassifier):
                scales = CoarseGrainDisplay.from_estimator(model, X_test, (SIDE, SIDE))
                _save(scales.plot(samples=(0, 1, 2, 3)), figures / f"{stem}_scales.png")
    return scores, seconds, np.moveaxis(found, 1, 0) if found else ()


def _save(display, path):
    display.figure_.savefig(path, dpi=80)
    mpl.pyplot.close(display.figure_)


def spread(values, form):
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):{form}} ± {np.std(values):{form}}"


def main():
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar", help="folder or archive of the binary version of CIFAR-10")
    parser.add_argument("--out", type=Path, help="folder with figures/ and tables/ to write to")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", type=lambda text: text.split(";"), help="of the models")
    parser.add_argument(
        "--validate", action="store_true", help="score 2,000 of the training images instead"
    )
    parser.add_argument("--note", default="", help="a remark below the table, as on the images")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    mpl.use("Agg")
    data = X, y, *_ = tuple(images(args.cifar))
    if args.validate:
        X, X_test, y, y_test = train_test_split(X, y, test_size=2000, stratify=y, random_state=0)
        data = X, y, X_test, y_test
    figures = args.out and args.out / "figures"
    models = {
        n: m for n, m in (MODELS | BASELINES).items() if args.models is None or n in args.models
    }
    header = ["model", "seconds", "test accuracy %", "", *(f"layer {k}" for k in range(6))]
    rows = [header, ["---", "---:", "---:", "---", *["---:"] * 6]]
    for name, build in models.items():
        scores, seconds, found = measured(name, build, data, args.seeds, figures)
        first = [name, f"{np.median(seconds):.0f}", spread(scores, ".1f")]
        if not len(found):
            rows.append([*first, *[""] * 7])
        kinds = (
            ("neighbours %", 100, ".1f"),
            ("linear probe %", 100, ".1f"),
            ("silhouette", 1, ".2f"),
        )
        for (kind, unit, form), values in zip(kinds, found, strict=False):
            cells = [spread(unit * layer, form) for layer in np.transpose(values)]
            rows.append([*first, kind, *cells])
            first = ["", "", ""]
    if args.out is not None:
        caption = (
            "Accuracy of ten nearest neighbours and of logistic regression in each layer (five "
            "folds) and silhouette of the classes, on the 2,000 test images; mean ± standard "
            f"deviation over {args.seeds} seeds. Layer 0 are the pixels as the model reads them."
        )
        versions = ", ".join(f"{p} {version(p)}" for p in ("jax", "equinox", "scikit-learn"))
        machine = f"Machine: {os.cpu_count()} cores, {platform.machine()}. {versions}. {args.note}"
        body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        (args.out / "tables" / "coarse_graining.md").write_text(
            f"{caption}\n\n{body}\n\n{machine}\n"
        )


if __name__ == "__main__":
    main()
