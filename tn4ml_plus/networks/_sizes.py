"""Arguments that every network takes: sizes of the sites and their unit weights."""

import numpy as np

from .._checks import check_int


def phys_dims_of(phys_dim, nsites):
    """One size a site from an int or a sequence; ValueError unless all are at least 1."""
    check_int("nsites", nsites, 1)
    phys_dims = (phys_dim,) * nsites if np.ndim(phys_dim) == 0 else tuple(phys_dim)
    if len(phys_dims) != nsites:
        raise ValueError(f"phys_dim has {len(phys_dims)} entries for {nsites} sites.")
    for size in phys_dims:
        check_int("phys_dim", size, 1)
    return phys_dims


def weights_of(weights, phys_dims):
    """Float64 (nsites, largest phys_dim); None stands for 1 / phys_dim."""
    nsites, widest = len(phys_dims), max(phys_dims)
    if weights is None:
        weights = [[1 / d] * d + [0] * (widest - d) for d in phys_dims]
    weights = np.asarray(weights, float)
    if weights.shape != (nsites, widest):
        raise ValueError(
            f"weights must have the shape {(nsites, widest)} (nsites, largest phys_dim), "
            f"got {weights.shape}."
        )
    return weights
