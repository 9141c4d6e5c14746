"""Training of models that have generators: to data, to outputs of others."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._checks import check_int, check_number
from .._errors import NotFiniteError
from .._typing import Amplitude
from ..losses import CrossEntropy, Loss
from ._fitting import isometry
from ._optimizer import default_optimizer


class Trained(NamedTuple):
    """What `train` returns: model: with the weights of the best epoch.

    losses: mean training loss of each epoch; validation_losses: of each epoch, None without
    validation data; best_epoch: whose weights the model has, counted from 0.
    """

    model: object
    losses: list
    validation_losses: list | None
    best_epoch: int


def per_sample(model, x):
    """Outputs of a model that takes one sample, for a batch of them."""
    return jax.vmap(model)(x)


def train(
    model,
    X,
    y,
    *,
    loss=CrossEntropy(),  # noqa: B008, a frozen dataclass
    key,
    n_epochs=10,
    batch_size=64,
    validation=None,
    patience=None,
    isometry_weight=0.0,
    optimizer=None,
    apply=per_sample,
):
    """A model trained by minibatches, every inexact array of it, generators among them.

    Parameters
    ----------
    model : a pytree, such as a compressed model.
    X, y : samples (n_samples, ...) and targets (n_samples, ...).
    loss : a loss of `tn4ml_plus.losses`, or a function of outputs and targets, both (batch, ...),
        that gives a number for each sample, (batch,).
    key : of the order of samples.
    n_epochs, batch_size : an epoch is one compiled call; samples that fill no batch wait for
        another epoch, as each has another order.
    validation : (X, y) whose loss decides which epoch's weights are kept; None: the last.
    patience : epochs without a lower validation loss before training ends; None: n_epochs.
    isometry_weight : what `isometry` counts in the loss.
    optimizer : optax transformation; None: `default_optimizer`.
    apply : function of a model and a batch that gives outputs; the default maps a callable model
        over samples. A function defined once compiles once.

    Returns a `Trained`. NotFiniteError, with the last finite weights in its `model`, where the loss
    is not finite.
    """
    check_int("n_epochs", n_epochs, 1)
    check_int("batch_size", batch_size, 1)
    check_int("patience", patience, 1, optional=True)
    check_number("isometry_weight", isometry_weight, at_least=0)
    if patience is not None and validation is None:
        raise ValueError("patience needs validation=(X, y) to look at.")
    X, y = _samples(X, y)
    validation = None if validation is None else _samples(*validation)
    batch_size = min(batch_size, len(X))
    n_steps = len(X) // batch_size
    if optimizer is None:
        optimizer = default_optimizer(n_epochs * n_steps)
    state = _start(model, optimizer)
    losses, validation_losses = [], []
    best, best_loss, best_epoch = model, np.inf, -1
    for epoch, each in enumerate(jax.random.split(key, n_epochs)):
        order = jax.random.permutation(each, len(X))[: n_steps * batch_size]
        order = order.reshape(n_steps, batch_size)
        new, state, value = _epoch(
            model, state, X, y, order, isometry_weight, optimizer, loss, apply
        )
        if not np.isfinite(value):
            error = NotFiniteError(
                f"The loss of epoch {epoch + 1} is not finite: take a lower learning rate, such as "
                f"optimizer=default_optimizer({n_epochs * n_steps}, 1e-3, 1e-4). The last finite "
                "weights are in this error's `model`."
            )
            error.model = best if best_epoch >= 0 else model
            raise error
        model = new
        losses.append(float(value))
        if validation is None:
            best, best_epoch = model, epoch
            continue
        validation_losses.append(evaluate(model, *validation, loss=loss, apply=apply))
        if not np.isfinite(validation_losses[-1]):
            error = NotFiniteError(
                f"The validation loss of epoch {epoch + 1} is not finite: look at the validation "
                "samples, or take a lower learning rate. The best weights are in this error's "
                "`model`."
            )
            error.model = best
            raise error
        if validation_losses[-1] < best_loss:
            best, best_loss, best_epoch = model, validation_losses[-1], epoch
        elif patience is not None and epoch - best_epoch >= patience:
            break
    return Trained(best, losses, None if validation is None else validation_losses, best_epoch)


def distill(student, teacher, X, *, loss=None, key, apply=per_sample, **options):
    """A student trained to give a teacher's outputs; no targets are needed.

    loss: function of outputs and the teacher's outputs, a number for each sample; None: the squared
    error summed over outputs; see `SoftTargets` for logits. options: of `train`; validation is an
    array of samples here. Source: Hinton et al. 2015.
    """
    outputs = predict(teacher, X, apply=apply)
    if options.get("validation") is not None:
        samples = options["validation"]
        options["validation"] = samples, predict(teacher, samples, apply=apply)
    loss = squared_distance if loss is None else loss
    return train(student, X, outputs, loss=loss, key=key, apply=apply, **options)


def squared_distance(outputs, targets):
    """Sum of squared differences, (batch,); both (batch, ...)."""
    _check_same(outputs, targets)
    return jnp.sum((outputs - targets) ** 2, axis=tuple(range(1, outputs.ndim)))


@dataclasses.dataclass(frozen=True)
class SoftTargets:
    """Cross-entropy of softened class probabilities times temperature**2, for distillation.

    temperature: above 0, divides the logits of both. Source: Hinton et al. 2015, section 2.
    """

    temperature: float = 2.0

    def __post_init__(self):
        check_number("temperature", self.temperature, above=0)

    def __call__(self, outputs, targets):
        """A number for each sample, (batch,), of logits (batch, n_classes)."""
        _check_same(outputs, targets)
        wanted = jax.nn.softmax(targets / self.temperature)
        found = jax.nn.log_softmax(outputs / self.temperature)
        return -(self.temperature**2) * jnp.sum(wanted * found, -1)


def _check_same(outputs, targets):
    if outputs.shape != targets.shape:
        raise ValueError(
            f"This loss compares outputs with targets of the same shape, got {outputs.shape} and "
            f"{targets.shape}: reshape the targets, or take another loss."
        )


def predict(model, X, *, apply=per_sample, batch_size=1024):
    """Outputs of a model, (n_samples, ...), in batches of at most batch_size."""
    X = jnp.asarray(X)
    batches = [_outputs(model, X[i : i + batch_size], apply) for i in range(0, len(X), batch_size)]
    return jnp.concatenate(batches)


def evaluate(
    model,
    X,
    y,
    *,
    loss=CrossEntropy(),  # noqa: B008, a frozen dataclass
    apply=per_sample,
    batch_size=1024,
):
    """Mean loss of a model, in batches of at most batch_size; arguments as in `train`."""
    X, y = _samples(X, y)
    total = sum(
        float(_sum_of_losses(model, X[i : i + batch_size], y[i : i + batch_size], loss, apply))
        for i in range(0, len(X), batch_size)
    )
    return total / len(X)


def _samples(X, y):
    X, y = jnp.asarray(X), jnp.asarray(y)
    if len(X) != len(y) or not len(X):
        raise ValueError(f"There must be one target for each sample, got {len(y)} for {len(X)}.")
    return X, y


def _losses(outputs, y, loss):
    if isinstance(loss, Loss):
        return loss(Amplitude(outputs, jnp.zeros(len(outputs), outputs.dtype)), y)
    found = loss(outputs, y)
    if found.shape != (len(outputs),):
        raise ValueError(
            f"loss must give one number for each of the {len(outputs)} samples of a batch, got "
            f"shape {found.shape}: sum over the outputs' axes."
        )
    return found


@eqx.filter_jit
def _start(model, optimizer):
    return optimizer.init(eqx.filter(model, eqx.is_inexact_array))


@eqx.filter_jit
def _outputs(model, x, apply):
    return apply(model, x)


@eqx.filter_jit
def _sum_of_losses(model, x, y, loss, apply):
    return _losses(apply(model, x), y, loss).sum()


@eqx.filter_jit
def _epoch(model, state, X, y, order, isometry_weight, optimizer, loss, apply):
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def objective(params, rows):
        made = eqx.combine(params, static)
        total = _losses(apply(made, X[rows]), y[rows], loss).mean()
        return total + isometry_weight * isometry(made) if isometry_weight else total

    def step(carry, rows):
        params, state = carry
        value, gradient = jax.value_and_grad(objective)(params, rows)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, state), losses = jax.lax.scan(step, (params, state), order)
    return eqx.combine(params, static), state, losses.mean()
