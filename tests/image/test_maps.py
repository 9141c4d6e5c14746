"""Linear maps and normalisations against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from one_program import call
from scipy.ndimage import correlate

from tn4ml_plus.image._maps import (
    BatchNorm,
    LayerNorm,
    PatchMap,
    Pointwise,
    banded,
    depthwise,
    shifted,
)

FORMS = [banded, shifted, depthwise]


def by_hand(x, weight):
    """One channel and image at a time."""
    images = [
        [correlate(image, w, mode="constant") for image in np.moveaxis(x[o % len(x)], -1, 0)]
        for o, w in enumerate(weight)
    ]
    return np.moveaxis(np.array(images), 1, -1)


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (3, 1, 6, 2), (1, 1, 1, 1), (2, 15, 16, 2)])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_depthwise_convolution(form, multiplier, shape, x64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    weight = rng.normal(size=(multiplier * shape[0], 3, 3))
    expected = by_hand(x, weight)
    np.testing.assert_allclose(call(form, x, weight), expected, atol=1e-13)
    single = call(form, x.astype("f4"), weight.astype("f4"))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_depthwise_convolutions_agree_with_differences(form, x64):
    rng = np.random.default_rng(1)
    arrays = rng.normal(size=(2, 4, 3, 2)), rng.normal(size=(4, 3, 3))
    check_grads(jax.jit(form), arrays, order=1, modes=["rev"], atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (1, 1)])
def test_patches_read_blocks_and_pad_with_zeros(height, width, x64):
    rng = np.random.default_rng(2)
    patches = PatchMap(2, 5, 3, jax.random.key(0))
    x = rng.normal(size=(2, height, width, 4))
    rows, columns = -(-height // 3), -(-width // 3)
    padded = np.zeros((2, 3 * rows, 3 * columns, 4))
    padded[:, :height, :width] = x
    expected = np.zeros((5, rows, columns, 4))
    for r in range(rows):
        for c in range(columns):
            block = padded[:, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3].reshape(18, 4)
            expected[:, r, c] = patches.weight @ block
    np.testing.assert_allclose(call(patches, x), expected, atol=1e-13)


def test_normalisations_and_the_moments_they_report(x64):
    rng = np.random.default_rng(3)
    x = jnp.asarray(3 + 2 * rng.normal(size=(4, 3, 5, 6)))
    norm = BatchNorm(4)
    y = norm(x, moments := [])
    np.testing.assert_allclose(y.mean((1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.std((1, 2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(moments[0][0], x.mean((1, 2, 3)))
    np.testing.assert_allclose(moments[0][1], x.var((1, 2, 3)))
    # Without a list it uses what is in place: mean 0, variance 1.
    np.testing.assert_allclose(norm(x), x / np.sqrt(1 + 1e-5))
    y = LayerNorm(4)(x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(0), x.var(0) / (x.var(0) + 1e-6))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_maps_keep_the_precision_of_images(dtype):
    x = jnp.ones((4, 3, 3, 2), dtype)
    assert Pointwise(4, 6, jax.random.key(0))(x).dtype == dtype
    assert PatchMap(4, 6, 2, jax.random.key(0))(x).dtype == dtype
    assert LayerNorm(4)(x).dtype == dtype
    assert BatchNorm(4)(x).dtype == dtype
    assert BatchNorm(4)(x, moments := []).dtype == dtype
    # Sums over many pixels would lose too much in half precision.
    assert {part.dtype for part in moments[0]} == {jnp.dtype(jnp.float32)}


def test_large_means_do_not_swallow_the_variance():
    x = 1000 + jax.random.normal(jax.random.key(0), (1, 7, 7, 128))
    BatchNorm(1)(x, moments := [])
    assert abs(float(moments[0][1][0]) - float(np.asarray(x, float).var())) < 1e-3
