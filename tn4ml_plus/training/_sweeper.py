"""One network on its way through a sweep: cores, states and surroundings, bond by bond."""

from functools import reduce

import jax
import jax.numpy as jnp

from ..contraction import END, SquaredNorm, from_nodes, khatri_rao, rooted, to_nodes
from ._local import (
    Surroundings,
    above_child,
    gram_above,
    gram_below,
    local_step,
    state_above,
)


class Sweeper:
    """A rooted network of cores padded to one bond size, and its ranks.

    structure: of the packed network; packed: its arrays; objective: what is minimised; size: of all
    bonds, which ranks are at most.
    """

    def __init__(self, structure, packed, objective, size):
        self.structure, self.objective = structure, objective
        self.squared = isinstance(structure, SquaredNorm)
        self.form = rooted(structure)
        cores, ranks = to_nodes(structure, packed)
        self.size = max(size, *ranks) if ranks else 1
        self.ranks = [jnp.asarray(rank, jnp.int32) for rank in ranks]
        self.cores = [self._padded(i, core) for i, core in enumerate(cores)]
        self.route = list(_route(self.form))

    def _padded(self, node, core):
        children = self.form.nodes[node]
        shape = [
            n if 0 <= child < self.form.nsites else self.size
            for child, n in zip(children, core.shape)
        ]
        shape.append(core.shape[-1] if node == len(self.form.nodes) - 1 else self.size)
        return jnp.pad(core, [(0, n - m) for n, m in zip(shape, core.shape, strict=True)])

    def packed(self):
        """``(packed, structure)``, the arrays padded and the structure with the present ranks."""
        return from_nodes(self.structure, self.cores, tuple(map(int, self.ranks)))

    # Samples ------------------------------------------------------------------------------------

    def see(self, phi, target, weight):
        """Take a block of samples: phi (nsites, phys_dim, batch), target (batch, ...), weight."""
        sites, last = range(len(phi)), len(self.cores) - 1
        self.target, self.weight = target, weight / jnp.sum(weight)
        self.states = {END: jnp.zeros((self.size, phi.shape[2]), phi.dtype).at[0].set(1)}
        self.states |= {site: _pick(phi, site) for site in sites}
        self.above, self.grams, self.grams_above = {last: None}, None, {last: None}
        if self.objective.needs_norm:
            self.grams = {END: jnp.zeros((self.size, self.size), phi.dtype).at[0, 0].set(1)}
            self.grams |= dict.fromkeys(sites, jnp.eye(phi.shape[1], dtype=phi.dtype))
        total = 0
        for i in range(last):
            children = _together(tuple(self.states[c] for c in self.form.nodes[i]))
            state, self.cores[i], exponent = state_above(self.cores[i], children)
            self.states[self.form.nsites + i] = state
            self._regram(i)
            total = total + exponent
        self.cores[last] = jnp.ldexp(self.cores[last], total)
        children = _together(tuple(self.states[c] for c in self.form.nodes[last]))
        self.outputs = _outputs(self.cores[last], children)

    def _regram(self, node):
        if self.grams is not None:
            children = _kron(tuple(self.grams[c] for c in self.form.nodes[node]))
            self.grams[self.form.nsites + node] = gram_above(self.cores[node], children)

    # Bonds --------------------------------------------------------------------------------------

    def bond(self, node):
        """The core above a node, with the bond first, (D, k, m), and the bond's `Surroundings`."""
        parent, slot = self.form.parents[node]
        core = jnp.moveaxis(self.cores[parent], slot, 0)
        mine = self.form.nodes[node]
        siblings = [c for i, c in enumerate(self.form.nodes[parent]) if i != slot]
        children = _together(tuple(self.states[c] for c in mine))
        others = jnp.ones_like(self.weight)[None]
        if siblings:
            others = _together(tuple(self.states[c] for c in siblings))
        grams = None
        if self.grams is not None:
            of_siblings = jnp.ones((1, 1), others.dtype)
            if siblings:
                of_siblings = _kron(tuple(self.grams[c] for c in siblings))
            of_mine = _kron(tuple(self.grams[c] for c in mine))
            grams = of_mine, of_siblings, self.grams_above[parent]
        fixed = Surroundings(children, others, self.above[parent], grams, self.target, self.weight)
        return core.reshape(self.size, -1, core.shape[-1]), fixed

    def replace(self, node, below, above):
        """Put back the cores below and above a bond, the latter as from `bond`."""
        parent, slot = self.form.parents[node]
        shape = list(self.cores[parent].shape)
        shape.insert(0, shape.pop(slot))
        self.cores[node] = below
        self.cores[parent] = jnp.moveaxis(above.reshape(shape), 0, slot)

    def sweep(self, settings, key):
        """Visit every bond, outward and back; returns a list of (node, report)."""
        reports = []
        for node, outward in self.route:
            key, here = jax.random.split(key)
            above, fixed = self.bond(node)
            below, above, self.outputs, state, report = local_step(
                self.objective, self.squared, self.cores[node], above, self.outputs, fixed,
                self.ranks[node], settings, outward, here,
            )  # fmt: skip
            self.replace(node, below, above)
            self.ranks[node] = report.rank
            reports.append((node, report))
            if outward:
                self.above[node] = above_child(above, fixed.others, fixed.above)
                if self.grams is not None:
                    self.grams_above[node] = gram_below(above, *fixed.grams[1:])
            else:
                self.states[self.form.nsites + node] = state
                self._regram(node)
                self.above.pop(node, None)
        return reports


def _route(form):
    """Bonds in the order of a sweep, as (lower node, outward): down to the ends and back up.

    A node whose children are sites is visited on the way back only.
    """
    stack = [(node, None) for node in reversed(form.below(len(form.nodes) - 1))]
    while stack:
        node, outward = stack.pop()
        if outward is None:
            below = form.below(node)
            stack.append((node, False))
            if below:
                stack.extend((child, None) for child in reversed(below))
                yield node, True
        else:
            yield node, False


@jax.jit
def _pick(array, i):
    # A traced number: one compilation for all sites.
    return array[i]


@jax.jit
def _together(states):
    return khatri_rao(*states)


@jax.jit
def _outputs(core, children):
    return (core.reshape(-1, core.shape[-1]).T @ children).T


@jax.jit
def _kron(grams):
    return reduce(jnp.kron, grams)
