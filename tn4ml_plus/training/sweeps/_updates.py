"""Updates of bonds in sequence, in compiled loops.

Cores and states lie in stacks, from which each update takes what it needs by number: so updates
whose arrays have the same shapes, those of both arms of a chain for instance, share one program.
"""

from collections import namedtuple
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ... import _precise as precise
from ..._compiled import compiled
from . import _environments as envs
from ._effective_problem import BondCores, expand_bond, one_site_step, two_site_step

#: The stack of the root's core.
ROOT = ("root",)


class Layout(NamedTuple):
    """The static part of an update, equal for all that share a program.

    mine: the stacks of the states of the lower node's children, "nodes", "sites" or "leaves", which
    name the stack of its core too; upper: likewise of the upper node, `ROOT`, or () where there is
    none; siblings: of its other children; slot: which of its children the lower node is.
    """

    mine: tuple
    upper: tuple
    siblings: tuple
    slot: int


class Place(namedtuple("Place", "node lower upper slot upper_slot mine siblings flip outward")):
    """Numbers of what updates take from the stacks, of one or, in rows, of all in a sweep.

    node: its state and rank; lower, upper: the cores; slot, upper_slot: the environments of their
    bonds; mine, siblings: states; flip: whether the lower node is the last child of the upper one,
    not the first, where these are alike; outward: whether the sweep goes down.
    """


class SweepState(NamedTuple):
    """All that a sweep changes.

    cores: by stack, (n, *children, up); ranks: (nodes,) of the bonds above; square: what the ridge
    weighs, as in `ridge_scale`; below: states of the nodes' bonds, (nodes + 1, D, outputs below,
    batch), the last that of `END`; above: (slots, batch, outputs, D) environments of bonds;
    outputs: (batch, outputs), None where nodes have their own; grams, grams_above: the same two
    without samples, pairs of stacks of Gram matrices and exponents, None where no norm is read.
    """

    cores: dict
    ranks: jax.Array
    square: jax.Array
    below: jax.Array | None = None
    above: jax.Array | None = None
    outputs: jax.Array | None = None
    grams: tuple | None = None
    grams_above: tuple | None = None

    def with_core(self, name, number, core):
        """The state with another core."""
        stack = self.cores[name].at[number].set(core)
        return self._replace(cores=self.cores | {name: stack})


class Program(NamedTuple):
    """Static part of a compiled run of updates; update: the function that makes each of them."""

    update: object
    task: object
    layout: Layout


@partial(compiled, static_argnames="program", donate_argnames="state")
def run_updates(program, state, reports, batch, places, span, settings):
    """Make the updates at all places from span[0] to before span[1].

    Returns the state, whose memory is taken over, and the reports.
    """

    def body(i, carry):
        state, reports = carry
        place = jax.tree.map(lambda column: column[i], places)
        bond = Bond(program.task, program.layout, batch, place)
        state, report = program.update(bond, state, settings)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), reports, report)

    return lax.fori_loop(*span, body, (state, reports))


class Bond:
    """A bond in a sweep: how the stacks of a state are read and written there."""

    def __init__(self, task, layout, batch, place):
        self.task, self.layout, self.batch, self.place = task, layout, batch, place

    def lower(self, state):
        """The core of the lower node."""
        return state.cores[self.layout.mine][self.place.lower]

    def upper(self, state):
        """The core of the upper node, the bond first: (D, *other children, up)."""
        return self._exchanged(state.cores[self.layout.upper][self.place.upper])

    def with_lower(self, state, core):
        """The state with another core of the lower node."""
        return state.with_core(self.layout.mine, self.place.lower, core)

    def with_cores(self, state, below, above):
        """The state with other cores."""
        state = self.with_lower(state, below)
        return state.with_core(self.layout.upper, self.place.upper, self._exchanged(above))

    def _exchanged(self, core):
        """A core with the axes of its first child and of the lower node exchanged."""
        n, slot = core.ndim - 1, self.layout.slot
        found = core.transpose(*child_first(slot, n), n)
        if slot or not alike(("nodes", *self.layout.siblings)):
            return found
        return jnp.where(self.place.flip, core.transpose(*child_first(n - 1, n), n), found)

    def environment(self, state):
        """The `Environment` of both cores."""
        siblings = states_of(self.layout.siblings, state, self.batch, self.place.siblings)
        above, top = None, (None, 0)
        if self.layout.upper != ROOT:
            above = state.above[self.place.upper_slot]
            if state.grams is not None:
                top = tuple(stack[self.place.upper_slot] for stack in state.grams_above)
        grams = None
        if state.grams is not None:
            beside = grams_of(self.layout.siblings, state, self.batch, self.place.siblings)
            grams = self._grams(state), beside, top
        if self.task.is_open:
            # The siblings' outputs are those of all that is above.
            siblings, above = (), envs.fold_siblings(siblings, above)
            if grams is not None:
                grams = grams[0], (), envs.kron(beside if top[0] is None else (*beside, top))
        return envs.environment(self._states(state), siblings, above, grams, self.batch)

    def environment_of_upper(self, state):
        """The `Environment` of the upper core alone, with the lower node's state below."""
        env = self.environment(state)
        env = env._replace(lower=state.below[self.place.node])
        if env.grams is not None:
            own = tuple(stack[self.place.node] for stack in state.grams)
            env = env._replace(grams=(own, *env.grams[1:]))
        return env

    def environment_of_lower(self, state):
        """The `Environment` of the lower core alone, nothing but the bond on the other side."""
        grams, slot = None, self.place.slot
        if state.grams is not None:
            grams = self._grams(state), (), tuple(stack[slot] for stack in state.grams_above)
        return envs.environment(self._states(state), (), state.above[slot], grams, self.batch)

    def _states(self, state):
        return states_of(self.layout.mine, state, self.batch, self.place.mine)

    def _grams(self, state):
        return grams_of(self.layout.mine, state, self.batch, self.place.mine)

    def keep_below(self, state, core, of_node):
        """The state with what is below the bond: that of the lower node, whose core is given."""
        if self.task.is_open:
            of_node = envs.fewer_outputs(of_node.transpose(2, 1, 0)).transpose(2, 1, 0)
        state = state._replace(below=state.below.at[self.place.node].set(of_node))
        if state.grams is None:
            return state
        pair = envs.gram_of_node(core, self._grams(state))
        return state._replace(grams=_with_pair(state.grams, self.place.node, pair))

    def keep_above(self, state, above, env):
        """The state with the environment of the bond, from the upper core and its own."""
        found, pair = envs.environment_of_child(above, env)
        found = envs.fewer_outputs(found) if self.task.is_open else found
        state = state._replace(above=state.above.at[self.place.slot].set(found))
        if state.grams is None:
            return state
        return state._replace(grams_above=_with_pair(state.grams_above, self.place.slot, pair))


def child_first(slot, n):
    """Children of a node with one of them first, in exchange for that: its own inverse."""
    return [slot, *(0 if i == slot else i for i in range(1, n))] if slot else list(range(n))


def alike(names):
    """Whether the first and the last child of a node have their states in one stack."""
    return names[0] == names[-1]


def states_of(names, state, batch, numbers):
    """States of children, from the names of their stacks and their numbers there."""
    stacks = {"nodes": state.below, "sites": batch.sites, "leaves": batch.leaves}
    return tuple(stacks[name][numbers[i]] for i, name in enumerate(names))


def grams_of(names, state, batch, numbers):
    """Gram pairs of children, as their states in `states_of`."""
    site = jnp.eye(batch.sites.shape[1], dtype=batch.sites.dtype)

    def gram(name, number):
        if name == "nodes":
            return tuple(stack[number] for stack in state.grams)
        return site if name == "sites" else batch.leaves[number, ..., 0], 0

    return tuple(gram(name, numbers[i]) for i, name in enumerate(names))


def _with_pair(stacks, number, pair):
    return tuple(stack.at[number].set(one) for stack, one in zip(stacks, pair))


def extend_below(bond, state, _):
    """Find the state of a node, and scale its core by a power of two; reports the exponent."""
    of_node, core, exponent = envs.state_of_node(bond.lower(state), bond._states(state))
    return bond.keep_below(bond.with_lower(state, core), core, of_node), exponent


def extend_above(bond, state, _):
    """Find the environment of a bond."""
    env = bond.environment(state)
    return bond.keep_above(state, bond.upper(state), env), None


def two_site_update(bond, state, settings):
    """Improve both cores at a bond."""
    down = bond.place.outward
    cores, of_node, state, report = _solved(two_site_update, bond, state, settings, down > 0)
    env = bond.environment(state)
    state = bond.with_cores(state, cores.below, cores.above)
    # Unlike the branches of a condition, loops that run once or not at all write in place.
    state = lax.fori_loop(0, down, lambda _, s: bond.keep_above(s, cores.above, env), state)
    state = lax.fori_loop(down, 1, lambda _, s: bond.keep_below(s, cores.below, of_node), state)
    return state, report


def upper_site_update(bond, state, settings):
    """Improve the upper core alone, let its bond grow, and go down."""
    cores, _, state, report = _solved(upper_site_update, bond, state, settings, True)
    below, env = precise.matmul(bond.lower(state), cores.below), bond.environment(state)
    rank = state.ranks[bond.place.node]
    cores = cores._replace(below=below, outputs=state.outputs, rank=rank)
    above, rank = expand_bond(bond.task, cores, env, settings)
    state = bond.with_cores(state, below, above)
    state = state._replace(ranks=state.ranks.at[bond.place.node].set(rank))
    return bond.keep_above(state, above, env), report


def lower_site_update(bond, state, settings):
    """Improve the lower core alone, and go up."""
    cores, of_node, state, report = _solved(lower_site_update, bond, state, settings, False)
    above = precise.tensordot(cores.above, bond.upper(state), 1)
    state = bond.with_cores(state, cores.below, above)
    return bond.keep_below(state, cores.below, of_node), report


class Scheme(NamedTuple):
    """The updates of a sweep: outward on the way down, inward on the way up.

    single: whether to one core, of the upper node on the way down and of the lower one on the way
    up, the nodes at the ends included.
    """

    outward: object
    inward: object
    single: bool


#: By the number of cores that are improved together.
SCHEMES = {
    1: Scheme(upper_site_update, lower_site_update, True),
    2: Scheme(two_site_update, two_site_update, False),
}


def effective_problem(update, bond, state):
    """The effective problem of an update: the core below, that above, their `Environment`."""
    core = bond.lower(state)
    eye = jnp.eye(core.shape[-1], dtype=core.dtype)
    if update is lower_site_update:
        return core, eye, bond.environment_of_lower(state)
    if update is two_site_update:
        return core, bond.upper(state), bond.environment(state)
    return eye, bond.upper(state), bond.environment_of_upper(state)


def _solved(update, bond, state, settings, outward):
    below, above, env = effective_problem(update, bond, state)
    node = bond.place.node
    cores = BondCores(below, above, state.outputs, state.ranks[node], state.square)
    cores, of_node, report = two_site_step(bond.task, cores, env, settings, outward)
    ranks = state.ranks.at[node].set(report.rank)
    outputs = None if bond.task.is_open else cores.outputs
    state = state._replace(square=cores.square, ranks=ranks, outputs=outputs)
    return cores, of_node, state, report


@partial(compiled, static_argnames=("task", "mine"), donate_argnames="state")
def evaluate_root(task, mine, state, batch, numbers, exponent, exponents):
    """Find the outputs; returns the state and the `Batch`, with the exponent of the scale."""
    states = states_of(mine, state, batch, numbers)
    core, exponent = state.cores[ROOT][0], exponent + jnp.sum(exponents, dtype=jnp.int32)
    core, exponent, outputs = envs.root_outputs(core, states, exponent, task.squared)
    state = state.with_core(ROOT, 0, core)
    state = state._replace(outputs=None if task.is_open else outputs)
    return state, batch._replace(exponent=exponent)


@partial(compiled, static_argnames=("task", "mine"), donate_argnames="state")
def root_update(task, mine, state, batch, numbers, settings):
    """Improve the root's core alone, and cut nothing; returns the state and the mean loss."""
    grams = None
    if state.grams is not None:
        grams = grams_of(mine, state, batch, numbers), (), (None, 0)
    env = envs.environment(states_of(mine, state, batch, numbers), (), None, grams, batch)
    core = state.cores[ROOT][0]
    core, F, square, loss = one_site_step(task, core, state.outputs, env, state.square, settings)
    state = state.with_core(ROOT, 0, core)
    return state._replace(outputs=None if task.is_open else F, square=square), loss
