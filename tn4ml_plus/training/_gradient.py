"""Training by stochastic gradients: any optax transformation, one compiled call an epoch."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._checks import check_instance, check_int, check_number, function_tuple
from .._registry import register
from ._loop import run
from ._members import over_members
from ._objective import objective_value, reordered
from ._problem import bucket
from ._schedules import Schedule, WarmupCosine
from ._stopping import EarlyStopping

# One object for the whole process: compiled epochs are keyed by it.
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.99)


@register("trainer")
@dataclasses.dataclass(frozen=True)
class Gradient:
    """Minibatch gradient descent with padded, weighted last batches.

    learning_rate: peak rate of the default Adam(0.9, 0.99), None for 5e-3 with up to 64 sites and
    for less in proportion with more, since each step changes all cores at once; max_epochs: taken
    exactly, None for 40 epochs but at least `min_steps` and at most `max_steps` steps, rounded to
    whole epochs and never less than one; optimizer: any optax transformation, which then brings its
    own rate and schedule, and is given the value and the function of the minibatch too; clip_norm:
    cap on the gradient's global norm; decay: pull toward the identity start per unit of learning
    rate for 1000 samples, scaled by sqrt(1000 / size) with size the sum of the sample weights, at
    least n_samples; feature_dropout: share of the features that each sample loses each step, in
    [0, 1); time_limit: seconds after which no new epoch starts; callbacks: functions of an `Epoch`,
    a true result stops training.
    Raises NotFiniteError when the loss stops being finite; the `result` of that and of any other
    error that ends training, KeyboardInterrupt too, has the weights of the last finished epoch.

    >>> Gradient(max_epochs=5, learning_rate=1e-3).max_epochs
    5
    """

    learning_rate: float | None = None
    max_epochs: int | None = None
    batch_size: int = 64
    optimizer: Any = None
    schedule: Schedule = dataclasses.field(default=WarmupCosine())
    min_steps: int = 500
    max_steps: int = 3000
    clip_norm: float | None = None
    decay: float = 0.0
    feature_dropout: float = 0.0
    early_stopping: EarlyStopping | None = None
    time_limit: float | None = None
    callbacks: tuple = ()

    def __post_init__(self):
        check_number("learning_rate", self.learning_rate, above=0, optional=True)
        check_int("max_epochs", self.max_epochs, 1, optional=True)
        for name in ("batch_size", "min_steps", "max_steps"):
            check_int(name, getattr(self, name), 1)
        check_instance("schedule", self.schedule, Schedule)
        check_number("clip_norm", self.clip_norm, above=0, optional=True)
        check_number("decay", self.decay, at_least=0)
        check_number("feature_dropout", self.feature_dropout, at_least=0, below=1)
        check_instance("early_stopping", self.early_stopping, EarlyStopping, optional=True)
        check_number("time_limit", self.time_limit, above=0, optional=True)
        object.__setattr__(self, "callbacks", function_tuple("callbacks", self.callbacks))
        if self.optimizer is not None and not _is_transformation(self.optimizer):
            raise ValueError(
                f"optimizer must be an optax transformation, got {self.optimizer!r}: write "
                "optax.adam(1e-3)."
            )
        if self.optimizer is not None and self.decay > 0:
            raise ValueError(
                "decay goes with the default optimizer: chain optax.add_decayed_weights into "
                "yours, or set decay=0."
            )
        if self.optimizer is not None and self.learning_rate is not None:
            raise ValueError(
                "optimizer brings its own learning rate: give learning_rate to it instead, e.g. "
                "Gradient(optimizer=optax.adam(1e-3))."
            )

    def epochs(self, n_samples):
        """Number of epochs for this many samples."""
        steps = -(-n_samples // self.batch_size)
        if self.max_epochs is not None:
            return self.max_epochs
        total = np.clip(40 * steps, self.min_steps, self.max_steps)
        return int(max(1, round(total / steps)))

    def train(self, problem):
        """Train the networks of a `Problem`; returns a `Result`."""
        n_epochs = self.epochs(problem.n_samples)
        steps = -(-problem.n_samples // self.batch_size)
        rates = self._peak(problem) * self._factors(n_epochs * steps)
        return self._run(problem, rates.reshape(n_epochs, steps))

    def partial_train(self, problem):
        """One epoch at the peak learning rate, continuing from ``problem.state``."""
        steps = -(-problem.n_samples // self.batch_size)
        return self._run(problem, np.full((1, steps), self._peak(problem)))

    def _peak(self, problem):
        if self.optimizer is not None:
            return 1.0
        return self.learning_rate or 5e-3 * min(1.0, 64 / problem.samples.phi.shape[1])

    def _factors(self, total_steps):
        if self.optimizer is not None:
            return np.ones(total_steps)
        return self.schedule.factors(total_steps)

    def _run(self, problem, rates):
        program = Program(
            problem.structure,
            problem.objective,
            _ADAM if self.optimizer is None else self.optimizer,
            self.optimizer is None,
            self.clip_norm,
        )
        n_epochs, steps = rates.shape
        rng, weight = problem.random_state, problem.samples.weight
        total_weight = float(weight.sum())
        samples = problem.samples._replace(weight=weight * (problem.n_samples / total_weight))
        decay = self.decay * np.sqrt(1000 / problem.effective_size)

        def step(epoch, params, state):
            batches = _batches(problem, self.batch_size, bucket(steps))
            padded = np.zeros(len(batches), samples.weight.dtype)
            padded[:steps] = rates[epoch]
            dropped = self._dropped(rng, batches.shape, samples.phi.shape)
            params, state, totals = _epoch(
                program, params, state, samples, problem.neutral, problem.anchor,
                problem.orders, batches, steps, padded, decay, dropped,
            )  # fmt: skip
            loss = np.asarray(totals, float)[:steps].sum(axis=0).mean() / problem.n_samples
            return params, state, loss, {"learning_rate": float(rates[epoch, -1])}

        state = _state(program.optimizer, problem.params, problem.state)
        return run(
            problem, step, state, n_epochs,
            "Lower learning_rate, set clip_norm, or use another initializer",
            self.early_stopping, self.time_limit, self.callbacks,
        )  # fmt: skip

    def _dropped(self, rng, batches_shape, samples_shape):
        """Which features the samples of an epoch lose, (*batches_shape, nsites) bools, or None."""
        if self.feature_dropout == 0:
            return None
        # Drawn here, since the compilation of a generator would take longer than many trainings.
        draw = np.random.default_rng(rng.randint(2**31 - 1)).random
        return draw((*batches_shape, samples_shape[1]), np.float32) < self.feature_dropout


def _is_transformation(optimizer):
    parts = (getattr(optimizer, name, None) for name in ("init", "update"))
    return all(map(callable, parts))


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled epoch is keyed by, besides the shapes of its arrays."""

    structure: Any
    objective: Any
    optimizer: Any
    scaled: bool
    clip_norm: float | None


def _batches(problem, batch_size, length):
    """Shuffled sample numbers, (length, n_members, batch_size) int32, -1 where there is none."""
    n_samples, n_members = problem.n_samples, problem.n_members
    flat = np.full((n_members, length * batch_size), -1, np.int32)
    for row in flat:
        row[:n_samples] = problem.random_state.permutation(n_samples)
    return flat.reshape(n_members, length, batch_size).transpose(1, 0, 2)


@partial(jax.jit, static_argnames="optimizer")
def _start(optimizer, params):
    return jax.vmap(optimizer.init)(params)


def _state(optimizer, params, leaves):
    """A fresh state of the optimizer, or the one whose leaves are given."""
    if leaves is None:
        return _start(optimizer, params)
    tree = jax.tree.structure(jax.eval_shape(partial(_start, optimizer), params))
    if tree.num_leaves != len(leaves):
        raise ValueError(
            "The optimizer differs from the one that training started with: keep it, or call fit "
            "to start again."
        )
    return jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in leaves])


@partial(jax.jit, static_argnames="program")
def _epoch(
    program, params, state, samples, neutral, anchor, orders, batches, steps, rates, decay, dropped
):
    n_members = batches.shape[1]

    def member(params, state, anchor, order, index, rate, decay, dropped):
        weight = jnp.where(index >= 0, samples.weight[index], 0)
        phi = samples.phi[index]
        if dropped is not None:
            phi = jnp.where(dropped[..., None], neutral, phi)

        def value_fn(p):
            return objective_value(
                program.structure, program.objective, p, reordered(phi, order),
                samples.target[index], weight, jnp.sum(index >= 0),
            )  # fmt: skip

        (value, total), gradient = jax.value_and_grad(value_fn, has_aux=True)(params)
        clipped = gradient
        if program.clip_norm is not None:
            norm = optax.tree.norm(gradient)
            factor = jnp.minimum(1, program.clip_norm / jnp.maximum(norm, 1e-30))
            clipped = jax.tree.map(lambda g: g * factor, gradient)
        # Line searches need the function itself, other optimizers its value.
        updates, state = optax.with_extra_args_support(program.optimizer).update(
            clipped, state, params,
            value=value, grad=gradient, value_fn=lambda p: value_fn(p)[0],
        )  # fmt: skip
        sign = -rate if program.scaled else 1.0
        params = jax.tree.map(
            lambda p, u, a: (p + sign * u - rate * decay * (p - a)).astype(p.dtype),
            params, updates, anchor,
        )  # fmt: skip
        return params, state, total

    by_member = [None if array is None else 0 for array in (orders, dropped)]
    axes = (0, 0, 0, by_member[0], 0, None, None, by_member[1])
    step = over_members(member, n_members, axes)

    def body(i, carry):
        params, state, totals = carry
        lost = None if dropped is None else dropped[i]
        params, state, total = step(
            params, state, anchor, orders, batches[i], rates[i], decay, lost
        )
        return params, state, totals.at[i].set(total)

    totals = jnp.zeros((len(batches), n_members), rates.dtype)
    params, state, totals = jax.lax.fori_loop(0, steps, body, (params, state, totals))
    # Weights that left the floats in the last step would show in no loss of this epoch.
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
    return params, state, jnp.where(finite, totals, jnp.nan)
