"""One network on its way through a sweep: cores, states and surroundings, bond by bond."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .._typing import exponent_of
from ..contraction import END, OPEN, SHUT, SquaredNorm, from_nodes, rooted, to_nodes
from ._local import expand, local_step
from ._states import Around, above_child, fewer_outputs, gram_above, kron, state_above, together


class Sweeper:
    """A rooted network of cores padded to one bond size, its ranks and its exponent of two.

    structure: of the packed network; packed: its arrays; objective: what is minimised; size: of all
    bonds, which ranks are at most; cache_bytes: how much may be kept of what is above the bonds,
    the rest of which is made again when it is needed.
    """

    def __init__(self, structure, packed, objective, size, cache_bytes):
        self.structure, self.objective = structure, objective
        self.squared = isinstance(structure, SquaredNorm)
        self.form = rooted(structure)
        cores, ranks = to_nodes(structure, packed)
        self.size = max(size, *ranks) if ranks else 1
        self.ranks = [jnp.asarray(rank, jnp.int32) for rank in ranks]
        self.cores = [self._padded(i, core) for i, core in enumerate(cores)]
        self.cache_bytes = cache_bytes
        self.depths = [0] * len(cores)
        for node in reversed(range(len(ranks))):
            self.depths[node] = self.depths[self.form.parents[node][0]] + 1
        self.exponent = jnp.zeros((), jnp.int32)
        # Those by which the cores below the root were divided when samples came last.
        self.exponents = [0] * len(ranks)

    def _padded(self, node, core):
        children = self.form.nodes[node]
        shape = [
            self.size if child == END or child >= self.form.nsites else n
            for child, n in zip(children, core.shape)
        ]
        shape.append(core.shape[-1] if node == len(self.form.nodes) - 1 else self.size)
        return jnp.pad(core, [(0, n - m) for n, m in zip(shape, core.shape, strict=True)])

    @property
    def state(self):
        """What training changes: cores, ranks and exponent."""
        return list(self.cores), list(self.ranks), self.exponent

    @state.setter
    def state(self, state):
        cores, ranks, self.exponent = state
        self.cores, self.ranks = list(cores), list(ranks)

    def packed(self):
        """``(packed, structure)``, the arrays padded and the structure with the present ranks."""
        # Spread over all cores, the scale of the whole network overflows none of them.
        share, rest = divmod(int(self.exponent), len(self.cores))
        cores = [jnp.ldexp(core, share + (i < rest)) for i, core in enumerate(self.cores)]
        return from_nodes(self.structure, cores, tuple(map(int, self.ranks)))

    # Samples ------------------------------------------------------------------------------------

    @property
    def n_signs(self):
        """How many random signs a sample needs to stand for the outputs in the metric."""
        last = len(self.cores) - 1
        return self.size * self._channels if self.is_open else self.cores[last].shape[-1]

    @property
    def _channels(self):
        """Size of the outputs that are indices of their own."""
        leaves = zip(self.form.nodes[-1], self.cores[-1].shape)
        return next((n for leaf, n in leaves if leaf in (OPEN, SHUT)), 1)

    def see(self, phi, target, weight, signs=None):
        """Take samples in random order: phi (nsites, phys_dim, batch), target (batch, ...), weight.

        signs: (samples of the metric, n_signs) random ones, None where there is no metric.
        """
        last, (nsites, phys, batch) = len(self.cores) - 1, phi.shape
        self.target, self.weight = target, weight / jnp.sum(weight)
        self.signs, channels = signs, self._channels
        outputs = self.size if self.is_open else 1
        first = jnp.zeros((channels, channels), phi.dtype).at[0, 0].set(1)
        # Each leaf as (its size, its outputs, batch).
        leaves = {
            END: jnp.zeros((self.size, outputs), phi.dtype).at[0, 0].set(1),
            OPEN: jnp.eye(channels, dtype=phi.dtype),
            SHUT: first,
        }
        self.states = {
            leaf: jnp.broadcast_to(state[..., None], (*state.shape, batch))
            for leaf, state in leaves.items()
        }
        self.states |= {site: _pick(phi, site) for site in range(nsites)}
        # With every s-th kept, and the last s, the cache is smallest where s is the root of all.
        bytes_each = phi.dtype.itemsize * batch * self.n_signs * self.size
        fits = max(2, self.cache_bytes // bytes_each)
        deepest = max(self.depths)
        self.spacing = next((s for s in range(1, deepest) if s + deepest // s < fits), 0)
        self.spacing = self.spacing or max(1, round(deepest**0.5))
        self.above, self.grams, self.grams_above = {last: None}, None, {last: (None, 0)}
        if self.objective.needs_norm:
            end = jnp.zeros((self.size, self.size), phi.dtype).at[0, 0].set(1)
            self.grams = {END: (end, 0), OPEN: (leaves[OPEN], 0), SHUT: (first, 0)}
            self.grams |= dict.fromkeys(range(nsites), (jnp.eye(phys, dtype=phi.dtype), 0))
        total = 0
        for i in range(last):
            mine = self._states(i)
            state, self.cores[i], self.exponents[i] = state_above(self.cores[i], mine)
            self._set_state(i, state)
            total = total + self.exponents[i]
        self.cores[last], self.exponent, self.outputs = _at_root(
            self.cores[last], self._states(last), self.exponent + total, self.squared
        )
        if self.is_open:
            self.outputs = None

    @property
    def is_open(self):
        """Whether nodes have outputs of their own, whose basis changes from bond to bond."""
        return self.form.is_open

    def _set_state(self, node, state):
        if self.is_open:
            state = fewer_outputs(state.transpose(2, 1, 0)).transpose(2, 1, 0)
        self.states[self.form.nsites + node] = state
        if self.grams is not None:
            mine = tuple(self.grams[c] for c in self.form.nodes[node])
            self.grams[self.form.nsites + node] = gram_above(self.cores[node], mine)

    def _states(self, node):
        return tuple(self.states[c] for c in self.form.nodes[node])

    # Bonds --------------------------------------------------------------------------------------

    def bond(self, node):
        """The core above a node, the bond first, (D, *other children, up), and what is `Around`."""
        siblings, (parent, slot) = self._siblings(node), self.form.parents[node]
        states = tuple(self.states[c] for c in siblings)
        core, above, grams = child_first(self.cores[parent], slot), self._above(parent), None
        if self.grams is not None:
            mine = tuple(self.grams[c] for c in self.form.nodes[node])
            grams = mine, tuple(self.grams[c] for c in siblings), self.grams_above[parent]
        if self.is_open:
            # The siblings' outputs are those of all that is above.
            states, above = (), _fold(states, above)
            grams = grams and (mine, (), _kron_above(*grams[1:]))
        return core, self._around(self._states(node), states, above, grams)

    def single(self, node):
        """What is `Around` a node as a bond with nothing between it and what is above it."""
        grams = None
        if self.grams is not None:
            mine = tuple(self.grams[c] for c in self.form.nodes[node])
            grams = mine, (), self.grams_above[node]
        return self._around(self._states(node), (), self._above(node), grams)

    def _around(self, mine, siblings, above, grams):
        signs = None if above is None else self.signs
        fixed = self.exponent, self.target, self.weight, signs
        return Around(mine, siblings, above, grams, *fixed)

    def _siblings(self, node):
        """The other children of a node's parent, in the order of `child_first`."""
        parent, slot = self.form.parents[node]
        children = self.form.nodes[parent]
        return [children[i] for i in _order(slot, len(children))[1:]]

    def replace(self, node, above, below=None):
        """Put back the cores above a bond, as from `bond`, and below it."""
        parent, slot = self.form.parents[node]
        self.cores[parent] = child_back(above, slot)
        if below is not None:
            self.cores[node] = below

    def route(self, with_ends):
        """Bonds in the order of a sweep, as (lower node, outward): down to the ends and back up.

        with_ends: whether nodes whose children are no nodes are visited on the way down too.
        """
        stack = [(node, None) for node in reversed(self.form.below(len(self.form.nodes) - 1))]
        while stack:
            node, outward = stack.pop()
            if outward is None:
                below = self.form.below(node)
                stack.append((node, False))
                stack.extend((child, None) for child in reversed(below))
                if below or with_ends:
                    yield node, True
            else:
                yield node, False

    def sweep(self, settings, n_sites=2, max_added=0):
        """Visit every bond, outward and back; returns a list of (node, report).

        n_sites: how many cores are optimised together, 1 or 2; max_added: to the rank of a bond at
        a visit before it is cut, which single cores need in order to grow.
        """
        reports = []
        for node, outward in self.route(with_ends=n_sites == 1):
            step = self._step if n_sites == 2 else self._outward if outward else self._inward
            reports.append((node, step(node, settings, outward, max_added)))
        return reports

    def _step(self, node, settings, outward, _):
        above, around = self.bond(node)
        below, above, state, report = self._solved(
            self.cores[node], above, around, node, settings, outward
        )
        self.replace(node, above, below)
        if outward:
            self._go_out(node, above, around)
            self._forget(self.form.parents[node][0])
        else:
            self._go_in(node, state)
        return report

    def _outward(self, node, settings, outward, max_added):
        """Optimise the core above a node alone, and let its bond grow."""
        above, around = self.bond(node)
        one = around._replace(mine=(self.states[self.form.nsites + node],))
        if around.grams is not None:
            own = self.grams[self.form.nsites + node]
            one = one._replace(grams=((own,), *around.grams[1:]))
        eye = jnp.eye(self.size, dtype=above.dtype)
        turn, above, _, report = self._solved(eye, above, one, node, settings, outward)
        below = self.cores[node] @ turn
        if max_added:
            above, self.ranks[node] = expand(
                self.objective, self.squared, below, above, self.outputs, around, self.ranks[node],
                max_added, settings,
            )  # fmt: skip
        self.replace(node, above, below)
        self._go_out(node, above, around)
        self._forget(self.form.parents[node][0])
        return report

    def _inward(self, node, settings, outward, _):
        """Optimise the core of a node alone."""
        around = self.single(node)
        eye = jnp.eye(self.size, dtype=self.cores[node].dtype)
        below, turn, state, report = self._solved(
            self.cores[node], eye, around, node, settings, outward
        )
        parent, slot = self.form.parents[node]
        above = child_first(self.cores[parent], slot)
        self.replace(node, jnp.tensordot(turn, above, 1), below)
        self._go_in(node, state)
        return report

    def _solved(self, below, above, around, node, settings, outward):
        below, above, outputs, state, report = local_step(
            self.objective, self.squared, below, above, self.outputs, around, self.ranks[node],
            settings, outward,
        )  # fmt: skip
        self.ranks[node] = report.rank
        if not self.is_open:
            self.outputs = outputs
        return below, above, state, report

    def _above(self, node):
        """What is above a node, made again from the nearest node for which it was kept."""
        missing = []
        while node not in self.above:
            missing.append(node)
            node = self.form.parents[node][0]
        for node in reversed(missing):
            self._go_out(node, *self.bond(node))
        return self.above[node]

    def _forget(self, node):
        """Drop what is above a node unless it is one of those to keep."""
        if self.depths[node] % self.spacing:
            self.above.pop(node, None)

    def _go_out(self, node, above, around):
        found, self.grams_above[node] = above_child(above, around)
        self.above[node] = fewer_outputs(found) if self.is_open else found

    def _go_in(self, node, state):
        self._set_state(node, state)
        self.above.pop(node, None)


def _order(slot, n):
    """Children of a node with one of them first, so that both ends of a core look alike."""
    others = [i for i in range(n) if i != slot]
    return [slot, *(others[::-1] if slot == n - 1 else others)]


def child_first(core, slot):
    """A core (*children, up) with the children in the order that begins with one of them."""
    if slot == 0:
        return core
    n = core.ndim - 1
    return core.transpose(*_order(slot, n), n)


def child_back(core, slot):
    """The core from which `child_first` made this one."""
    if slot == 0:
        return core
    n = core.ndim - 1
    return core.transpose(*np.argsort(_order(slot, n)), n)


@jax.jit
def _pick(array, i):
    # A traced number: one compilation for all sites.
    return array[i][:, None]


@jax.jit
def _fold(siblings, above):
    """(batch, outputs, k m) of siblings (k, outputs, batch) and what is above their parent."""
    others = together(siblings).transpose(2, 1, 0)
    if above is None:
        return others
    both = others[:, :, None, :, None] * above[:, None, :, None]
    return both.reshape(len(above), others.shape[1] * above.shape[1], -1)


@jax.jit
def _kron_above(siblings, top):
    """The same for Gram matrices."""
    return kron(siblings if top[0] is None else (*siblings, top))


@partial(jax.jit, static_argnames="squared")
def _at_root(core, mine, exponent, squared):
    """The root's core, the exponent of the network's scale, and the outputs (batch, outputs).

    Squares, whose scale may be anything, keep an exponent; other outputs are what they are.
    """
    flat, children = core.reshape(-1, core.shape[-1]).T, together(mine)
    outputs = (flat @ children.reshape(len(children), -1)).reshape(-1, *children.shape[1:])
    up = -exponent_of(jnp.max(jnp.abs(outputs), axis=(1, 2))) if squared else exponent
    outputs = jnp.ldexp(outputs.transpose(2, 1, 0).reshape(children.shape[2], -1), up)
    return jnp.ldexp(core, up), exponent - up, outputs
