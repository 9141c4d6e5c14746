"""The seam between quimb and speed: a network as a few arrays and a hashable structure."""

from functools import partial, reduce, singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._amplitude import Amplitude
from .._arrays import on_device, one_program
from .._compiled import compiled
from ._host import contract_on_host, is_quick
from ._structure import Phi, Structure


@singledispatch
def pack(network):
    """Split a network into its arrays and its structure; `unpack` is the inverse.

    Tensors are found by their indices, whatever their tags and their order. A network of this
    package that was changed by hand into another geometry is packed as what it has become.
    Another topology with a kernel of its own registers by ``@pack.register``.

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork
        With inputs and outputs named as `tn4ml_plus.networks.from_quimb` wants them.

    Returns
    -------
    packed : pytree of jax.Array, few arrays, what optimisers see
    structure : Structure, static and hashable, what compiled functions are keyed by

    Raises
    ------
    TypeError
        For what is no tensor network.
    ValueError
        For arrays that are not real floats, and for indices that are neither inputs nor outputs.
    """
    raise TypeError(
        f"Cannot pack a {type(network).__name__}: give a quimb TensorNetwork, or see "
        "tn4ml_plus.networks.from_quimb."
    )


def unpack(packed: Any, structure: Structure):
    """Network that `pack` took apart (NumPy), see `contract` for the parameters."""
    return structure.unpack(packed)


def contract(packed: Any, structure: Structure, phi: Phi) -> Amplitude:
    """Evaluate a network on a batch of embedded samples.

    Pure, and compiled for each `structure` and batch size. Differentiable in `packed` and `phi` in
    reverse mode, any number of times.

    Parameters
    ----------
    packed, structure : a packed network
    phi : (batch, nsites, phys_dim), zero-padded where a site's own phys_dim is smaller

    Returns
    -------
    Amplitude
        Value (batch, *outputs) and exponent (batch,).

    Raises
    ------
    ValueError
        When phi does not fit the structure.
    """
    if phi.ndim != 3 or phi.shape[1:] != (structure.nsites, structure.phys_dim):
        raise ValueError(
            f"The network takes embedded samples of shape (batch, {structure.nsites}, "
            f"{structure.phys_dim}), got {phi.shape}: is this the embedding, and are these the "
            "features, that the network was made for?"
        )
    return _contract(structure, packed, phi)


def log_norm_squared(packed: Any, structure: Structure) -> Float[Array, ""]:
    """Natural log of the network's squared Frobenius norm, see `contract` for the parameters."""
    return _log_norm_squared(structure, packed)


@partial(one_program, static_argnums=0)
def _contract(structure, packed, phi):
    return structure.contract(packed, phi)


@partial(one_program, static_argnums=0)
def _log_norm_squared(structure, packed):
    return structure.log_norm_squared(packed)


@partial(compiled, static_argnums=0)
def _log_abs(structure, packed, phi):
    return structure.contract(packed, phi).log_abs()


def calibrate(
    packed: Any,
    structure: Structure,
    phi: Phi,
    std: float = 1.0,
    sample_weight: Any = None,
    at_outputs: float = 2.0**10,
):
    """Scale a packed network so that its outputs on a batch have the standard deviation `std`.

    The spread is measured around zero over batch and outputs, in the log domain, so that it works
    from any start. The output core takes what fits into a factor of `at_outputs` and all cores
    share the rest evenly.

    Parameters
    ----------
    packed, structure : a packed network
    phi : (batch, nsites, phys_dim), embedded samples
    std : float, standard deviation of the outputs
    sample_weight : (batch,), optional, not all zero; by default equal
    at_outputs : float, at least 1

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
    n_weights = sum(map(np.size, jax.tree.leaves(packed)))
    if is_quick(n_weights, structure, len(phi)):
        value, exponent = contract_on_host(packed, structure, phi)
        with np.errstate(divide="ignore"):
            log_abs = np.log(np.abs(value)).reshape(len(phi), -1) + np.log(2) * exponent[:, None]
    else:
        log_abs = np.asarray(_log_abs(structure, packed, phi), float).reshape(len(phi), -1)
    log_abs = log_abs[weight > 0]
    largest = log_abs.max()
    if not np.isfinite(largest):
        return packed
    squares = np.exp(2 * (log_abs - largest)).mean(axis=1)
    mean = np.average(squares, weights=weight[weight > 0])
    log_factor = np.log(std) - largest - 0.5 * np.log(mean)
    return structure.rescale(packed, log_factor, at_outputs)


def transform(packed: Any, structure: Structure, phi: Phi):
    """Transformed states of embedded samples, one `MPS` per sample with one site per output.

    The inputs k0, k1, ... of a state are the operator's outputs, from the left; its scale is in
    ``exponent``, as quimb has it.

    Parameters
    ----------
    packed, structure : a packed `SMPO` or `MPO`
    phi : (batch, nsites, phys_dim), embedded samples

    Returns
    -------
    list of MPS

    Raises
    ------
    ValueError
        For networks that are no operators, and for a cyclic operator of two outputs, whose state
        no `MPS` can hold.

    Examples
    --------
    >>> import jax
    >>> from tn4ml_plus.networks import SMPO
    >>> packed, structure = pack(SMPO.random(6, spacing=2, key=jax.random.key(0)))
    >>> (state,) = transform(packed, structure, np.ones((1, 6, 2)))
    >>> state.outer_inds()
    ('k0', 'k1', 'k2')
    """
    return structure.transform(packed, phi)


# For those who pack -------------------------------------------------------------------------------


def common_dtype(arrays):
    """The floating dtype of packed arrays, at least single precision.

    ValueError unless all are real floats.
    """
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"The arrays must be real floats, got {array.dtype}: convert the network's, "
                'network.astype("float32").'
            )
    dtypes = {jax.dtypes.canonicalize_dtype(array.dtype) for array in arrays}
    return np.result_type(np.float32, *dtypes)


def spread(arrays, exponent):
    """Arrays with a share each of a factor 10**exponent, which overflows none of them."""
    scale = 10.0 ** (exponent / len(arrays))
    return [array * scale for array in arrays] if exponent else arrays


def padded(array, shape):
    """Zero-padded to a shape, NumPy unless it is traced."""
    xp = jnp if isinstance(array, jax.core.Tracer) else np
    widths = [(0, n - m) for n, m in zip(shape, array.shape, strict=True)]
    return xp.pad(array, widths) if widths else xp.asarray(array)  # NumPy pads no scalars


def stacked(arrays, shape, dtype):
    """Arrays zero-padded to a shape each, as one of a dtype."""
    arrays = [padded(array, shape) for array in arrays]
    xp = jnp if any(isinstance(array, jax.core.Tracer) for array in arrays) else np
    return on_device(xp.stack(arrays) if arrays else np.zeros((0, *shape)), dtype)


def khatri_rao(*factors):
    """(p, batch), (q, batch), ... -> (p * q * ..., batch), the first index slowest.

    >>> import numpy as np
    >>> khatri_rao(np.array([[1], [2]]), np.array([[3], [5]])).ravel().tolist()
    [3, 5, 6, 10]
    """
    return reduce(lambda a, b: (a[:, None] * b[None]).reshape(-1, b.shape[-1]), factors)
