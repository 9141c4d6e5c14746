"""Full-batch quasi-Newton training for small data."""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._checks import check_instance, check_int, check_number, function_tuple
from .._registry import register
from ._loop import run
from ._members import over_members
from ._objective import objective_value, reordered
from ._stopping import EarlyStopping


@register("trainer", name="lbfgs")
@dataclasses.dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS on all samples at once, with optax's zoom line search.

    max_epochs: iterations, None for 100; memory: past gradients kept; decay: weight of half the
    squared distance from the identity start, divided by the sum of the sample weights, at least
    n_samples; early_stopping, time_limit, callbacks: as in `Gradient`. Deterministic but for the
    start. The first fit of a shape takes several seconds to compile, later ones none.
    Raises NotFiniteError as `Gradient` does.
    Nocedal and Wright, Numerical Optimization (2006), algorithms 7.5 and 3.5.

    >>> LBFGS(max_epochs=20).memory
    10
    """

    max_epochs: int | None = None
    memory: int = 10
    decay: float = 1.0
    early_stopping: EarlyStopping | None = None
    time_limit: float | None = None
    callbacks: tuple = ()

    def __post_init__(self):
        check_int("max_epochs", self.max_epochs, 1, optional=True)
        check_int("memory", self.memory, 1)
        check_number("decay", self.decay, at_least=0)
        check_instance("early_stopping", self.early_stopping, EarlyStopping, optional=True)
        check_number("time_limit", self.time_limit, above=0, optional=True)
        object.__setattr__(self, "callbacks", function_tuple("callbacks", self.callbacks))

    def train(self, problem):
        """Train the networks of a `Problem`; returns a `Result`."""
        pull = self.decay / problem.effective_size

        def step(epoch, params, state):
            params, state, losses = _iterate(
                problem.structure, problem.objective, self.memory, params, state,
                problem.samples, problem.anchor, problem.orders, pull,
            )  # fmt: skip
            return params, state, float(np.mean(losses)), {}

        state = _start(self.memory, problem.params)
        n_epochs = 100 if self.max_epochs is None else self.max_epochs
        return run(
            problem, step, state, n_epochs, 'Use another initializer or trainer="gradient"',
            self.early_stopping, self.time_limit, self.callbacks,
        )  # fmt: skip

    def partial_train(self, problem):
        """Not possible: ValueError naming the trainer that can."""
        raise ValueError('LBFGS needs all samples at once: use trainer="gradient" for partial_fit.')


@lru_cache
def _optimizer(memory):
    return optax.lbfgs(memory_size=memory)


@partial(jax.jit, static_argnames="memory")
def _start(memory, params):
    return jax.vmap(_optimizer(memory).init)(params)


@partial(jax.jit, static_argnames=("structure", "objective", "memory"))
def _iterate(structure, objective, memory, params, state, samples, anchor, orders, pull):
    optimizer = _optimizer(memory)

    def member(params, state, anchor, order):
        def value(p):
            mean, _ = objective_value(
                structure, objective, p, reordered(samples.phi, order), samples.target,
                samples.weight, samples.weight.sum(),
            )  # fmt: skip
            gaps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), p, anchor)
            return mean + 0.5 * pull * sum(jax.tree.leaves(gaps))

        loss, gradient = optax.value_and_grad_from_state(value)(params, state=state)
        updates, state = optimizer.update(
            gradient, state, params, value=loss, grad=gradient, value_fn=value
        )
        return optax.apply_updates(params, updates), state, loss

    n_members = len(jax.tree.leaves(params)[0])
    axes = (0, 0, 0, None if orders is None else 0)
    params, state, losses = over_members(member, n_members, axes)(params, state, anchor, orders)
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
    return params, state, jnp.where(finite, losses, jnp.nan)
