"""Tensors in a row or a ring, neighbours sharing a bond."""

import numpy as np
import quimb.tensor as qtn


def chain_tensors(arrays, own_inds, cyclic, site_tag_id, expected):
    """One tensor a site from arrays with the axes (left bond, right bond, *own).

    own_inds: names of a site's own axes, one tuple a site; expected: what these are, in words.
    Raises ValueError for arrays of another number of axes or bonds of two sizes.
    """
    nsites = len(arrays)
    bonds = [qtn.rand_uuid() for _ in range(nsites)]
    tensors, sizes = [], {}
    for site, (array, own) in enumerate(zip(arrays, own_inds, strict=True)):
        inds = []
        if cyclic or site > 0:
            inds.append(bonds[site])
        if cyclic or site < nsites - 1:
            inds.append(bonds[(site + 1) % nsites])
        inds += own
        if np.ndim(array) != len(inds):
            raise ValueError(
                f"The array of site {site} has {np.ndim(array)} axes where {len(inds)} are "
                f"expected: left bond, right bond, {expected}."
            )
        for ind, size in zip(inds, np.shape(array), strict=True):
            if sizes.setdefault(ind, size) != size:
                other = site - 1 if ind == bonds[site] else (site + 1) % nsites
                raise ValueError(
                    f"The arrays of sites {other} and {site} share a bond, but one has size "
                    f"{sizes[ind]} there and the other {size}."
                )
        tensors.append(qtn.Tensor(array, inds, tags=site_tag_id.format(site)))
    return tensors
