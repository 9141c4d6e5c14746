"""Small data of one size, so that the estimators' tests share compiled code."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def data():
    """X (60, 4) of very different scales, labels of three classes in three equal parts."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 20)
    X = rng.normal(size=(60, 4))
    X[:, 0] += 2.5 * y
    X[:, 1] -= 2.5 * (y == 1)
    X *= [1.0, 1e3, 1e-3, 1.0]
    order = rng.permutation(60)
    return X[order], y[order]
