"""Which sites made an output what it is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ..contraction import contract, pack

# Samples that are seen at a time.
_BLOCK = 1024


def attributions(network, phi, baseline):
    """How much every output falls where a site is averaged out, (batch, nsites, *outputs).

    The outputs are linear in what each site reads: the difference of f(x) and of its mean over the
    site's vectors is exact, and all of them cost one pass back through the network an output.
    phi: (batch, nsites, d) embedded samples; baseline: (nsites, d), the mean vectors, or others to
    compare with. Raises ValueError for other shapes, and for outputs beyond the floats' range.

    >>> import jax, numpy as np
    >>> from tn4ml_plus.networks import MPS
    >>> x = np.array([[0, 1.0]])
    >>> sum_of_two = MPS([np.array([[1, 0.0], [0, 1]]), np.array([[0, 1.0], [1, 0]])])
    >>> phi = np.array([[[1, 2.0], [1, 5.0]]])
    >>> attributions(sum_of_two, phi, np.array([[1, 0.0], [1, 1.0]]))
    array([[2., 4.]])
    """
    packed, structure = pack(network)
    phi, baseline = np.asarray(phi), np.asarray(baseline)
    if phi.shape[1:] != baseline.shape:
        raise ValueError(
            f"baseline must be one vector a site, of the shape {phi.shape[1:]}: {baseline.shape}."
        )
    parts = [
        _differences(structure, packed, phi[start : start + _BLOCK], baseline)
        for start in range(0, len(phi), _BLOCK)
    ]
    found = np.concatenate([np.asarray(part, float) for part in parts])
    if not np.isfinite(found).all():
        raise ValueError(
            "The outputs leave the range of floats: attributions are differences of plain numbers."
        )
    return found


@partial(jax.jit, static_argnames="structure")
def _differences(structure, packed, phi, baseline):
    def outputs(phi):
        return contract(packed, structure, phi).dense()

    phi = phi.astype(jax.tree.leaves(packed)[0].dtype)
    values, pull = jax.vjp(outputs, phi)
    n_outputs = values.size // len(values)
    one_of_each = jnp.eye(n_outputs, dtype=values.dtype).reshape(-1, 1, *values.shape[1:])
    one_of_each = jnp.broadcast_to(one_of_each, (n_outputs, *values.shape))
    (slopes,) = jax.lax.map(pull, one_of_each)
    found = jnp.sum(slopes * (phi - baseline), axis=-1)
    return jnp.moveaxis(found, 0, -1).reshape(*phi.shape[:2], *values.shape[1:])
