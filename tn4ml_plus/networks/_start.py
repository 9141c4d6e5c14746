"""Arguments and arrays that all networks share when they are made at random."""

from collections.abc import Sequence
from functools import reduce
from math import prod

import jax.numpy as jnp
import numpy as np

from .._checks import check_int
from .._types import ArrayLike
from ..initializers import Initializer, LeastSquaresIdentity


def phys_dims_of(phys_dim: int | Sequence[int], nsites: int) -> tuple[int, ...]:
    """One size per site from an int or a sequence; ValueError unless all are at least 1."""
    check_int("nsites", nsites, 1)
    phys_dims = (phys_dim,) * nsites if np.ndim(phys_dim) == 0 else tuple(phys_dim)
    if len(phys_dims) != nsites:
        raise ValueError(f"phys_dim has {len(phys_dims)} entries for {nsites} sites.")
    for size in phys_dims:
        check_int("phys_dim", size, 1)
    return phys_dims


def start(
    nsites: int,
    bond_dim: int,
    n_outputs: int | None = None,
    *,
    phys_dim: int | Sequence[int] = 2,
    initializer: Initializer | None = None,
    weights: ArrayLike | None = None,
) -> tuple[Initializer, list[np.ndarray]]:
    """Initializer and unit weights, (phys_dim,) per site, of checked arguments of `random`."""
    phys_dims = phys_dims_of(phys_dim, nsites)
    check_int("bond_dim", bond_dim, 1)
    check_int("n_outputs", n_outputs, 1, optional=True)
    initializer = LeastSquaresIdentity() if initializer is None else initializer
    if weights is None:
        return initializer, [np.full(d, 1 / d) for d in phys_dims]
    weights, shape = np.asarray(weights, float), (nsites, max(phys_dims))
    if weights.shape != shape:
        raise ValueError(
            f"weights must have the shape {shape} (nsites, largest phys_dim), got {weights.shape}."
        )
    return initializer, [w[:d] for w, d in zip(weights, phys_dims)]


def top_tensor(rng, known, n_outputs, output_std, output_bias):
    """Tensor on top of a tree, (*below, n_outputs), from what is there where nothing is known."""
    top = rng.normal(size=(*map(len, known), n_outputs or 1))
    top *= output_std / np.sqrt(prod(top.shape[:-1]))
    if n_outputs is None:
        # An amplitude starts at 1, where nothing is known.
        output_bias = np.ones(1)
    if output_bias is not None:
        top += reduce(np.multiply.outer, [*known, np.asarray(output_bias, float)])
    return top if n_outputs else top[..., 0]


def default_floats(arrays):
    """Arrays of JAX's default float."""
    return [np.ascontiguousarray(array, jnp.zeros(()).dtype) for array in arrays]
