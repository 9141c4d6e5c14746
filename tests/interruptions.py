"""Trainings that are killed or interrupted at random moments, and what is left of them.

``python tests/interruptions.py --kills 100 --interrupts 200`` kills processes that train with a
checkpoint, has others go on, and compares their ends with those of trainings that were never cut
off; and has Ctrl-C come into fits, refits, parts of data and predictions. It fails where an end
differs by a bit, or a model is neither the one before nor what is documented.
"""

import argparse
import collections
import functools
import hashlib
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tn4ml_plus import (
    DTTNClassifier,
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    cache_compilations,
    generators,
)
from tn4ml_plus.embeddings import Legendre
from tn4ml_plus.image import Variant
from tn4ml_plus.training import (
    LBFGS,
    Checkpoint,
    EarlyStopping,
    Gradient,
    ImageGradient,
    IsometricSweep,
    RandomCrop,
    Sequential,
    Sweep,
)

RNG = np.random.default_rng(0)
X, IMAGES = RNG.normal(size=(150, 5)), RNG.random((60, 4, 4))
LABELS, OTHERS = np.arange(150) % 3, np.arange(150) % 2
CHAIN = {"bond_dim": 3, "n_members": 2, "random_state": 0, "embedding": Legendre(2)}
VARIANT = Variant((2,), (1,), stem=(1,))


def digest(*arrays):
    """A digest of arrays, bit by bit."""
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()


def predicted(model, values=X):
    """What a model makes of rows."""
    names = "predict_proba", "score_samples", "predict"
    found = next(getattr(model, name) for name in names if hasattr(model, name))(values)
    assert np.isfinite(found).all()
    return found


def trained(estimator, trainer, path, **options):
    """Predictions of a table's model that is trained with a checkpoint."""
    checkpoint = path and Checkpoint(path, every=2)
    model = estimator(**CHAIN | options, trainer=trainer(checkpoint=checkpoint))
    target = () if "Born" in estimator.__name__ or "Anomaly" in estimator.__name__ else (LABELS,)
    return predicted(model.fit(X, *target))


def in_sequence(path):
    """Predictions of a classifier trained by sweeps and then gradients."""
    first, second = (path and f"{path}-{name}" for name in "ab")
    trainer = Sequential(
        (Sweep(max_epochs=5, checkpoint=first), Gradient(max_epochs=60, checkpoint=second))
    )
    return predicted(TNClassifier(**CHAIN, trainer=trainer).fit(X, LABELS))


def of_images(path):
    """Predictions of an image model."""
    trainer = ImageGradient(max_epochs=100, checkpoint=path)
    model = DTTNClassifier(VARIANT, trainer=trainer, random_state=0, augmentations=(RandomCrop(1),))
    return predicted(model.fit(IMAGES, LABELS[:60]), IMAGES)


def generated(path):
    """Weights of a generator fitted to a matrix."""
    start = generators.TTNGenerator((16, 16), key=jax.random.key(0), bond_dim=2)
    weights = np.sin(np.add.outer(np.arange(16), np.arange(16)))
    found = generators.fit(start, weights, key=jax.random.key(1), n_steps=20_000, checkpoint=path)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.generator)])


TRAININGS = {
    "Gradient, classifier": functools.partial(
        trained, TNClassifier, functools.partial(Gradient, max_epochs=300, feature_dropout=0.1)
    ),
    "Gradient, regressor, early stopping": functools.partial(
        trained,
        TNRegressor,
        functools.partial(Gradient, max_epochs=300, early_stopping=EarlyStopping(300)),
    ),
    "Gradient, committee of densities": functools.partial(
        trained, TNAnomalyDetector, functools.partial(Gradient, max_epochs=100)
    ),
    "LBFGS": functools.partial(trained, TNClassifier, functools.partial(LBFGS, max_epochs=15)),
    "Sweep": functools.partial(trained, TNClassifier, functools.partial(Sweep, max_epochs=15)),
    "Sweep, Born machine": functools.partial(
        trained, TNBornMachine, functools.partial(Sweep, max_epochs=10)
    ),
    "IsometricSweep": functools.partial(
        trained, TNClassifier, functools.partial(IsometricSweep, max_epochs=10), network="ttn"
    ),
    "Sequential": in_sequence,
    "ImageGradient": of_images,
    "generators.fit": generated,
}


def child(train, path, queue):
    """Train in a process of its own, and send a digest of the end."""
    warnings.simplefilter("ignore")
    cache_compilations()
    queue.put(digest(train(path)))


def ended(train, path, seconds=None):
    """The digest of a training in another process, None where it was killed after some time."""
    # Forked before JAX has run here, so that nothing is imported anew.
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(train, path, queue))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return None if queue.empty() else queue.get()


def kill(n_kills, rng):
    """Kill trainings until there were so many, and each has then come to its end."""
    counts = collections.Counter()
    whole = {}
    for name, train in TRAININGS.items():
        ended(train, None)  # which compiles
        started = time.monotonic()
        whole[name] = ended(train, None), time.monotonic() - started
        assert whole[name][0], name
    names = itertools.cycle(TRAININGS)
    while counts["killed"] < n_kills:
        name, found = next(names), None
        expected, seconds = whole[name]
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(20):
                found = ended(TRAININGS[name], f"{folder}/run", rng.uniform(0.3, 1.2) * seconds)
                counts["killed"] += found is None
                counts["with a checkpoint"] += found is None and any(Path(folder).iterdir())
                if found:
                    break
            found = found or ended(TRAININGS[name], f"{folder}/run")
        counts["ends"] += 1
        counts["FAULT: another end"] += found != expected
        if found != expected:
            sys.stdout.write(f"{name} ended otherwise\n")
    return counts


def interrupted(function, seconds):
    """Whether Ctrl-C, which comes after some time, was in time for a function."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
        function()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    finally:
        signal.signal(signal.SIGALRM, before)
    return False


MODELS = {
    "Gradient": TNClassifier(**CHAIN, trainer=Gradient(max_epochs=30)),
    "choice of candidates": TNClassifier(max_epochs=20, n_members=2, random_state=0),
    "early stopping": TNClassifier(**CHAIN, max_epochs=40, early_stopping=True),
    "regressor": TNRegressor(**CHAIN, trainer=Gradient(max_epochs=30)),
    "detector": TNAnomalyDetector(bond_dim=3, n_members=3, max_epochs=10, random_state=0),
    "Born machine": TNBornMachine(**CHAIN, trainer=Gradient(max_epochs=30)),
    "Sweep": TNClassifier(**CHAIN, trainer=Sweep(max_epochs=8)),
    "IsometricSweep": TNClassifier(**CHAIN, network="ttn", trainer=IsometricSweep(max_epochs=8)),
    "LBFGS": TNClassifier(**CHAIN, trainer=LBFGS(max_epochs=8)),
    "Sequential": TNClassifier(**CHAIN, trainer=[Sweep(max_epochs=4), Gradient(max_epochs=10)]),
    "images": DTTNClassifier(VARIANT, max_epochs=20, random_state=0),
}


class Subject:
    """A kind of model, what is done to it, and what its predictions are where nothing comes.

    Parameters
    ----------
    model : estimator, not fitted
    """

    def __init__(self, model):
        self.model = model
        self.rows, target = (IMAGES, OTHERS[:60]) if hasattr(model, "variant") else (X, OTHERS)
        self.target = (target,) if hasattr(model, "predict_proba") else (X[:, 0],)
        # Of other rows, so that a refit has much to change.
        self.before = clone(model).fit(self.rows[::-1], *self.target)
        self.ends = {}
        for name in ("fit", "refit", "partial_fit", "predict"):
            try:
                self.at(name, 1e9)  # compiles
            except (AttributeError, ValueError):
                continue  # not all train on parts
            started = time.monotonic()
            model, _ = self.at(name, 1e9)
            self.ends[name] = digest(predicted(model, self.rows)), time.monotonic() - started

    def at(self, name, seconds):
        """A model to which something was done, interrupted after some time; and whether it was."""
        model = clone(self.model)
        if name != "fit":
            model.__setstate__(self.before.__getstate__())
        action = functools.partial(predicted, model, self.rows)
        if name != "predict":
            action = functools.partial(
                getattr(model, name.removeprefix("re")), self.rows, *self.target
            )
        return model, interrupted(action, seconds)

    def fault(self, name, seconds):
        """What is wrong after an interrupt, or how well it went."""
        model, came = self.at(name, seconds)
        if not came:
            return "too late"
        if name == "fit":
            try:
                predicted(model, self.rows)
                if hasattr(model, "n_iter_") and model.n_iter_ < 1:
                    return "FAULT: a model of no epoch"
                words = "first fit: weights so far"
            except NotFittedError:
                words = "first fit: not fitted"
            model.fit(self.rows, *self.target)
            return words if self.same(model, "fit") else "FAULT: the next fit differs"
        same = digest(predicted(model, self.rows)) == digest(predicted(self.before, self.rows))
        return f"{name}: the model before" if same else f"FAULT: {name} changed the model"

    def same(self, model, name):
        """Whether predictions are those of what was never interrupted."""
        return digest(predicted(model, self.rows)) == self.ends[name][0]


def interrupts(n_interrupts, rng):
    """Interrupt what models do until so many interrupts have come."""
    counts, subjects = collections.Counter(), {}
    for name in itertools.cycle(MODELS):
        if sum(n for words, n in counts.items() if words != "too late") >= n_interrupts:
            return counts
        if name not in subjects:
            subjects[name] = Subject(MODELS[name])
        for action, (_, seconds) in subjects[name].ends.items():
            words = subjects[name].fault(action, rng.uniform(0, 0.9) * seconds)
            counts[words] += 1
            if words.startswith("FAULT"):
                sys.stdout.write(f"{name}, {action}: {words}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--interrupts", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(options.seed)
    # Forks come before JAX runs in this process.
    counts = kill(options.kills, rng) if options.kills else collections.Counter()
    counts |= interrupts(options.interrupts, rng) if options.interrupts else {}
    for words, number in counts.items():
        sys.stdout.write(f"{words}: {number}\n")
    sys.exit(any(number for words, number in counts.items() if words.startswith("FAULT")))


if __name__ == "__main__":
    main()
