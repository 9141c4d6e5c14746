"""From a cold start to the answer, beside scikit-learn: processes, fits, rows, memory.

    python tests/benchmarks/cold_start.py --out docs/tables/cold_start.md

Contenders take turns; fresh processes are timed from outside. Nothing else should run meanwhile.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from quality import grid, machine
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.ensemble import HistGradientBoostingClassifier

SCRIPT = """
from sklearn.datasets import load_breast_cancer
X, y = load_breast_cancer(return_X_y=True)
{lines}
model.fit(X, y).predict(X[:10])
"""
FOREST = """from sklearn.ensemble import RandomForestClassifier
model = RandomForestClassifier(random_state=0)"""
OURS = """import tn4ml_plus
model = tn4ml_plus.TNClassifier(random_state=0)"""
CACHED = """import sys, tn4ml_plus
tn4ml_plus.cache_compilations(sys.argv[1])
model = tn4ml_plus.TNClassifier(random_state=0)"""
SIZES = (300, 10), (4000, 20), (40_000, 30)
PREDICTED = 5_000_000, 20
MEGABYTE = 2**20


def seconds(function):
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turns(rounds, *functions):
    """Seconds of each function in each round, (rounds, functions)."""
    return np.array([[seconds(function) for function in functions] for _ in range(rounds)])


def process(lines, *arguments):
    """A function that runs a script in a process of its own, without a folder of programs."""
    script = SCRIPT.format(lines=lines)
    kept = {name: v for name, v in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    return lambda: subprocess.run(command, check=True, env=kept)


def row(name, unit, ours, theirs, scale=1.0):
    """Medians of both, and the median and the range of their ratios in the same rounds."""
    ratios = ours / theirs
    texts = (f"{scale * np.median(values):.3g} {unit}" for values in (ours, theirs))
    spread = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
    return [name, *texts, spread]


def processes(rounds):
    """Rows of fresh processes, without and with a folder of programs."""
    with tempfile.TemporaryDirectory() as folder:
        cached = process(CACHED, folder)
        cached()
        found = in_turns(rounds, process(OURS), cached, process(FOREST))
    names = "fresh process", "fresh process, programs kept"
    for name, ours in zip(names, found.T):
        label = f"{name}: import, fit breast cancer, predict ten rows (random forest)"
        yield row(label, "s", ours, found[:, 2])


def warm_fits(rounds):
    """Rows of second fits in one process."""
    from tn4ml_plus import TNClassifier

    for n_rows, n_columns in SIZES:
        X, y = make_classification(n_rows, n_columns, n_informative=n_columns // 2, random_state=0)
        models = TNClassifier(random_state=0), HistGradientBoostingClassifier(random_state=0)
        found = in_turns(1 + rounds, *(partial(model.fit, X, y) for model in models))[1:]
        label = f"fit of {n_rows:,} x {n_columns}, compiled before (boosting)"
        yield row(label, "s", *found.T)


def one_row(rounds):
    """The row of predictions of a single row."""
    from tn4ml_plus import TNClassifier

    X, y = load_breast_cancer(return_X_y=True)
    models = TNClassifier(random_state=0), HistGradientBoostingClassifier(random_state=0)
    calls = [partial(model.fit(X, y).predict_proba, X[:1]) for model in models]
    found = in_turns(200 * rounds, *calls)[100:]
    found = np.median(found[: len(found) // rounds * rounds].reshape(rounds, -1, 2), axis=1)
    yield row("probabilities of one row (boosting)", "ms", *found.T, scale=1000.0)


def resident(name):
    """Megabytes of this process that Linux calls so."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def memory():
    """The row of the memory that predictions take, beside the data."""
    from tn4ml_plus import TNClassifier

    rng = np.random.default_rng(0)
    X = rng.normal(size=PREDICTED).astype(np.float32)
    model = TNClassifier(random_state=0).fit(X[:4000], X[:4000, 0] > 0)
    model.predict(X[: 2**17])
    # From here on the largest amount counts anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    model.predict(X)
    beyond = resident("VmHWM") - before
    data = X.nbytes / MEGABYTE
    label = f"memory to predict {PREDICTED[0]:,} x {PREDICTED[1]} (the data itself)"
    return [label, f"{beyond:.0f} MB", f"{data:.0f} MB", f"{beyond / data:.2f}"]


def main():
    """Write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="file of the markdown table")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison")
    args = parser.parse_args()
    rows = [
        *processes(args.rounds),
        *one_row(args.rounds),
        *warm_fits(args.rounds),
        memory(),
    ]
    table = grid(["what (beside)", "ours", "theirs", "ratio"], rows)
    text = (
        "From a cold start to the answer. Medians over rounds in which both take turns; ratios are "
        f"those of the same round, median and range of {args.rounds}. All have their defaults; "
        "boosting is scikit-learn's, on as many threads as there are cores.\n\n"
        f"{table}\n\n{machine()}\n"
    )
    sys.stdout.write(text)
    if args.out is not None:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
