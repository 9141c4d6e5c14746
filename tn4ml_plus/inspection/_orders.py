"""Shares of a function that the orders of interaction carry."""

import numpy as np
import quimb.tensor as qtn

from .._checks import check_int
from .._types import ArrayLike
from ..contraction import END
from ._canonical import parts


def interaction_orders(
    network: qtn.TensorNetwork, means: ArrayLike, covariances: ArrayLike, max_order: int = 4
) -> np.ndarray:
    """Shares of every output's mean square by the number of sites that interact in it, as rows.

    Rows of sum 1: shares of the constant, of orders 1 to max_order, and of all higher ones. Outputs
    are split into a constant, functions of one site, of two and so on, orthogonal to those of fewer
    sites (Hoeffding's decomposition), for independent sites. Divided by their sum without the
    constant the shares are sums of Sobol's indices (2001, Math. Comput. Simul. 55, 271).

    The product of three columns of mean 0 is of order three:

    >>> from tn4ml_plus.networks import MPS
    >>> x = np.array([[[0, 1.0]]])
    >>> means, covariances = np.tile([1.0, 0], (3, 1)), np.tile(np.diag([0, 1.0]), (3, 1, 1))
    >>> interaction_orders(MPS([x[0], x, x[0]]), means, covariances, max_order=3)
    array([[0., 0., 0., 1., 0.]])

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork, an open chain or a tree, no output of which is zero
    means, covariances : (nsites, d) and (nsites, d, d), moments of the sites' vectors
    max_order : int, highest order with a share of its own
    """
    check_int("max_order", max_order, 1)
    _, form, cores, _ = parts(network)
    if form.is_open:
        raise ValueError(
            "Interaction orders are defined only for networks whose outputs are functions: an "
            "operator has one for each entry of its outputs."
        )
    sizes = {
        child: n
        for core, children in zip(cores, form.nodes, strict=True)
        for child, n in zip(children, core.shape)
    }
    means, covariances = np.asarray(means, float), np.asarray(covariances, float)
    expected = (form.nsites, sizes[0])
    for name, value, shape in (
        ("means", means, expected),
        ("covariances", covariances, (*expected, sizes[0])),
    ):
        if value.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {value.shape}.")
    constant = means[:, :, None] * means[:, None]
    # Gram matrices of every child by order, (orders, r, r), and of all orders together.
    found = {i: (np.stack(pair), sum(pair)) for i, pair in enumerate(zip(constant, covariances))}
    found[END] = np.ones((1, 1, 1)), np.ones((1, 1))
    for i, (core, children) in enumerate(zip(cores, form.nodes, strict=True)):
        half, whole = core[None], core
        for slot, child in enumerate(children):
            orders, total = found[child] if child == END else found.pop(child)
            n = min(len(half) + len(orders) - 1, max_order + 1)
            new = np.zeros((n, *half.shape[1:]))
            for k, gram in enumerate(orders[:n]):
                part = half[: n - k]
                new[k : k + len(part)] += _applied(gram, part, slot + 1)
            half, whole = new, _applied(total, whole, slot)
        flat, up = core.reshape(-1, core.shape[-1]).T, core.shape[-1]
        half, whole = flat @ half.reshape(len(half), -1, up), flat @ whole.reshape(-1, up)
        # Shares need no scale.
        scale = np.abs(whole).max() or 1.0
        found[form.nsites + i] = half / scale, whole / scale
    orders, whole = found[form.nsites + i]
    orders, whole = (np.diagonal(part, axis1=-2, axis2=-1) for part in (orders, whole))
    if not (whole > 0).all():
        raise ValueError(
            f"Output {int(np.argmin(whole))} of the network is zero: it has no orders."
        )
    shares = np.zeros((len(whole), max_order + 2))
    shares[:, : len(orders)] = np.maximum(orders / whole, 0).T
    shares[:, -1] = np.maximum(1 - shares.sum(axis=1), 0)
    return shares


def _applied(gram, tensor, axis):
    """A matrix on one of a tensor's axes."""
    return np.moveaxis(np.tensordot(gram, tensor, (1, axis)), 0, axis)
