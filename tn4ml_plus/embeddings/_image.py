"""Embeddings of images: one site for each patch of pixels."""

import abc
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import evenly_spaced, with_fixed_signs
from .._checks import check_int, check_number
from .._registry import register
from ._base import Embedding, as_float, basis_vector, gauss_legendre
from ._trigonometric import trigonometric_moments

# Images, and numbers in all their patches, from which principal components are found.
_PRINCIPAL_ROWS, _PRINCIPAL_NUMBERS = 1024, 2**25


@functools.lru_cache(maxsize=64)
def _patch_order(image_shape, patch_shape):
    """Pixel indices patch by patch."""
    (height, width, *channels), (h, w) = image_shape, patch_shape
    order = np.arange(math.prod(image_shape), dtype=np.int32)
    return order.reshape(height // h, h, width // w, w, *channels).swapaxes(1, 2).ravel()


@dataclasses.dataclass(frozen=True)
class _Image(Embedding):
    """Rows are images with pixels in [0, 1], flattened in C order; sites are patches, in C order.

    The leaves of `Tree.image` are counted in the same order.
    """

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

    @property
    @abc.abstractmethod
    def grid(self) -> tuple[int, int]:
        """Number of patches over the height and over the width of an image."""

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
        return math.prod(self.grid)


class _PatchEmbedding(_Image):
    """Patches that tile the image."""

    def __post_init__(self):
        super().__post_init__()
        for size, patch, axis in zip(self.image_shape, self.patch_shape, ("height", "width")):
            if size % patch:
                valid = [d for d in range(1, size + 1) if size % d == 0]
                raise ValueError(
                    f"Patches of {axis} {patch} do not tile images of {axis} {size}: "
                    f"choose one of {valid}, or crop or pad the images."
                )

    @property
    def grid(self):
        return tuple(size // patch for size, patch in zip(self.image_shape, self.patch_shape))

    def embed(self, X):
        X = as_float(X)
        self.nsites(X.shape[-1])
        return super().embed(X[..., _patch_order(self.image_shape, self.patch_shape)])


@register("embedding")
@dataclasses.dataclass(frozen=True)
class Patches(_PatchEmbedding):
    """phi = [1, scale (pixel - offset), ...] of each patch of an image with pixels in [0, 1].

    image_shape: (height, width) or (height, width, channels); rows of X are images flattened in
    C order; sites are the patches in C order, `grid` of them; phys_dim is 1 + values in a patch. A
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


@register("embedding")
@dataclasses.dataclass(frozen=True)
class PrincipalPatches(_Image):
    """phi = [1, scale z, ...], z the leading principal components of overlapping patches.

    image_shape: as in `Patches`; stride: (down, right) from one patch to the next; padding: black
    pixels around the image; n_components: how many of a patch's components, which are shared by all
    patches; scale: the first component's standard deviation over the data (the others keep their
    ratio to it). The linear map, `mean` (pixels in a patch,) and `components` (n_components,
    pixels in a patch), comes from data by `for_data`, from at most 1024 images evenly over them;
    estimators call it in fit unless the map is there. A partition of unity. ValueError if patches
    do not fit the padded image, or before the map is there.

    >>> import numpy as np
    >>> images = np.random.default_rng(0).uniform(size=(100, 36))
    >>> embedding = PrincipalPatches((6, 6), (4, 4), (2, 2), n_components=3, padding=1)
    >>> embedding.for_data(images, np.ones(100)).embed(images).shape, embedding.grid
    ((100, 9, 4), (3, 3))
    """

    patch_shape: tuple[int, int] = (7, 7)
    stride: tuple[int, int] = (3, 3)
    padding: int = 0
    n_components: int = 24
    scale: float = 0.5
    mean: tuple[float, ...] | None = dataclasses.field(default=None, repr=False)
    components: tuple[tuple[float, ...], ...] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.stride, list | tuple) or len(self.stride) != 2:
            raise ValueError(f"stride must be (down, right), got {self.stride!r}.")
        for step in self.stride:
            check_int("each step in stride", step, 1)
        object.__setattr__(self, "stride", tuple(map(int, self.stride)))
        check_int("padding", self.padding, 0)
        check_int("n_components", self.n_components, 1)
        check_number("scale", self.scale, above=0)
        if self.site_features == 1:
            raise ValueError(
                "Patches of one value have no components: take Patches, or larger ones."
            )
        if self.n_components > self.site_features:
            raise ValueError(
                f"A patch of {self.site_features} values has no {self.n_components} components: "
                "lower n_components."
            )
        learned = [0 if part is None else len(part) for part in (self.mean, self.components)]
        if learned not in ([0, 0], [self.site_features, self.n_components]):
            raise ValueError(
                f"mean and components must be None, or {self.site_features} numbers and "
                f"{self.n_components} rows of as many: leave them to for_data."
            )
        sizes = zip(self.image_shape, self.patch_shape, self.stride, ("height", "width"))
        for size, patch, step, axis in sizes:
            room = size + 2 * self.padding - patch
            if room < 0 or room % step:
                raise ValueError(
                    f"Patches of {axis} {patch} every {step} pixels do not end with an image of "
                    f"{axis} {size} padded by {self.padding}: change padding, stride or "
                    "patch_shape."
                )

    @property
    def grid(self):
        sizes = zip(self.image_shape, self.patch_shape, self.stride)
        return tuple((size + 2 * self.padding - patch) // step + 1 for size, patch, step in sizes)

    @property
    def phys_dim(self):
        return 1 + self.n_components

    @property
    def unit_weights(self):
        return basis_vector(self.phys_dim)

    def for_data(self, X, weight):
        self.nsites(X.shape[1])
        if self.components is not None:
            return self
        numbers = math.prod(self.grid) * self.site_features
        rows = evenly_spaced(len(X), max(1, min(_PRINCIPAL_ROWS, _PRINCIPAL_NUMBERS // numbers)))
        images = X[rows].reshape(len(rows), *self._image_shape)
        around = (self.padding, self.padding)
        padded = np.pad(images, [(0, 0), around, around, (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.patch_shape, (1, 2))
        windows = np.moveaxis(windows[:, :: self.stride[0], :: self.stride[1]], 3, -1)
        patches = windows.reshape(-1, self.site_features)
        repeated = np.repeat(weight[rows], math.prod(self.grid))
        variances, vectors = np.linalg.eigh(
            np.atleast_2d(np.cov(patches.T, ddof=0, aweights=repeated))
        )
        leading = with_fixed_signs(vectors[:, ::-1])[:, : self.n_components].T
        # What is smaller is rounding.
        if variances[-1] > 1e-12 * np.mean(patches**2):
            leading = leading / np.sqrt(variances[-1])
        mean = np.average(patches, axis=0, weights=repeated)
        components = tuple(map(tuple, leading.tolist()))
        return dataclasses.replace(self, mean=tuple(mean.tolist()), components=components)

    def split(self):
        arrays = () if self.components is None else (self.mean, self.components)
        bare = dataclasses.replace(self, mean=None, components=None)
        return bare, tuple(np.asarray(array, float) for array in arrays)

    def join(self, arrays):
        return dataclasses.replace(self, **dict(zip(("mean", "components"), arrays)))

    @property
    def _image_shape(self):
        height, width, *channels = self.image_shape
        return height, width, math.prod(channels)

    def _map(self, dtype):
        """Mean and scaled components as arrays; ValueError without them."""
        if self.components is None:
            raise ValueError(
                "The components of PrincipalPatches come from data: call for_data(X, weight) first."
            )
        mean, components = (jnp.asarray(array, dtype) for array in (self.mean, self.components))
        return mean, self.scale * components

    def __call__(self, x):
        x = self._site_inputs(x)
        mean, components = self._map(x.dtype)
        z = jnp.matmul(x - mean, components.T, precision="highest")
        return jnp.concatenate([jnp.ones_like(z[..., :1]), z], -1)

    def embed(self, X):
        X = as_float(X)
        nsites = self.nsites(X.shape[-1])
        mean, components = self._map(X.dtype)
        height, width, channels = self._image_shape
        # A convolution: the patches, which overlap, never exist side by side.
        z = jax.lax.conv_general_dilated(
            X.reshape(math.prod(X.shape[:-1]), height, width, channels),
            components.reshape(-1, *self.patch_shape, channels),
            self.stride,
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "OHWI", "NHWC"),
            precision="highest",
        )
        z = z - jnp.matmul(components, mean, precision="highest")
        z = z.reshape(*X.shape[:-1], nsites, self.n_components)
        return jnp.concatenate([jnp.ones_like(z[..., :1]), z], -1)


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
