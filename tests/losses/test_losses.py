"""Per-sample losses against references in float64, at extreme scales, and on wrong targets."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from sklearn.metrics import log_loss

from tn4ml_plus._amplitude import Amplitude
from tn4ml_plus._arrays import on_device
from tn4ml_plus._registry import from_json, resolve, to_json
from tn4ml_plus.losses import (
    BornCrossEntropy,
    CallableLoss,
    CrossEntropy,
    Huber,
    OptaxLoss,
    Quantile,
    SquaredError,
    unsmoothed,
)

BATCH, N_OUTPUTS = 7, 4
CLASSIFICATION = [
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    BornCrossEntropy(),
    BornCrossEntropy(label_smoothing=0.2, epsilon=1e-3),
    OptaxLoss("softmax_cross_entropy_with_integer_labels"),
    OptaxLoss("poly_loss_cross_entropy", {"epsilon": 1.0}),
    CallableLoss(optax.losses.multiclass_hinge_loss, task="classification"),
]
REGRESSION = [
    SquaredError(),
    Huber(delta=0.5),
    Quantile(0.9),
    OptaxLoss("log_cosh"),
    OptaxLoss("huber_loss", (("delta", 2.0),)),
    CallableLoss(optax.losses.l2_loss),
]


# Not str: a function's address in a name would differ between the test runner's processes.
def label(loss):
    """Name of a loss in test ids."""
    return type(loss).__name__


ALL = CLASSIFICATION + REGRESSION


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def amplitude_and_target(loss, seed=0, exponent=3):
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(BATCH, N_OUTPUTS)) / 2.0**exponent
    amplitude = Amplitude(on_device(value), on_device(np.full(BATCH, exponent), np.int32))
    if loss.task == "classification":
        return amplitude, on_device(rng.integers(0, N_OUTPUTS, size=BATCH))
    return amplitude, on_device(rng.normal(size=(BATCH, N_OUTPUTS)))


def gradient(loss, amplitude, target):
    """Of the summed loss with respect to the outputs."""
    total = lambda value: loss(Amplitude(value, amplitude.exponent), target).sum()  # noqa: E731
    return jax.jit(jax.grad(total))(amplitude.value)


def smooth(target, label_smoothing):
    return np.eye(N_OUTPUTS)[target] * (1 - label_smoothing) + label_smoothing / N_OUTPUTS


def reference(loss, amplitude, target):
    """The loss in plain numpy (optax for its own functions), from outputs as plain numbers."""
    outputs = np.asarray(amplitude.value) * 2.0 ** np.asarray(amplitude.exponent)[:, None]
    target = np.asarray(target)
    match loss:
        case CrossEntropy(label_smoothing=s):
            p = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
            return -(smooth(target, s) * np.log(p)).sum(1)
        case BornCrossEntropy(label_smoothing=s, epsilon=epsilon):
            p = outputs**2 + epsilon * (outputs**2).sum(1, keepdims=True)
            return -(smooth(target, s) * np.log(p / p.sum(1, keepdims=True))).sum(1)
        case SquaredError():
            return ((outputs - target) ** 2).mean(1)
        case Huber(delta=d):
            r = np.abs(outputs - target)
            return np.where(r <= d, r**2 / 2, d * (r - d / 2)).mean(1)
        case Quantile(level=q):
            r = target - outputs
            return np.where(r > 0, q * r, (q - 1) * r).mean(1)
        case OptaxLoss(name="poly_loss_cross_entropy"):
            return optax.losses.poly_loss_cross_entropy(outputs, np.eye(4)[target], epsilon=1.0)
        case OptaxLoss(name="softmax_cross_entropy_with_integer_labels"):
            return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, target)
        case OptaxLoss(name="log_cosh"):
            return np.log(np.cosh(outputs - target)).mean(1)
        case OptaxLoss(name="huber_loss"):
            return reference(Huber(2.0), amplitude, target)
        case CallableLoss(task="regression"):
            return ((outputs - target) ** 2).mean(1) / 2
        case CallableLoss():
            return optax.losses.multiclass_hinge_loss(outputs, target)


@pytest.mark.parametrize("loss", ALL, ids=label)
def test_equals_the_reference(loss, x64):
    amplitude, target = amplitude_and_target(loss)
    losses = jax.jit(loss)(amplitude, target)
    assert losses.shape == (BATCH,)
    np.testing.assert_allclose(losses, reference(loss, amplitude, target), rtol=1e-12)


@pytest.mark.parametrize("loss", ALL, ids=label)
def test_gradient_equals_finite_differences(loss, x64):
    amplitude, target = amplitude_and_target(loss, seed=1, exponent=0)
    check_grads(
        jax.jit(lambda value: loss(amplitude._replace(value=value), target)),
        (np.asarray(amplitude.value),),
        order=1,
        eps=1e-6,
        modes=("rev",),
        rtol=1e-6,
    )


@pytest.mark.parametrize("loss", ALL, ids=label)
def test_float32_stays_float32(loss):
    amplitude, target = amplitude_and_target(loss)
    assert loss(amplitude, target).dtype == jnp.float32


def test_cross_entropy_is_log_loss(x64):
    amplitude, target = amplitude_and_target(CrossEntropy())
    probabilities = CrossEntropy().probabilities(amplitude)
    mean = log_loss(target, probabilities, labels=range(N_OUTPUTS))
    np.testing.assert_allclose(CrossEntropy()(amplitude, target).mean(), mean, rtol=1e-12)


def test_label_smoothing_bounds_the_loss_of_the_best_outputs(x64):
    # The minimum over outputs is the entropy of the smoothed target, reached at p = q.
    q = np.array([[0.85, 0.05, 0.05, 0.05]])
    at_target = Amplitude(jnp.log(q), jnp.zeros(1, int))
    entropy = -(q * np.log(q)).sum()
    target = jnp.array([0])
    np.testing.assert_allclose(CrossEntropy(label_smoothing=0.2)(at_target, target)[0], entropy)
    confident = Amplitude(jnp.array([[100.0, 0, 0, 0]]), jnp.zeros(1, int))
    assert CrossEntropy(label_smoothing=0.2)(confident, target)[0] > 10 * entropy


@pytest.mark.parametrize("loss", CLASSIFICATION, ids=label)
def test_probabilities_sum_to_one(loss):
    amplitude, _ = amplitude_and_target(loss)
    probabilities = loss.probabilities(amplitude)
    assert probabilities.shape == (BATCH, N_OUTPUTS)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("cls", [CrossEntropy, BornCrossEntropy])
def test_probabilities_are_those_without_label_smoothing(cls):
    loss, p = cls(label_smoothing=0.2), np.array([[0.7, 0.2, 0.06, 0.04]])
    # Outputs at the minimum of the smoothed loss, which the probabilities of the data give.
    q = 0.8 * p + 0.2 / 4
    outputs = np.log(q) if cls is CrossEntropy else np.sqrt(q)
    amplitude = Amplitude(jnp.array(outputs), jnp.zeros(1, int))
    np.testing.assert_allclose(loss.probabilities(amplitude), p, rtol=1e-5)
    # Outputs beyond that, which no probability explains.
    sure = Amplitude(
        jnp.array([[9.0, 0, 0, 0]]) ** (1 if cls is CrossEntropy else 9), jnp.zeros(1, int)
    )
    found = np.asarray(loss.probabilities(sure))[0]
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found[1:], 5e-4 / (0.95 + 15e-4), rtol=1e-2)
    assert unsmoothed(p, 0.0) is p


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_cross_entropy_of_extreme_logits_is_finite(size):
    amplitude = Amplitude(jnp.array([[0.5, -1.0, 1.0]] * 2) * size, jnp.zeros(2, int))
    target = jnp.array([0, 2])
    for loss in (CrossEntropy(), CrossEntropy(label_smoothing=0.1)):
        assert jnp.isfinite(loss(amplitude, target)).all()
        assert jnp.isfinite(gradient(loss, amplitude, target)).all()
    np.testing.assert_allclose(CrossEntropy()(amplitude, target), [size / 2, 0], rtol=1e-6)


def test_softmax_survives_outputs_beyond_the_dtype():
    amplitude = Amplitude(jnp.array([[0.5, -1.0, 1.0], [1.0, 1.0, 0.0]]), jnp.full(2, 5000))
    probabilities = CrossEntropy().probabilities(amplitude)
    np.testing.assert_allclose(probabilities, [[0, 0, 1], [0.5, 0.5, 0]], atol=1e-7)
    losses = CrossEntropy()(amplitude, jnp.array([2, 0]))
    np.testing.assert_allclose(losses, [0, np.log(2)], atol=1e-6)


@pytest.mark.parametrize("exponent", [-(10**6), 0, 10**6])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_born_ignores_the_scale(size, exponent):
    value = jnp.array([[0.5, -1.0, 1.0]])
    scaled = Amplitude(value * size, jnp.array([exponent]))
    target = jnp.array([1])
    expected = BornCrossEntropy()(Amplitude(value, jnp.array([0])), target)
    np.testing.assert_allclose(BornCrossEntropy()(scaled, target), expected, rtol=1e-5)


def test_born_gradient_is_finite_at_zero():
    amplitude = Amplitude(jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.zeros(2, int))
    target = jnp.array([0, 0])
    loss = BornCrossEntropy()
    np.testing.assert_allclose(loss(amplitude, target), [-np.log(1e-7), np.log(2)], rtol=1e-5)
    # The loss is even in every output and constant along a ray, so the gradient is zero here.
    np.testing.assert_allclose(gradient(loss, amplitude, target), 0, atol=1e-5)


@pytest.mark.parametrize("label", [-1, N_OUTPUTS])
@pytest.mark.parametrize("loss", CLASSIFICATION, ids=label)
def test_a_class_out_of_range_gives_nan(loss, label):
    amplitude, target = amplitude_and_target(loss)
    losses = loss(amplitude, target.at[2].set(label))
    assert jnp.isnan(losses).tolist() == [i == 2 for i in range(BATCH)]


@pytest.mark.parametrize("loss", CLASSIFICATION, ids=label)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (jnp.zeros(BATCH - 1, int), "one class index per sample"),
        (jnp.zeros(1, int), "one class index per sample"),
        (jnp.zeros((BATCH, 1), int), "one class index per sample"),
        (jnp.zeros((BATCH, N_OUTPUTS)), "argmax"),
        (jnp.zeros(BATCH), "integers"),
        (jnp.zeros(BATCH, bool), "integers"),
    ],
)
def test_wrong_class_targets_are_refused_while_tracing(loss, target, message):
    amplitude, _ = amplitude_and_target(loss)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(loss, amplitude, target)


@pytest.mark.parametrize("loss", REGRESSION, ids=label)
@pytest.mark.parametrize(
    "shape", [(BATCH,), (BATCH, 1), (1, N_OUTPUTS), (BATCH - 1, N_OUTPUTS), (N_OUTPUTS,), ()]
)
def test_regression_targets_never_broadcast(loss, shape):
    amplitude, _ = amplitude_and_target(loss)
    with pytest.raises(ValueError, match="exactly the shape"):
        jax.eval_shape(loss, amplitude, jnp.zeros(shape))


def test_regression_targets_must_be_real_numbers():
    amplitude, target = amplitude_and_target(SquaredError())
    for wrong in (target > 0, target.astype("complex64")):
        with pytest.raises(ValueError, match="real numbers"):
            SquaredError()(amplitude, wrong)


def test_classification_needs_two_outputs():
    for shape in [(BATCH,), (BATCH, 1), (BATCH, 2, 2)]:
        amplitude = Amplitude(jnp.zeros(shape), jnp.zeros(BATCH, int))
        with pytest.raises(ValueError, match="n_outputs"):
            CrossEntropy()(amplitude, jnp.zeros(BATCH, int))


def test_regression_without_output_axis_and_with_several():
    for outputs in [(), (2, 3)]:
        amplitude = Amplitude(jnp.ones((BATCH, *outputs)), jnp.zeros(BATCH, int))
        for loss in REGRESSION:
            assert loss(amplitude, jnp.zeros((BATCH, *outputs))).shape == (BATCH,)


def test_regression_has_no_probabilities():
    amplitude, _ = amplitude_and_target(SquaredError())
    with pytest.raises(ValueError, match="classification loss"):
        SquaredError().probabilities(amplitude)


def test_a_loss_that_reduces_over_the_batch_is_refused():
    amplitude, target = amplitude_and_target(SquaredError())
    with pytest.raises(ValueError, match="one value per sample"):
        CallableLoss(lambda p, t: ((p - t) ** 2).mean())(amplitude, target)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CrossEntropy(label_smoothing=1.0),
        lambda: CrossEntropy(label_smoothing=-0.1),
        lambda: BornCrossEntropy(label_smoothing=float("nan")),
        lambda: BornCrossEntropy(epsilon=0.0),
        lambda: Huber(delta=0.0),
        lambda: Huber(delta=float("inf")),
        lambda: Quantile(0.0),
        lambda: Quantile(float("nan")),
        lambda: OptaxLoss("no_such_loss"),
        lambda: OptaxLoss("__doc__"),
        lambda: CallableLoss(optax.losses.l2_loss, task="ranking"),
    ],
)
def test_bad_parameters_are_refused(make):
    with pytest.raises(ValueError, match=r"must|no loss"):
        make()


@pytest.mark.parametrize("loss", [x for x in ALL if not isinstance(x, CallableLoss)], ids=label)
def test_json_round_trip(loss):
    rebuilt = from_json(json.loads(json.dumps(to_json(loss))))
    assert rebuilt == loss
    assert hash(rebuilt) == hash(loss)


def test_a_callable_is_not_storable():
    with pytest.raises(TypeError, match="cannot be stored"):
        to_json(CallableLoss(optax.losses.l2_loss))


@pytest.mark.parametrize("name", ["cross_entropy", "born_cross_entropy", "squared_error", "huber"])
def test_known_by_name(name):
    assert resolve("loss", name).loss.task in ("classification", "regression")
