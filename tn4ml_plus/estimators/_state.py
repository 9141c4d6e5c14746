"""Fitted estimators as arrays and JSON, and back, without running any code of the file."""

import jax
import jax.numpy as jnp
import numpy as np

from .._registry import from_json, lookup, snake_case, to_json
from ..contraction import pack, unpack
from ..io import labels_from_json, labels_to_json, read
from ._columns import ColumnEncoder

# What fit leaves behind besides attributes that end in an underscore.
_PRIVATE = ("_neutral", "_divisors", "_one_column", "_y_mean", "_y_deviation", "_n_seen")


def to_state(estimator):
    """Arrays and JSON metadata of a fitted estimator; ValueError for what JSON cannot hold."""
    arrays, parameters, attributes, labels = {}, {}, {}, {}
    for name, value in estimator.get_params(deep=False).items():
        try:
            parameters[name] = to_json(value)
        except TypeError as error:
            raise ValueError(
                f"The parameter {name} cannot be saved: {error} Replace it with "
                f"set_params({name}=...) first; the fitted networks stay as they are."
            ) from None
    for name, value in vars(estimator).items():
        if name in ("networks_", "views_", "model_") or not (
            name.endswith("_") or name in _PRIVATE
        ):
            continue
        if isinstance(value, np.ndarray) and (value.dtype.kind in "OU" or name == "classes_"):
            labels[name] = labels_to_json(value)
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, tuple) and any(isinstance(part, np.ndarray) for part in value):
            _put(arrays, name, value)
        else:
            attributes[name] = to_json(value)
    metadata = {
        "estimator": snake_case(type(estimator).__name__),
        "parameters": parameters,
        "attributes": attributes,
        "labels": labels,
    }
    if hasattr(estimator, "views_"):
        states = [to_state(view) for view in estimator.views_]
        for i, (view_arrays, _) in enumerate(states):
            arrays |= {f"view.{i}.{name}": value for name, value in view_arrays.items()}
        return arrays, metadata | {"views": [view_metadata for _, view_metadata in states]}
    if hasattr(estimator, "model_"):
        _put(arrays, "model", jax.tree.leaves(estimator.model_))
        return arrays, metadata | {"folded": estimator._is_folded}
    encoder = estimator._encoder
    for name, value in encoder.state.items():
        arrays[f"scaler.{name}"] = value
    parts = (encoder.embedding, encoder.scaler, encoder.levels)
    metadata["encoder"] = [to_json(part) for part in parts]
    # What is found without training has no structures.
    metadata["structures"] = None
    if hasattr(estimator, "networks_"):
        _put_training(estimator, arrays, metadata)
    return arrays, metadata


def _put_training(estimator, arrays, metadata):
    """Add what only estimators with trained networks have."""
    structures = []
    for m, network in enumerate(estimator.networks_):
        packed, structure = pack(network)
        structures.append(to_json(structure))
        _put(arrays, f"network.{m}", packed)
    _put(arrays, "anchor", estimator._anchor)
    for name, leaves in estimator._trainer_state.items():
        _put(arrays, f"trainer.{name}", leaves)
    metadata |= {"structures": structures, "loss": to_json(estimator._stored_loss())}


def load(path):
    """Read an estimator that `save` wrote; its predictions are bit-equal.

    Raises FileNotFoundError, or ValueError for a file that is damaged, newer or not of this
    library. Nothing in the file is executed.
    """
    arrays, metadata = read(path)
    try:
        return _from_state(arrays, metadata)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path} is not a complete model of this library ({error!r}): save it again with the "
            "version that wrote it."
        ) from error


def _from_state(arrays, metadata):
    if "folded" in metadata:
        from .. import image  # noqa: F401  whose variants are then known by name
    parameters = {name: from_json(value) for name, value in metadata["parameters"].items()}
    estimator = lookup("estimator", metadata["estimator"])(**parameters)
    for name, value in metadata["attributes"].items():
        setattr(estimator, name, from_json(value))
    for name, value in metadata["labels"].items():
        dtype = object if name == "feature_names_in_" else None
        setattr(estimator, name, np.asarray(labels_from_json(value), dtype))
    for name in {name.partition(".")[0] for name in arrays}:
        if name in arrays:
            setattr(estimator, name, arrays[name])
        elif name.endswith("_"):
            setattr(estimator, name, _get(arrays, name))
    if "folded" in metadata:
        estimator._restore(_get(arrays, "model"), metadata["folded"])
        return estimator
    if "views" in metadata:
        estimator.views_ = []
        for i, view in enumerate(metadata["views"]):
            prefix = f"view.{i}."
            mine = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            estimator.views_.append(_from_state(mine, view))
        return estimator
    embedding, scaler, levels = map(from_json, metadata["encoder"])
    state = {name.split(".")[1]: a for name, a in arrays.items() if name.startswith("scaler.")}
    estimator._encoder = ColumnEncoder(embedding, scaler, state, levels)
    if metadata["structures"] is None:
        return estimator
    estimator.networks_ = [
        unpack(_get(arrays, f"network.{m}"), from_json(structure))
        for m, structure in enumerate(metadata["structures"])
    ]
    estimator._loss = from_json(metadata["loss"])
    estimator._fixed = estimator._present_fixed()
    estimator._anchor = jax.tree.map(jnp.asarray, _get(arrays, "anchor"))
    trainers = {name.split(".")[1] for name in arrays if name.startswith("trainer.")}
    estimator._trainer_state = {name: list(_get(arrays, f"trainer.{name}")) for name in trainers}
    return estimator


def _put(arrays, prefix, tree):
    """Store a dict or a sequence of arrays under names that `_get` can read back."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        arrays[f"{prefix}.{key}"] = np.asarray(value)


def _get(arrays, prefix):
    """What `_put` stored: a dict, or a tuple where the names are numbers."""
    found = {
        name[len(prefix) + 1 :]: a for name, a in arrays.items() if name.startswith(prefix + ".")
    }
    if all(key.isdigit() for key in found):
        return tuple(found[key] for key in sorted(found, key=int))
    return found
