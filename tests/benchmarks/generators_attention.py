"""Fashion-MNIST: the attention of a transformer block generated, jointly and apart, and controls.

    python tests/benchmarks/generators_attention.py --runs FILE --out docs/tables

One block reads 49 patches of 4 x 4 pixels. Its W_Q, W_K, W_V and W_O are generated: the first three
jointly and the fourth apart, or all apart. Finished runs are kept in the file of --runs and not
done again; as many run at a time as there are cores. Test images are scored once a run.
"""

import argparse
import logging
import statistics
from pathlib import Path

from _runs import run_all
from generators import BATCH_SIZE, HASHED, RANDOM, START, data, generator
from images import now, spread, write
from side_by_side import table

N_EPOCHS = 3
WIDTH, N_HEADS, PATCH = 64, 4, 4
DENSE, REMOVED = "dense", "attention removed"
JOINT, APART = "Q, K, V jointly, O apart", "all apart"
# What the four weights are, and how they are given to it.
CONTROLS = ((DENSE, ""), (REMOVED, ""), (RANDOM, APART), ("rank 1", APART))
TREATMENTS = {
    JOINT: ("aTTN", "MERA", "aTTN, bond_dim=3", f"aTTN{START}", HASHED),
    APART: ("aTTN", "MERA", HASHED),
}
TRAININGS = (*CONTROLS, *((each, how) for how, these in TREATMENTS.items() for each in these))


def block(key, has_attention=True):
    """The classifier: patches, one block with normalisations before its two parts, a mean."""
    import equinox as eqx
    import jax

    class Transformer(eqx.Module):
        embed: eqx.nn.Linear
        place: jax.Array
        norms: list
        attention: eqx.nn.MultiheadAttention | None
        wide: eqx.nn.Linear
        narrow: eqx.nn.Linear
        head: eqx.nn.Linear

        def __call__(self, image):
            n = 28 // PATCH
            patches = image.reshape(n, PATCH, n, PATCH).transpose(0, 2, 1, 3).reshape(n * n, -1)
            x = jax.vmap(self.embed)(patches) + self.place
            if self.attention is not None:
                normal = jax.vmap(self.norms[0])(x)
                x = x + self.attention(normal, normal, normal)
            hidden = jax.nn.gelu(jax.vmap(self.wide)(jax.vmap(self.norms[1])(x)))
            x = x + jax.vmap(self.narrow)(hidden)
            return self.head(self.norms[2](x.mean(0)))

    keys = jax.random.split(key, 6)
    return Transformer(
        eqx.nn.Linear(PATCH**2, WIDTH, key=keys[0]),
        0.1 * jax.random.normal(keys[1], ((28 // PATCH) ** 2, WIDTH)),
        [eqx.nn.LayerNorm(WIDTH) for _ in range(3)],
        eqx.nn.MultiheadAttention(N_HEADS, WIDTH, key=keys[2]) if has_attention else None,
        eqx.nn.Linear(WIDTH, 2 * WIDTH, key=keys[3]),
        eqx.nn.Linear(2 * WIDTH, WIDTH, key=keys[4]),
        eqx.nn.Linear(WIDTH, 10, key=keys[5]),
    )


def four(model):
    """The weights of the attention."""
    attention = model.attention
    projections = (attention.query_proj, attention.key_proj, attention.value_proj)
    return [each.weight for each in (*projections, attention.output_proj)]


def run(treatment, how, seed, validate=False):
    """One training; validate: score the last 10,000 training images, which are left out then."""
    import jax

    from tn4ml_plus import generators

    X, y, test_X, test_y = data()
    if validate:
        X, y, test_X, test_y = X[:50000], y[:50000], X[50000:], y[50000:]
    start_key, key, order = jax.random.split(jax.random.key(seed), 3)
    start = now()
    model = block(start_key, treatment != REMOVED)
    rest = block(start_key, False)
    if treatment not in (DENSE, REMOVED):
        where = (lambda m: m.attention) if how == JOINT else four
        model = generators.compress(model, where, generator=generator(treatment), key=key)
    n_steps = N_EPOCHS * (len(X) // BATCH_SIZE)
    optimizer = generators.default_optimizer(n_steps, 1e-3 if treatment == "rank 1" else 1e-2)
    options = {"n_epochs": N_EPOCHS, "batch_size": BATCH_SIZE, "optimizer": optimizer}
    model = generators.train(model, X, y, key=order, **options).model
    seconds = now() - start
    outputs = generators.predict(model, test_X)
    return {
        "accuracy": float((outputs.argmax(1) == test_y).mean()),
        "numbers": generators.n_parameters(model) - generators.n_parameters(rest),
        "total": generators.n_parameters(model),
        "bytes": generators.n_bytes(model) - generators.n_bytes(rest),
        "seconds": seconds,
    }


def report(found, seeds):
    rows = []
    removed = [found[REMOVED, "", seed]["accuracy"] for seed in seeds]
    for treatment, how in TRAININGS:
        each = [found[treatment, how, seed] for seed in seeds]
        accuracies = [r["accuracy"] for r in each]
        gains = [a - b for a, b in zip(accuracies, removed)]
        row = [treatment, how, spread(accuracies), "" if treatment == REMOVED else spread(gains)]
        row += [f"{each[0][name]:,}" for name in ("numbers", "total", "bytes")]
        rows.append([*row, f"{statistics.mean(r['seconds'] for r in each):.0f}"])
    head = ["Q, K, V and O", "generated", "test accuracy, %", "over attention removed"]
    head += ["their numbers", "all numbers", "their bytes", "seconds"]
    return f"""\
Mean ± standard deviation over {len(seeds)} seeds, differences between runs of the same seed.
{N_EPOCHS} epochs of the 60,000 training images, batches of {BATCH_SIZE}, {WIDTH} channels,
{N_HEADS} heads; Adam with a cosine (1e-3, generators and hashed weights 1e-2, gradients clipped to
norm 1). "Hashed" has as many numbers as aTTN. Frozen weights count as none, a seed tells them.
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
