"""Densities by the Born rule: exact marginals, conditionals and samples of chains and trees."""

from functools import partial
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._arrays import namespace
from ..networks import Tree
from ._pack import pack
from ._structure import END

# Floats of all messages of one block of samples: half a gigabyte.
_BLOCK = 2**26


def as_tree(network):
    """Network without outputs as a `Tree` with a core per node.

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork, whose `exponent`, a common factor, is left out

    Returns
    -------
    tree : Tree, for a chain two arms, the left one first, which meet in its middle
    cores : list of ndarray, (*children, up) in float64; the last axis of the root has size 1

    Raises
    ------
    ValueError
        For networks that are neither open chains nor trees, or have outputs.
    """
    network = network.copy()
    network.exponent = 0.0
    # Arrays of 64 bits keep them.
    with jax.enable_x64(True):
        packed, structure = pack(network)
    structure.check_rooted("A density needs", ": take an MPS or a TTN")
    if structure.output_inds:
        raise ValueError(
            "A density needs a network without outputs, such as an MPS or a TTN, got one with "
            f"{structure.output_inds}: isel or sum over them first."
        )
    form, nodes, cores = structure.rooted(), [], []
    sizes, first = dict(enumerate(structure.phys_dims)) | {END: 1}, list(range(form.nsites))
    for core, children in zip(structure.nodes(packed), form.nodes, strict=True):
        core = core[tuple(slice(sizes.get(child)) for child in children)]
        kept = [slot for slot, child in enumerate(children) if child != END]
        first.append(min(first[children[slot]] for slot in kept))
        if form.is_chain:
            # Sites are drawn from left to right.
            kept.sort(key=lambda slot, children=children: first[children[slot]])
        nodes.append(tuple(children[slot] for slot in kept))
        shape = [core.shape[slot] for slot in kept]
        ends = [slot for slot in range(len(children)) if slot not in kept]
        cores.append(core.transpose(*kept, -1, *ends).reshape(*shape, core.shape[-1]))
    return Tree(form.nsites, tuple(nodes)), cores


class BornDensity:
    """|psi(x)|^2 / <psi|psi> of an open `MPS` or a `TTN` without outputs, in float64.

    psi is the network's value on vectors phi of an orthonormal basis. The network is brought into
    canonical form once, so that missing sites are traced out for nothing. Han et al. 2018,
    section II.

    In its methods phi is (batch, nsites, phys_dim), zero-padded where a site's own phys_dim is
    smaller, and missing (batch, nsites) bools, whose vectors are ignored; by default none is.

    Parameters
    ----------
    network : quimb.tensor.TensorNetwork

    Examples
    --------
    >>> import jax
    >>> from tn4ml_plus.networks import MPS
    >>> density = BornDensity(MPS.random(3, phys_dim=2, key=jax.random.key(0)))
    >>> states = np.eye(2)[np.indices((2, 2, 2)).reshape(3, 8).T]
    >>> f"{np.exp(density.log_density(states)).sum():.12f}"
    '1.000000000000'
    """

    def __init__(self, network):
        self.tree, cores = as_tree(network)
        self.cores = []
        for i, core in enumerate(cores):
            core = core / (np.abs(core).max() or 1)
            q, r = np.linalg.qr(core.reshape(-1, core.shape[-1]))
            self.cores.append(q.reshape(*core.shape[:-1], -1))
            if i == len(cores) - 1:
                if not (np.isfinite(r).all() and r.any()):
                    raise ValueError("The network is zero or not finite: it has no density.")
                continue
            parent = self.tree.parents[self.tree.nsites + i]
            axis = self.tree.nodes[parent].index(self.tree.nsites + i)
            above = np.tensordot(cores[parent], r, (axis, 1))
            cores[parent] = np.moveaxis(above, -1, axis)

    #: Number of sites, and their sizes.
    nsites = property(attrgetter("tree.nsites"))
    phys_dims = property(lambda self: tuple(map(self._dim, range(self.nsites))))

    def _dim(self, child):
        node = self.tree.parents[child]
        return self.cores[node].shape[self.tree.nodes[node].index(child)]

    def log_density(self, phi, missing=None):
        """Natural log of the density of the sites that are not missing, (batch,).

        Within a traced function both are arrays of JAX.
        See `BornDensity` for the parameters.
        """
        if namespace(phi) is jnp:
            some = partial(self._log_upward, phi, missing)
            none = partial(self._log_upward, phi, None)
            return lax.cond(missing.any(), some, none)
        parts = [self._log_upward(*block) for block in self._blocks(phi, missing)]
        return np.concatenate([np.zeros(0), *parts])

    def conditionals(self, phi, missing=None):
        """Density matrices of every site given the others, (batch, nsites, phys_dim, phys_dim).

        That of a site is conditioned on all others that are not missing, whether or not it is
        missing itself; x has the density phi(x) rho phi(x). See `BornDensity` for the parameters.
        """
        parts = [self._downward(*block) for block in self._blocks(phi, missing)]
        nothing = np.zeros((0, self.nsites) + (max(self.phys_dims),) * 2)
        return np.concatenate([nothing, *parts])

    def sample(self, phi, missing, draw):
        """Draw the missing sites in sequence, each given all that are there by then.

        Parameters
        ----------
        phi, missing : as in `BornDensity`
        draw : callable
            ``draw(site, rows, rho)`` gives vectors (len(rows), phys_dim) from density matrices
            (len(rows), phys_dim, phys_dim) of unit trace, for the row numbers `rows`.
        """
        start = 0
        for block_phi, block_missing in self._blocks(phi, missing):
            self._draw(block_phi, block_missing, start, draw)
            start += len(block_phi)

    # One block of samples -----------------------------------------------------------------------

    def _blocks(self, phi, missing):
        phi = np.asarray(phi, float)
        if phi.ndim != 3 or phi.shape[1:] != (self.nsites, max(self.phys_dims)):
            raise ValueError(
                f"The density takes vectors of shape (batch, {self.nsites}, "
                f"{max(self.phys_dims)}), got {phi.shape}."
            )
        missing = np.zeros(phi.shape[:2], bool) if missing is None else np.asarray(missing, bool)
        floats = sum(core.shape[-1] ** 2 for core in self.cores) + sum(map(np.size, self.cores))
        size = max(1, _BLOCK // max(floats, 1))
        for start in range(0, len(phi), size):
            yield phi[start : start + size], missing[start : start + size]

    def _leaf(self, site, phi, missing):
        """Message of a leaf: vectors (batch, d), matrices (batch, d, d), None for the identity."""
        v, xp = phi[:, site, : self._dim(site)], namespace(phi)
        if missing is None or (xp is np and not missing[:, site].any()):
            return v
        if xp is np and missing[:, site].all():
            return None
        eye = np.eye(v.shape[1])
        return xp.where(missing[:, site, None, None], eye, v[:, :, None] * v[:, None, :])

    def _upward(self, phi, missing):
        """Messages of all leaves and nodes and the log of what they were divided by, (batch,)."""
        messages = [self._leaf(i, phi, missing) for i in range(self.nsites)]
        log = namespace(phi).zeros(len(phi))
        for core, children in zip(self.cores, self.tree.nodes, strict=True):
            message = _merge(core, [messages[child] for child in children])
            if message is not None:
                message, size = _unit(message)
                log = log + size
            messages.append(message)
        return messages, log

    def _log_upward(self, phi, missing):
        return self._upward(phi, missing)[1]

    def _downward(self, phi, missing):
        messages, _ = self._upward(phi, missing)
        above = [None] * len(self.tree.nodes)
        widest = max(self.phys_dims)
        rho = np.zeros((len(phi), self.nsites, widest, widest))
        for i in reversed(range(len(self.tree.nodes))):
            children = self.tree.nodes[i]
            for j, child in enumerate(children):
                others = [messages[c] for c in children]
                found = _unit(_environment(self.cores[i], others, above[i], j))[0]
                if child < self.nsites:
                    d = found.shape[-1]
                    rho[:, child, :d, :d] = found
                else:
                    above[child - self.nsites] = found
        return rho

    def _draw(self, phi, missing, start, draw):
        messages, _ = self._upward(phi, missing)
        # Depth first, each child given what is drawn below those before it.
        stack = [[len(self.cores) - 1, 0, None]]
        while stack:
            node, j, above = stack[-1]
            children = self.tree.nodes[node]
            core, others = self.cores[node], [messages[child] for child in children]
            if j == len(children):
                messages[self.nsites + node] = _unit(_merge(core, others))[0]
                stack.pop()
                continue
            stack[-1][1] += 1
            child = children[j]
            if messages[child] is not None and messages[child].ndim == 2:
                continue
            found = _unit(_environment(core, others, above, j))[0]
            found = np.broadcast_to(found, (len(phi), *found.shape[1:]))
            if child >= self.nsites:
                stack.append([child - self.nsites, 0, found])
                continue
            rows = np.flatnonzero(missing[:, child])
            vectors = phi[:, child, : self._dim(child)].copy()
            vectors[rows] = draw(child, start + rows, found[rows])
            messages[child] = vectors


def _contracted(core, messages):
    """Core (1 or batch, *rest, up) after the children with vectors; it times the others' messages.

    Of these, which come last, None and an empty one leave the core as it is.
    """
    xp = np if messages[0] is None else namespace(messages[0])
    ket, rest = xp.asarray(core)[None], []
    for axis in reversed(range(len(messages))):
        message = messages[axis]
        if message is None or message.ndim == 3:
            rest.insert(0, message)
            continue
        ket = xp.moveaxis(ket, axis + 1, -1)
        shape, flat = ket.shape[1:-1], ket.reshape(len(ket), -1, ket.shape[-1])
        if len(ket) == 1:
            ket = message @ flat[0].T
        else:
            ket = xp.matmul(flat, message[:, :, None])[..., 0]
        ket = ket.reshape(-1, *shape)
    half = ket
    for axis, message in enumerate(rest, start=1):
        half = _apply(half, message, axis)
    return ket, half, rest


def _apply(ket, matrix, axis):
    """Multiply one axis of (1 or batch, ...) by a symmetric matrix (1 or batch, d, d), if any."""
    if matrix is None or not matrix.size:
        return ket
    xp = namespace(ket)
    moved = xp.moveaxis(ket, axis, -1)
    flat = moved.reshape(len(moved), -1, moved.shape[-1])
    if len(flat) == 1:
        # One GEMM for all samples.
        out = xp.moveaxis(xp.tensordot(flat[0], matrix, (1, 1)), 1, 0)
    else:
        out = xp.matmul(flat, matrix)
    return xp.moveaxis(out.reshape(-1, *moved.shape[1:-1], matrix.shape[-1]), -1, axis)


def _merge(core, messages):
    """Message of a node from those of its children; None where all are the identity."""
    if all(message is None for message in messages):
        return None
    ket, half, rest = _contracted(core, messages)
    return _overlap(half, ket, ket.ndim - 1) if rest else ket


def _environment(core, messages, above, j):
    """Matrix (1 or batch, d, d) that child `j` of a node sees of everything else."""
    others = [np.empty((0, 0, 0)) if i == j else m for i, m in enumerate(messages)]
    ket, half, rest = _contracted(core, others)
    open_axis = 1 + next(i for i, m in enumerate(rest) if m is not None and m.size == 0)
    return _overlap(_apply(half, above, ket.ndim - 1), ket, open_axis)


def _overlap(half, ket, axis):
    """Sum over all axes but the first, of samples, and one other."""
    size = ket.shape[axis]
    rows = max(len(half), len(ket))
    xp = namespace(half)
    half, ket = (xp.moveaxis(x, axis, 1).reshape(len(x), size, -1) for x in (half, ket))
    half, ket = (xp.broadcast_to(x, (rows, *x.shape[1:])) for x in (half, ket))
    return xp.matmul(half, ket.transpose(0, 2, 1))


def _unit(message):
    """Message of unit norm or trace and the log of the squared norm that it had, (batch,)."""
    xp = namespace(message)
    if message.ndim == 2:
        size = xp.sum(message**2, axis=1)
        scale = xp.sqrt(size)[:, None]
    else:
        size = xp.trace(message, axis1=1, axis2=2)
        scale = size[:, None, None]
    with np.errstate(divide="ignore"):
        return message / xp.where(scale > 0, scale, 1), xp.log(size)
