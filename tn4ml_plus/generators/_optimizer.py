"""The default optimizer of fits and of training, and their steps."""

import functools

import jax
import optax

from ._base import is_generator


@functools.cache
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


def descend(objective, optimizer, params, state, inputs):
    """Parameters and the optimizer's state after a step for each of the inputs, and the losses."""

    def step(carry, each):
        params, state = carry
        value, gradient = jax.value_and_grad(objective)(params, each)
        # optax mixes dtypes.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, state), losses = jax.lax.scan(step, (params, state), inputs)
    return params, state, losses
