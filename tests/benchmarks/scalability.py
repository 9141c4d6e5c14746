"""Seconds, accuracy and memory against rows and columns, beside the usual models.

    python tests/benchmarks/scalability.py --runs runs.jsonl --torch PYTHON \
        --out docs/tables --figures docs/figures

Each model is fitted in a process of its own by all cores, on a table in memory of float32, and
judged on 100,000 other rows; a fit that takes more than ten minutes, or more memory than there is,
ends where the model stops. Compilation counts, imports do not. Nothing else should run meanwhile.
Finished fits are kept in the file of ``--runs`` and not done again. With ``--torch``, a Python that
has PyTorch, a network of two hidden layers is trained until it is as accurate on rows set aside as
the default classifier on the test rows, or for as long as it improves. LightGBM must be importable.
About an hour on two cores.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

logger = logging.getLogger("scalability")

ROWS, COLUMNS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000), (10, 100, 1_000, 5_000, 20_000)
N_COLUMNS, N_ROWS, N_TEST = 20, 2_000, 100_000
# Numbers of the test rows at most, seconds of a fit at most, seeds of fewer rows than a million.
TEST_NUMBERS, TIMEOUT, SEEDS = 20_000_000, 600, (0, 1, 2)
OURS, MLP = "TNClassifier", "MLP (PyTorch)"
# Of the hidden layers and of a step; share and number of rows set aside; epochs without progress.
WIDTH, BATCH, ASIDE, MOST_ASIDE, PATIENCE = 128, 256, 0.1, 50_000, 10


def data(n_rows, n_columns, seed):
    """Rows, labels and the true probabilities: products of pairs, a wave, two lines and noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, n_columns), np.float32)
    z = X[:, 0] * X[:, 1] + X[:, 2] * X[:, 3] - X[:, 4] * X[:, 5]
    z += np.sin(2 * X[:, 6]) + X[:, 7] - 0.5 * X[:, 8]
    p = 1 / (1 + np.exp(-3 * z))
    return X, (rng.random(n_rows) < p).astype(np.int64), p


def tensor_network(seed):
    from tn4ml_plus import TNClassifier

    return TNClassifier(random_state=seed)


def linear(seed):
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=seed))


def boosting(seed):
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=500, early_stopping=True, random_state=seed)


class Lightgbm:
    """At most 500 trees, as many as do best on rows set aside."""

    def __init__(self, seed):
        from lightgbm import LGBMClassifier

        self.model = LGBMClassifier(n_estimators=500, random_state=seed, verbose=-1)

    def fit(self, X, y):
        from lightgbm import early_stopping

        aside = min(MOST_ASIDE, int(ASIDE * len(X)))
        stop = early_stopping(PATIENCE, verbose=False)
        return self.model.fit(
            X[aside:], y[aside:], eval_set=[(X[:aside], y[:aside])], callbacks=[stop]
        )

    def predict_proba(self, X):
        return self.model.predict_proba(X)


class Perceptron:
    """Two hidden layers, trained by Adam until they are accurate enough on rows set aside."""

    def __init__(self, seed, goal):
        import torch  # noqa: F401, before memory is counted

        self.seed, self.goal = seed, goal

    def fit(self, X, y):
        import torch
        from torch import nn

        torch.manual_seed(self.seed)
        layers = nn.Linear(X.shape[1], WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        self.network = nn.Sequential(*layers, nn.Linear(WIDTH, 1))
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3, fused=True)
        loss = nn.BCEWithLogitsLoss()
        X, y = torch.from_numpy(X), torch.from_numpy(y.astype(np.float32))
        order = torch.randperm(len(X))
        aside = order[: min(MOST_ASIDE, int(ASIDE * len(X)))]
        order, best, patience, kept = order[len(aside) :], 0.0, PATIENCE, None
        # It is asked every epoch, or every million rows.
        part = min(len(order), 1_000_000)
        while patience:
            order = order[torch.randperm(len(order))]
            for begin in range(0, len(order) - part + 1, part):
                for rows in order[begin : begin + part].split(BATCH):
                    optimizer.zero_grad(set_to_none=True)
                    loss(self.network(X[rows])[:, 0], y[rows]).backward()
                    optimizer.step()
                with torch.no_grad():
                    accuracy = ((self.network(X[aside])[:, 0] > 0) == y[aside]).float().mean()
                patience = PATIENCE if accuracy > best else patience - 1
                if accuracy > best:
                    best = float(accuracy)
                    kept = {name: v.clone() for name, v in self.network.state_dict().items()}
                if best >= self.goal or not patience:
                    self.network.load_state_dict(kept)
                    return self
        return self

    def predict_proba(self, X):
        import torch

        with torch.no_grad():
            p = torch.sigmoid(self.network(torch.from_numpy(X))[:, 0]).double().numpy()
        return np.stack([1 - p, p], axis=1)


MODELS = {
    OURS: tensor_network,
    "linear (SGDClassifier)": linear,
    "boosting (HistGradientBoosting)": boosting,
    "boosting (LightGBM)": Lightgbm,
}


def peak():
    """The most memory that this process has held, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def fit_one(folder, name, seed, goal):
    """Fit in this process; a dictionary of what was found."""
    X, y, X_test, y_test, p_test = (
        np.load(Path(folder) / f"{part}.npy") for part in ("X", "y", "X_test", "y_test", "p_test")
    )
    model = Perceptron(seed, goal) if name == MLP else MODELS[name](seed)
    if name != MLP:
        # What is imported in the first fit of a few rows; other shapes are compiled anew.
        few = np.random.default_rng(0).standard_normal((50, 3))
        MODELS[name](seed).fit(few, few[:, 0] > 0)
    # From here on the largest amount counts anew.
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak(), time.perf_counter()
    model.fit(X, y)
    seconds, taken = time.perf_counter() - start, peak() - before
    start = time.perf_counter()
    p = np.clip(model.predict_proba(X_test)[:, 1], 1e-15, 1 - 1e-15)
    return {
        "seconds": seconds,
        "predicting": time.perf_counter() - start,
        "accuracy": float(np.mean((p > 0.5) == y_test)),
        "log_loss": float(-np.mean(np.where(y_test == 1, np.log(p), np.log1p(-p)))),
        "memory": taken,
        "data": X.nbytes,
        "best_accuracy": float(np.mean((p_test > 0.5) == y_test)),
        "best_log_loss": float(-np.mean(np.log(np.where(y_test == 1, p_test, 1 - p_test)))),
    }


def in_process(python, folder, name, seed, goal):
    """What `fit_one` finds in a process of its own, or how that ended."""
    command = [python, "-W", "ignore", __file__, "--one", folder, name, str(seed), str(goal)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"ended": f"more than {TIMEOUT // 60} minutes"}
    if done.returncode < 0:
        return {"ended": "out of memory"}
    if done.returncode:
        return {"ended": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments, found):
    """Do what is not done; every result goes to the file at once."""
    sizes = [(n, N_COLUMNS) for n in ROWS] + [(N_ROWS, p) for p in COLUMNS]
    for n_rows, n_columns in sizes[:2] if arguments.quick else sizes:
        seeds = SEEDS if n_rows < 1_000_000 and n_columns <= 1_000 else SEEDS[:1]
        for seed in seeds[:1] if arguments.quick else seeds:
            names = [*MODELS, *([MLP] if arguments.torch else [])]
            keys = [(name, n_rows, n_columns, seed) for name in names]
            if all(key in found for key in keys):
                continue
            with tempfile.TemporaryDirectory() as folder:
                X, y, _ = data(n_rows, n_columns, seed)
                n_test = min(N_TEST, TEST_NUMBERS // n_columns)
                X_test, y_test, p_test = data(n_test, n_columns, 1000 + seed)
                arrays = {"X": X, "y": y, "X_test": X_test, "y_test": y_test, "p_test": p_test}
                for part, array in arrays.items():
                    np.save(Path(folder) / f"{part}.npy", array)
                del arrays, X, y, X_test, y_test, p_test
                for key in keys:
                    if key in found:
                        continue
                    goal = found.get((OURS, *key[1:]), {}).get("accuracy", 1.0)
                    python = arguments.torch if key[0] == MLP else sys.executable
                    found[key] = in_process(python, folder, key[0], seed, goal)
                    logger.info("%s %s", key, found[key])
                    with arguments.runs.open("a") as file:
                        file.write(json.dumps([key, found[key]]) + "\n")


def means(found, name, n_rows, n_columns, what):
    """Mean and sample deviation over the seeds that ended well; None, None without any."""
    runs = [v for key, v in found.items() if key[:3] == (name, n_rows, n_columns)]
    values = [run[what] for run in runs if what in run]
    if not values:
        return None, None
    return np.mean(values), np.std(values, ddof=1) if len(values) > 1 else None


def measures(found, sizes, unit):
    """Tables of models against sizes, one for each thing that was measured."""
    from side_by_side import table

    forms = {
        "seconds": ("fit, s", "#.2g", 1),
        "accuracy": ("test accuracy, %", ".1f", 100),
        "log_loss": ("test log loss, nats", ".3f", 1),
        "memory": ("memory beside the data, MB", ".0f", 1e-6),
    }
    for what, (title, form, scale) in forms.items():
        rows = []
        for name in (*MODELS, MLP):
            texts = [cell(found, (name, *size), what, form, scale) for size in sizes]
            if any(texts):
                rows.append([name, *texts])
        if f"best_{what}" in next(iter(found.values())):
            best = [cell(found, (OURS, *size), f"best_{what}", form, scale) for size in sizes]
            rows.append(["true probabilities", *best])
        head = [f"{title}; {unit}:", *(f"{size[unit == 'columns']:,}" for size in sizes)]
        yield table(head, rows)


def cell(found, key, what, form, scale):
    """Mean and deviation over seeds, or why there are none."""
    ended = [run["ended"] for k, run in found.items() if k[:3] == key and "ended" in run]
    if ended:
        return f"stops: {ended[0]}" if what == "seconds" else ""
    mean, deviation = means(found, *key, what)
    if mean is None:
        return ""
    numbers = [scale * value for value in (mean, deviation) if value is not None]
    return " ± ".join(f"{x:.0f}" if "g" in form and x >= 10 else f"{x:{form}}" for x in numbers)


def report(arguments, found):
    """Write the tables and the figure."""
    from quality import machine

    tables = [
        *measures(found, [(n, N_COLUMNS) for n in ROWS], "rows"),
        *measures(found, [(N_ROWS, p) for p in COLUMNS], "columns"),
    ]
    text = "\n\n".join([*tables, machine(["LightGBM"])])
    (arguments.out / "scalability.md").write_text(f"{text}\n")
    figure(found).savefig(arguments.figures / "scalability.png", dpi=100, bbox_inches="tight")


def figure(found):
    """Seconds and accuracy against rows and columns."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 7), layout="constrained")
    axes = drawn.subplots(2, 2, sharex="col")
    kinds = [("rows", ROWS, lambda n: (n, N_COLUMNS)), ("columns", COLUMNS, lambda p: (N_ROWS, p))]
    marks = dict(zip((*MODELS, MLP), "os^vD"))
    for column, (unit, sizes, size) in zip(axes.T, kinds):
        for axis, what, scale in zip(column, ("seconds", "accuracy"), (1, 100)):
            for name, mark in marks.items():
                points = [(n, *means(found, name, *size(n), what)) for n in sizes]
                points = [(n, scale * m, scale * (d or 0)) for n, m, d in points if m is not None]
                if points:
                    options = {"marker": mark, "label": name, "capsize": 3}
                    axis.errorbar(
                        *zip(*((n, m) for n, m, _ in points)), [d for *_, d in points], **options
                    )
        best = [(n, means(found, OURS, *size(n), "best_accuracy")[0]) for n in sizes]
        best = [(n, 100 * m) for n, m in best if m is not None]
        column[1].plot(*zip(*best), color="black", linestyle=":", label="true probabilities")
        column[0].set(xscale="log", yscale="log", ylabel="fit, s")
        others = f"{N_COLUMNS} columns" if unit == "rows" else f"{N_ROWS:,} rows"
        column[0].set_title(others)
        column[1].set(xscale="log", xlabel=unit, ylabel="test accuracy, %")
    axes[1, 0].legend(fontsize="small")
    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="file of finished fits")
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--out", type=Path, help="folder of the table")
    parser.add_argument("--figures", type=Path, help="folder of the figure")
    parser.add_argument("--quick", action="store_true", help="the two smallest, one seed")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    if arguments.one:
        folder, name, seed, goal = arguments.one
        sys.stdout.write(json.dumps(fit_one(folder, name, int(seed), float(goal))) + "\n")
        return
    lines = arguments.runs.read_text().splitlines() if arguments.runs.exists() else []
    found = {tuple(key): run for key, run in map(json.loads, lines)}
    measure(arguments, found)
    if arguments.out and arguments.figures:
        report(arguments, found)


if __name__ == "__main__":
    main()
