"""Networks with smaller bonds, as near as can be to those they come from."""

import jax
import numpy as np

from .._checks import check_int, check_number
from ..contraction import END, from_nodes, unpack
from ._canonical import canonical, factors_of, parts, reduced


def compress(network, max_bond=None, cutoff=1e-6, grams=None):
    """The network with bonds cut to what its states need, of the same kind.

    Every bond keeps the leading directions of all outputs together, weighed by their squares: those
    that leave out at most the share `cutoff` of the square at that bond, in [0, 1), and no more
    than max_bond. The error's square is at most the sum of what all bonds leave out. grams: (d, d)
    or (nsites, d, d) inner products of the functions that the sites' entries stand for, as from
    `estimator.grams()`, None where they are orthonormal.
    Raises ValueError for networks other than open chains and trees, for grams of another shape, and
    for outputs that are zero.
    After Grasedyck 2010, SIAM J. Matrix Anal. Appl. 31, 2029.

    >>> import jax
    >>> from tn4ml_plus.networks import MPS
    >>> mps = MPS.random(12, bond_dim=8, n_outputs=3, key=jax.random.key(0))
    >>> max(compress(mps, max_bond=4).bond_sizes())
    4
    """
    check_int("max_bond", max_bond, 1, optional=True)
    check_number("cutoff", cutoff, at_least=0, below=1)
    structure, form, cores, shapes = whole = parts(network)
    canon = canonical(whole, grams)
    weights = np.exp(2 * (canon.log_norms - canon.log_norms.max()))
    bonds = {}
    for node, (rho,) in enumerate(reduced(canon, weights / weights.sum()).bonds):
        shares, directions = np.linalg.eigh(rho)
        left_out = np.cumsum(np.maximum(shares, 0))
        # Of no weight at all are rounding errors.
        floor = max(cutoff, len(shares) * np.finfo(float).eps)
        kept = max(1, np.sum(left_out > floor * left_out[-1]))
        kept = kept if max_bond is None else min(kept, max_bond)
        bonds[form.nsites + node] = directions[:, : -kept - 1 : -1]
    # Back from orthonormal bases of the sites; what has no weight there is zero.
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
        packed, structure = from_nodes(structure, [a.astype(dtype) for a in found], tuple(ranks))
        return unpack(packed, getattr(structure, "structure", structure))
