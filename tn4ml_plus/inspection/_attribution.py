"""Attribution of outputs to the sites that cause them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn

from .._types import ArrayLike
from ..contraction import contract, pack

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
    if phi.shape[1:] != baseline.shape:
        raise ValueError(
            f"baseline must be one vector per site, of the shape {phi.shape[1:]}, got "
            f"{baseline.shape}."
        )
    # Blocks of one length share compiled code.
    length = min(_BLOCK, len(phi))
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


@partial(jax.jit, static_argnames="structure")
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
