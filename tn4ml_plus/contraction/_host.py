"""Contraction by NumPy, for what would take longer to compile than to compute."""

import numpy as np

from .._amplitude import Amplitude
from ._structure import END, SHUT


def is_quick(packed_size: int, structure, batch: int) -> bool:
    """Whether `contract_on_host` is sooner done than a program is compiled: open chains and trees.

    Parameters
    ----------
    packed_size : int, number of weights
    structure : Structure
    batch : int, number of samples
    """
    return packed_size * batch <= 2**26 and structure.has_exact_marginals


def contract_on_host(packed, structure, phi) -> Amplitude:
    """Evaluate an open chain or tree on a batch of samples, in float64; see `contract`.

    A node costs one GEMM on the Khatri-Rao product of what its children are, and its result is
    rescaled by an exact power of two.
    """
    form, cores = structure.rooted(), structure.nodes(packed)
    phi, states = np.asarray(phi, float), []
    exponent = np.zeros(len(phi), np.int32)
    for core, children in zip(cores, form.nodes, strict=True):
        product = np.ones((len(phi), 1))
        for child, size in zip(children, core.shape, strict=False):
            if child in (END, SHUT):
                continue
            below = child - form.nsites
            factor = phi[:, child, :size] if below < 0 else states[below]
            product = np.einsum("bi,bj->bij", product, factor).reshape(len(phi), -1)
        value = product @ core.reshape(product.shape[1], -1)
        moved = np.frexp(np.abs(value).max(axis=1))[1]
        states.append(np.ldexp(value, -moved[:, None]))
        exponent += moved
    value = states[-1]
    if structure.squared:
        return Amplitude(np.sum(value**2, axis=1), 2 * exponent)
    return Amplitude(value.reshape(-1, *structure.output_dims), exponent)
