"""A layer y = x W with a generated weight, in several forms, beside the dense product.

A contender takes a Case and returns a function and its arguments.
"""

import dataclasses

import numpy as np

DECODERS = ("TTNGenerator", "ATTNGenerator", "MERAGenerator")


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows and columns of the weight and the batch size."""

    n: int = 4096
    B: int = 64

    def inputs(self):
        """x and targets, (B, n) float32."""
        rng = np.random.default_rng(0)
        return (rng.normal(size=(self.B, self.n)).astype(np.float32) for _ in range(2))


def dense(case):
    """The function y = x W and its arguments."""
    import jax.numpy as jnp

    x, _ = case.inputs()
    weight = np.random.default_rng(1).normal(size=(case.n, case.n)).astype(np.float32)
    return jnp.matmul, (jnp.asarray(x), jnp.asarray(weight))


def weight(case, decoder, tensorisation):
    """The function that generates W."""
    return lambda generator: generator(), (_generator(case, decoder, tensorisation),)


def layer(case, decoder, tensorisation, formed, gradient):
    """y = x W, or the gradient of a loss by the generator's numbers.

    formed: whether W is formed first.
    """
    import jax
    import jax.numpy as jnp

    x, target = map(jnp.asarray, case.inputs())
    generator = _generator(case, decoder, tensorisation)

    def forward(generator, x):
        return x @ (generator() if formed else generator)

    def loss(generator, x, target):
        return jnp.sum((forward(generator, x) - target) ** 2)

    if gradient:
        return jax.value_and_grad(loss), (generator, x, target)
    return forward, (generator, x)


def _generator(case, decoder, tensorisation):
    import jax

    from tn4ml_plus import generators

    make = getattr(generators, decoder)
    tensorisation = getattr(generators, tensorisation)()
    return make((case.n, case.n), tensorisation=tensorisation, key=jax.random.key(0))
