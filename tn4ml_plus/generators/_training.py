"""Training of models that have generators: to data, to outputs of others."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._amplitude import Amplitude
from .._arrays import on_device, one_program
from .._checks import check_int, check_number
from .._forks import unforked
from ..errors import NotFiniteError
from ..losses import CrossEntropy, Loss
from ..training import EarlyStopping, Result, Step, Trainable, Trainer
from ._fitting import default_optimizer, descend, started

CROSS_ENTROPY = CrossEntropy()


class Trained(NamedTuple):
    """The outcome of `train`.

    Attributes
    ----------
    model : pytree, the model with the weights of the best epoch
    losses, validation_losses : list of float, mean of each epoch; None without validation data
    best_epoch : int, counted from 0
    """

    model: object
    losses: list
    validation_losses: list | None
    best_epoch: int


def per_sample(model: Callable, x: jax.Array) -> jax.Array:
    """Outputs for a batch of a model that takes one sample; see `predict` for the parameters."""
    return jax.vmap(model)(x)


@dataclasses.dataclass(frozen=True, eq=False)
class _ModelProblem(Trainable):
    """A model, its samples and how its outputs are judged; key: of the order of samples."""

    params: Any
    X: jax.Array
    y: jax.Array
    key: jax.Array
    loss: Callable
    apply: Callable
    validation: tuple | None = None

    n_samples = property(lambda self: len(self.X))

    def validation_loss(self, params):
        return evaluate(params, *self.validation, loss=self.loss, apply=self.apply)

    def largest(self, params):
        return 0.0  # A model may hold infinite constants, such as masks.

    def outcome(self, params):
        return Result(params)

    def networks(self, result):
        return [result.params]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ModelGradient(Trainer):
    """Minibatch training of all inexact arrays of a model, one compiled call per epoch."""

    batch_size: int = 64
    isometry_weight: float = 0.0
    optimizer: Any = None

    advice = "Take a lower learning rate, such as optimizer=default_optimizer(n_steps, 1e-3, 1e-4)"

    def __post_init__(self):
        super().__post_init__()
        check_int("batch_size", self.batch_size, 1)
        check_number("isometry_weight", self.isometry_weight, at_least=0)

    def _batches(self, problem):
        """Sizes (n_steps, batch_size) of an epoch."""
        size = min(self.batch_size, problem.n_samples)
        return problem.n_samples // size, size

    def _optimizer(self, problem):
        if self.optimizer is not None:
            return self.optimizer
        return default_optimizer(self.max_epochs * self._batches(problem)[0])

    def init(self, problem):
        return started(problem.params, self._optimizer(problem))

    def step(self, problem, params, state, epoch):
        n_steps, size = self._batches(problem)
        order = _drawn(problem.key, epoch, self.max_epochs, problem.n_samples, (n_steps, size))
        program = self._optimizer(problem), problem.loss, problem.apply, self.isometry_weight
        samples = problem.X, problem.y, order
        params, state, loss = _epoch(params, state, *samples, program)
        return Step(params, state, float(loss))


def train(
    model, X, y, *, key, loss=CROSS_ENTROPY, validation=None, apply=per_sample, **options
) -> Trained:
    """A model trained by minibatches, every inexact array of it, generators among them.

    Parameters
    ----------
    model : pytree, such as a compressed model
    X, y : arrays (n_samples, ...), samples and targets
    key : jax.Array, key of the order of samples
    loss : Loss, or function from outputs and targets, both (batch, ...), to one number per sample
    validation : (X, y), optional, whose loss decides which epoch's weights are kept
    apply : callable, function from a model and a batch to outputs; define it once
    **options
        n_epochs, batch_size : int, 10 and 64 by default; samples that fill no batch wait for
        another epoch, of another order. patience : int, epochs without a lower validation loss
        before training ends, by default all. isometry_weight : float, weight of `isometry` in the
        loss, 0 by default. optimizer : optax transformation, by default `default_optimizer`.
        checkpoint : as in `tn4ml_plus.training.Trainer`, none by default.

    Raises
    ------
    NotFiniteError : where the loss is not finite, with the last finite weights in its `model`
    """
    n_epochs, patience = options.pop("n_epochs", 10), options.pop("patience", None)
    check_int("n_epochs", n_epochs, 1)
    check_int("patience", patience, 1, optional=True)
    if patience is not None and validation is None:
        raise ValueError("patience needs validation=(X, y) to look at.")
    stopping = None if validation is None else EarlyStopping(patience or n_epochs)
    trainer = _ModelGradient(max_epochs=n_epochs, early_stopping=stopping, **options)
    validation = None if validation is None else _samples(*validation)
    problem = _ModelProblem(model, *_samples(X, y), key, loss, apply, validation)
    try:
        result = trainer.train(problem)
    except NotFiniteError as error:
        error.model = error.result.params
        raise
    losses, judged = result.history["loss"], result.history.get("validation_loss")
    best = len(losses) - 1 if judged is None else int(np.argmin(judged))
    return Trained(result.params, losses, judged, best)


def distill(student, teacher, X, *, key, apply=per_sample, loss=None, **options) -> Trained:
    """A student trained on a teacher's outputs; no targets are needed. Source: Hinton et al. 2015.

    Parameters
    ----------
    student, teacher : pytree, the models
    X, key, apply : as in `train`
    loss : callable, optional
        Function from outputs and the teacher's outputs to one number per sample, by default
        `squared_distance`; see `SoftTargets` for logits.
    **options : as in `train`, but validation is an array of samples
    """
    outputs = predict(teacher, X, apply=apply)
    if options.get("validation") is not None:
        samples = options["validation"]
        options["validation"] = samples, predict(teacher, samples, apply=apply)
    loss = squared_distance if loss is None else loss
    return train(student, X, outputs, loss=loss, key=key, apply=apply, **options)


def squared_distance(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Sums of squared differences, (batch,); see `SoftTargets.__call__` for the parameters."""
    _check_same(outputs, targets)
    return jnp.sum((outputs - targets) ** 2, axis=tuple(range(1, outputs.ndim)))


@dataclasses.dataclass(frozen=True)
class SoftTargets:
    """Cross-entropy of softened class probabilities times temperature**2, for distillation.

    The temperature, above 0, divides both logits. Source: Hinton et al. 2015, section 2.
    """

    temperature: float = 2.0

    def __post_init__(self):
        check_number("temperature", self.temperature, above=0)

    def __call__(self, outputs, targets):
        """Losses, (batch,).

        Parameters
        ----------
        outputs, targets : (batch, n_classes), outputs of the student and of the teacher
        """
        _check_same(outputs, targets)
        wanted = jax.nn.softmax(targets / self.temperature)
        found = jax.nn.log_softmax(outputs / self.temperature)
        return -(self.temperature**2) * jnp.sum(wanted * found, -1)


def _check_same(outputs, targets):
    if outputs.shape != targets.shape:
        raise ValueError(
            f"This loss compares outputs with targets of the same shape, got {outputs.shape} and "
            f"{targets.shape}: reshape the targets, or use another loss."
        )


def predict(model, X, *, apply=per_sample, batch_size=1024):
    """Outputs of a model, (n_samples, ...).

    Parameters
    ----------
    model, X, apply : as in `train`
    batch_size : int, samples at a time
    """
    X = on_device(X)
    batches = [_outputs(model, X[i : i + batch_size], apply) for i in range(0, len(X), batch_size)]
    return jnp.concatenate(batches)


def evaluate(model, X, y, *, loss=CROSS_ENTROPY, apply=per_sample, batch_size=1024):
    """Mean loss of a model; see `train` for the parameters, and `predict` for batch_size."""
    X, y = _samples(X, y)
    parts = [slice(i, i + batch_size) for i in range(0, len(X), batch_size)]
    return sum(float(_total_loss(model, X[part], y[part], loss, apply)) for part in parts) / len(X)


def _samples(X, y):
    X, y = on_device(X), on_device(y)
    if len(X) != len(y) or not len(X):
        raise ValueError(f"There must be one target per sample, got {len(y)} for {len(X)}.")
    return X, y


def _losses(outputs, y, loss):
    if isinstance(loss, Loss):
        return loss(Amplitude(outputs, jnp.zeros(len(outputs), outputs.dtype)), y)
    found = loss(outputs, y)
    if found.shape != (len(outputs),):
        raise ValueError(
            f"loss must give one number for each of the {len(outputs)} samples of a batch, got "
            f"the shape {found.shape}: sum over the axes of outputs."
        )
    return found


@partial(one_program, static_argnums=(2, 3, 4))
def _drawn(key, epoch, n_epochs, n_samples, shape):
    """Numbers of the samples of each step of an epoch."""
    key = jax.random.split(key, n_epochs)[epoch]
    return jax.random.permutation(key, n_samples)[: shape[0] * shape[1]].reshape(shape)


@unforked
@eqx.filter_jit
def _outputs(model, x, apply):
    return apply(model, x)


@unforked
@eqx.filter_jit
def _total_loss(model, x, y, loss, apply):
    return _losses(apply(model, x), y, loss).sum()


@unforked
@eqx.filter_jit
def _epoch(model, state, X, y, order, program):
    optimizer, loss, apply, isometry_weight = program

    def loss_of(made, rows):
        return _losses(apply(made, X[rows]), y[rows], loss).mean()

    model, state, losses = descend(loss_of, model, optimizer, state, order, isometry_weight)
    return model, state, losses.mean()
