"""All that estimators share: parameters, clones and files, and fitting in one step."""

import copy
import dataclasses
import functools
import numbers
import types
import typing
from typing import Any, ClassVar, NotRequired, TypedDict, dataclass_transform

import narwhals.stable.v2 as nw
import numpy as np
import quimb.tensor as qtn
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted

from .._checks import check
from .._compiled import interruptible
from .._forks import check_process
from .._registry import from_json, lookup, registered, to_json, variant
from .._schema import check_fields
from .._version import __version__
from ..io import from_tree, to_tree, write
from ..tables import as_source, large_table, told_once
from ..training import extend_history

# quimb's `get_params` is about arrays, and scikit-learn would take it for its own: this is how it
# asks objects, among them values in a grid, for a copy.
qtn.TensorNetwork.__sklearn_clone__ = lambda network: network.copy()

_ABSENT = object()
# The version that wrote a pickle, as scikit-learn's `_sklearn_version`.
_VERSION = "_tn4ml_plus_version"
# Numbers in a part of an array; its rows are a multiple of those of a large block or a small one.
_NUMBERS, _ROWS, _FEW_ROWS = 1 << 21, 16_384, 1024


class Fitted(TypedDict):
    """Results of fitting, as files hold them; each estimator states its own."""

    n_features_in_: int
    feature_names_in_: NotRequired[np.ndarray]


class FittedInEpochs(Fitted):
    """Results of training over epochs."""

    history_: dict[str, list]
    n_iter_: int


@dataclass_transform(eq_default=False)
def as_estimator(cls):
    """Class decorator of estimators: their fields are the parameters of the constructor."""
    return variant("estimator", frozen=False, eq=False, repr=False)(cls)


def fits(method):
    """Decorator of methods that train: they run on a copy, whose changes are taken over at once.

    A refit that is refused or interrupted leaves the estimator as it was. An error in a first fit
    leaves what the method has kept on the copy, if that is fitted: the best weights so far.
    """

    @functools.wraps(method)
    @interruptible()
    def fit(self, *args, **kwargs):
        check_process()
        model = copy.copy(self)
        before, was_fitted = dict(vars(model)), model.__sklearn_is_fitted__()
        try:
            method(model, *args, **kwargs)
            _take(self, before, vars(model))
        except (Exception, KeyboardInterrupt):
            if not was_fitted and model.__sklearn_is_fitted__():
                _take(self, before, vars(model))
            raise
        return self

    return fit


def reads(method):
    """Decorator of methods of fitted estimators: they see one state, however often it is replaced.

    Raises NotFittedError before fit.
    """

    @functools.wraps(method)
    @interruptible()
    def read(self, *args, **kwargs):
        check_process()
        model = copy.copy(self)
        if not model.__sklearn_is_fitted__():
            check_is_fitted(model)
        return method(model, *args, **kwargs)

    return read


def by_rows(method):
    """Decorator of methods of the rows of X alone: large arrays and frames are read in parts.

    What is beside an array and the results is then of bounded size.
    """

    @functools.wraps(method)
    def call(self, X, *args, **kwargs):
        if not isinstance(X, np.memmap) and (source := as_source(X)) is not None:
            names = getattr(self, "feature_names_in_", None)
            source = source if names is None else source.chosen(names)
            with told_once():
                return _joined([method(self, p.X, *args, **kwargs) for p in source.parts(_NUMBERS)])
        is_array = type(X) in (np.ndarray, np.memmap)
        # Where columns have names in one of fit and X alone, each part would warn.
        if hasattr(self, "feature_names_in_"):
            rows = None if is_array else large_table(X)
        else:
            rows = X if is_array and X.ndim == 2 and X.dtype.kind in "biuf" else None
        if rows is None:
            return method(self, X, *args, **kwargs)
        most = _NUMBERS // max(1, rows.shape[1])
        multiple = _ROWS if most >= _ROWS else _FEW_ROWS
        size = max(most // multiple, 1) * multiple
        if len(rows) <= size:
            return method(self, X, *args, **kwargs)
        parts = (
            nw.to_native(rows[i : i + size], pass_through=True) for i in range(0, len(rows), size)
        )
        with told_once():
            return _joined([method(self, part, *args, **kwargs) for part in parts])

    return call


def _joined(parts):
    """Arrays of parts of the rows, or tuples of such, as those of all."""
    if not parts:
        raise ValueError("X has no rows: give at least one.")
    if isinstance(parts[0], tuple):
        return tuple(map(np.concatenate, zip(*parts, strict=True)))
    return np.concatenate(parts)


def _take(estimator, before, after):
    """Give an estimator what changed from before to after, by one replacement of its state."""
    changed = {name: v for name, v in after.items() if before.get(name, _ABSENT) is not v}
    kept = {n: v for n, v in vars(estimator).items() if n in after or n not in before}
    estimator.__dict__ = kept | changed


class NestedParameters(BaseEstimator):
    """scikit-learn's parameters, also those of objects, as ``trainer__decay``; files of all."""

    def get_params(self, deep=True):
        """Parameters; with deep, the fields of objects among them too, as ``trainer__decay``."""
        params = super().get_params(deep=False)
        return _with_fields(params) if deep else params

    def set_params(self, **params):
        """Set parameters, or with ``trainer__decay=...`` a field of an object among them."""
        super().set_params(**{name: v for name, v in params.items() if "__" not in name})
        for name in (name for name in params if "__" in name):
            known = self.get_params()
            outer, _, field = name.rpartition("__")
            if name not in known:
                fields = [n.removeprefix(f"{outer}__") for n in known if n.startswith(f"{outer}__")]
                have = f"its fields are {', '.join(fields)}" if fields else "it has no fields"
                raise ValueError(
                    f"Invalid parameter {name!r} for {type(self).__name__}: {outer} is "
                    f"{known.get(outer)!r} and {have}. Pass an object that has the field {field}."
                )
            changed = dataclasses.replace(known[outer], **{field: params[name]})
            self.set_params(**{outer: changed})
        return self

    def _sk_visual_block_(self):
        # scikit-learn would draw a network, which has `get_params`, as an estimator inside it.
        return types.SimpleNamespace(
            kind="single",
            estimators=self,
            names=type(self).__name__,
            name_details=str(self),
            name_caption=None,
            doc_link_label=None,
            dash_wrapped=True,
        )

    def __copy__(self):
        # As copies were without `__getstate__`, which is for pickles: of the same parts.
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self):
        return super().__getstate__() | {_VERSION: __version__}

    def __setstate__(self, state):
        version = state.get(_VERSION)
        if version != __version__:
            wrote = "an earlier development version" if version is None else f"version {version}"
            raise ValueError(
                f"This pickle of a {type(self).__name__} was written by {wrote} of tn4ml_plus and "
                f"this is version {__version__}, which may have other attributes: unpickle it with "
                "the version that wrote it and call its save(path). tn4ml_plus.load reads such "
                "files of earlier versions, too."
            )
        super().__setstate__({name: value for name, value in state.items() if name != _VERSION})

    @reads
    def save(self, path):
        """Write the fitted model to one safetensors file, atomically; `tn4ml_plus.load` reads it.

        Raises NotFittedError before fit, ValueError for parameters that only code could rebuild
        (functions, classes, foreign objects), naming the parameter.
        """
        parameters = {}
        for name, value in self.get_params(deep=False).items():
            try:
                parameters[name] = to_json(value)
            except TypeError as error:
                raise ValueError(
                    f"The parameter {name} cannot be saved: {error} Replace it with "
                    f"set_params({name}=...) first; the fitted networks stay as they are."
                ) from None
        arrays = {}
        state = {name: to_tree(v, name, arrays) for name, v in self._state().items()}
        kind, name = registered(type(self)) or (None, None)
        if kind != "estimator":
            raise ValueError(
                f"The model cannot be saved, since load does not know {type(self).__name__}: "
                'decorate the class with tn4ml_plus.register("estimator").'
            )
        content = {"estimator": name, "parameters": parameters, "state": state}
        try:
            built(arrays, content)
        except ValueError as error:
            found = str(error).rstrip(".")
            raise ValueError(
                f"The model cannot be saved, since load would refuse it: {found}."
            ) from error
        write(path, arrays, content)

    #: Names and kinds of the results of fitting, a TypedDict.
    _fitted: ClassVar[type] = Fitted

    def _state(self):
        """Results of fitting by name: numbers, arrays, registered objects, lists of them."""
        known = typing.get_type_hints(self._fitted)
        return {name: value for name, value in vars(self).items() if name in known}

    def _restore(self, state):
        """Take over what `_state` gave; ValueError where it contradicts itself."""
        check_fields(self._fitted, state, type(self).__name__)
        vars(self).update(state)
        names = state.get("feature_names_in_")
        if names is not None and names.shape != (self.n_features_in_,):
            raise ValueError(
                f"there are {self.n_features_in_} columns and names of the shape {names.shape}"
            )
        history = state.get("history_", {})
        if {len(values) for values in history.values()} - {state.get("n_iter_")}:
            raise ValueError("history_ does not have n_iter_ epochs")


def built(arrays, content):
    """The estimator that a file's arrays and metadata describe; ValueError where they do not.

    Parameters
    ----------
    arrays : dict, arrays by name
    content : dict, the name of the estimator, its parameters and its state
    """
    arrays = dict(arrays)
    state = {name: from_tree(value, arrays) for name, value in content["state"].items()}
    if arrays:
        raise ValueError(f"nothing holds the arrays {', '.join(sorted(arrays))}")
    return restored(content, state)


def restored(content, state):
    """The estimator of a file's metadata with this state; see `built`."""
    parameters = {name: from_json(value) for name, value in content["parameters"].items()}
    estimator = lookup("estimator", content["estimator"])(**parameters)
    estimator._restore(state)
    return estimator


def _with_fields(params):
    """The parameters and, as ``outer__field``, the fields of objects among them, at any depth."""
    found = dict(params)
    for name, value in params.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            found |= _with_fields({f"{name}__{f.name}": getattr(value, f.name) for f in fields})
    return found


# These dataclasses make the constructors: a subclass states only the defaults that differ.


@dataclasses.dataclass(eq=False, repr=False)
class TrainingOptions(NestedParameters):
    """Parameters of everything that is trained."""

    _: dataclasses.KW_ONLY
    learning_rate: float | None = None
    max_epochs: int | None = None
    batch_size: int | None = None
    random_state: Any = None
    verbose: bool = False


@dataclasses.dataclass(eq=False, repr=False)
class ResumableOptions(TrainingOptions):
    """Parameters of what can be watched, stopped and trained further."""

    _: dataclasses.KW_ONLY
    early_stopping: bool = False
    warm_start: bool = False
    callbacks: Any = None

    #: Parameters that training on from earlier networks cannot change.
    _unchangeable = ()

    def _goes_on(self, partial_fit=False):
        """Whether training goes on from what is fitted."""
        return (partial_fit or self.warm_start) and self.__sklearn_is_fitted__()

    def _restore(self, state):
        super()._restore(state)
        self._fixed = self._present_fixed()

    def _present_fixed(self):
        return {name: getattr(self, name) for name in self._unchangeable}

    def _check_unchanged(self, what):
        """ValueError for parameters that differ from those that `what` was made with."""
        for name, first in self._fixed.items():
            value = getattr(self, name)
            if value is not first and (isinstance(value, qtn.TensorNetwork) or value != first):
                raise ValueError(
                    f"{name} was {first!r} when {what} and is {value!r} now: set it back, or fit "
                    "anew with warm_start=False."
                )


@dataclasses.dataclass(eq=False, repr=False)
class NetworkOptions(TrainingOptions):
    """Parameters of estimators with trained networks."""

    bond_dim: int | None = 8
    _: dataclasses.KW_ONLY
    n_members: int = 4
    embedding: Any = None
    network: Any = "mps"
    initializer: Any = "least_squares_identity"
    loss: Any = None
    trainer: Any = "gradient"
    scaler: Any = None
    max_categories: int | None = None
    feature_dropout: float | None = None
    decay: float | None = None

    def _reading(self):
        """Fields of the `Reading` of tables that the parameters change."""
        return {"max_categories": self.max_categories}


@dataclasses.dataclass(eq=False, repr=False)
class OutputOptions(NetworkOptions):
    """Parameters of estimators that train the outputs of networks."""

    _: dataclasses.KW_ONLY
    missing: str = "learned"
    dates: str = "cyclic"

    def _reading(self):
        learns, spreads = self.missing == "learned", self.dates == "cyclic"
        known = learns or self.missing == "averaged"
        check("missing", self.missing, known, '"learned" or "averaged"')
        check("dates", self.dates, spreads or self.dates == "linear", '"cyclic" or "linear"')
        return super()._reading() | {"learns_missing": learns, "spreads": spreads}


def check_switches(estimator):
    """ValueError for switches that are neither true nor false."""
    for name in ("early_stopping", "warm_start", "verbose"):
        value = getattr(estimator, name, False)
        if not isinstance(value, bool | int | np.bool_):
            raise ValueError(f"{name} must be True or False, got {value!r}.")


def check_repeatable(trainer, random_state):
    """ValueError where a trainer has a checkpoint that no later fit could go on from."""
    if trainer.checkpoints and not isinstance(random_state, numbers.Integral):
        raise ValueError(
            "A checkpoint needs the same random numbers again: set random_state to an integer."
        )


def split(trainer, target, classes, rng):
    """Row numbers to fit on and to validate on, None where the trainer does not stop early.

    classes: whether the target are classes, of which both parts get their share.
    """
    rows, stopping = np.arange(len(target)), getattr(trainer, "early_stopping", None)
    if stopping is None:
        return rows, None
    stratify = target if classes else None
    try:
        return train_test_split(
            rows, test_size=stopping.validation_fraction, random_state=rng, stratify=stratify
        )
    except ValueError as error:
        raise ValueError(
            f"Early stopping cannot set aside a validation set: {error} Give more samples or "
            "set early_stopping=False."
        ) from error


def extended(history, new):
    """A history with what new epochs have, None where either has no value."""
    history = {name: list(values) for name, values in history.items()}
    extend_history(history, new)
    return history
