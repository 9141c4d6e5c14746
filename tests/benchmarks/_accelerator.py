"""What accelerator.py measures, each a function of a setting and seconds to keep to.

They return the cells of a row, in a process of their own.
"""

import contextlib
import dataclasses
import math
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from _contenders import ours, sgemm
from _ours import make_problem

from tn4ml_plus import DTTNClassifier, _precise
from tn4ml_plus.contraction import contract, log_norm_squared, pack
from tn4ml_plus.embeddings import Polynomial, Trigonometric
from tn4ml_plus.initializers import least_squares_weights
from tn4ml_plus.networks import MPS
from tn4ml_plus.training import Gradient, ImageGradient, Sweep
from tn4ml_plus.training import _gradient as gradient
from tn4ml_plus.training.images import _gradient as image_gradient

MOST_EPOCHS, ROUNDS, ROUND_SECONDS = 20, 7, 0.2
# Of more, the processor is given a tenth, and what it takes counts ten times.
MANY_ROWS = 10_000
# Large trees leave their start at the benchmarks' rate, after which all gradients are zero.
LEARNING_RATE = 1e-6
PRODUCT = {"gpu": 8192, "cpu": 2048}


def share(n_rows):
    """Number of rows that are timed, and what the seconds of an epoch are multiplied by."""
    factor = 10 if jax.default_backend() == "cpu" and n_rows > MANY_ROWS else 1
    return n_rows // factor, factor


def text(*numbers):
    """Cells of numbers."""
    texts = (f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in numbers)
    return [text.replace("nan", "not reached") for text in texts]


@contextlib.contextmanager
def crossing(module):
    """List of the bytes that each compiled epoch of a module is given in NumPy's arrays."""
    epoch, found = module._epoch, []

    def call(*args):
        arrays = (leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, np.ndarray))
        found.append(sum(array.nbytes for array in arrays))
        return epoch(*args)

    with mock.patch.object(module, "_epoch", call):
        yield found


def first_and_later(history, factor):
    """Seconds of the first epoch and the median of later ones, NaN where there were none."""
    first, *later = np.diff([0.0, *history["seconds"]])
    later = np.median(later) if later else math.nan
    return first + (factor - 1) * later if factor > 1 else first, factor * later


def embedded(case):
    """Vectors and labels of random rows, and the weights that start a network at one."""
    x, y = case.batch()
    phi = (Polynomial() if case.d == 3 else Trigonometric()).embed(x)
    return phi, y, least_squares_weights(phi[:1000])


def chain(case, weights):
    """A random chain."""
    sizes = {"bond_dim": case.D, "phys_dim": case.d, "n_outputs": case.n_classes}
    return MPS.random(case.n, **sizes, weights=weights, key=jax.random.key(0))


def trained(setting, trainer):
    """Seconds of a first epoch and of later ones of a chain on random rows."""
    case, n_rows = setting
    n_rows, factor = share(n_rows)
    phi, y, weights = embedded(dataclasses.replace(case, B=n_rows))
    history = trainer.train(make_problem(chain(case, weights), phi, y)).history
    return first_and_later(history, factor)


def timed(run, k):
    """Seconds of each of k steps."""
    start = time.perf_counter()
    run(k)
    return (time.perf_counter() - start) / k


# What accelerator.py names ------------------------------------------------------------------------


def gradients(setting, seconds):
    """Epochs of `Gradient`."""
    batches = {"batch_size": setting[0].B, "max_epochs": MOST_EPOCHS}
    with crossing(gradient) as crossed:
        found = trained(setting, Gradient(**batches, time_limit=0.6 * seconds))
    return text(*found, share(setting[1])[1] * max(crossed) / 1e6)


def sweeps(setting, seconds):
    """Two-way sweeps over two sites, all rows one batch."""
    return text(*trained(setting, Sweep(max_epochs=MOST_EPOCHS, time_limit=0.6 * seconds)))


def steps(setting, seconds):
    """Training steps beside a matrix product of the same precision, in the same rounds."""
    (case, precision), n = setting, PRODUCT[jax.default_backend()]
    end, found = time.perf_counter() + 0.7 * seconds, []
    with jax.default_matmul_precision(precision):
        step = ours(case, learning_rate=LEARNING_RATE, weights=embedded(case)[2])
        runs = step, sgemm(case, "jax", n)
        first, _ = (timed(run, 1) for run in runs)
        losses = [run(4) for run in runs]
        counts = [math.ceil(ROUND_SECONDS / timed(run, 1)) for run in runs]
        while not found or (len(found) < ROUNDS and time.perf_counter() < end):
            found.append([timed(*pair) for pair in zip(runs, counts)])
    seconds, product = np.median(found, axis=0)
    ratio = np.median([product / seconds for seconds, product in found])
    of_product, rate = f"{case.flops / (2 * n**3) * ratio:.2%}", 2e-12 * n**3 / product
    return [*text(1e3 * seconds), of_product, *text(rate, first), f"{losses[0]:.6g}"]


def images(setting, seconds):
    """Images of 32 x 32 x 3 bytes per second through `DTTNClassifier`."""
    variant, n_images, dtype = setting
    (n_images, factor), rng = share(n_images), np.random.default_rng(0)
    X = rng.integers(256, size=(n_images, 32, 32, 3), dtype=np.uint8)
    trainer = ImageGradient(dtype=None if dtype == "default" else dtype, time_limit=0.5 * seconds)
    model = DTTNClassifier(variant, max_epochs=MOST_EPOCHS, trainer=trainer, random_state=0)
    with crossing(image_gradient) as crossed:
        model.fit(X, rng.integers(10, size=n_images))
    first, later = first_and_later(model.history_, factor)
    model.predict_proba(X)
    inference = timed(lambda k: model.predict_proba(X), 1)
    kinds = ", ".join({leaf.dtype.name for leaf in jax.tree.leaves(model.model_)})
    rates = factor * n_images / later, n_images / inference
    return [trainer._dtype(), kinds, *text(first, *rates, factor * max(crossed) / 1e6)]


def digits(setting, seconds):
    """The relative error of a result of a function below, in the 2-norm."""
    del seconds
    name, *arguments = setting
    found, exact = globals()[name](*arguments)
    return [f"{np.linalg.norm(found - exact) / np.linalg.norm(exact):.1e}"]


def product(n, precision):
    """A float32 product on the device, and in double precision; precision "own": the library's."""
    a, b = np.random.default_rng(0).normal(size=(2, n, n)).astype(np.float32)
    found = _precise.matmul(a, b) if precision == "own" else jnp.matmul(a, b, precision=precision)
    return np.asarray(found, float), a.astype(float) @ b


def outputs(case, precision):
    """Outputs of a chain at a precision, and at the highest."""
    phi, _, weights = embedded(case)
    packed, structure = pack(chain(case, weights))
    for each in (precision, "highest"):
        with jax.default_matmul_precision(each):
            amplitude = jax.jit(contract, static_argnums=1)(packed, structure, phi)
        yield np.asarray(amplitude.dense(), float)


def squared_norm(case):
    """The squared norm of a chain over that in double precision, and one."""
    network = chain(case, embedded(case)[2])
    found = jax.jit(log_norm_squared, static_argnums=1)(*pack(network))
    return np.exp(float(found) - 2 * np.log(network.astype("float64").norm())), 1.0
