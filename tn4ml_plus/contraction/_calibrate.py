"""Bringing the outputs of a fresh network to a wanted size."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._pack import contract
from ._structure import Structure


def calibrate(
    packed: Any,
    structure: Structure,
    phi: Float[Array | np.ndarray, "batch nsites phys_dim"],
    std: float = 1.0,
    sample_weight: Any = None,
):
    """Scale a packed network so that its outputs on a batch have the standard deviation `std`.

    The spread is measured around zero over batch and outputs, in the log domain, so that it works
    from any start. The output core takes what fits into a factor of 2**10 and all cores share the
    rest evenly.

    Parameters
    ----------
    packed, structure : a packed network
    phi : (batch, nsites, phys_dim), embedded samples
    std : float, standard deviation of the outputs
    sample_weight : (batch,), optional, not all zero; by default equal

    Returns
    -------
    pytree
        The packed arrays; as they were, where all outputs are zero.

    Examples
    --------
    >>> import jax, numpy as np
    >>> from tn4ml_plus.contraction import contract, pack
    >>> from tn4ml_plus.networks import MPS
    >>> packed, structure = pack(MPS.random(6, n_outputs=3, key=jax.random.key(0)))
    >>> phi = np.random.RandomState(0).rand(50, 6, 2).astype("f4")
    >>> packed = calibrate(packed, structure, phi)
    >>> outputs = contract(packed, structure, phi).dense()
    >>> f"{np.sqrt(np.mean(outputs**2)):.3f}"
    '1.000'
    """
    weight = np.ones(len(phi)) if sample_weight is None else np.asarray(sample_weight)
    log_abs = np.asarray(_amplitude(structure, packed, phi).log_abs(), float)
    log_abs = log_abs.reshape(len(phi), -1)[weight > 0]
    largest = log_abs.max()
    if not np.isfinite(largest):
        return packed
    squares = np.exp(2 * (log_abs - largest)).mean(axis=1)
    mean = np.average(squares, weights=weight[weight > 0])
    log_factor = np.log(std) - largest - 0.5 * np.log(mean)
    return structure.rescale(packed, log_factor)


@partial(jax.jit, static_argnums=0)
def _amplitude(structure, packed, phi):
    return contract(packed, structure, jnp.asarray(phi))
