"""Tensors of named arrays, and networks with named outputs."""

import numpy as np
import quimb.tensor as qtn


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
