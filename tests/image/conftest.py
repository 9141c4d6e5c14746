"""Models whose every number is away from its start, in double precision."""

import jax
import numpy as np
import pytest

from tn4ml_plus.image import DTTN


@pytest.fixture
def x64():
    """Double precision while the test runs."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def trained(x64):
    """Makes a `DTTN` of two-channel images as training would leave it, without training."""

    def make(variant, image_shape=(4, 3, 2), n_outputs=3, **options):
        rng = np.random.default_rng(0)
        model = DTTN(variant, image_shape, n_outputs, **options, key=jax.random.key(0))
        model(rng.normal(size=(64, *image_shape)), moments := [])
        leaves, tree = jax.tree.flatten(jax.device_get(model.with_moments(moments)))
        return jax.tree.unflatten(tree, [a + 0.1 * rng.uniform(size=a.shape) for a in leaves])

    return make
