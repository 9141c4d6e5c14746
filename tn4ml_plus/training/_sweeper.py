"""One network on its way through a sweep: where the visits go, and what they find in the stacks."""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..contraction import END, OPEN, SHUT, SquaredNorm, from_nodes, rooted, to_nodes
from ._local import Report
from ._visits import (
    ROOT,
    Kind,
    Seen,
    Store,
    Task,
    Visit,
    alike,
    arrive_at_root,
    climb,
    descend,
    lower_core,
    order,
    run,
    two_cores,
    upper_core,
)

#: Steps on the way down and on the way up, by the number of cores that are improved together.
STEPS = {1: (upper_core, lower_core), 2: (two_cores, two_cores)}


class Plan(NamedTuple):
    """Visits in their order.

    runs: (step, kind, start, stop) of those that follow each other in one program; visits: `Visit`
    with a row for each; last: the row of the last report of each node's bond.
    """

    runs: list
    visits: Visit
    last: np.ndarray


class Sweeper:
    """A rooted network of cores padded to one bond size, its ranks and its exponent of two.

    structure: of the packed network; packed: its arrays; objective: what is minimised; size: of all
    bonds, which ranks are at most; cache_bytes: how much may be kept of what is above the bonds,
    the rest of which is made again when it is needed.
    """

    def __init__(self, structure, packed, objective, size, cache_bytes):
        self.structure, self.cache_bytes = structure, cache_bytes
        self.form = form = rooted(structure)
        self.task = Task(objective, isinstance(structure, SquaredNorm), form.is_open)
        cores, ranks = to_nodes(structure, packed)
        self.size = max(size, *ranks) if ranks else 1
        # The stack of each node's core and its place there.
        self.stacks = [tuple(name for name, _ in self._states(i)) for i in range(len(ranks))]
        self.stacks.append(ROOT)
        counts = {name: itertools.count() for name in self.stacks}
        self.places = [next(counts[name]) for name in self.stacks]
        self.depths = [0] * len(cores)
        for node in reversed(range(len(ranks))):
            self.depths[node] = self.depths[form.parents[node][0]] + 1
        self._plans, self.spacing = {}, 1
        self.exponent = jnp.zeros((), jnp.int32)
        self.store = Store({}, jnp.asarray(ranks, jnp.int32), *[None] * 5)
        self.cores = [self._padded(i, np.asarray(core)) for i, core in enumerate(cores)]

    def _padded(self, node, core):
        children = self.form.nodes[node]
        shape = [
            self.size if child == END or child >= self.form.nsites else n
            for child, n in zip(children, core.shape)
        ]
        shape.append(core.shape[-1] if node == len(self.form.nodes) - 1 else self.size)
        return np.pad(core, [(0, n - m) for n, m in zip(shape, core.shape, strict=True)])

    @property
    def cores(self):
        """Of all nodes, the root's last."""
        stacks = {name: np.asarray(stack) for name, stack in self.store.cores.items()}
        return [stacks[name][place] for name, place in zip(self.stacks, self.places)]

    @cores.setter
    def cores(self, cores):
        stacks = {name: [] for name in self.stacks}
        for name, core in zip(self.stacks, cores, strict=True):
            stacks[name].append(core)
        stacks = {name: jnp.asarray(np.stack(stack)) for name, stack in stacks.items()}
        self.store = self.store._replace(cores=stacks)

    @property
    def ranks(self):
        """Of the bonds above all nodes but the root."""
        return self.store.ranks

    @property
    def state(self):
        """What training changes: cores, ranks and exponent."""
        return self.store.cores, self.store.ranks, self.exponent

    @state.setter
    def state(self, state):
        # Sweeps give the memory of what they start from to what they end with.
        cores, ranks, self.exponent = jax.tree.map(jnp.copy, state)
        self.store = self.store._replace(cores=cores, ranks=ranks)

    def packed(self):
        """``(packed, structure)``, the arrays padded and the structure with the present ranks."""
        # Spread over all cores, the scale of the whole network overflows none of them.
        share, rest = divmod(int(self.exponent), len(self.stacks))
        cores = [np.ldexp(core, share + (i < rest)) for i, core in enumerate(self.cores)]
        return from_nodes(self.structure, cores, tuple(map(int, self.ranks)))

    # Samples ------------------------------------------------------------------------------------

    @property
    def n_signs(self):
        """How many random signs a sample needs to stand for the outputs in the metric."""
        return self.size * self._channels if self.form.is_open else self._n_outputs

    @property
    def _n_outputs(self):
        return self.store.cores[ROOT].shape[-1]

    @property
    def _channels(self):
        """Size of the outputs that are indices of their own."""
        leaves = zip(self.form.nodes[-1], self.store.cores[ROOT].shape[1:])
        return next((n for leaf, n in leaves if leaf in (OPEN, SHUT)), 1)

    def see(self, phi, target, weight, signs=None):
        """Take samples in random order: phi (nsites, phys_dim, batch), target (batch, ...), weight.

        signs: (samples of the metric, n_signs) random ones, None where there is no metric.
        """
        last, batch = len(self.stacks) - 1, phi.shape[2]
        outputs = self.size if self.form.is_open else self._n_outputs
        # With every s-th kept, and the last s, the cache is smallest where s is the root of all.
        deepest = max(self.depths)
        bytes_each = phi.dtype.itemsize * batch * outputs * self.size
        fits = max(2, self.cache_bytes // bytes_each)
        spacing = next((s for s in range(1, deepest) if s + deepest // s < fits), 0)
        self.spacing = spacing or max(1, round(deepest**0.5))
        shape = max(1, deepest // self.spacing + self.spacing - 1), batch, outputs, self.size
        above, self.store = self.store.above, self.store._replace(above=None)
        if above is None or above.shape != shape or above.dtype != phi.dtype:
            above = jnp.zeros(shape, phi.dtype)
        sizes = (
            last + 1,
            self.size,
            self._channels,
            len(above) if self.task.objective.needs_norm else 0,
        )
        made, self.seen = _begun(self.form.is_open, sizes, phi, target, weight, signs)
        self.store = self.store._replace(above=above, outputs=None, **made)
        nodes = [(climb, *self._climbing(i)) for i in range(last)]
        plan, exponents = self._planned("climb", nodes), jnp.zeros(last, jnp.int32)
        self.exponents = self._run(plan, exponents, None)
        names, numbers = zip(*self._states(last))
        self.store, self.seen = arrive_at_root(
            self.task, names, self.store, self.seen, numbers, self.exponent, self.exponents
        )
        self.exponent = self.seen.exponent

    def forget(self):
        """Free the memory of what was made of the samples."""
        self.store = Store(self.store.cores, self.store.ranks, *[None] * 5)
        self.seen = None

    # Visits -------------------------------------------------------------------------------------

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

    def sweep(self, settings, n_sites=2):
        """Visit every bond, outward and back; returns a `Report` of all visits.

        n_sites: how many cores are optimised together, 1 or 2.
        """
        plan = self.plan(n_sites)
        return self._run(plan, self.empty_report(len(plan.visits.node)), settings)

    def empty_report(self, n):
        """A `Report` with a row for each of n visits."""
        numbers = jnp.zeros(n, self.seen.sites.dtype)
        others = {"accepted": jnp.zeros(n, bool), "rank": jnp.zeros(n, jnp.int32)}
        return Report(**dict.fromkeys(Report._fields, numbers) | others)

    def plan(self, n_sites):
        """The `Plan` of a sweep, which makes again what is above a node where it was not kept."""
        key = n_sites, self.spacing
        if key not in self._plans:
            self._planned(key, self._route(*STEPS[n_sites]))
        return self._plans[key]

    def _route(self, outward_step, inward_step):
        """(step, kind, numbers) of all visits of a sweep."""
        rows, owners = [], {}
        is_single = outward_step is not inward_step

        def provide(node):
            """Have what is above a node in its slot."""
            if node < len(self.stacks) - 1 and owners.get(self._slot(node)) != node:
                provide(self.form.parents[node][0])
                rows.append((descend, *self._visit(node, True)))
                owners[self._slot(node)] = node

        for node, outward in self.route(with_ends=is_single):
            provide(node if is_single and not outward else self.form.parents[node][0])
            step = outward_step if outward else inward_step
            rows.append((step, *self._visit(node, outward)))
            if outward:
                owners[self._slot(node)] = node
        return rows

    def _planned(self, key, rows):
        if key not in self._plans:
            steps, kinds, numbers = zip(*rows) if rows else ((), (), ())
            runs = []
            for (step, kind), part in itertools.groupby(
                range(len(rows)), lambda i: (steps[i], kinds[i])
            ):
                part = list(part)
                runs.append((step, kind, part[0], part[-1] + 1))
            width = max((len(row.siblings) + len(row.mine) for row in numbers), default=0)

            def column(name):
                values = [getattr(row, name) for row in numbers]
                if name in ("mine", "siblings"):
                    values = [[*value, *[0] * (width - len(value))] for value in values]
                return jnp.asarray(values, jnp.int32)

            visits = Visit(*map(column, Visit._fields))
            reported = {row.node: i for i, row in enumerate(numbers) if steps[i] is not descend}
            last = np.asarray([reported[node] for node in sorted(reported)], int)
            self._plans[key] = Plan(runs, visits, last)
        return self._plans[key]

    def _run(self, plan, reports, settings):
        for step, kind, start, stop in plan.runs:
            self.store, found = run(
                step, self.task, kind, self.store, None if step is descend else reports, self.seen,
                plan.visits, start, stop, settings,
            )  # fmt: skip
            reports = reports if step is descend else found
        return reports

    def _states(self, node):
        """Of each child the stack of its state and the place there."""
        found = []
        for child in self.form.nodes[node]:
            if child in (OPEN, SHUT):
                found.append(("leaves", int(child == SHUT)))
            elif child == END:
                found.append(("nodes", len(self.form.nodes) - 1))
            elif child < self.form.nsites:
                found.append(("sites", child))
            else:
                found.append(("nodes", child - self.form.nsites))
        return found

    def _slot(self, node):
        """Where what is above a node is kept: every s-th on the path for long, the others below."""
        depth, s = self.depths[node], self.spacing
        return depth // s - 1 if depth % s == 0 else max(self.depths) // s + depth % s - 1

    def _climbing(self, node):
        names, mine = zip(*self._states(node))
        kind = Kind(self.stacks[node], "", names, (), 0)
        return kind, Visit(node, self.places[node], 0, 0, 0, mine, (), 0, 0)

    def _visit(self, node, outward):
        """The `Kind` of a visit and its numbers."""
        parent, slot = self.form.parents[node]
        states = self._states(parent)
        flip = slot == len(states) - 1 and alike(tuple(name for name, _ in states))
        siblings = [states[i] for i in order(slot, len(states))[1:]]
        names, others = zip(*siblings) if siblings else ((), ())
        mine_names, mine = zip(*self._states(node))
        kind = Kind(self.stacks[node], self.stacks[parent], mine_names, names, 0 if flip else slot)
        upper_slot = 0 if self.stacks[parent] == ROOT else self._slot(parent)
        return kind, Visit(
            node, self.places[node], self.places[parent], self._slot(node), upper_slot, mine,
            others, int(flip), int(outward),
        )  # fmt: skip


@partial(jax.jit, static_argnames=("is_open", "sizes"))
def _begun(is_open, sizes, phi, target, weight, signs):
    """What of a `Store` samples begin with, and `Seen` without an exponent."""
    n_nodes, size, channels, n_grams = sizes
    batch, dtype = phi.shape[2], phi.dtype
    end = jnp.zeros((size, size if is_open else 1), dtype).at[0, 0].set(1)
    nodes = jnp.zeros((n_nodes, *end.shape, batch), dtype).at[-1].set(end[..., None])
    # Outputs that are summed over, and one that is not there.
    all_of_them = jnp.eye(channels, dtype=dtype)
    leaves = jnp.stack([all_of_them, jnp.zeros_like(all_of_them).at[0, 0].set(1)])
    leaves = jnp.broadcast_to(leaves[..., None], (*leaves.shape, batch))
    grams = grams_above = None
    if n_grams:
        first = jnp.zeros((size, size), dtype).at[0, 0].set(1)
        grams = jnp.zeros((n_nodes, size, size), dtype).at[-1].set(first)
        grams = grams, jnp.zeros(n_nodes, jnp.int32)
        grams_above = jnp.zeros((n_grams, size, size), dtype), jnp.zeros(n_grams, jnp.int32)
    weight = weight / jnp.sum(weight)
    exponent = jnp.zeros((), jnp.int32)
    seen = Seen(phi[:, :, None], leaves, exponent, target, weight, signs)
    return {"nodes": nodes, "grams": grams, "grams_above": grams_above}, seen
