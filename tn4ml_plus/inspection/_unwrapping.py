"""Networks inside estimators, searches and pipelines."""

import numpy as np
import quimb.tensor as qtn
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._checks import check_index


def unwrapped(estimator, X=None):
    """The fitted estimator inside searches and pipelines, and X as that one reads it."""
    if isinstance(estimator, qtn.TensorNetwork):
        raise ValueError("This is a network, not an estimator: use from_network, or the functions.")
    if hasattr(estimator, "best_index_") and not hasattr(estimator, "best_estimator_"):
        raise ValueError("The search kept no model: set refit=True and fit it again.")
    estimator = getattr(estimator, "best_estimator_", estimator)
    if not isinstance(estimator, Pipeline):
        check_is_fitted(estimator)
        return estimator, X
    if X is not None and len(estimator.steps) > 1:
        X = estimator[:-1].transform(X)
    return unwrapped(estimator[-1], X)


def members(estimator):
    """All networks of an estimator from `unwrapped`, as pairs (estimator, number)."""
    views = getattr(estimator, "views_", [estimator])
    found = [(view, m) for view in views for m in range(len(getattr(view, "networks_", ())))]
    if not found:
        raise ValueError(f"A {type(estimator).__name__} has no trained networks to inspect.")
    return found


def member_of(estimator, member, X=None):
    """One of the `members` of what is `unwrapped`, as (estimator, number, X)."""
    estimator, X = unwrapped(estimator, X)
    found = members(estimator)
    check_index("member", member, len(found), "a network")
    return *found[member], X


def alike(estimator):
    """Those of `members` that read the same as the first one, not principal components, say."""
    found = members(estimator)
    names = found[0][0].site_names()
    return [(each, m) for each, m in found if each.site_names() == names]


def grams_of(estimator, member, X):
    """Gram matrices of a network's sites, in its own order."""
    return estimator.grams(X)[estimator.orders_[member]]


def labels_of(estimator, n_outputs):
    """Names of the outputs: classes, or numbers; a single output has none."""
    names = getattr(estimator, "classes_", range(n_outputs))
    return list(map(str, names)) if n_outputs > 1 else [""]


def to_columns(values, order):
    """Values of a network's sites (nsites, ...) in the order of the columns."""
    found = np.empty_like(values)
    found[order] = values
    return found
