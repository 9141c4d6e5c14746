"""Full-batch quasi-Newton training for small data."""

from functools import lru_cache, partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from .._checks import check_int, check_number
from .._registry import variant
from ._members import count, nan_unless_finite, over_members, start
from ._trainer import Step, Trainer


@variant("trainer", "lbfgs")
class LBFGS(Trainer):
    """Limited-memory BFGS on all samples at once, with optax's zoom line search.

    Deterministic except for the start. The first fit of a shape takes several seconds to compile,
    later ones none. There are 100 epochs by default.

    >>> LBFGS(max_epochs=20).memory
    10

    Parameters
    ----------
    memory : int, number of past gradients kept
    decay : float
        Weight of half the squared distance from the identity start, divided by the sum of the
        sample weights, at least n_samples.
    max_epochs, early_stopping, time_limit, callbacks : as in `Trainer`; an epoch is an iteration

    References
    ----------
    Nocedal and Wright, Numerical Optimization (2006), algorithms 7.5 and 3.5.
    """

    memory: int = 10
    decay: float = 1.0

    advice: ClassVar[str] = 'Use another initializer or trainer="gradient"'

    def __post_init__(self):
        super().__post_init__()
        check_int("memory", self.memory, 1)
        check_number("decay", self.decay, at_least=0)

    def init(self, problem):
        return start(_optimizer(self.memory), problem.params)

    def step(self, problem, params, state, epoch):
        """One compiled iteration."""
        pull = self.decay / problem.effective_size
        return Step(*_iterate(self.memory, params, state, problem.risk, problem.anchor, pull))


@lru_cache
def _optimizer(memory):
    return optax.lbfgs(memory_size=memory)


@partial(jax.jit, static_argnames="memory")
def _iterate(memory, params, state, risk, anchor, pull):
    optimizer = _optimizer(memory)

    def member(params, state, anchor, order):
        def value(p):
            mean, _ = risk.of_member(p, order)
            gaps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), p, anchor)
            return mean + 0.5 * pull * sum(jax.tree.leaves(gaps))

        loss, gradient = optax.value_and_grad_from_state(value)(params, state=state)
        # optax mixes dtypes.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(
                gradient, state, params, value=loss, grad=gradient, value_fn=value
            )
        return optax.apply_updates(params, updates), state, loss

    step = over_members(member, count(params), (0, 0, 0, risk.order_axis))
    params, state, losses = step(params, state, anchor, risk.orders)
    return params, state, nan_unless_finite(params, losses)
