"""Unfolding of a network of interactions into a tree tensor network, and its degree.

Source: arXiv 2502.09928, section 3.3 and its appendix on polynomials.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_int
from ..networks import TTN, Tree
from ._blocks import Interaction
from ._folding import fold_block
from ._merges import Product, Sum

# Limits: numbers in the largest core, leaves of the tree, degree.
_MAX_CORE, _MAX_LEAVES, _MAX_DEGREE = 2**26, 2**12, 2**10


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


def to_tree(model, image_shape):
    """See `DTTN.to_tree`."""
    shape = model.shape_of(image_shape)
    n_layers = sum(map(len, model.stages))
    if 2**n_layers > _MAX_LEAVES:
        raise ValueError(
            f"{n_layers} blocks make a tree of 2^{n_layers} leaves, more than {_MAX_LEAVES}: "
            "only small models can be unfolded."
        )
    layers = []
    with jax.enable_x64(True):
        model = _double(model)
        maps = jax.eval_shape(lambda x: model.before(0, x), jnp.zeros((shape[2], *shape[:2], 1)))
        _check_size((np.prod(shape) + 1, np.prod(shape) + 1, np.prod(maps.shape) + 1))
        # Reads images flattened as they are given: (height, width, channels).
        entry = _affine(
            lambda x: model.before(0, x.reshape(*shape, -1).transpose(2, 0, 1, 3)), shape
        )
        for i, stage in enumerate(model.stages):
            if i:
                here = maps.shape
                maps = jax.eval_shape(lambda x, i=i: model.before(i, x), maps)
                step = _affine(lambda x, i=i: model.before(i, x), here[:3])
                layers[-1] = np.tensordot(step, layers[-1], 1)
            for block in stage:
                layers.append(layer_core(block, *maps.shape[1:3]))
        head = _matrix(lambda x: model.head(x.mean((1, 2), keepdims=True)), maps.shape[:3])
    layers[0] = np.einsum("oij,ik,jl->okl", layers[0], entry, entry, optimize=True)
    layers[-1] = np.tensordot(head, layers[-1], 1)
    arrays = [
        core.transpose(1, 2, 0)
        for height, core in enumerate(layers, 1)
        for _ in range(2 ** (n_layers - height))
    ]
    return TTN(arrays, Tree.balanced(2**n_layers), output_inds=("out",))


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


def degree_along(model, image, max_degree):
    """See `DTTN.polynomial_degree`."""
    if max_degree is None:
        max_degree = math.prod(block.degree for stage in model.stages for block in stage)
    with jax.enable_x64(True):
        model, image = _double(model), np.asarray(image, float)
        return polynomial_degree(
            jax.jit(lambda t: model(t.reshape(-1, *(1,) * image.ndim) * image[None])), max_degree
        )


def _check_size(shape):
    if np.prod(shape, dtype=float) > _MAX_CORE:
        raise ValueError(
            f"A core of the shape {tuple(map(int, shape))} is too large: only models with few "
            "channels on small images can be unfolded."
        )


def _double(model):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), model)


def _matrix(function, shape):
    """(n_out, n_in + 1) of an affine function of maps of this shape: its matrix and constant."""
    n = int(np.prod(shape))
    points = np.eye(n, n + 1).reshape(*shape, n + 1)
    values = np.array(eqx.filter_jit(function)(jnp.asarray(points))).reshape(-1, n + 1)
    values[:, :-1] -= values[:, -1:]
    return values


def _affine(function, shape):
    """`_matrix` with a last row that passes the one on."""
    matrix = _matrix(function, shape)
    return np.vstack([matrix, np.eye(1, matrix.shape[1], matrix.shape[1] - 1)])
