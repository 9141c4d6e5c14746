"""One network on its way through a sweep: where the visits go, and what they find in the stacks."""

import itertools
import math
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
    root_step,
    run,
    two_cores,
    upper_core,
)


class Steps(NamedTuple):
    """What is done at each bond.

    outward, inward: on the way down and on the way up; single: whether to one core, of the upper
    node on the way down and of the lower one on the way up, the nodes at the ends included.
    """

    outward: object
    inward: object
    single: bool


#: By the number of cores that are improved together.
STEPS = {1: Steps(upper_core, lower_core, True), 2: Steps(two_cores, two_cores, False)}


class Plan(NamedTuple):
    """Visits in their order.

    runs: (step, kind, start, stop) of those that follow each other in one program; visits: `Visit`
    with a row for each; last: the row of the last report of each node's bond.
    """

    runs: list
    visits: Visit
    last: np.ndarray


def largest_rank(structure, packed):
    """The largest rank that a bond can have between what is below it and what is above."""
    form, (cores, _) = rooted(structure), to_nodes(structure, packed)
    below = []
    for core, children in zip(cores, form.nodes, strict=True):
        sizes = [
            below[child - form.nsites] if child >= form.nsites else 1 if child in (END, SHUT) else n
            for child, n in zip(children, core.shape)
        ]
        below.append(math.prod(sizes))
    # Whatever is not below a bond is above it.
    whole = below[-1] * cores[-1].shape[-1]
    return max((min(size, whole // size) for size in below[:-1]), default=1)


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
        self.seen, self.exponents, self.exponent = None, None, jnp.zeros((), jnp.int32)
        square = jnp.zeros((), cores[-1].dtype)
        self.store = Store({}, jnp.asarray(ranks, jnp.int32), square, *[None] * 5)
        self.cores = [self._padded(i, np.asarray(core)) for i, core in enumerate(cores)]

    def _padded(self, node, core):
        children = self.form.nodes[node]
        shape = [
            self.size if child == END or child >= self.form.nsites else n
            for child, n in zip(children, core.shape)
        ]
        shape.append(core.shape[-1] if node == len(self.form.nodes) - 1 else self.size)
        core = core[tuple(map(slice, shape))]
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
        """What training changes: cores, ranks, what the ridge weighs, and the exponent."""
        return *self.store[:3], self.exponent

    @state.setter
    def state(self, state):
        # Sweeps give the memory of what they start from to what they end with.
        cores, ranks, square, self.exponent = jax.tree.map(jnp.copy, state)
        self.store = self.store._replace(cores=cores, ranks=ranks, square=square)

    def choose_unit(self):
        """Have the next visit choose the unit of the ridge anew, see `ridge_scale`."""
        self.store = self.store._replace(square=jnp.zeros_like(self.store.square))

    def packed(self):
        """``(packed, structure)``, the arrays padded and the structure with the present ranks."""
        # Spread over all cores, the scale of the whole network overflows none of them.
        share, rest = divmod(int(self.exponent), len(self.stacks))
        cores = [np.ldexp(core, share + (i < rest)) for i, core in enumerate(self.cores)]
        return from_nodes(self.structure, cores, tuple(np.asarray(self.ranks).tolist()))

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
        last = len(self.stacks) - 1
        outputs = self.size if self.form.is_open else self._n_outputs
        above = self._memory((phi.shape[2], outputs, self.size), phi.dtype)
        n_grams = len(above) if self.task.objective.needs_norm else 0
        sizes = last + 1, self.size, self._channels, n_grams
        made, self.seen = _begun(self.form.is_open, sizes, phi, target, weight, signs)
        self.store = self.store._replace(above=above, outputs=None, **made)
        plan = self._planned("climb", lambda: [(climb, *self._climbing(i)) for i in range(last)])
        self.exponents = self._run(plan, jnp.asarray(np.zeros(last, np.int32)), None)
        names, numbers = zip(*self._states(last))
        self.store, self.seen = arrive_at_root(
            self.task, names, self.store, self.seen, numbers, self.exponent, self.exponents
        )
        self.exponent = self.seen.exponent

    def _memory(self, shape, dtype):
        """For what is above bonds, each of a shape: as many as `cache_bytes` holds and paths need.

        Sets the spacing s: on the way down every s-th is kept for long, and the last s are kept.
        """
        deepest = max(self.depths)
        fits = max(2, self.cache_bytes // (np.dtype(dtype).itemsize * math.prod(shape)))
        spacing = next((s for s in range(1, deepest) if s + deepest // s < fits), 0)
        # The fewest that will do, where s is the root of all.
        self.spacing = spacing or max(1, round(deepest**0.5))
        shape = max(1, deepest // self.spacing + self.spacing - 1), *shape
        above, self.store = self.store.above, self.store._replace(above=None)
        if above is None or above.shape != shape or above.dtype != dtype:
            above = jnp.zeros(shape, dtype)
        return above

    def forget(self):
        """Free the memory of what was made of the samples."""
        self.store = Store(*self.store[:3], *[None] * 5)
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
        plan = self.plan(STEPS[n_sites])
        return self._run(plan, self.empty_report(len(plan.visits.node)), settings)

    def improve_root(self, settings):
        """Improve the root's core alone; returns the mean loss."""
        names, numbers = zip(*self._states(len(self.stacks) - 1))
        self.store, loss = root_step(self.task, names, self.store, self.seen, numbers, settings)
        return loss

    def empty_report(self, n):
        """A `Report` with a row for each of n visits."""
        numbers = np.zeros(n, self.seen.sites.dtype)
        others = {"accepted": np.zeros(n, bool), "rank": np.zeros(n, np.int32)}
        # Made by NumPy, which compiles nothing.
        rows = Report(**dict.fromkeys(Report._fields, numbers) | others)
        return jax.tree.map(jnp.asarray, rows)

    def plan(self, steps):
        """The `Plan` of a sweep, which makes again what is above a node where it was not kept."""
        return self._planned((steps, self.spacing), lambda: self._route(steps))

    def _route(self, steps):
        """(step, kind, numbers) of all visits of a sweep."""
        rows, owners = [], {}

        def provide(node):
            """Have what is above a node in its slot."""
            if node < len(self.stacks) - 1 and owners.get(self._slot(node)) != node:
                provide(self.form.parents[node][0])
                rows.append((descend, *self._visit(node, True)))
                owners[self._slot(node)] = node

        for node, outward in self.route(with_ends=steps.single):
            provide(node if steps.single and not outward else self.form.parents[node][0])
            step = steps.outward if outward else steps.inward
            rows.append((step, *self._visit(node, outward)))
            if outward:
                owners[self._slot(node)] = node
        return rows

    def _planned(self, key, route):
        if key not in self._plans:
            rows = route()
            steps, kinds, numbers = zip(*rows) if rows else ((), (), ())
            runs, stop = [], 0
            for step_and_kind, part in itertools.groupby(zip(steps, kinds)):
                start, stop = stop, stop + len(list(part))
                runs.append((*step_and_kind, start, stop))
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
        kind = Kind(names, (), (), 0)
        return kind, Visit(node, self.places[node], 0, 0, 0, mine, (), 0, 0)

    def _visit(self, node, outward):
        """The `Kind` of a visit and its numbers."""
        parent, slot = self.form.parents[node]
        states = self._states(parent)
        flip = slot == len(states) - 1 and alike(tuple(name for name, _ in states))
        siblings = [states[i] for i in order(slot, len(states))[1:]]
        names, others = zip(*siblings) if siblings else ((), ())
        mine_names, mine = zip(*self._states(node))
        kind = Kind(mine_names, self.stacks[parent], names, 0 if flip else slot)
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
