"""Norm regularisers, and the algebra of losses and penalties."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tn4ml_plus._registry import from_json, to_json
from tn4ml_plus.losses import (
    CrossEntropy,
    LogNorm,
    Objective,
    Penalty,
    QuadraticNorm,
    ReluLogNorm,
    SquaredError,
)

REFERENCES = {
    LogNorm(): lambda n: math.log(n) ** 2,
    ReluLogNorm(): lambda n: max(0.0, math.log(n)),
    QuadraticNorm(): lambda n: (n - 1) ** 2,
}


@pytest.mark.parametrize("n", [1e-6, 0.3, 1.0, 2.5, 1e4])
@pytest.mark.parametrize("regularizer", REFERENCES, ids=str)
def test_equals_the_reference(regularizer, n):
    with jax.enable_x64(True):
        value = regularizer(jnp.log(n))
    np.testing.assert_allclose(value, REFERENCES[regularizer](n), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [1e-6, 0.3, 2.5, 1e4, 1e12])
@pytest.mark.parametrize("regularizer", REFERENCES, ids=str)
def test_gradient_equals_finite_differences(regularizer, n):
    with jax.enable_x64(True):
        x, step = math.log(n), 1e-6
        numeric = (regularizer(x + step) - regularizer(x - step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(regularizer)(x), numeric, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("log_norm", [-1e6, -100.0, 20.0, 44.1, 100.0, 1e6])
@pytest.mark.parametrize("regularizer", REFERENCES, ids=str)
def test_finite_in_float32(regularizer, log_norm):
    value, gradient = jax.value_and_grad(regularizer)(jnp.float32(log_norm))
    assert value.dtype == jnp.float32
    assert jnp.isfinite(value)
    assert jnp.isfinite(jnp.square(gradient)), "Adam's second moment overflows"


def test_quadratic_norm_of_a_vanishing_network():
    value, gradient = jax.value_and_grad(QuadraticNorm())(-jnp.inf)
    assert (value, gradient) == (1, 0)


def test_quadratic_norm_keeps_pulling_beyond_its_limit():
    with jax.enable_x64(True):
        below, above = (jax.grad(QuadraticNorm())(x) for x in (20.0 - 1e-9, 1e3))
    np.testing.assert_allclose(below, above, rtol=1e-7)


def test_composition():
    a, b, c = LogNorm(), ReluLogNorm(), QuadraticNorm()
    loss = CrossEntropy()
    expected = Objective(loss, ((0.4, a), (1.0, b), (3.0, c)))
    assert loss + 0.4 * a + b + c * 3 == expected
    assert loss + (0.4 * a + (b + 3 * c)) == expected
    assert 0.4 * a + b + 3 * c + loss == expected
    assert (loss + 0.4 * a) + (b + 3 * c) == expected
    assert np.float32(2) * (a + 0.5 * b) == Penalty(((2.0, a), (1.0, b)))
    assert hash(loss + 0.4 * a) == hash(loss + 0.4 * a)
    assert loss + 0.4 * a != loss + 0.5 * a


def test_penalty_is_the_weighted_sum():
    objective = SquaredError() + 0.4 * LogNorm() + 2 * ReluLogNorm()
    assert objective.loss == SquaredError()
    assert objective.needs_norm
    np.testing.assert_allclose(objective.penalty(3.0), 0.4 * 9 + 2 * 3, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(objective.penalty)(3.0), 0.4 * 6 + 2, rtol=1e-6)


@pytest.mark.parametrize("objective", [CrossEntropy(), Objective(CrossEntropy())])
def test_a_loss_alone_has_no_penalty(objective):
    assert objective.loss == CrossEntropy()
    assert not objective.needs_norm
    assert objective.penalty(jnp.float32(3)) == 0


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda: CrossEntropy() + CrossEntropy(),
        lambda: CrossEntropy() + 1.0,
        lambda: 2.0 * CrossEntropy(),
        lambda: (CrossEntropy() + LogNorm()) + CrossEntropy(),
        lambda: 2.0 * (CrossEntropy() + LogNorm()),
        lambda: LogNorm() + 1.0,
        lambda: LogNorm() * "0.4",
        lambda: LogNorm() * True,
        lambda: LogNorm() * LogNorm(),
        lambda: Objective(LogNorm()),
        lambda: Objective(CrossEntropy(), ((1.0, CrossEntropy()),)),
    ],
)
def test_nonsense_is_a_type_error(nonsense):
    with pytest.raises(TypeError):
        nonsense()


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_are_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match="weight"):
        weight * LogNorm()


def test_json_round_trip():
    objective = CrossEntropy(label_smoothing=0.1) + 0.4 * ReluLogNorm() + QuadraticNorm()
    rebuilt = from_json(json.loads(json.dumps(to_json(objective))))
    assert rebuilt == objective
    assert hash(rebuilt) == hash(objective)
    penalty = 0.4 * ReluLogNorm()
    assert from_json(json.loads(json.dumps(to_json(penalty)))) == penalty
