"""The optimizer that fits and training take unless told otherwise."""

import functools

import jax
import optax

from ._base import is_generator


@functools.cache
def default_optimizer(n_steps, generator_rate=1e-2, learning_rate=1e-3):
    """Adam, cosine decay, gradients clipped to norm 1; generators learn ten times as fast.

    A generator has few numbers, each of which moves a large part of the weight. The same arguments
    give the same object, so that nothing is compiled again. In a loop of your own, give it what
    `equinox.filter(model, equinox.is_inexact_array)` leaves of a model.
    """
    rates = {"generators": generator_rate, "others": learning_rate}
    parts = {
        name: optax.adam(optax.cosine_decay_schedule(rate, n_steps)) for name, rate in rates.items()
    }

    def labels(tree):
        def label(leaf):
            name = "generators" if is_generator(leaf) else "others"
            return jax.tree.map(lambda _: name, leaf)

        return jax.tree.map(label, tree, is_leaf=is_generator)

    return optax.chain(optax.clip_by_global_norm(1.0), optax.partition(parts, labels))
