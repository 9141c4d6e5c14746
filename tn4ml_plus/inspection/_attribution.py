"""Attribution of outputs to sites, and to the orders in which these interact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn

from .._arrays import served_length
from .._checks import check, check_int
from .._compiled import compiled
from .._types import ArrayLike
from ..contraction import END, contract, pack
from ._canonical import applied, parts, site_size

# Samples at a time.
_BLOCK = 1024


def attributions(network: qtn.TensorNetwork, phi: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """Fall of every output where a site is averaged out, (batch, nsites, *outputs), float64.

    Outputs are linear in the vector of each site, so the difference between f(x) and its mean over
    the site's vectors is exact; all of them cost one backward pass per output.
    ValueError for other shapes, and for outputs beyond the range of float64.

    >>> from tn4ml_plus.networks import MPS
    >>> x = np.array([[0, 1.0]])
    >>> sum_of_two = MPS([np.array([[1, 0.0], [0, 1]]), np.array([[0, 1.0], [1, 0]])])
    >>> phi = np.array([[[1, 2.0], [1, 5.0]]])
    >>> attributions(sum_of_two, phi, np.array([[1, 0.0], [1, 1.0]]))
    array([[2., 4.]])

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork, any network of this package
    phi : (batch, nsites, d), embedded samples
    baseline : (nsites, d), mean vectors, or others to compare with
    """
    return outputs_and_falls(network, phi, baseline)[1]


def outputs_and_falls(network, phi, baseline):
    """Outputs (batch, *outputs) and `attributions`, both float64."""
    packed, structure = pack(network)
    phi, baseline = np.asarray(phi), np.asarray(baseline)
    if len(phi) == 0:
        raise ValueError("phi must have at least one sample.")
    allowed = f"one vector per site, of the shape {phi.shape[1:]}"
    check("baseline", baseline.shape, baseline.shape == phi.shape[1:], allowed)
    # Blocks of one length share compiled code.
    length = min(_BLOCK, served_length(len(phi)))
    padded = np.pad(phi, [(0, -len(phi) % length), (0, 0), (0, 0)], mode="edge")
    parts = [
        _differences(structure, packed, padded[start : start + length], baseline)
        for start in range(0, len(padded), length)
    ]
    value, exponent, falls = (np.concatenate(part)[: len(phi)] for part in zip(*parts, strict=True))
    exponent = exponent.reshape(-1, *(1,) * (value.ndim - 1))
    with np.errstate(over="ignore"):
        found = (
            np.ldexp(value.astype(float), exponent),
            np.ldexp(falls.astype(float), exponent[:, None]),
        )
    if not all(np.isfinite(part).all() for part in found):
        raise ValueError(
            "The outputs exceed the range of floats, in which attributions are differences: divide "
            "the network by a number, such as its norm."
        )
    return found


@partial(compiled, static_argnames="structure")
def _differences(structure, packed, phi, baseline):
    def outputs(phi):
        # The powers of two that are taken out count as constants.
        return tuple(contract(packed, structure, phi))

    phi = phi.astype(jax.tree.leaves(packed)[0].dtype)
    values, pull, exponent = jax.vjp(outputs, phi, has_aux=True)
    n_outputs = values.size // len(values)
    one_of_each = jnp.eye(n_outputs, dtype=values.dtype).reshape(-1, 1, *values.shape[1:])
    one_of_each = jnp.broadcast_to(one_of_each, (n_outputs, *values.shape))
    (slopes,) = jax.lax.map(pull, one_of_each)
    dtype = np.promote_types(phi.dtype, baseline.dtype)
    change = phi.astype(dtype) - baseline.astype(dtype)[None]
    found = jnp.sum(slopes.astype(dtype) * change[None], axis=-1)
    return values, exponent, jnp.moveaxis(found, 0, -1).reshape(*phi.shape[:2], *values.shape[1:])


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
    means, covariances = np.asarray(means, float), np.asarray(covariances, float)
    shape = form.nsites, *2 * (site_size(form, cores),)
    for name, value, n_axes in (("means", means, 2), ("covariances", covariances, 3)):
        if value.shape != shape[:n_axes]:
            raise ValueError(f"{name} must have the shape {shape[:n_axes]}, got {value.shape}.")
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
                new[k : k + len(part)] += applied(gram, part, slot + 1)
            half, whole = new, applied(total, whole, slot)
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
