"""Embeddings of images: one site for each patch of pixels."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from .._arrays import evenly_spaced, namespace, with_fixed_signs
from .._checks import check_int, check_number, int_tuple
from .._forks import unforked
from .._registry import variant
from .._types import AnyArray, ArrayLike
from ._base import Embedding, Gram, Vectors, along, as_float, gauss_legendre, product
from ._waves import trigonometric_moments

# Images, and numbers in all their patches, from which principal components are found.
_PRINCIPAL_ROWS, _PRINCIPAL_NUMBERS = 1024, 2**25


@dataclasses.dataclass(frozen=True)
class _Image(Embedding):
    """Rows are images with pixels in [0, 1], flattened in C order; sites are patches, in C order.

    The leaves of `Tree.image` are counted in the same order.
    """

    image_shape: tuple[int, ...] = (28, 28)
    patch_shape: tuple[int, int] = (4, 4)
    columnwise = False
    padding = 0
    stride = property(lambda self: self.patch_shape)

    def __post_init__(self):
        self._set_sizes("image_shape", (2, 3), "(height, width) or (height, width, channels)")
        self._set_sizes("patch_shape", (2,), "(height, width)")

    def _set_sizes(self, name, lengths, form, size="size"):
        sizes = getattr(self, name)
        if not isinstance(sizes, list | tuple) or len(sizes) not in lengths:
            raise ValueError(f"{name} must be {form}, got {sizes!r}.")
        object.__setattr__(self, name, int_tuple(f"each {size} in {name}", sizes))

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches over the height and over the width of an image."""
        sizes = zip(self.image_shape, self.patch_shape, self.stride)
        return tuple((size + 2 * self.padding - patch) // step + 1 for size, patch, step in sizes)

    @property
    def site_features(self) -> int:
        return math.prod(self.patch_shape) * math.prod(self.image_shape[2:])

    def nsites(self, n_features: int) -> int:
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

    def embed(self, X: ArrayLike) -> Vectors:
        X = as_float(X)
        self.nsites(X.shape[-1])
        (height, width, *channels), (h, w) = self.image_shape, self.patch_shape
        order = np.arange(X.shape[-1], dtype=np.int32)
        order = order.reshape(height // h, h, width // w, w, *channels).swapaxes(1, 2).ravel()
        return super().embed(X[..., order])


def _with_one(x):
    """The vectors x with 1 before them."""
    xp = namespace(x)
    return xp.concatenate([xp.ones_like(x[..., :1]), x], axis=-1)


@variant("embedding")
class Patches(_PatchEmbedding):
    """phi = [1, scale (pixel - offset), ...] of each patch of an image with pixels in [0, 1].

    Rows of X are images flattened in C order; sites are the patches in C order, `grid` of them. A
    partition of unity with phys_dim 1 + values in a patch. (The patch convolution that image models
    begin with is another thing: see `tn4ml_plus.image.Variant`.)

    >>> Patches((2, 2), (1, 2), offset=0.0, scale=1.0).embed([[0.0, 0.25, 0.5, 1.0]]).tolist()
    [[[1.0, 0.0, 0.25], [1.0, 0.5, 1.0]]]

    Parameters
    ----------
    image_shape : tuple of int, (height, width) or (height, width, channels)
    patch_shape : tuple of int, (height, width), which must tile the image
    offset, scale : float, subtracted from pixels, and the factor of the difference
    """

    offset: float = 0.3
    scale: float = 0.5
    phys_dim = property(lambda self: 1 + self.site_features)
    _unity = 0

    def __post_init__(self):
        super().__post_init__()
        check_number("offset", self.offset)
        check_number("scale", self.scale)

    def __call__(self, x: ArrayLike) -> Vectors:
        return _with_one(self.scale * (self._site_inputs(x) - self.offset))

    def gram(self) -> Gram:
        n = self.site_features
        mean = np.array([1.0] + n * [self.scale * (0.5 - self.offset)])
        return np.outer(mean, mean) + np.diag([0.0] + n * [self.scale**2 / 12])


@variant("embedding")
class PrincipalPatches(_Image):
    """phi = [1, scale z, ...], z the leading principal components of overlapping patches.

    A partition of unity. The linear map is learned by `for_data`, from at most 1024 images spread
    evenly over the data; estimators call it in fit unless the map is given. ValueError if patches
    do not fit the padded image, or before the map is learned.

    >>> images = np.random.default_rng(0).uniform(size=(100, 36))
    >>> embedding = PrincipalPatches((6, 6), (4, 4), (2, 2), n_components=3, padding=1)
    >>> embedding.for_data(images, np.ones(100)).embed(images).shape, embedding.grid
    ((100, 9, 4), (3, 3))

    Parameters
    ----------
    image_shape, patch_shape : tuple of int, as in `Patches`, but patches may overlap
    stride : tuple of int, (down, right) from one patch to the next
    padding : int, black pixels around the image
    n_components : int, number of components of a patch; they are shared by all patches
    scale : float, spread of the first component over the data; others keep their ratio to it
    mean, components : tuple, optional, the map, (pixels,) and (n_components, pixels) of a patch
    """

    patch_shape: tuple[int, int] = (7, 7)
    stride: tuple[int, int] = (3, 3)
    padding: int = 0
    n_components: int = 24
    scale: float = 0.5
    mean: tuple[float, ...] | None = dataclasses.field(default=None, repr=False)
    components: tuple[tuple[float, ...], ...] | None = dataclasses.field(default=None, repr=False)
    phys_dim = property(lambda self: 1 + self.n_components)
    _unity = 0

    def __post_init__(self):
        super().__post_init__()
        self._set_sizes("stride", (2,), "(down, right)", "step")
        check_int("padding", self.padding, 0)
        check_int("n_components", self.n_components, 1)
        check_number("scale", self.scale, above=0)
        if self.site_features == 1:
            raise ValueError(
                "Patches of one value have no components: use Patches, or larger patches."
            )
        if self.n_components > self.site_features:
            raise ValueError(
                f"A patch of {self.site_features} values has fewer than {self.n_components} "
                "components: lower n_components."
            )
        learned = [0 if part is None else len(part) for part in (self.mean, self.components)]
        if learned not in ([0, 0], [self.site_features, self.n_components]):
            raise ValueError(
                f"mean and components must be None, or {self.site_features} numbers and "
                f"{self.n_components} rows of {self.site_features}: leave them to for_data."
            )
        sizes = zip(self.image_shape, self.patch_shape, self.stride, ("height", "width"))
        for size, patch, step, axis in sizes:
            room = size + 2 * self.padding - patch
            if room < 0 or room % step:
                raise ValueError(
                    f"Patches of {axis} {patch} every {step} pixels do not end where an image of "
                    f"{axis} {size} padded by {self.padding} does: change padding, stride or "
                    "patch_shape."
                )

    def for_data(self, X: AnyArray, weight: AnyArray) -> "PrincipalPatches":
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
        covariance = np.atleast_2d(np.cov(patches.T, ddof=0, aweights=repeated))
        variances, vectors = np.linalg.eigh(covariance)
        leading = with_fixed_signs(vectors[:, ::-1])[:, : self.n_components].T
        # What is smaller is rounding.
        if variances[-1] > 1e-12 * np.mean(patches**2):
            leading = leading / np.sqrt(variances[-1])
        mean = np.average(patches, axis=0, weights=repeated)
        components = tuple(map(tuple, leading.tolist()))
        return dataclasses.replace(self, mean=tuple(mean.tolist()), components=components)

    def split(self) -> tuple["Embedding", tuple[np.ndarray, ...]]:
        arrays = [np.asarray(a, float) for a in (self.mean, self.components) if a is not None]
        return dataclasses.replace(self, mean=None, components=None), tuple(arrays)

    def join(self, arrays: Sequence[AnyArray]) -> "PrincipalPatches":
        return dataclasses.replace(self, **dict(zip(("mean", "components"), arrays)))

    @property
    def _image_shape(self):
        height, width, *channels = self.image_shape
        return height, width, math.prod(channels)

    def _map(self, dtype):
        """Mean and scaled components as arrays; ValueError without them."""
        if self.components is None:
            raise ValueError(
                "PrincipalPatches learns its components from data: call for_data(X, weight) first."
            )
        mean, components = (
            namespace(array).asarray(array, dtype) for array in (self.mean, self.components)
        )
        return mean, self.scale * components

    def __call__(self, x: ArrayLike) -> Vectors:
        x = self._site_inputs(x)
        mean, components = self._map(x.dtype)
        return _with_one(product(x - along(mean, x), components.T))

    def embed(self, X: ArrayLike) -> Vectors:
        X = as_float(X)
        nsites = self.nsites(X.shape[-1])
        mean, components = self._map(X.dtype)
        images = X.reshape(math.prod(X.shape[:-1]), *self._image_shape)
        kernel = components.reshape(-1, *self.patch_shape, self._image_shape[-1])
        with jax.enable_x64(X.dtype == np.float64):
            z = namespace(X).asarray(_convolution(images, kernel, self.stride, self.padding))
        z = z - along(product(components, mean), z)
        return _with_one(z.reshape(*X.shape[:-1], nsites, self.n_components))


@unforked
@partial(jax.jit, static_argnums=(2, 3), inline=True)
def _convolution(images, kernel, stride, padding):
    """Components of all patches, which overlap and never exist side by side."""
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        stride,
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
        precision="highest",
    )


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


@variant("embedding")
class PatchFRQI(_QubitPatchEmbedding):
    """sum_j (cos(pi x_j / 2) |0> + sin(pi x_j / 2) |1>) |j> / sqrt(n) of the n values of a patch.

    Flexible representation of quantum images (Le, Dong, Hirota, Quantum Inf. Process. 10, 63,
    2011): phys_dim 2 n, n = 2, 4, 8, ..., cosines first, unit norm.
    See `Patches` for the parameters.

    >>> PatchFRQI((1, 2), (1, 2)).embed([[0.0, 1.0]]).round(3).tolist()
    [[[0.707..., 0.0, 0.0, 0.707...]]]
    """

    phys_dim = property(lambda self: 2 * self.site_features)

    def __call__(self, x: ArrayLike) -> Vectors:
        angles = np.pi / 2 * self._site_inputs(x)
        xp = namespace(angles)
        phi = xp.concatenate([xp.cos(angles), xp.sin(angles)], axis=-1)
        return phi / math.sqrt(self.site_features)

    def gram(self) -> Gram:
        n = self.site_features
        mean, gram = trigonometric_moments(1)
        product = np.outer(mean, mean)
        return (np.kron(product, np.ones((n, n))) + np.kron(gram - product, np.eye(n))) / n


@variant("embedding")
class PatchAmplitude(_QubitPatchEmbedding):
    """The n values of a patch divided by their L2 norm; uniform where that norm is below 1e-10.

    Amplitude encoding: phys_dim n = 2, 4, 8, ..., unit norm. See `Patches` for the parameters.

    >>> PatchAmplitude((2, 2), (1, 2)).embed([[0.3, 0.4, 0.0, 0.0]]).round(3).tolist()
    [[[0.6..., 0.8...], [0.707..., 0.707...]]]
    """

    phys_dim = property(lambda self: self.site_features)

    def __call__(self, x: ArrayLike) -> Vectors:
        x = self._site_inputs(x)
        squared = (x**2).sum(axis=-1, keepdims=True)
        lit = squared > 1e-20
        # The inner where keeps the unused branch, and so the gradient, finite.
        xp = namespace(x)
        scaled = x / xp.sqrt(xp.where(lit, squared, 1))
        return xp.where(lit, scaled, 1 / math.sqrt(self.site_features))

    def gram(self) -> Gram:
        # 1/|x|^2 is the integral of exp(-t |x|^2) over t > 0, which factorises over the values;
        # t = s / (1 - s) makes it one over [0, 1].
        n = self.site_features
        s, weights = gauss_legendre((0.0, 1.0))
        t = s / (1 - s)
        first = -np.expm1(-t) / (2 * t)
        zeroth = np.sqrt(np.pi / t) / 2 * np.array([math.erf(v) for v in np.sqrt(t)])
        pair = (weights / (1 - s) ** 2 * first**2 * zeroth ** (n - 2)).sum()
        return np.full((n, n), pair) + (1 / n - pair) * np.eye(n)
