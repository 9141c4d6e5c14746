"""Fashion-MNIST: large layers of a perceptron generated, beside controls.

    python tests/benchmarks/generators.py --runs FILE --out docs/tables

A network 784-1024-1024-10 with one or both of its large weights generated, and a smaller one,
784-1024-10, whose only large weight is generated: there nothing else can do the work. Finished runs
are kept in the file of --runs and not done again; as many run at a time as there are cores. Test
images are scored once a run. Epochs and input scale were chosen on 10,000 training images.
"""

import argparse
import logging
import statistics
from functools import partial
from pathlib import Path

import numpy as np
from _runs import run_all
from images import now, spread, write
from side_by_side import judged, table

logger = logging.getLogger("generators")

N_EPOCHS, BATCH_SIZE = 3, 64
WIDTH = 1024
# Layers of the network, and which of them are generated.
DISCRIMINATING = "first layer generated, middle removed"
BOTH = "both generated"
MIDDLE = "middle layer generated, first dense"
CASES = {
    DISCRIMINATING: ((784, WIDTH, 10), (0,)),
    BOTH: ((784, WIDTH, WIDTH, 10), (0, 1)),
    MIDDLE: ((784, WIDTH, WIDTH, 10), (1,)),
}
# What is left where the generated layers are taken away.
REMOVED = {DISCRIMINATING: (784, 10), MIDDLE: (784, WIDTH, 10)}
DECODERS = {
    "aTTN": "ATTNGenerator",
    "TTN": "TTNGenerator",
    "MERA": "MERAGenerator",
    "brick wall": "BrickWallGenerator",
}
START = ", frozen at its start"
HASHED, RANDOM, DENSE, LAYER_REMOVED = "hashed", "frozen random", "dense", "layer removed"
PRUNED, PRUNED_EQUALLY = "pruned to 1 %, int8", "pruned to the bytes of aTTN, int8"
TREATMENTS = {
    DISCRIMINATING: (
        *(DENSE, LAYER_REMOVED, RANDOM, *DECODERS, *(f"{name}{START}" for name in DECODERS)),
        *("aTTN, row-major", "aTTN, bond_dim=3", "aTTN, int8", HASHED, "rank 1", "rank 4"),
        *(PRUNED, PRUNED_EQUALLY),
    ),
    BOTH: (DENSE, RANDOM, *DECODERS, f"aTTN{START}", HASHED, "rank 1", PRUNED),
    MIDDLE: (LAYER_REMOVED, RANDOM, "aTTN", f"aTTN{START}", HASHED),
}
# Of the aTTN in the discriminating case: test accuracy and gain over its start, at least, in %.
ACCURACY_GOAL, GAIN_GOAL = 85.0, 2.5
# These learn at the rate of dense weights, generators ten times as fast.
SLOW = ("rank", "pruned")


def network(sizes, key):
    """Linear layers with rectifiers between, from He's start."""
    import equinox as eqx
    import jax

    class Network(eqx.Module):
        layers: list

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = jax.nn.relu(layer(x))
            return self.layers[-1](x)

    layers = []
    for n_in, n_out, each in zip(sizes, sizes[1:], jax.random.split(key, len(sizes))):
        layer = eqx.nn.Linear(n_in, n_out, key=each)
        weight = np.sqrt(2 / n_in) * jax.random.normal(each, (n_out, n_in))
        new = weight, 0 * layer.bias
        layers.append(eqx.tree_at(lambda m: (m.weight, m.bias), layer, new))
    return Network(layers)


def generator(treatment):
    """What takes the place of a weight: called with a shape and key=."""
    from _generator_controls import Free, Hashed, LowRank, frozen

    from tn4ml_plus import generators

    if treatment.endswith(START):
        return frozen(generator(treatment.removesuffix(START)))
    if treatment == RANDOM:
        return frozen(Free)
    if treatment == HASHED:
        return lambda shape, key: Hashed(shape, key, generator("aTTN")(shape, key=key).n_parameters)
    if treatment.startswith("rank"):
        return partial(LowRank, rank=int(treatment.split()[1]))
    name, *option = treatment.split(", ")
    options = {}
    if option == ["row-major"]:
        options["tensorisation"] = generators.RowMajor()
    elif option and option[0].startswith("bond_dim"):
        options["bond_dim"] = int(option[0].split("=")[1])
    return partial(getattr(generators, DECODERS[name]), **options)


def pruned(treatment):
    """Function of a trained weight and a key that keeps its largest entries, three bytes each."""
    from _generator_controls import Pruned

    def make(weight, key):
        if treatment == PRUNED:
            return Pruned(weight, weight.size // 100)
        return Pruned(weight, generator("aTTN")(weight.shape, key=key).n_bytes // 3)

    return make


def data():
    """Training and test images of mean 0 and deviation 1, and their classes."""
    from tn4ml_plus.datasets import load_fashion_mnist

    images, y, test_images, test_y = load_fashion_mnist()
    mean, deviation = images.mean(), images.std()
    flat, test = (
        ((each.reshape(len(each), -1) - mean) / deviation).astype(np.float32)
        for each in (images, test_images)
    )
    return flat, y, test, test_y


def run(case, treatment, seed, validate=False, n_epochs=N_EPOCHS):
    """One training; validate: score the last 10,000 training images, which are left out then."""
    import jax

    from tn4ml_plus import generators
    from tn4ml_plus.generators._compressed import compressed

    X, y, test_X, test_y = data()
    if validate:
        X, y, test_X, test_y = X[:50000], y[:50000], X[50000:], y[50000:]
    start_key, key, order, more = jax.random.split(jax.random.key(seed), 4)
    sizes, chosen = CASES[case]
    if treatment == LAYER_REMOVED:
        sizes, chosen = REMOVED[case], ()

    def where(model):
        return [model.layers[i] for i in chosen]

    def trained(model, n_epochs, key):
        n_steps = n_epochs * (len(X) // BATCH_SIZE)
        rate = 1e-3 if treatment.startswith(SLOW) else 1e-2
        optimizer = generators.default_optimizer(n_steps, rate)
        options = {"n_epochs": n_epochs, "batch_size": BATCH_SIZE, "optimizer": optimizer}
        return generators.train(model, X, y, key=key, **options).model

    start = now()
    model = network(sizes, start_key)
    is_pruned = treatment.startswith("pruned")
    is_dense = treatment in (DENSE, LAYER_REMOVED) or is_pruned
    if not is_dense:
        model = generators.compress(model, where, generator=generator(treatment), key=key).model
    model = trained(model, n_epochs, order)
    if is_pruned:
        model = compressed(model, where, pruned(treatment), key).model
    if treatment.endswith("int8"):
        model = model if is_pruned else generators.quantise(model, 8)
        model = trained(model, 1, more)
    seconds = now() - start
    outputs = generators.predict(model, test_X)
    weights = [layer.weight for layer in where(model)]
    return {
        "accuracy": float((outputs.argmax(1) == test_y).mean()),
        "numbers": generators.n_parameters(weights),
        "total": generators.n_parameters(model),
        "bytes": generators.n_bytes(weights),
        "seconds": seconds,
    }


def report(found, seeds):
    def runs(case, treatment):
        return [r for seed in seeds if (r := found.get((case, treatment, seed)))]

    def gains(case, treatment, other):
        pairs = zip(runs(case, treatment), runs(case, other))
        return [a["accuracy"] - b["accuracy"] for a, b in pairs]

    head = ["large weights", "test accuracy, %", "over its start", "over hashed", "over random"]
    head += ["numbers", "bytes", "seconds"]
    text = []
    for case, (sizes, _) in CASES.items():
        rows = []
        for treatment in TREATMENTS[case]:
            each = runs(case, treatment)
            accuracies = [r["accuracy"] for r in each]
            accuracy = spread(accuracies)
            over = ["", "", ""]
            if treatment in DECODERS:
                others = (f"{treatment}{START}", HASHED, RANDOM)
                over = [spread(g) if (g := gains(case, treatment, o)) else "" for o in others]
            if (case, treatment) == (DISCRIMINATING, "aTTN"):
                accuracy = judged(100 * statistics.mean(accuracies), accuracy, ACCURACY_GOAL)
                gain = 100 * statistics.mean(gains(case, "aTTN", f"aTTN{START}"))
                over[0] = judged(gain, over[0], GAIN_GOAL)
            numbers = [f"{each[0][name]:,}" for name in ("numbers", "bytes")]
            seconds = f"{statistics.mean(r['seconds'] for r in each):.0f}"
            rows.append([treatment, accuracy, *over, *numbers, seconds])
        rest = runs(case, RANDOM)[0]["total"]
        network = "-".join(map(str, sizes))
        text.append(f"### {case.capitalize()}\n\nA network {network}; the rest of it has {rest:,} ")
        text[-1] += f"numbers.\n\n{table(head, rows)}\n"
    return f"""\
Mean ± standard deviation over {len(seeds)} seeds, differences between runs of the same seed.
{N_EPOCHS} epochs of the 60,000 training images, batches of {BATCH_SIZE}, Adam with a cosine
(1e-3, generators and hashed weights 1e-2, gradients clipped to norm 1); what is rounded to int8 is
trained one epoch more. Pruned: the largest entries of the dense network's trained weights, three
bytes each. "Hashed" has as many numbers as aTTN; the smallest low rank, 1, has more. Frozen weights
count as none, a seed tells them. Trees are paired unless said otherwise. Seconds with compilation,
one core each.

{chr(10).join(text)}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the table")
    parser.add_argument("--runs", type=Path, help="JSON lines of finished runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--case", help="start of the names of cases to run; default all")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    jobs = [
        (case, treatment, seed)
        for case in CASES
        if case.startswith(arguments.case or "")
        for seed in range(arguments.seeds)
        for treatment in TREATMENTS[case]
    ]
    found = run_all(run, jobs, arguments.runs)
    if arguments.out is not None:
        write(arguments, "generators_fashion_mnist", report(found, range(arguments.seeds)))


if __name__ == "__main__":
    main()
