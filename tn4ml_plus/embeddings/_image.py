"""Embeddings of images: one site for each patch of pixels."""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np

from .._checks import check_int, check_number
from .._registry import register
from ._base import Embedding, as_float, basis_vector, gauss_legendre
from ._trigonometric import trigonometric_moments


@functools.lru_cache(maxsize=64)
def _snake_order(image_shape, patch_shape):
    """Pixel indices patch by patch: rows of patches in alternating direction, C order inside."""
    (height, width, *channels), (h, w) = image_shape, patch_shape
    order = np.arange(math.prod(image_shape), dtype=np.int32)
    order = order.reshape(height // h, h, width // w, w, *channels).swapaxes(1, 2)
    order[1::2] = order[1::2, ::-1].copy()
    return order.ravel()


@dataclasses.dataclass(frozen=True)
class _PatchEmbedding(Embedding):
    """Rows of pixels in [0, 1], flattened in C order; sites are patches in snake order."""

    image_shape: tuple[int, ...] = (28, 28)
    patch_shape: tuple[int, int] = (4, 4)

    columnwise = False

    def __post_init__(self):
        for name, lengths, form in (
            ("image_shape", (2, 3), "(height, width) or (height, width, channels)"),
            ("patch_shape", (2,), "(height, width)"),
        ):
            shape = getattr(self, name)
            if not isinstance(shape, list | tuple) or len(shape) not in lengths:
                raise ValueError(f"{name} must be {form}, got {shape!r}.")
            for size in shape:
                check_int(f"each size in {name}", size, 1)
            object.__setattr__(self, name, tuple(map(int, shape)))
        for size, patch, axis in zip(self.image_shape, self.patch_shape, ("height", "width")):
            if size % patch:
                valid = [d for d in range(1, size + 1) if size % d == 0]
                raise ValueError(
                    f"Patches of {axis} {patch} do not tile images of {axis} {size}: "
                    f"choose one of {valid}, or crop or pad the images."
                )

    @property
    def site_features(self):
        return math.prod(self.patch_shape) * math.prod(self.image_shape[2:])

    def nsites(self, n_features):
        n_pixels = math.prod(self.image_shape)
        if n_features != n_pixels:
            raise ValueError(
                f"Images of shape {self.image_shape} have {n_pixels} features, got {n_features}: "
                "set image_shape to the shape of the images."
            )
        return n_pixels // self.site_features

    def embed(self, X):
        X = as_float(X)
        self.nsites(X.shape[-1])
        return super().embed(X[..., _snake_order(self.image_shape, self.patch_shape)])


@register("embedding")
@dataclasses.dataclass(frozen=True)
class Patches(_PatchEmbedding):
    """phi = [1, scale (pixel - offset), ...] of each patch of an image with pixels in [0, 1].

    image_shape: (height, width) or (height, width, channels); rows of X are images flattened in
    C order; sites run through the patches in snake order, phys_dim is 1 + values in a patch. A
    partition of unity. ValueError if patches do not tile the image.

    >>> Patches((2, 2), (1, 2), offset=0.0, scale=1.0).embed([[0.0, 0.25, 0.5, 1.0]]).tolist()
    [[[1.0, 0.0, 0.25], [1.0, 0.5, 1.0]]]
    """

    offset: float = 0.3
    scale: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_number("offset", self.offset)
        check_number("scale", self.scale)

    @property
    def phys_dim(self):
        return 1 + self.site_features

    @property
    def unit_weights(self):
        return basis_vector(self.phys_dim)

    def __call__(self, x):
        x = self._site_inputs(x)
        return jnp.concatenate([jnp.ones_like(x[..., :1]), self.scale * (x - self.offset)], -1)

    def gram(self):
        mean = np.full(self.phys_dim, self.scale * (0.5 - self.offset))
        mean[0] = 1.0
        variance = np.full(self.phys_dim, self.scale**2 / 12)
        variance[0] = 0.0
        return np.outer(mean, mean) + np.diag(variance)


class _QubitPatchEmbedding(_PatchEmbedding):
    """Patches whose values are indexed by qubits: 2, 4, 8, ... of them."""

    norm = 1.0

    def __post_init__(self):
        super().__post_init__()
        n = self.site_features
        if n < 2 or n & (n - 1):
            raise ValueError(
                f"{type(self).__name__} needs 2, 4, 8, ... values in a patch, got {n}: "
                "choose another patch_shape."
            )


@register("embedding")
@dataclasses.dataclass(frozen=True)
class PatchFRQI(_QubitPatchEmbedding):
    """sum_j (cos(pi x_j / 2) |0> + sin(pi x_j / 2) |1>) |j> / sqrt(n) of the n values of a patch.

    Flexible representation of quantum images (Le, Dong, Hirota, Quantum Inf. Process. 10, 63,
    2011): phys_dim 2 n, cosines first, unit norm. Images, sites and errors as in `Patches`;
    ValueError too unless n is 2, 4, 8, ...

    >>> PatchFRQI((1, 2), (1, 2)).embed([[0.0, 1.0]]).round(3).tolist()
    [[[0.707..., -0.0, 0.0, 0.707...]]]
    """

    @property
    def phys_dim(self):
        return 2 * self.site_features

    def __call__(self, x):
        angles = np.pi / 2 * self._site_inputs(x)
        phi = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return phi / math.sqrt(self.site_features)

    def gram(self):
        n = self.site_features
        mean, gram = trigonometric_moments(1)
        product = np.outer(mean, mean)
        return (np.kron(product, np.ones((n, n))) + np.kron(gram - product, np.eye(n))) / n


@register("embedding")
@dataclasses.dataclass(frozen=True)
class PatchAmplitude(_QubitPatchEmbedding):
    """The n values of a patch divided by their L2 norm; uniform where that norm is below 1e-10.

    Amplitude encoding: phys_dim n, unit norm. Images, sites and errors as in `Patches`; ValueError
    too unless n is 2, 4, 8, ...

    >>> PatchAmplitude((2, 2), (1, 2)).embed([[0.3, 0.4, 0.0, 0.0]]).round(3).tolist()
    [[[0.6..., 0.8...], [0.707..., 0.707...]]]
    """

    @property
    def phys_dim(self):
        return self.site_features

    def __call__(self, x):
        x = self._site_inputs(x)
        squared = (x**2).sum(axis=-1, keepdims=True)
        lit = squared > 1e-20
        # The inner where keeps the unused branch, and so the gradient, finite.
        scaled = x / jnp.sqrt(jnp.where(lit, squared, 1))
        return jnp.where(lit, scaled, 1 / math.sqrt(self.site_features))

    def gram(self):
        # 1/|x|^2 is the integral of exp(-t |x|^2) over t > 0, which factorises over the values;
        # t = s / (1 - s) makes it one over [0, 1].
        n = self.site_features
        s, weights = gauss_legendre((0.0, 1.0))
        t = s / (1 - s)
        first = -np.expm1(-t) / (2 * t)
        zeroth = np.sqrt(np.pi / t) / 2 * np.array([math.erf(v) for v in np.sqrt(t)])
        pair = (weights / (1 - s) ** 2 * first**2 * zeroth ** (n - 2)).sum()
        return np.full((n, n), pair) + (1 / n - pair) * np.eye(n)
