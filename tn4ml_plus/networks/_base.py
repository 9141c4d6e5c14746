"""Shared parts of networks: named tensors and outputs, random starts, specs."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn
from jaxtyping import Int

from .._checks import check_int, int_tuple
from .._types import AnyArray, ArrayLike
from ..initializers import Initializer, LeastSquaresIdentity

Orders = Int[np.ndarray, "{n_members} {nsites}"]


class NetworkSpec:
    """The base of specs, which make their network by a method ``random(nsites, ..., key=...)``."""

    #: Whether the squares of its networks without outputs have exact marginals, see `BornDensity`.
    has_exact_marginals = False

    def for_data(self, X: AnyArray, nsites: int) -> "NetworkSpec":
        """The spec with everything settled that depends on the data.

        Parameters
        ----------
        X : (n_samples, n_features), features, with NaN where they are missing
        nsites : int, number of sites that read them

        Raises
        ------
        ValueError
            Where the features at the sites do not allow it.
        """
        del X, nsites
        return self

    def orders(self, nsites: int, n_members: int, rng: np.random.RandomState) -> Orders:
        """Orders in which members read the sites of the data, (n_members, nsites).

        Parameters
        ----------
        nsites, n_members : int, number of sites and of networks
        rng : numpy.random.RandomState, for all members but the first, which has the given order
        """
        shuffled = [rng.permutation(nsites) for _ in range(n_members - 1)]
        return np.stack([np.arange(nsites), *shuffled])


class NamedOutputs:
    """The mixin of networks that keep the names of their outputs."""

    @property
    def output_inds(self) -> tuple[str, ...]:
        """Names of the output indices, in the order of the axes of the outputs."""
        return self._output_inds


def named_tensors(arrays, inds, tags, what, expected):
    """Tensors of arrays with the indices of their axes and their tags, one entry each.

    what, expected: an array's place and its axes in words. ValueError for arrays with another
    number of axes and for bonds of two sizes.
    """
    tensors, sizes = [], {}
    for i, (array, own, tag) in enumerate(zip(arrays, inds, tags, strict=True)):
        if np.ndim(array) != len(own):
            raise ValueError(
                f"The array of {what} {i} has {np.ndim(array)} axes where {len(own)} are "
                f"expected: {expected}."
            )
        for ind, size in zip(own, np.shape(array), strict=True):
            other, known = sizes.setdefault(ind, (i, size))
            if known != size:
                raise ValueError(
                    f"The arrays of {what}s {other} and {i} share a bond, but one has size "
                    f"{known} there and the other {size}."
                )
        tensors.append(qtn.Tensor(array, own, tag))
    return tensors


def tensors_of(network, inds):
    """The tensor of each index, in their order, or None unless each has one of its own."""
    tids = [tid for ind in inds for tid in network.ind_map.get(ind, ())]
    if len(set(tids)) != len(inds):
        return None
    return [network.tensor_map[tid] for tid in tids]


def phys_dims_of(phys_dim: int | Sequence[int], nsites: int) -> tuple[int, ...]:
    """One size per site from an int or a sequence; ValueError unless all are at least 1."""
    check_int("nsites", nsites, 1)
    phys_dims = (phys_dim,) * nsites if np.ndim(phys_dim) == 0 else tuple(phys_dim)
    if len(phys_dims) != nsites:
        raise ValueError(f"phys_dim has {len(phys_dims)} entries for {nsites} sites.")
    return int_tuple("phys_dim", phys_dims)


def start(
    nsites: int,
    bond_dim: int,
    n_outputs: int | None = None,
    phys_dim: int | Sequence[int] = 2,
    initializer: Initializer | None = None,
    weights: ArrayLike | None = None,
) -> tuple[Initializer, list[np.ndarray], int]:
    """Initializer, unit weights, (phys_dim,) per site, and fan of checked arguments of `random`."""
    phys_dims, fan = phys_dims_of(phys_dim, nsites), nsites * bond_dim
    check_int("bond_dim", bond_dim, 1)
    check_int("n_outputs", n_outputs, 1, optional=True)
    initializer = LeastSquaresIdentity() if initializer is None else initializer
    if weights is None:
        return initializer, [np.full(d, 1 / d) for d in phys_dims], fan
    weights, shape = np.asarray(weights, float), (nsites, max(phys_dims))
    if weights.shape != shape:
        raise ValueError(
            f"weights must have the shape {shape} (nsites, largest phys_dim), got {weights.shape}."
        )
    return initializer, [w[:d] for w, d in zip(weights, phys_dims)], fan


def as_floats(arrays):
    """Arrays of JAX's default float."""
    return [np.ascontiguousarray(array, jnp.result_type(float)) for array in arrays]
