"""Digits: the attention of a transformer block generated, jointly and apart, and controls.

    python tests/benchmarks/generators_attention.py --runs FILE --out docs/tables

One block reads 16 patches of 2 x 2 pixels, and what a further token gathers from them by attention
is classified, so that everything goes through what is generated: W_Q, W_K and W_V jointly and W_O
apart, or all apart. Finished runs are kept in the file of --runs and not done again; as many run at
a time as there are cores. Test images are scored once a run; another fifth of the images is the
test for each seed. The generators' rate was chosen on a fifth of the training images.
"""

import argparse
import logging
import statistics
from pathlib import Path

import numpy as np
from _runs import run_all
from generators import BATCH_SIZE, HASHED, RANDOM, START, generator
from images import BASELINES, now, parts, spread, write
from side_by_side import table

N_EPOCHS = 60
# Of generators and hashed weights, best of 1e-2, 3e-3 and 1e-3; the dense ones learn with 1e-3.
RATE = 3e-3
WIDTH, N_HEADS, PATCH, N_PIXELS = 64, 4, 2, 8
DENSE = "dense"
JOINT, APART = "Q, K, V jointly, O apart", "all apart"
# What the four weights are, and how they are given to it.
CONTROLS = ((DENSE, ""), (RANDOM, APART), ("rank 1", APART))
TREATMENTS = {
    JOINT: ("aTTN", "MERA", f"aTTN{START}", HASHED),
    APART: ("aTTN", "MERA", f"aTTN{START}", HASHED),
}
TRAININGS = (*CONTROLS, *((each, how) for how, these in TREATMENTS.items() for each in these))


def block(key):
    """The classifier: a token and patches, one block with normalisations before its two parts."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class Transformer(eqx.Module):
        embed: eqx.nn.Linear
        place: jax.Array
        norms: list
        attention: eqx.nn.MultiheadAttention
        wide: eqx.nn.Linear
        narrow: eqx.nn.Linear
        head: eqx.nn.Linear

        def __call__(self, image):
            n = N_PIXELS // PATCH
            patches = image.reshape(n, PATCH, n, PATCH).transpose(0, 2, 1, 3).reshape(n * n, -1)
            x = jnp.pad(jax.vmap(self.embed)(patches), [(1, 0), (0, 0)]) + self.place
            normal = jax.vmap(self.norms[0])(x)
            x = x + self.attention(normal, normal, normal)
            hidden = jax.nn.gelu(jax.vmap(self.wide)(jax.vmap(self.norms[1])(x)))
            x = x + jax.vmap(self.narrow)(hidden)
            return self.head(self.norms[2](x[0]))

    keys = jax.random.split(key, 6)
    return Transformer(
        eqx.nn.Linear(PATCH**2, WIDTH, key=keys[0]),
        0.1 * jax.random.normal(keys[1], (1 + (N_PIXELS // PATCH) ** 2, WIDTH)),
        [eqx.nn.LayerNorm(WIDTH) for _ in range(3)],
        eqx.nn.MultiheadAttention(N_HEADS, WIDTH, key=keys[2]),
        eqx.nn.Linear(WIDTH, 2 * WIDTH, key=keys[3]),
        eqx.nn.Linear(2 * WIDTH, WIDTH, key=keys[4]),
        eqx.nn.Linear(WIDTH, 10, key=keys[5]),
    )


def four(model):
    """The weights of the attention."""
    attention = model.attention
    projections = (attention.query_proj, attention.key_proj, attention.value_proj)
    return [each.weight for each in (*projections, attention.output_proj)]


def digits(seed):
    """Training and test images with pixels in [0, 1], and their classes."""
    X, y, test_X, test_y = parts("digits", seed)
    return (X / 16).astype(np.float32), y, (test_X / 16).astype(np.float32), test_y


def run(treatment, how, seed, validate=False, rate=RATE):
    """One training; validate: score a fifth of the training images, which are left out then."""
    import jax

    from tn4ml_plus import generators

    X, y, test_X, test_y = digits(seed)
    if validate:
        n = len(X) * 4 // 5
        X, y, test_X, test_y = X[:n], y[:n], X[n:], y[n:]
    start_key, key, order = jax.random.split(jax.random.key(seed), 3)
    start = now()
    model = block(start_key)
    if treatment != DENSE:
        where = (lambda m: m.attention) if how == JOINT else four
        model = generators.compress(model, where, generator=generator(treatment), key=key)
    n_steps = N_EPOCHS * (len(X) // BATCH_SIZE)
    optimizer = generators.default_optimizer(n_steps, 1e-3 if treatment == "rank 1" else rate)
    options = {"n_epochs": N_EPOCHS, "batch_size": BATCH_SIZE, "optimizer": optimizer}
    model = generators.train(model, X, y, key=order, **options).model
    seconds = now() - start
    outputs = generators.predict(model, test_X)
    # What a generated model has in the place of the weights.
    learned = model.model if treatment != DENSE else model
    return {
        "accuracy": float((outputs.argmax(1) == test_y).mean()),
        "numbers": generators.n_parameters(learned.attention),
        "total": generators.n_parameters(learned),
        "bytes": generators.n_bytes(learned.attention),
        "seconds": seconds,
    }


def report(found, seeds):
    def accuracies(treatment, how):
        return [found[treatment, how, seed]["accuracy"] for seed in seeds]

    def minus(these, others):
        return spread([a - b for a, b in zip(these, others)])

    random = accuracies(RANDOM, APART)
    rows = []
    for treatment, how in TRAININGS:
        each = [found[treatment, how, seed] for seed in seeds]
        these = accuracies(treatment, how)
        row = [treatment, how, spread(these), "" if treatment == RANDOM else minus(these, random)]
        row += [f"{each[0][name]:,}" for name in ("numbers", "total", "bytes")]
        rows.append([*row, f"{statistics.mean(r['seconds'] for r in each):.0f}"])
    for name, make in BASELINES.items():
        scores = []
        for seed in seeds:
            X, y, test_X, test_y = digits(seed)
            scores.append(make(seed).fit(X, y).score(test_X, test_y))
        rows.append([name, "", spread(scores), minus(scores, random), "", "", "", ""])
    head = ["Q, K, V and O", "generated", "test accuracy, %", "over frozen random"]
    head += ["their numbers", "all numbers", "their bytes", "seconds"]
    return f"""\
Mean ± standard deviation over {len(seeds)} seeds, differences between runs of the same seed.
{N_EPOCHS} epochs of four fifths of the digits, batches of {BATCH_SIZE}, {WIDTH} channels,
{N_HEADS} heads; Adam with a cosine (1e-3, generators and hashed weights {RATE}, gradients clipped
to norm 1). "Hashed" has as many numbers as aTTN. Frozen weights count as none, a seed tells them.
Seconds with compilation, one core each.

{table(head, rows)}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the table")
    parser.add_argument("--runs", type=Path, help="JSON lines of finished runs")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    jobs = [(*training, seed) for seed in range(arguments.seeds) for training in TRAININGS]
    found = run_all(run, jobs, arguments.runs)
    if arguments.out is not None:
        write(arguments, "generators_attention", report(found, range(arguments.seeds)))


if __name__ == "__main__":
    main()
