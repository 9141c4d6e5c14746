"""A layer y = x W with a generated weight, in several forms, beside the dense product.

A contender takes a Case and returns ``run(k)``, which does the work k times on one fixed batch,
waits for it and returns a number of the result.
"""

import dataclasses
import time

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


def timed(case, function, **options):
    """`run` of a compiled function of this file."""
    import jax

    made, arguments = globals()[function](case, **options)
    compiled = jax.jit(made)

    def run(k):
        for _ in range(k):
            out = jax.block_until_ready(compiled(*arguments))
        return float(jax.tree.leaves(out)[0].reshape(-1)[0])

    return run


def compiling(case, **options):
    """Seconds of the first call of a layer's gradient, and bytes of its temporaries."""
    import jax

    function, arguments = layer(case, gradient=True, **options)
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    return time.perf_counter() - start, compiled.memory_analysis().temp_size_in_bytes


def _generator(case, decoder, tensorisation):
    import jax

    from tn4ml_plus import generators

    make = getattr(generators, decoder)
    tensorisation = getattr(generators, tensorisation)()
    return make((case.n, case.n), tensorisation=tensorisation, key=jax.random.key(0))
