"""Fits of generators to weights: the default optimizer, its steps, cores near isometries."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import _precise as precise
from .._arrays import one_program
from .._checks import check_int, check_number
from .._compiled import bounded_cache
from .._forks import unforked
from .._types import ArrayLike
from ..training import Checkpoint, Result, Step, Trainable, Trainer
from ..training._risk import updated
from ._base import Generator, is_generator
from ._composite import BrickWall
from ._decoder import Layer

# Steps of a fit in one compiled call, at most.
_STEPS = 100


@bounded_cache(64)
def default_optimizer(
    n_steps: int, generator_rate: float = 1e-2, learning_rate: float = 1e-3
) -> optax.GradientTransformation:
    """Adam, cosine decay, gradients clipped to norm 1; generators have a rate of their own.

    The same arguments give the same object, so that nothing is compiled again. In a loop of your
    own, initialise it with `equinox.filter(model, equinox.is_inexact_array)`.

    Parameters
    ----------
    n_steps : int, steps until the rate is zero
    generator_rate, learning_rate : float, first rates of generators and of all other arrays
    """
    # A generator has few numbers, each of which moves a large part of the weight.
    rates = {"generators": generator_rate, "others": learning_rate}
    schedules = {name: optax.cosine_decay_schedule(rate, n_steps) for name, rate in rates.items()}
    parts = {name: optax.adam(schedule) for name, schedule in schedules.items()}

    def label(leaf):
        name = "generators" if is_generator(leaf) else "others"
        return jax.tree.map(lambda _: name, leaf)

    labels = functools.partial(jax.tree.map, label, is_leaf=is_generator)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.partition(parts, labels))


def isometry(tree) -> jax.Array:
    """Sum over all cores of a pytree of |A A^T - 1|^2, a soft constraint to add to a loss.

    Cores with fewer columns than rows count |A^T A - 1|^2 instead. Disentanglers count too;
    activations, latent tensors and weights that are not generated do not.

    >>> import jax
    >>> from tn4ml_plus.generators import TTNGenerator
    >>> float(isometry(TTNGenerator((16, 16), key=jax.random.key(0)))) > 0
    True
    """
    parts = (Layer, BrickWall)
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, parts))
    arrays = [a for leaf in leaves if isinstance(leaf, parts) for a in jax.tree.leaves(leaf)]
    return sum((_off_isometry(a) for a in arrays if a.size and a.ndim > 1), jnp.zeros(()))


@one_program
def _root_mean_square(weight):
    return jnp.sqrt(jnp.mean(weight**2))


@one_program
def _off_isometry(array):
    if array.shape[-2] > array.shape[-1]:
        array = jnp.swapaxes(array, -1, -2)
    gram = precise.matmul(array, jnp.swapaxes(array, -1, -2))
    one = jnp.eye(array.shape[-2], dtype=array.dtype)[(None,) * (array.ndim - 2)]
    return jnp.sum((gram - one) ** 2)


def descend(loss_of, model, optimizer, state, inputs, isometry_weight):
    """A model and the optimizer's state after a step for each of the inputs, and the losses.

    loss_of: function from a model and an input to a number, to which `isometry` is added.
    """
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def objective(params, each):
        made = eqx.combine(params, static)
        total = loss_of(made, each)
        return total + isometry_weight * isometry(made) if isometry_weight else total

    def step(carry, each):
        params, state = carry
        value, gradient = jax.value_and_grad(objective)(params, each)
        updates, state = updated(optimizer, gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, state), losses = jax.lax.scan(step, (params, state), inputs)
    return eqx.combine(params, static), state, losses


class Fit(NamedTuple):
    """Result of `fit`.

    Attributes
    ----------
    generator : Generator, the fitted generator
    losses : (n_steps,), losses of the steps
    error : float, |generated - weight| / |weight|, Frobenius norms, over all entries
    """

    generator: Generator
    losses: np.ndarray
    error: float


def fit(
    generator: Generator,
    weight: ArrayLike,
    *,
    n_steps: int = 1000,
    loss=optax.squared_error,
    n_entries: int | None = None,
    isometry_weight: float = 0.0,
    optimizer=None,
    key: jax.Array | None = None,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """A generator brought near to a given weight, for example a trained one: a warm start.

    Each step brings the generated weight to the wanted root mean square before the comparison, and
    the factor of least squares is put into the generator at the end. So nothing is gained by
    shrinking to zero, where no core has a gradient. A weight without structure cannot be generated:
    expect errors near 1 for trained dense layers.

    >>> import jax, jax.numpy as jnp
    >>> from tn4ml_plus.generators import TTNGenerator
    >>> x = jnp.linspace(-1, 1, 32)
    >>> smooth = jnp.exp(-20 * (x[:, None] - x[None]) ** 2)
    >>> fitted = fit(TTNGenerator((32, 32), key=jax.random.key(0), bond_dim=3), smooth)
    >>> fitted.error < 0.1
    True

    Parameters
    ----------
    generator, weight : the start, of any size, and an array of its shape, finite, not all zero
    n_steps : int, steps of the optimizer
    loss : callable, elementwise, such as `optax.huber_loss`, in units of the weight's rms
    n_entries : int, optional
        Entries of the weight in a step, drawn with replacement, at least 2; by default all.
    isometry_weight, optimizer : as in `train`
    key : jax.Array, key of the draws; required with n_entries
    checkpoint : as in `tn4ml_plus.training.Trainer`, optional; an epoch has at most a hundred steps

    Raises
    ------
    NotFiniteError : where the fit diverges
    """
    check_int("n_steps", n_steps, 1)
    check_int("n_entries", n_entries, 2, optional=True)
    check_number("isometry_weight", isometry_weight, at_least=0)
    if not is_generator(generator):
        raise ValueError(
            f"fit takes a generator, got {type(generator).__name__}: fit those of a model one by "
            "one, or use train or distill."
        )
    weight = jnp.asarray(weight, generator.dtype)
    if weight.shape != generator.shape:
        raise ValueError(
            f"weight has shape {weight.shape}, the generator makes {generator.shape}: build the "
            "generator with the weight's shape."
        )
    rms = float(_root_mean_square(weight))
    if not 0 < rms < np.inf:
        raise ValueError("weight must be finite and not all zero: there is nothing to fit.")
    if n_entries is not None and key is None:
        raise ValueError("n_entries draws entries at random: give key=jax.random.key(...).")
    n_epochs = -(-n_steps // _STEPS)
    # Epochs of one length, and so one program, where any of half the steps or more divides them.
    n_epochs = next((n for n in range(n_epochs, 2 * n_epochs) if n_steps % n == 0), n_epochs)
    trainer = _WeightGradient(
        max_epochs=n_epochs,
        n_entries=n_entries,
        isometry_weight=isometry_weight,
        optimizer=default_optimizer(n_steps) if optimizer is None else optimizer,
        checkpoint=checkpoint,
    )
    key = jax.random.key(0) if key is None else key
    problem = _WeightProblem(generator, weight / rms, n_steps, loss, key)
    result = trainer.train(problem)
    fitted, error = _measured(result.params, problem.target)
    return Fit(fitted.scaled(rms), np.concatenate(result.history["losses"]), float(error))


@dataclasses.dataclass(frozen=True, eq=False)
class _WeightProblem(Trainable):
    """A generator and the weight that it is brought near to; key: of draws of entries."""

    params: Generator
    target: jax.Array
    n_steps: int
    loss: Callable
    key: jax.Array

    n_samples = property(lambda self: self.target.size)

    def validation_loss(self, params):
        raise NotImplementedError  # There is no validation.

    def training_loss(self, params):
        return float(_measured(params, self.target)[1])

    def outcome(self, params):
        return Result(params)

    def networks(self, result):
        return [result.params]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WeightGradient(Trainer):
    """Steps of an optimizer on a weight's entries, all or some; an epoch is a compiled call."""

    n_entries: int | None
    isometry_weight: float
    optimizer: Any

    advice = "Choose a lower learning rate, such as optimizer=default_optimizer(n_steps, 1e-3)"

    def init(self, problem):
        return started(problem.params, self.optimizer)

    def step(self, problem, params, state, epoch):
        size = -(-problem.n_steps // self.max_epochs)
        start = epoch * size
        size = min(size, problem.n_steps - start)
        program = self.optimizer, problem.loss, self.n_entries, self.isometry_weight
        given = problem.target, problem.key, np.int32(start)
        params, state, losses = _epoch(params, state, *given, problem.n_steps, size, program)
        losses = np.asarray(losses)
        return Step(params, state, losses.mean(dtype=float), {"losses": losses.tolist()})


@unforked
@eqx.filter_jit
def started(model, optimizer):
    """The optimizer's state for all inexact arrays of a model."""
    return optimizer.init(eqx.filter(model, eqx.is_inexact_array))


@unforked
@eqx.filter_jit
def _epoch(generator, state, weight, key, start, n_steps, size, program):
    """`descend` for `size` of all steps, from one on."""
    optimizer, loss, n_entries, isometry_weight = program

    def loss_of(made, key):
        if n_entries is None:
            found, target = made(), weight
        else:
            index = jax.random.randint(key, (n_entries,), 0, weight.size)
            found, target = made.entries(index), weight.reshape(-1)[index]
        return loss(_rms(target) / _rms(found) * found, target).mean()

    keys = jax.lax.dynamic_slice_in_dim(jax.random.split(key, n_steps), start, size)
    return descend(loss_of, generator, optimizer, state, keys, isometry_weight)


@unforked
@eqx.filter_jit
def _measured(made, weight):
    """The generator times the factor of least squares, and its relative error."""
    found = made()
    squares = precise.vdot(found, found)
    factor = precise.vdot(found, weight) / jnp.where(squares > 0, squares, 1)
    error = jnp.linalg.norm(factor * found - weight) / jnp.linalg.norm(weight)
    return made.scaled(factor), error


def _rms(array):
    squares = jnp.mean(array**2)
    return jnp.sqrt(jnp.where(squares > 0, squares, 1))
