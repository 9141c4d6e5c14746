"""Truncation of networks to smaller bonds, as close as possible to the original."""

import jax
import numpy as np
import quimb.tensor as qtn

from .._checks import check_int, check_number
from .._types import ArrayLike
from ..contraction import END, unpack
from ._canonical import canonical, factors_of, parts, reduced


def compress(
    network: qtn.TensorNetwork,
    max_bond: int | None = None,
    cutoff: float = 1e-6,
    grams: ArrayLike | None = None,
) -> qtn.TensorNetwork:
    """Network of the same kind with bonds truncated to what its states need.

    Every bond keeps the leading directions of all outputs together, weighted by their squares. The
    square of the error is at most the sum of what all bonds discard. After Grasedyck 2010, SIAM J.
    Matrix Anal. Appl. 31, 2029.

    >>> from tn4ml_plus.networks import MPS
    >>> mps = MPS.random(12, bond_dim=8, n_outputs=3, key=jax.random.key(0))
    >>> max(compress(mps, max_bond=4).bond_sizes())
    4

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork, an open chain or a tree, no output of which is zero
    max_bond : int, optional, largest size of a bond
    cutoff : float, share of the square that a bond may discard, in [0, 1)
    grams : as in `bond_entropies`, from `estimator.grams()` for example
    """
    check_int("max_bond", max_bond, 1, optional=True)
    check_number("cutoff", cutoff, at_least=0, below=1)
    structure, form, cores, shapes = whole = parts(network)
    canon = canonical(whole, grams)
    weights = np.exp(2 * (canon.log_norms - canon.log_norms.max()))
    bonds = {}
    for node, (rho,) in enumerate(reduced(canon, weights / weights.sum())[0]):
        shares, directions = np.linalg.eigh(rho)
        left_out = np.cumsum(np.maximum(shares, 0))
        # Shares as small as rounding errors count as none.
        floor = max(cutoff, len(shares) * np.finfo(float).eps)
        kept = max(1, np.sum(left_out > floor * left_out[-1]))
        kept = kept if max_bond is None else min(kept, max_bond)
        bonds[form.nsites + node] = directions[:, : -kept - 1 : -1]
    # Back from orthonormal bases of the sites; directions without weight there become zero.
    back = {site: np.linalg.pinv(f) for site, f in factors_of(form, cores, grams).items()}
    # Spread over all cores, the scale of the whole network overflows none of them.
    scale = np.exp(canon.log_norms.max() / len(cores))
    root = canon.root * np.exp(canon.log_norms - canon.log_norms.max())
    ranks = [part.shape[1] for part in bonds.values()]
    size, found = max(ranks, default=1), []
    for i, (core, shape) in enumerate(zip([*canon.cores, root], shapes, strict=True)):
        for slot, child in enumerate(form.nodes[i]):
            matrix = bonds.get(child, back.get(child))
            if matrix is not None:
                core = np.moveaxis(np.tensordot(core, matrix, (slot, 0)), -1, slot)
        if i < len(ranks):
            core = core @ bonds[form.nsites + i]
        full = [
            size if child == END or child in bonds else n
            for child, n in zip(form.nodes[i], shape)
        ]  # fmt: skip
        full.append(size if i < len(ranks) else shape[-1])
        found.append(np.pad(scale * core, [(0, n - m) for n, m in zip(full, core.shape)]))
    dtype = np.result_type(*(t.dtype for t in network))
    with jax.enable_x64(True):
        found = structure.from_nodes([core.astype(dtype) for core in found], tuple(ranks))
        return unpack(*found)
