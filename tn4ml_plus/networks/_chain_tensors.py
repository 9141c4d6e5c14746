"""Tensors in a row or a ring, neighbours sharing a bond."""

import numpy as np
import quimb.tensor as qtn

from ._tensors import named_tensors, tensors_of

# Sites in a row of a drawing.
_WIDTH = 28


class ChainOfCores:
    """The mixin of chains that are made of cores and found again by their indices.

    The tensors are found by their inputs, whatever their tags and their order. `_own_inds` are the
    indices of each site besides its bonds, the input first.
    """

    @classmethod
    def from_cores(cls, cores, cyclic, **options):
        """Chain of cores as in `cores`, (left bond, *own, right bond) each.

        Parameters
        ----------
        cores : list of arrays
        cyclic : bool, whether the ends are joined, else their bonds have size 1
        **options : parameters of the class
        """
        arrays = [np.moveaxis(core, -1, 1) for core in cores]
        if not cyclic:
            arrays[-1] = arrays[-1][:, 0]
            arrays[0] = arrays[0][0]
        return cls([np.ascontiguousarray(array) for array in arrays], **options)

    def cores(self) -> tuple[list, bool] | None:
        """Arrays (left bond, input, *outputs, right bond) per site, and whether it is a ring.

        Open ends have bonds of size 1. None where the tensors no longer form a chain: a tensor per
        site, one bond between neighbours, nothing else.
        """
        own_inds = self._own_inds()
        tensors, nsites = tensors_of(self, [own[0] for own in own_inds]), len(own_inds)
        if tensors is None or self.num_tensors != nsites:
            return None
        right = [qtn.bonds(a, b) for a, b in zip(tensors, tensors[1:] + tensors[:1])]
        cyclic = nsites > 2 and bool(right[-1])
        right[-1] = right[-1] if cyclic else ()
        if {len(bonds) for bonds in right[: nsites if cyclic else -1]} - {1}:
            return None
        cores = []
        for site, (tensor, own) in enumerate(zip(tensors, own_inds, strict=True)):
            inds = (*right[site - 1], *own, *right[site])
            if sorted(inds) != sorted(tensor.inds):
                return None
            data = tensor.transpose(*inds).data
            if not cyclic:
                data = data[None] if site == 0 else data
                data = data[..., None] if site == nsites - 1 else data
            cores.append(data)
        return cores, cyclic

    def layout(self) -> np.ndarray | None:
        """Positions of the tensors in a drawing, (n_tensors, 2), None where they are no chain.

        A ring, or rows of sites.
        """
        found = tensors_of(self, [own[0] for own in self._own_inds()])
        if found is None or len(found) != self.num_tensors:
            return None
        numbers = {id(tensor): site for site, tensor in enumerate(found)}
        sites = np.array([numbers[id(tensor)] for tensor in self])
        if self.cyclic:
            angle, radius = 2 * np.pi * sites / len(sites), len(sites) / (2 * np.pi)
            return radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        rows, columns = np.divmod(sites, _WIDTH)
        # To and fro, so that neighbours are neighbours.
        columns = np.where(rows % 2, _WIDTH - 1 - columns, columns)
        return np.stack([columns, -1.5 * rows], axis=1)

    def _permute(self, shape, letters):
        """Store the arrays in an order of l, r and letters for the own indices, others last."""
        own_inds = self._own_inds()
        for i in self.gen_sites_present():
            inds = dict(zip(letters, own_inds[i]))
            if self.cyclic or i > 0:
                inds["l"] = self.bond(i, (i - 1) % self.L)
            if self.cyclic or i < self.L - 1:
                inds["r"] = self.bond(i, (i + 1) % self.L)
            first = [inds[axis] for axis in shape if axis in inds]
            outputs = [ind for ind in self.output_inds if ind in self[i].inds]
            self[i].transpose_(*dict.fromkeys(first + outputs))


def chain_tensors(arrays, own_inds, cyclic, site_tag_id, expected):
    """One tensor per site from arrays with the axes (left bond, right bond, *own).

    own_inds: names of the own axes, one tuple per site; expected: the same in words.
    """
    nsites = len(arrays)
    bonds = [(qtn.rand_uuid(),) for _ in arrays]
    left = bonds if cyclic else [(), *bonds[1:]]
    right = [*left[1:], left[0]]
    inds = [own_left + own_right + own for own_left, own_right, own in zip(left, right, own_inds)]
    tags = map(site_tag_id.format, range(nsites))
    return named_tensors(arrays, inds, tags, "site", f"left bond, right bond, {expected}")


def check_cyclic(cyclic, nsites):
    """ValueError for a ring of fewer than 3 sites."""
    if cyclic and nsites < 3:
        raise ValueError(f"A cyclic chain needs at least 3 sites, got {nsites}.")
