"""Intervals of 90 %: how many unseen targets they hold, and how wide they are.

python tests/benchmarks/intervals.py --out docs/tables/intervals.md
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from quality import grid, machine
from quality_data import regression
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from tn4ml_plus import TNRegressor
from tn4ml_plus.losses import Quantile

SHARE, SEEDS = 0.9, (0, 1, 2)
logger = logging.getLogger("intervals")


def by_deviation(model, X, y, unseen):
    """Limits of a model that returns standard deviations."""
    *before, last = model if hasattr(model, "steps") else [model]
    for step in before:
        X, unseen = step.fit(X).transform(X), step.transform(unseen)
    mean, std = last.fit(X, y).predict(unseen, return_std=True)
    width = norm.ppf((1 + SHARE) / 2) * std
    return mean - width, mean + width


def by_quantiles(models, X, y, unseen):
    """Limits of two models, each of a quantile."""
    return [model.fit(X, y).predict(unseen) for model in models]


def boosting(seed):
    """Two of scikit-learn's boosting models."""
    options = {"loss": "quantile", "random_state": seed}
    levels = (1 - SHARE) / 2, (1 + SHARE) / 2
    return [HistGradientBoostingRegressor(quantile=level, **options) for level in levels]


MODELS = {
    "TNRegressor, return_std": (by_deviation, lambda seed: TNRegressor(random_state=seed)),
    "TNRegressor, two quantiles": (
        by_quantiles,
        lambda seed: [TNRegressor(loss=Quantile(q), random_state=seed) for q in (0.05, 0.95)],
    ),
    "gradient boosting, two quantiles": (by_quantiles, boosting),
    "Gaussian process": (
        by_deviation,
        lambda seed: make_pipeline(
            StandardScaler(),
            GaussianProcessRegressor(
                RBF() + WhiteKernel(), normalize_y=True, n_restarts_optimizer=1, random_state=seed
            ),
        ),
    ),
    "Bayesian ridge": (by_deviation, lambda seed: BayesianRidge()),
}


def score(task, limits, build, seed):
    """Share held and interval score of each fold, the latter in deviations of the target."""
    for train, test in task.split(task.y, seed):
        X, unseen, y = task.X.iloc[train], task.X.iloc[test], task.y[test]
        low, high = limits(build(seed), X, task.y[train], unseen)
        outside = np.maximum(low - y, 0) + np.maximum(y - high, 0)
        paid = high - low + 2 / (1 - SHARE) * outside
        yield np.mean(outside == 0), np.mean(paid) / task.y.std()


def main():
    """Fit all models on all tasks and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    tasks, rows = regression(), []
    for name, (limits, build) in MODELS.items():
        found = np.array(
            [[list(score(task, limits, build, seed)) for task in tasks] for seed in SEEDS]
        ).mean(axis=2)
        logger.info("%s %s", name, found.mean(axis=(0, 1)).round(3))
        held, paid = found[..., 0].mean(axis=1), found[..., 1].mean(axis=1)
        shares = found[..., 0].mean(axis=0)
        row = [f"{100 * held.mean():.1f} ± {100 * held.std(ddof=1):.1f}"]
        row.append(f"{100 * shares.min():.0f} to {100 * shares.max():.0f}")
        rows.append([name, *row, f"{paid.mean():.2f} ± {paid.std(ddof=1):.2f}"])
    header = ["model", "held %", "by task", "interval score"]
    args.out.write_text(
        f"Intervals of {SHARE:.0%} on the seven tasks of regression: unseen targets that lie "
        "within, mean over the tasks and the range of these, and the interval score (Gneiting & "
        "Raftery 2007, eq. 43), the mean width and twenty times what targets lie outside, in "
        "standard deviations of the target; less is better. Mean ± standard deviation over seeds "
        f"{SEEDS[0]} to {SEEDS[-1]} of 5-fold. Every model keeps its defaults but the Gaussian "
        "process, whose "
        f"kernel has a width and noise of its own.\n\n{grid(header, rows)}\n\n{machine()}\n"
    )


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
