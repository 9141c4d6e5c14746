"""One fit of each estimator while JAX checks that no traced value outlives its function."""

import jax
import numpy as np
import pytest
from sklearn.base import BaseEstimator

import tn4ml_plus
from tn4ml_plus.image import Variant

SMALL = {"bond_dim": 2, "max_bond": 2, "n_members": 1, "max_epochs": 1, "random_state": 0}
ESTIMATORS = [
    cls
    for cls in (getattr(tn4ml_plus, name) for name in tn4ml_plus.__all__)
    if isinstance(cls, type) and issubclass(cls, BaseEstimator)
]


@pytest.mark.long
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_no_traced_value_is_kept(cls):
    rng = np.random.default_rng(0)
    known = cls().get_params()
    options = {name: value for name, value in SMALL.items() if name in known}
    if "variant" in known:
        options["variant"] = Variant((2,), (1,), stem=(1,))
    jax.clear_caches()
    with jax.checking_leaks():
        model = cls(**options).fit(rng.normal(size=(24, 4)), np.arange(24) % 2)
    assert model.n_features_in_ == 4


def test_every_estimator_is_tried():
    assert len(ESTIMATORS) >= 6
