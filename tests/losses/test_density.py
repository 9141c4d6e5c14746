"""Losses of densities against references in float64, at any scale, and on wrong targets."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tn4ml_plus._amplitude import Amplitude
from tn4ml_plus._arrays import on_device
from tn4ml_plus._registry import from_json, resolve, to_json
from tn4ml_plus.losses import (
    LogQuadratic,
    NegativeLogLikelihood,
    Quadratic,
    SemiSupervisedLogistic,
    SemiSupervisedLogQuadratic,
)

WEIGHTS = np.array([1e-3, 0.3, 1.0, 2.5, 40.0, 2.5])
TARGETS = np.array([1, 1, 1, 1, -1, -1])


def log_quadratic(w, t, target=1.0):
    return (np.log(w) - target) ** 2


REFERENCES = {
    NegativeLogLikelihood(): lambda w, t: -np.log(w),
    LogQuadratic(): log_quadratic,
    LogQuadratic(target=-3.0): lambda w, t: log_quadratic(w, t, -3),
    Quadratic(): lambda w, t: (w - 1) ** 2,
    SemiSupervisedLogQuadratic(): lambda w, t: np.where(
        t == 1, log_quadratic(w, t), 1 / (log_quadratic(w, t) + 1e-2)
    ),
    SemiSupervisedLogQuadratic(target=2.0, epsilon=0.5): lambda w, t: np.where(
        t == 1, log_quadratic(w, t, 2), 1 / (log_quadratic(w, t, 2) + 0.5)
    ),
    SemiSupervisedLogistic(): lambda w, t: -np.log(np.where(t == 1, w, 1) / (1 + w)),
    SemiSupervisedLogistic(threshold=2.0): lambda w, t: (
        -np.log(np.where(t == 1, w, np.exp(2.0)) / (np.exp(2.0) + w))
    ),
}
every_loss = pytest.mark.parametrize("loss", REFERENCES, ids=str)


def amplitude(weights, exponent=3):
    value = np.asarray(weights) / 2.0**exponent
    return Amplitude(on_device(value), on_device(np.full(len(weights), exponent), np.int32))


def total(loss, target):
    """Of the losses, as a function of the value and the exponent."""
    return lambda value, exponent: loss(Amplitude(value, exponent), target).sum()


@every_loss
def test_equals_the_reference(loss):
    with jax.enable_x64(True):
        losses = loss(amplitude(WEIGHTS), TARGETS)
    assert losses.shape == WEIGHTS.shape
    np.testing.assert_allclose(losses, REFERENCES[loss](WEIGHTS, TARGETS), rtol=1e-12, atol=1e-14)


@every_loss
def test_gradient_equals_finite_differences(loss):
    with jax.enable_x64(True):
        value, exponent = amplitude(WEIGHTS)
        gradient = jax.grad(total(loss, TARGETS))(value, exponent)
        for i, w in enumerate(WEIGHTS):
            step = 1e-6 * w
            ahead, behind = (REFERENCES[loss](w + s, TARGETS[i]) for s in (step, -step))
            # d w = 8 d value.
            np.testing.assert_allclose(
                gradient[i], 8 * (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("target", [1, -1])
@pytest.mark.parametrize("log10", [-300, -30, -1, 0, 1, 8, 9, 30, 300])
@every_loss
def test_finite_in_single_precision(loss, log10, target):
    exponent = round(log10 * np.log2(10))
    arguments = jnp.float32([1.0, 1.9]), jnp.int32([exponent] * 2)
    targets = jnp.full(2, target)
    value, gradient = jax.value_and_grad(total(loss, targets))(*arguments)
    assert value.dtype == np.float32
    assert np.isfinite(value)
    assert np.isfinite(np.square(gradient)).all(), "Adam's second moment overflows"


@every_loss
def test_a_norm_of_zero_or_below_is_finite(loss):
    arguments = jnp.float32([0.0, -1e-7]), jnp.int32([0, 5])
    value, gradient = jax.value_and_grad(total(loss, jnp.ones(2)))(*arguments)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@every_loss
def test_power_of_two_belongs_to_the_scale(loss):
    with jax.enable_x64(True):
        ours, theirs = (loss(amplitude(WEIGHTS, e), TARGETS) for e in (-7, 40))
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "reads"),
    [
        (LogQuadratic(), False),
        (Quadratic(), False),
        (NegativeLogLikelihood(), False),
        (SemiSupervisedLogQuadratic(), True),
        (SemiSupervisedLogistic(), True),
    ],
)
def test_which_losses_read_the_target(loss, reads):
    inliers, outliers = (loss(amplitude(WEIGHTS), np.full(6, t)) for t in (1, -1))
    assert np.allclose(inliers, outliers) != reads


@pytest.mark.parametrize("loss", [SemiSupervisedLogQuadratic(), SemiSupervisedLogistic()])
def test_inliers_and_outliers_are_pushed_apart(loss):
    # Both start a little above and below: a step of descent must move them away from each other.
    weights = np.array([2.0, 2.0])
    value, exponent = amplitude(weights)
    gradient = jax.grad(total(loss, jnp.array([1, -1])))(value, exponent)
    assert gradient[0] < 0 < gradient[1]


def test_semi_supervised_equals_unsupervised_on_inliers():
    ones = np.ones(6, int)
    expected = LogQuadratic(0.5)(amplitude(WEIGHTS), ones)
    found = SemiSupervisedLogQuadratic(0.5)(amplitude(WEIGHTS), ones)
    np.testing.assert_array_equal(found, expected)


@every_loss
def test_shapes_and_task(loss):
    assert loss.task == "density"
    assert loss.needs_norm == isinstance(loss, NegativeLogLikelihood)
    with pytest.raises(ValueError, match="exactly the shape"):
        loss(amplitude(WEIGHTS), np.ones(5))
    with pytest.raises(ValueError, match="one squared norm per sample"):
        loss(Amplitude(jnp.ones((3, 2)), jnp.zeros(3, int)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="no class probabilities"):
        loss.probabilities(amplitude(WEIGHTS))


@every_loss
def test_is_a_value_that_can_be_stored(loss):
    assert from_json(json.loads(json.dumps(to_json(loss)))) == loss
    assert hash(loss) == hash(from_json(to_json(loss)))


def test_names():
    assert resolve("loss", "log_quadratic") == LogQuadratic()
    assert resolve("loss", "quadratic") == Quadratic()
    assert resolve("loss", "semi_supervised_log_quadratic") == SemiSupervisedLogQuadratic()
    assert resolve("loss", "semi_supervised_logistic") == SemiSupervisedLogistic()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogQuadratic(target=np.inf), "target must be a finite number"),
        (lambda: SemiSupervisedLogQuadratic(target="1"), "target must be a finite number"),
        (lambda: SemiSupervisedLogQuadratic(epsilon=0), "epsilon must be a finite number above 0"),
        (lambda: SemiSupervisedLogistic(threshold=None), "threshold must be a finite number"),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()
