"""What is learned where the device's products are short: by sweeps all, by gradients much."""

import numpy as np
import pytest
from short_products import short_products
from sklearn.datasets import make_classification

from tn4ml_plus import TNClassifier
from tn4ml_plus.training import LBFGS, Gradient, IsometricSweep, Sweep
from tn4ml_plus.training.sweeps._sweep import SweepTrainer

X, Y = make_classification(400, 8, n_informative=6, n_classes=3, random_state=0)
# Nothing is harder to solve than the problems in the samples' own metric, shrinkage 0.
SWEEPS = {
    "two-site": ("mps", Sweep(max_epochs=2, shrinkage=0)),
    "one-site": ("mps", Sweep(1, max_epochs=2, shrinkage=0)),
    "default": ("mps", Sweep(max_epochs=2)),
    "tree": ("ttn", Sweep(max_epochs=2, shrinkage=0.1)),
    "isometric": ("ttn", IsometricSweep(max_epochs=2)),
}


def fitted(network, trainer):
    model = TNClassifier(4, network=network, n_members=1, trainer=trainer, random_state=0)
    return model.fit(X, Y)


def fitted_twice(network, trainer):
    """A classifier from whole and one from short products."""
    plain = fitted(network, trainer)
    with short_products():
        return plain, fitted(network, trainer)


def test_every_trainer_that_sweeps_is_tried():
    assert {type(trainer) for _, trainer in SWEEPS.values()} == {*SweepTrainer.__subclasses__()}


@pytest.mark.parametrize(
    "name",
    [name if name == "two-site" else pytest.param(name, marks=pytest.mark.long) for name in SWEEPS],
)
def test_sweeps_lose_nothing(name):
    plain, short = fitted_twice(*SWEEPS[name])
    # Only the size of the start is found by products that may be short.
    np.testing.assert_allclose(short.history_["loss"], plain.history_["loss"], rtol=1e-4)


@pytest.mark.parametrize(
    "trainer",
    [Gradient(max_epochs=20), pytest.param(LBFGS(max_epochs=20), marks=pytest.mark.long)],
    ids=lambda trainer: type(trainer).__name__,
)
def test_gradients_learn(trainer):
    plain, short = fitted_twice("mps", trainer)
    assert short.history_["loss"] != plain.history_["loss"]
    assert short.history_["loss"][-1] < 0.7 * short.history_["loss"][0]
    assert short.score(X, Y) == pytest.approx(plain.score(X, Y), abs=0.03)
