"""Fitted estimators from files, also of format 1, which held their attributes one by one."""

from .._registry import from_json
from .._schema import check_fields
from ..ensembles import Ensemble
from ..io import checked, labels_from_json, read
from ..tables import TableReader
from ._anomaly import View
from ._densities import BornScore, NormScore
from ._estimator import built, restored
from ._regressor import TargetScaling

# Attributes that readers and ensembles hold.
_INSIDE = ("embedding_", "orders_", "second_moments_")


def load(path):
    """Read an estimator that `save` wrote; its predictions are bit-equal.

    Nothing in the file is executed, and nothing believed: what does not fit together is refused.

    Parameters
    ----------
    path : str or path

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        Where there is no file, or a folder.
    ModelFileError
        A ValueError, for a file that was changed or damaged, is of a newer version or none of an
        estimator.
    """
    arrays, content = read(path)
    with checked(path):
        if "estimator" not in content:
            raise ValueError("it holds no estimator")
        if "state" in content:
            return built(arrays, content)
        return restored(content, _upgraded(_nested(arrays), content))


def _upgraded(arrays, metadata):
    """State of an estimator of format 1, as its `_restore` takes it."""
    found = {name: from_json(value) for name, value in metadata["attributes"].items()}
    found |= {name: labels_from_json(value) for name, value in metadata["labels"].items()}
    found |= arrays
    state = {n: v for n, v in found.items() if n.endswith("_") and n not in _INSIDE}
    if "folded" in metadata:
        return state | {"_leaves": list(found["model"]), "_folded": metadata["folded"]}
    if "views" in metadata:
        views = enumerate(metadata["views"])
        return state | {"views_": [_view(found["view"][i], view) for i, view in views]}
    embedding, scaler, levels = map(from_json, metadata["encoder"])
    names, divisors = found.get("feature_names_in_"), found.get("_divisors")
    reader = {
        "embedding": embedding,
        "scaler": scaler,
        "scaler_state": found.get("scaler", {}),
        "levels": tuple(None if each is None else tuple(each) for each in levels),
        "names": None if names is None else tuple(names),
        "unit_weights": divisors,
        "neutral": found["_neutral"],
        "divides": divisors is not None,
        "unseen_is_missing": "unseen_log_density_" in found,
        "second_moments": found.get("second_moments_"),
    }
    state["_reader"] = TableReader.from_state(reader)
    if metadata["structures"] is not None:
        ensemble = {
            "networks": list(found["network"]),
            "structures": map(from_json, metadata["structures"]),
            "orders": found["orders_"],
            "anchor": found["anchor"],
            "loss": from_json(metadata["loss"]),
            "squared": "unseen_log_density_" in found,
            "trainer_state": {n: list(v) for n, v in found.get("trainer", {}).items()},
            "n_seen": found["_n_seen"],
        }
        state["_ensemble"] = Ensemble.from_state(ensemble)
    if "_y_mean" in found:
        names = {"mean": "_y_mean", "deviation": "_y_deviation", "one_column": "_one_column"}
        target = {name: found[old] for name, old in names.items()}
        check_fields(TargetScaling, target)
        state["_target"] = TargetScaling(**target)
    return state


def _view(arrays, metadata):
    state = _upgraded(arrays, metadata)
    score = BornScore if metadata["estimator"] == "born_view" else NormScore
    unseen = {"unseen_log_density": state["unseen_log_density_"]}
    check_fields(score, unseen)
    score, seed = score(**unseen), metadata["parameters"]["random_state"]
    kept = {name: state[name] for name in ("_reader", "_ensemble", "history_", "n_iter_")}
    return View.from_state(kept | {"score": score, "random_state": seed})


def _nested(arrays):
    """Dicts of the parts of dotted names, tuples where these are numbers."""
    if not isinstance(arrays, dict) or not arrays:
        return arrays
    if "" in arrays:
        return arrays[""]
    tree = {}
    for path, array in arrays.items():
        first, _, rest = path.partition(".")
        tree.setdefault(first, {})[rest] = array
    tree = {name: _nested(part) for name, part in tree.items()}
    if all(name.isdigit() for name in tree):
        return tuple(tree[name] for name in sorted(tree, key=int))
    return tree
