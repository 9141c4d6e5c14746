"""Fitting in one step, from the old state to the new one, and what all fits do."""

import copy
import functools

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted

from ..training import extend_history

_ABSENT = object()


def fits(method):
    """Decorator of methods that train: they run on a copy, whose changes are taken over at once.

    A refit that is refused or interrupted leaves the estimator as it was. An error in a first fit
    leaves what the method has kept on the copy, if that is fitted: the last good weights.
    """

    @functools.wraps(method)
    def fit(self, *args, **kwargs):
        model = copy.copy(self)
        before, was_fitted = dict(vars(model)), model.__sklearn_is_fitted__()
        try:
            method(model, *args, **kwargs)
        except (Exception, KeyboardInterrupt):
            if not was_fitted and model.__sklearn_is_fitted__():
                _take(self, before, vars(model))
            raise
        _take(self, before, vars(model))
        return self

    return fit


def reads(method):
    """Decorator of methods of fitted estimators: they see one state, however often it is replaced.

    Raises NotFittedError before fit.
    """

    @functools.wraps(method)
    def read(self, *args, **kwargs):
        model = copy.copy(self)
        if not model.__sklearn_is_fitted__():
            check_is_fitted(model)
        return method(model, *args, **kwargs)

    return read


def _take(estimator, before, after):
    """Give an estimator what changed from before to after, by one replacement of its state."""
    changed = {name: v for name, v in after.items() if before.get(name, _ABSENT) is not v}
    kept = {n: v for n, v in vars(estimator).items() if n in after or n not in before}
    estimator.__dict__ = kept | changed


def check_switches(estimator, *names):
    """ValueError for parameters that are neither true nor false."""
    for name in names:
        value = getattr(estimator, name, False)
        if not isinstance(value, bool | int | np.bool_):
            raise ValueError(f"{name} must be True or False, got {value!r}.")


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
