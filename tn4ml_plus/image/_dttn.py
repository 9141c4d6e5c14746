"""Deep tree tensor networks: a stem, stages of interaction modules, a linear head.

Their unfolding into a tree and their degree are those of arXiv 2502.09928, section 3.3 and its
appendix on polynomials.
"""

import functools
import math
from collections.abc import Callable, Sequence
from itertools import cycle, islice, pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import on_device
from .._checks import check, check_instance, check_int, check_number, int_tuple
from .._forks import unforked
from .._registry import variant
from .._types import ArrayLike
from ..networks import TTN, Tree
from ._blocks import AIM, Interaction, fold_batchnorm, fold_block
from ._maps import BatchNorm, PatchMap, Pointwise, check_floating
from ._merges import BatchNormProduct, Merge, Product, Sum

# Limits: numbers in the largest core, leaves of the tree, degree.
_MAX_CORE, _MAX_LEAVES, _MAX_DEGREE = 2**26, 2**12, 2**10


@variant("variant")
class Variant:
    """Sizes of a `DTTN`.

    >>> Variant(channels=(48,), layers=(4,)).stem_of(28, 28)
    (4,)

    Parameters
    ----------
    channels, layers : tuple of int, channels and blocks of each stage, which halves the maps
    stem : tuple of int, optional
        Sizes of the patches of the convolutions that come first; () for images with as many
        channels as the first stage. By default one that leaves maps of at most 8 x 8 pixels, or
        more where a narrow image would be mostly padding.
    expansions, alpha : of the blocks, in turn, and the start of their alpha
    """

    channels: tuple[int, ...] = (48,)
    layers: tuple[int, ...] = (4,)
    stem: tuple[int, ...] | None = None
    expansions: tuple[int, ...] = (1, 3)
    alpha: float = 1.0

    def __post_init__(self):
        for name in ("channels", "layers", "stem", "expansions"):
            values = getattr(self, name)
            if name == "stem" and values is None:
                continue
            if not isinstance(values, list | tuple) or (not values and name != "stem"):
                raise ValueError(f"{name} must be a sequence of integers, got {values!r}.")
            object.__setattr__(self, name, int_tuple(f"each number in {name}", values))
        if len(self.channels) != len(self.layers):
            raise ValueError(
                "channels and layers must be given for the same stages, got "
                f"{len(self.channels)} and {len(self.layers)} of them."
            )
        check_number("alpha", self.alpha)

    def stem_of(self, height: int, width: int) -> tuple[int, ...]:
        """Sizes of the stem's patches for such images; see `layer_core` for the parameters."""
        if self.stem is not None:
            return self.stem
        narrow = math.ceil(math.log2(min(height, width)))
        return (1 << min(max(0, math.ceil(math.log2(max(height, width) / 8))), narrow),)


#: Variants by name: three for images of up to some 64 pixels, then the three of the paper.
VARIANTS = {
    "tiny": Variant((32,), (4,)),
    "small": Variant((48,), (4,)),
    "base": Variant((96,), (8,)),
    "T": Variant((96, 128, 160, 192), (6, 6, 16, 6), (2, 2)),
    "S": Variant((96, 128, 192, 192), (6, 6, 24, 8), (2, 2)),
    "L": Variant((128, 192, 256, 384), (8, 8, 32, 8), (2, 2)),
}


# One program where nothing else is being compiled.
@unforked
@functools.partial(eqx.filter_jit, inline=True)
def _outputs(model, images, with_moments):
    """Outputs and, if they are asked for, the moments of the batch."""
    moments = [] if with_moments else None
    x = model.before(0, images.transpose(3, 1, 2, 0))
    for i, stage in enumerate(model.stages):
        x = model.before(i, x) if i else x
        for block in stage:
            x = block(x, moments)
    pooled = x.mean((1, 2), keepdims=True)
    return model.head(pooled)[:, 0, 0].T, moments


class DTTN(eqx.Module):
    """Deep tree tensor network: images (batch, height, width[, channels]) to (batch, n_outputs).

    Images should be standardised; they set the precision, and may differ from image_shape in height
    and width. Source: arXiv 2502.09928, section 3.

    >>> import jax
    >>> model = DTTN(Variant((8,), (2,)), (28, 28), 10, key=jax.random.key(0))
    >>> images = jax.random.normal(jax.random.key(1), (5, 28, 28))
    >>> outputs = model(images, moments := [])
    >>> model = model.with_moments(moments)
    >>> bool(jax.numpy.allclose(model(images), outputs, atol=1e-4))
    True

    Parameters
    ----------
    variant, image_shape, n_outputs : sizes, (height, width[, channels]), and number of outputs
    block : type, class of the blocks, such as `AIM`, or several that are used in turn
    merge : type, `BatchNormProduct` for DTTN, `LayerNormProduct` for DTTN-dagger
    key : jax.Array, key of all weights
    """

    stem: tuple
    stages: tuple
    transitions: tuple
    head: Pointwise
    image_shape: tuple = eqx.field(static=True)

    def __init__(
        self,
        variant: Variant,
        image_shape: tuple[int, ...],
        n_outputs: int,
        *,
        block: type | Sequence[type] = AIM,
        merge: type[Merge] = BatchNormProduct,
        key: jax.Array,
    ):
        shape = _checked_shape(image_shape)
        check_int("n_outputs", n_outputs, 1)
        check_instance("variant", variant, Variant)
        if not isinstance(merge, type) or not issubclass(merge, Merge):
            raise ValueError(f"merge must be a class such as BatchNormProduct, got {merge!r}.")
        self.image_shape = shape if len(shape) == 3 else (*shape, 1)
        blocks = tuple(block) if isinstance(block, list | tuple) else (block,)
        if not blocks or not all(isinstance(each, type | functools.partial) for each in blocks):
            raise ValueError(f"block must be a class such as AIM, or several, got {block!r}.")
        height, width, n_in = self.image_shape
        sizes = variant.stem_of(height, width)
        if not sizes and n_in != variant.channels[0]:
            raise ValueError(
                f"Without a stem, images of {n_in} channels need a first stage of as many, got "
                f"{variant.channels[0]}: set stem=(1,) in the Variant."
            )
        n_maps = len(sizes) + len(variant.layers) + sum(variant.layers)
        keys = iter(jax.random.split(key, n_maps))
        widths = (n_in, *(variant.channels[0],) * len(sizes))
        stem = [PatchMap(*pair, size, next(keys)) for pair, size in zip(pairwise(widths), sizes)]
        kinds = zip(cycle(blocks), cycle(variant.expansions))
        stages, transitions = [], []
        for i, (channels, n_layers) in enumerate(zip(variant.channels, variant.layers)):
            if i:
                transitions.append(PatchMap(variant.channels[i - 1], channels, 2, next(keys)))
            stage = [
                kind(channels, expansion, merge=merge, alpha=variant.alpha, key=next(keys))
                for kind, expansion in islice(kinds, n_layers)
            ]
            stages.append(tuple(stage))
        self.stem, self.stages, self.transitions = tuple(stem), tuple(stages), tuple(transitions)
        head = Pointwise(variant.channels[-1], n_outputs, next(keys))
        # Small outputs, so that training starts from even odds.
        self.head = eqx.tree_at(lambda head: head.weight, head, 0.1 * head.weight)

    def __call__(self, images: ArrayLike, moments: list | None = None) -> jax.Array:
        """Outputs, (batch, n_outputs).

        Parameters
        ----------
        images : (batch, height, width[, channels]), floating-point images
        moments : list, optional
            Gets the moments of the batch, which normalisations use then, for `with_moments`.
        """
        outputs, found = _outputs(self, self.with_channels(images), moments is not None)
        if moments is not None:
            moments.extend(found)
        return outputs

    def with_channels(self, images: ArrayLike) -> jax.Array:
        """Images as (batch, height, width, channels); ValueError for other shapes and dtypes."""
        images = on_device(images)
        channels = self.image_shape[2]
        if images.ndim == 3 and channels == 1:
            images = images[..., None]
        if images.ndim != 4 or images.shape[3] != channels:
            raise ValueError(
                f"Images must be (batch, height, width, {channels}), got the shape {images.shape}."
            )
        if not len(images):
            raise ValueError("There are no images: the batch has size 0.")
        check_floating(images)
        return images

    def shape_of(self, image_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        """Image shape (height, width, channels), by default the one the model was made for."""
        shape = self.image_shape if image_shape is None else _checked_shape(image_shape)
        if shape[2:] not in ((), self.image_shape[2:]):
            raise ValueError(
                f"The model reads {self.image_shape[2]} channels, got image_shape {shape}."
            )
        return (*shape[:2], self.image_shape[2])

    def before(self, i: int, x: jax.Array) -> jax.Array:
        """Maps at the entry of a stage.

        Parameters
        ----------
        i, x : number of the stage, and maps from the stage before, images for the first
        """
        for patches in self.stem if i == 0 else self.transitions[i - 1 : i]:
            x = patches(x)
        return x

    @property
    def moments(self) -> list[tuple[jax.Array, jax.Array]]:
        """Means and variances in place, one pair per normalisation, in the order of calls."""
        is_norm = lambda part: isinstance(part, BatchNorm)  # noqa: E731
        norms = filter(is_norm, jax.tree.leaves(self, is_leaf=is_norm))
        return [(norm.mean, norm.variance) for norm in norms]

    def with_moments(self, moments: list, momentum: float = 1.0) -> "DTTN":
        """The model with other moments in place.

        Parameters
        ----------
        moments, momentum : pairs as calls append them, and the share of the way to them, in [0, 1]
        """
        moved = jax.tree.map(
            lambda old, new: old + momentum * (new.astype(old.dtype) - old), self.moments, moments
        )
        return eqx.tree_at(lambda model: jax.tree.leaves(model.moments), self, sum(moved, ()))

    def fold_batchnorm(self) -> "DTTN":
        """The same function for inference, see `tn4ml_plus.image.fold_batchnorm`."""
        return fold_batchnorm(self)

    def to_tree(self, image_shape: tuple[int, ...] | None = None) -> TTN:
        """The quimb tree that computes the same function, a `TTN` in float64.

        Its 2^L leaves, L being the number of blocks, all read the image of this shape, by default
        the model's own, flattened as (height, width, channels), and a one. For small models only,
        as cores have (n + 1)^3 numbers, n being those of the maps. ValueError for larger ones, and
        for blocks that are not products of two maps, such as those with `LayerNormProduct`.

        >>> import jax
        >>> model = DTTN(Variant((2,), (2,), stem=()), (3, 3, 2), 10, key=jax.random.key(0))
        >>> tree = model.to_tree()
        >>> tree.nsites, tree.ind_size("k0"), tree.ind_size("out")
        (4, 19, 10)
        """
        shape = self.shape_of(image_shape)
        n_layers = sum(map(len, self.stages))
        if 2**n_layers > _MAX_LEAVES:
            raise ValueError(
                f"{n_layers} blocks make a tree of 2^{n_layers} leaves, more than {_MAX_LEAVES}: "
                "only small models can be unfolded."
            )
        layers = []
        with jax.enable_x64(True):
            model = _double(self)
            maps = jnp.zeros((shape[2], *shape[:2], 1))
            maps = jax.eval_shape(functools.partial(model.before, 0), maps)
            _check_size((np.prod(shape) + 1, np.prod(shape) + 1, np.prod(maps.shape) + 1))
            # Reads images flattened as they are given: (height, width, channels).
            entry = _affine(
                lambda x: model.before(0, x.reshape(*shape, -1).transpose(2, 0, 1, 3)), shape
            )
            for i, stage in enumerate(model.stages):
                if i:
                    before = functools.partial(model.before, i)
                    layers[-1] = np.tensordot(_affine(before, maps.shape[:3]), layers[-1], 1)
                    maps = jax.eval_shape(before, maps)
                layers += [layer_core(block, *maps.shape[1:3]) for block in stage]
            head = _matrix(lambda x: model.head(x.mean((1, 2), keepdims=True)), maps.shape[:3])
        layers[0] = np.einsum("oij,ik,jl->okl", layers[0], entry, entry, optimize=True)
        layers[-1] = np.tensordot(head, layers[-1], 1)
        arrays = []
        for height, core in enumerate(layers, 1):
            arrays += [core.transpose(1, 2, 0)] * 2 ** (n_layers - height)
        return TTN(arrays, Tree.balanced(2**n_layers), output_inds=("out",))

    def polynomial_degree(self, image: ArrayLike, max_degree: int | None = None) -> int | None:
        """Degree of the outputs at t * image in t, None if above max_degree or no polynomial.

        Double precision sees the highest coefficients of up to about four blocks; for more blocks
        the result is too low.

        Parameters
        ----------
        image : (height, width[, channels]), one image
        max_degree : int, optional, at most 1024; by default the product of the blocks' degrees
        """
        if max_degree is None:
            max_degree = math.prod(block.degree for stage in self.stages for block in stage)
        with jax.enable_x64(True):
            model, image = _double(self), np.asarray(image, float)
            ones = (1,) * image.ndim
            function = jax.jit(lambda t: model(t.reshape(-1, *ones) * image[None]))
            return polynomial_degree(function, max_degree)

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers: all but the moments."""
        sizes = (leaf.size for leaf in jax.tree.leaves(self))
        return sum(sizes) - sum(leaf.size for leaf in jax.tree.leaves(self.moments))


def _checked_shape(shape):
    """The tuple (height, width[, channels]); ValueError for others."""
    valid = np.ndim(shape) == 1 and len(shape) in (2, 3)
    check("image_shape", shape, valid, "(height, width) or (height, width, channels)")
    return int_tuple("each size in image_shape", shape)


def layer_core(block: Interaction, height: int, width: int) -> np.ndarray:
    """Core T of a block: x~'[o] = sum T[o, i, j] x~[i] x~[j], (n + 1, n + 1, n + 1), float64.

    x~ is the n = channels height width numbers of the maps, flattened, and a one.

    Parameters
    ----------
    block, height, width : an `Interaction`, not one that normalises over channels, and map sizes
    """
    if not isinstance(block, Interaction):
        raise ValueError(
            f"A {type(block).__name__} is not a product of two maps: it has no core of order 3."
        )
    c = len(block.project.weight)
    n = c * height * width
    with jax.enable_x64(True):
        block = fold_block(_double(block))
        if not isinstance(block.merge, Product | Sum):
            raise ValueError(
                f"{type(block.merge).__name__} divides by numbers that depend on the image: the "
                "block is no tensor. Use BatchNormProduct."
            )
        _check_size((n + 1,) * 3)
        left, right = (_matrix(branch, (c, height, width)) for branch in (block.left, block.right))
        width_inside = block.project.weight.shape[1]
        project = _matrix(block.project, (width_inside, height, width))
    alpha = float(block.alpha)
    core = np.zeros((n + 1,) * 3)
    if isinstance(block.merge, Product):
        core[:n] = alpha * np.einsum("oh,hi,hj->oij", project[:, :-1], left, right, optimize=True)
    else:
        core[:n, :, n] = alpha * project[:, :-1] @ (left + right)
    core[:n, n, n] += alpha * project[:, -1]
    core[:n, :n, n] += np.eye(n)
    core[n, n, n] = 1
    return core


def polynomial_degree(function: Callable, max_degree: int, tol: float = 1e-10) -> int | None:
    """Degree of a polynomial in one variable, None if it is none of degree max_degree or less.

    >>> polynomial_degree(lambda t: 1 + t**3, 5), polynomial_degree(lambda t: abs(t), 5)
    (3, None)

    Parameters
    ----------
    function : callable, from t (n,) in [-1, 1], float64, to finite values (n, ...)
    max_degree : int, at most 1024
    tol : float, coefficients of Chebyshev polynomials at most this times the largest count as zero
    """
    check_int("max_degree", max_degree, 0)
    if max_degree > _MAX_DEGREE:
        raise ValueError(
            f"Degrees up to {max_degree} cannot be resolved: give a max_degree of at most "
            f"{_MAX_DEGREE}."
        )
    n = max_degree + 4
    nodes = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    values = np.asarray(function(nodes), float).reshape(n, -1)
    if not np.isfinite(values).all():
        raise ValueError("The function is not finite on the line: scale the image down.")
    coefficients = np.abs(np.polynomial.chebyshev.chebfit(nodes, values, n - 1))
    (found,) = np.nonzero((coefficients > tol * coefficients.max(axis=0)).any(axis=1))
    degree = max(found.tolist(), default=0)
    return degree if degree <= max_degree else None


def _check_size(shape):
    if np.prod(shape, dtype=float) > _MAX_CORE:
        raise ValueError(
            f"A core of the shape {tuple(map(int, shape))} is too large: only models with few "
            "channels on small images can be unfolded."
        )


def _double(model):
    return jax.tree.map(lambda leaf: on_device(np.asarray(leaf), float), model)


def _matrix(function, shape):
    """(n_out, n_in + 1) of an affine function of maps of this shape: its matrix and constant."""
    n = int(np.prod(shape))
    points = np.eye(n, n + 1).reshape(*shape, n + 1)
    values = np.array(eqx.filter_jit(function)(on_device(points))).reshape(-1, n + 1)
    values[:, :-1] -= values[:, -1:]
    return values


def _affine(function, shape):
    """`_matrix` with a last row that passes the one on."""
    matrix = _matrix(function, shape)
    return np.vstack([matrix, np.eye(1, matrix.shape[1], matrix.shape[1] - 1)])
