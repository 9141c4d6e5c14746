"""One network on its way through a sweep: the order of updates, and their places in the stacks."""

import copy
import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays import on_device
from ..._forks import unforked
from ...contraction import END, OPEN, SHUT
from . import _updates as bonds
from ._effective_problem import Report, Task
from ._environments import Batch


class Plan(NamedTuple):
    """The updates of a sweep in their order: (update, layout, span) of runs in one program.

    places: `Place` with a row for each; last: the row of the last report of each node's bond.
    """

    runs: list
    places: bonds.Place
    last: np.ndarray


def largest_rank(structure, packed):
    """The largest rank that a bond can have between what is below it and what is above."""
    form, cores, below = structure.rooted(), structure.nodes(packed), []
    for core, children in zip(cores, form.nodes, strict=True):
        known = zip(children, core.shape)
        sizes = (below[child - form.nsites] if child >= form.nsites else n for child, n in known)
        below.append(math.prod(sizes))
    # Whatever is not below a bond is above it.
    whole = below[-1] * cores[-1].shape[-1]
    return max((min(size, whole // size) for size in below[:-1]), default=1)


@jax.tree_util.register_pytree_node_class
class Sweeper:
    """A rooted network of cores padded to one bond size, its ranks and its exponent of two.

    A pytree of what training changes: cores, ranks, what the ridge weighs, and the exponent.
    size: of all bonds; cache_bytes: memory for environments of bonds, others being made again.
    """

    def __init__(self, structure, packed, objective, size, cache_bytes):
        self.structure, self.cache_bytes = structure, cache_bytes
        self.form = form = structure.rooted()
        self.task = Task(objective, structure.squared, form.is_open)
        cores, ranks = structure.to_nodes(packed)
        self.size = max(size, *ranks) if ranks else 1
        # The stack of each node's core and its place there.
        self.stacks = [tuple(name for name, _ in self._states(i)) for i in range(len(ranks))]
        self.stacks.append(bonds.ROOT)
        counts = {name: itertools.count() for name in self.stacks}
        self.places = [next(counts[name]) for name in self.stacks]
        self.depths = [0] * len(cores)
        for node in reversed(range(len(ranks))):
            self.depths[node] = self.depths[form.parents[node][0]] + 1
        self._plans, self.spacing = {}, 1
        self.batch, self.exponents, self.exponent = None, None, on_device(0, np.int32)
        square = on_device(0, cores[-1].dtype)
        self.state = bonds.SweepState({}, on_device(ranks, np.int32), square)
        self.cores = [self._padded(i, np.asarray(core)) for i, core in enumerate(cores)]

    def tree_flatten(self):
        """The leaves, all that training changes, and the rest."""
        return (*self.state[:3], self.exponent), self

    @staticmethod
    def tree_unflatten(sweeper, children):
        """A sweeper with other contents."""
        twin = copy.copy(sweeper)
        *changed, twin.exponent = children
        twin.state = bonds.SweepState(*changed)
        return twin

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
        """The cores of all nodes, the root's last."""
        stacks = {name: np.asarray(stack) for name, stack in self.state.cores.items()}
        return [stacks[name][place] for name, place in zip(self.stacks, self.places)]

    @cores.setter
    def cores(self, cores):
        stacks = {name: [] for name in self.stacks}
        for name, core in zip(self.stacks, cores, strict=True):
            stacks[name].append(core)
        stacks = {name: on_device(np.stack(stack)) for name, stack in stacks.items()}
        self.state = self.state._replace(cores=stacks)

    def choose_unit(self):
        """Have the next update choose the unit of the ridge anew, see `ridge_scale`."""
        self.state = self.state._replace(square=jnp.zeros_like(self.state.square))

    def packed(self):
        """``(packed, structure)``, the arrays padded and the structure with the present ranks."""
        # Spread over all cores, the scale of the whole network overflows none of them.
        share, rest = divmod(int(self.exponent), len(self.stacks))
        cores = [np.ldexp(core, share + (i < rest)) for i, core in enumerate(self.cores)]
        return self.structure.from_nodes(cores, tuple(self.state.ranks.tolist()))

    @property
    def n_signs(self):
        """Number of random signs per sample that stand for the outputs in the metric."""
        n_outputs = self.state.cores[bonds.ROOT].shape[-1]
        return self.size * self._channels if self.form.is_open else n_outputs

    @property
    def _channels(self):
        """Size of the outputs that are indices of their own."""
        leaves = zip(self.form.nodes[-1], self.state.cores[bonds.ROOT].shape[1:])
        return next((n for leaf, n in leaves if leaf in (OPEN, SHUT)), 1)

    def see(self, phi, target, weight, signs=None):
        """Take samples in random order, phi (nsites, phys_dim, batch); signs as in `Batch`."""
        last = len(self.stacks) - 1
        outputs = self.size if self.form.is_open else self.n_signs
        above = self._memory((phi.shape[2], outputs, self.size), phi.dtype)
        n_grams = len(above) if self.task.objective.needs_norm else 0
        sizes = last + 1, self.size, self._channels, n_grams
        made, self.batch = _begun(self.form.is_open, sizes, phi, target, weight, signs)
        self.state = self.state._replace(above=above, outputs=None, **made)
        plan = self.plan(None)
        self.exponents = self._run(plan, on_device(np.zeros(last, np.int32)), None)
        names, numbers = zip(*self._states(last))
        given = self.task, names, self.state, self.batch, numbers, self.exponent
        self.state, self.batch = bonds.evaluate_root(*given, self.exponents)
        self.exponent = self.batch.exponent

    def _memory(self, shape, dtype):
        """Slots for environments of bonds, as many as `cache_bytes` holds and paths need."""
        deepest = max(self.depths)
        fits = max(2, self.cache_bytes // (np.dtype(dtype).itemsize * math.prod(shape)))
        # On the way down every s-th is kept for long, and the last s are kept.
        spacing = next((s for s in range(1, deepest) if s + deepest // s < fits), 0)
        # The fewest that will do, where s is the root of all.
        self.spacing = spacing or max(1, round(deepest**0.5))
        shape = max(1, deepest // self.spacing + self.spacing - 1), *shape
        above, self.state = self.state.above, self.state._replace(above=None)
        if above is None or above.shape != shape or above.dtype != dtype:
            above = jnp.zeros(shape, dtype)
        return above

    def forget(self):
        """Free the memory of the samples and environments."""
        self.state = bonds.SweepState(*self.state[:3])
        self.batch = None

    def route(self, with_ends):
        """Bonds in the order of a sweep, (lower node, outward): down, to the ends too, and up."""
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
        """Update every bond, outward and back; returns a `Report` of all updates."""
        plan = self.plan(bonds.SCHEMES[n_sites])
        return self._run(plan, self.empty_report(len(plan.places.node)), settings)

    def improve_root(self, settings):
        """Improve the root's core alone; returns the mean loss."""
        names, numbers = zip(*self._states(len(self.stacks) - 1))
        given = self.task, names, self.state, self.batch, numbers
        self.state, loss = bonds.root_update(*given, settings)
        return loss

    def empty_report(self, n):
        """A `Report` with a row for each of n updates."""
        numbers = np.zeros(n, self.batch.sites.dtype)
        others = {"accepted": np.zeros(n, bool), "rank": np.zeros(n, np.int32)}
        rows = Report(**dict.fromkeys(Report._fields, numbers) | others)
        return jax.tree.map(on_device, rows)

    def _rows(self, scheme):
        """(update, layout, place) of all updates of a sweep, None for one that finds states."""
        rows, owners = [], {}
        if scheme is None:
            # What is above the nodes is not read.
            for node in range(len(self.stacks) - 1):
                names, mine = zip(*self._states(node))
                place = bonds.Place(node, self.places[node], 0, 0, 0, mine, (), 0, 0)
                rows.append((bonds.extend_below, bonds.Layout(names, (), (), 0), place))
            return rows

        def provide(node):
            """Have the environment of a node's bond in its slot."""
            if node < len(self.stacks) - 1 and owners.get(self._slot(node)) != node:
                provide(self.form.parents[node][0])
                rows.append((bonds.extend_above, *self._place(node, True)))
                owners[self._slot(node)] = node

        for node, outward in self.route(with_ends=scheme.single):
            provide(node if scheme.single and not outward else self.form.parents[node][0])
            update = scheme.outward if outward else scheme.inward
            rows.append((update, *self._place(node, outward)))
            if outward:
                owners[self._slot(node)] = node
        return rows

    def plan(self, scheme):
        """The `Plan` of a sweep, which makes environments again that were not kept."""
        key = scheme, self.spacing if scheme else None
        if key not in self._plans:
            rows = self._rows(scheme)
            updates, layouts, places = zip(*rows) if rows else ((), (), ())
            runs, stop = [], 0
            for alike_ones, part in itertools.groupby(zip(updates, layouts)):
                start, stop = stop, stop + len(list(part))
                runs.append((*alike_ones, (start, stop)))
            width = max((len(row.siblings) + len(row.mine) for row in places), default=0)

            def column(name):
                values = [getattr(row, name) for row in places]
                if name in ("mine", "siblings"):
                    values = [[*value, *[0] * (width - len(value))] for value in values]
                return on_device(values, np.int32)

            columns = bonds.Place(*map(column, bonds.Place._fields))
            mine = [i for i, update in enumerate(updates) if update is not bonds.extend_above]
            reported = {places[i].node: i for i in mine}
            last = np.asarray([reported[node] for node in sorted(reported)], int)
            self._plans[key] = Plan(runs, columns, last)
        return self._plans[key]

    def _run(self, plan, reports, settings):
        for update, layout, span in plan.runs:
            program = bonds.Program(update, self.task, layout)
            given = None if update is bonds.extend_above else reports
            self.state, found = bonds.run_updates(
                program, self.state, given, self.batch, plan.places, span, settings
            )
            reports = reports if given is None else found
        return reports

    def _states(self, node):
        """The stack of each child's state and its place there."""
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
        """Slot of the environment of a bond: every s-th on the path for long, the others below."""
        depth, s = self.depths[node], self.spacing
        return depth // s - 1 if depth % s == 0 else max(self.depths) // s + depth % s - 1

    def _place(self, node, outward):
        """The `Layout` of an update and its `Place`."""
        parent, slot = self.form.parents[node]
        states = self._states(parent)
        flip = slot == len(states) - 1 and bonds.alike(tuple(name for name, _ in states))
        siblings = [states[i] for i in bonds.child_first(slot, len(states))[1:]]
        names, others = zip(*siblings) if siblings else ((), ())
        mine_names, mine = zip(*self._states(node))
        layout = bonds.Layout(mine_names, self.stacks[parent], names, 0 if flip else slot)
        upper_slot = 0 if self.stacks[parent] == bonds.ROOT else self._slot(parent)
        numbers = node, self.places[node], self.places[parent], self._slot(node), upper_slot
        return layout, bonds.Place(*numbers, mine, others, int(flip), int(outward))


@unforked
@partial(jax.jit, static_argnames=("is_open", "sizes"))
def _begun(is_open, sizes, phi, target, weight, signs):
    """Fields of a `SweepState` to begin with, and the samples' `Batch` without an exponent."""
    n_nodes, size, channels, n_grams = sizes
    n_samples, dtype = phi.shape[2], phi.dtype
    end = jnp.zeros((size, size if is_open else 1), dtype).at[0, 0].set(1)
    nodes = jnp.zeros((n_nodes, *end.shape, n_samples), dtype).at[-1].set(end[..., None])
    # Outputs that are summed over, and one that is not there.
    all_of_them = jnp.eye(channels, dtype=dtype)
    leaves = jnp.stack([all_of_them, jnp.zeros_like(all_of_them).at[0, 0].set(1)])
    leaves = jnp.broadcast_to(leaves[..., None], (*leaves.shape, n_samples))
    grams = grams_above = None
    if n_grams:
        first = jnp.zeros((size, size), dtype).at[0, 0].set(1)
        grams = jnp.zeros((n_nodes, size, size), dtype).at[-1].set(first)
        grams = grams, jnp.zeros(n_nodes, jnp.int32)
        grams_above = jnp.zeros((n_grams, size, size), dtype), jnp.zeros(n_grams, jnp.int32)
    weight = weight / jnp.sum(weight)
    exponent = jnp.zeros((), jnp.int32)
    batch = Batch(phi[:, :, None], leaves, exponent, target, weight, signs)
    return {"below": nodes, "grams": grams, "grams_above": grams_above}, batch
