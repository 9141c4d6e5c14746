"""What a sweep does at one bond after another, in loops that are compiled.

Cores and states lie in stacks, from which each visit takes what it needs by number: so visits whose
arrays have the same shapes, those of both arms of a chain for instance, share one program, and
nothing returns to Python between them.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ._local import expand, local_step, single_step
from ._states import (
    Around,
    above_child,
    at_root,
    fewer_outputs,
    gram_above,
    kron,
    state_above,
    together,
)

#: The stack of the root's core.
ROOT = ("root",)


class Task(NamedTuple):
    """What is asked of the network, static.

    objective: what is minimised; squared: of the squared norm of the outputs; is_open: whether
    nodes have outputs of their own, whose basis changes from bond to bond.
    """

    objective: object
    squared: bool
    is_open: bool


class Kind(NamedTuple):
    """What visits must have in common to share a program, static.

    mine: the stacks of the states of the lower node's children, "nodes", "sites" or "leaves", which
    name the stack of its core too; upper: the stack of the upper node's core, `ROOT` or named like
    that, () where the visit is of one node only; siblings: the stacks of the states of its other
    children; slot: which of its children the lower node is.
    """

    mine: tuple
    upper: tuple
    siblings: tuple
    slot: int


class Visit(NamedTuple):
    """Numbers of what a visit takes from the stacks: of one, or of all in a sweep, one a row.

    node: its state and rank; lower, upper: the cores; slot, upper_slot: what is above each of them;
    mine, siblings: states; flip: whether the lower node is the last child of the upper one, not the
    first, where these are alike; outward: whether the sweep goes down.
    """

    node: jax.Array
    lower: jax.Array
    upper: jax.Array
    slot: jax.Array
    upper_slot: jax.Array
    mine: jax.Array
    siblings: jax.Array
    flip: jax.Array
    outward: jax.Array


class Store(NamedTuple):
    """What a sweep changes.

    cores: by stack, (n, *children, up); ranks: (nodes,) of the bonds above; square: what the ridge
    weighs, as in `ridge_scale`; nodes: states of the nodes' bonds, (nodes + 1, D, outputs below,
    batch), the last that of `END`; above: (slots, batch, outputs, D) what the network makes of
    bonds; outputs: (batch, outputs), None where nodes have their own; grams, grams_above: the same
    two without samples, as pairs of stacks of Gram matrices and of their exponents, or None where
    the objective reads no norm.
    """

    cores: dict
    ranks: jax.Array
    square: jax.Array
    nodes: jax.Array
    above: jax.Array
    outputs: jax.Array | None
    grams: tuple | None
    grams_above: tuple | None


class Seen(NamedTuple):
    """What a sweep reads only.

    sites, leaves: states (sites, d, 1, batch) and (2, q, q, batch), of `OPEN` and `SHUT`; exponent,
    target, weight, signs: as in `Around`.
    """

    sites: jax.Array
    leaves: jax.Array
    exponent: jax.Array
    target: jax.Array
    weight: jax.Array
    signs: jax.Array | None


@partial(jax.jit, static_argnames=("step", "task", "kind"), donate_argnames="store")
def run(step, task, kind, store, reports, seen, visits, start, stop, settings):
    """Take a step at each of the visits from `start` to before `stop`.

    Returns the store, whose memory is taken over, and the reports, with a row for every visit.
    """

    def body(i, carry):
        store, reports = carry
        visit = jax.tree.map(lambda column: column[i], visits)
        store, report = step(task, kind, store, seen, visit, settings)
        return store, jax.tree.map(lambda rows, row: rows.at[i].set(row), reports, report)

    return lax.fori_loop(start, stop, body, (store, reports))


# Steps --------------------------------------------------------------------------------------------


def climb(task, kind, store, seen, visit, _):
    """Find the state of a node, and scale its core by a power of two; reports the exponent."""
    core = store.cores[kind.mine][visit.lower]
    state, core, exponent = state_above(core, _states(kind.mine, store, seen, visit.mine))
    store = with_core(store, kind.mine, visit.lower, core)
    return arrive(task, kind, store, seen, visit, core, state), exponent


def descend(task, kind, store, seen, visit, _):
    """Find what is above a node."""
    above, around = bond(task, kind, store, seen, visit)
    return _leave(task, store, visit, above, around), None


def two_cores(task, kind, store, seen, visit, settings):
    """Improve both cores at a bond."""
    outward = visit.outward > 0
    below, above, state, store, report = _solved(
        two_cores, task, kind, store, seen, visit, settings, outward
    )
    _, _, around = local_problem(two_cores, task, kind, store, seen, visit)
    store = _replaced(kind, store, visit, below, above)
    # Unlike the branches of a condition, loops that run once or not at all write in place.
    store = lax.fori_loop(
        0, visit.outward, lambda _, store: _leave(task, store, visit, above, around), store
    )
    store = lax.fori_loop(
        visit.outward, 1,
        lambda _, store: arrive(task, kind, store, seen, visit, below, state), store,
    )  # fmt: skip
    return store, report


def upper_core(task, kind, store, seen, visit, settings):
    """Improve the core above a node alone, let its bond grow, and go down."""
    turn, above, _, store, report = _solved(
        upper_core, task, kind, store, seen, visit, settings, True
    )
    below = store.cores[kind.mine][visit.lower] @ turn
    _, around = bond(task, kind, store, seen, visit)
    above, rank = expand(
        task.objective, task.squared, below, above, store.outputs, around,
        store.ranks[visit.node], settings,
    )  # fmt: skip
    store = _replaced(kind, store, visit, below, above)
    store = store._replace(ranks=store.ranks.at[visit.node].set(rank))
    return _leave(task, store, visit, above, around), report


def lower_core(task, kind, store, seen, visit, settings):
    """Improve the core of a node alone, and go up."""
    below, turn, state, store, report = _solved(
        lower_core, task, kind, store, seen, visit, settings, False
    )
    above = jnp.tensordot(turn, _upper(kind, store, visit), 1)
    store = _replaced(kind, store, visit, below, above)
    return arrive(task, kind, store, seen, visit, below, state), report


def local_problem(step, task, kind, store, seen, visit):
    """What a step improves: the core below, that above, the bond first, and what is `Around`."""
    core = store.cores[kind.mine][visit.lower]
    eye = jnp.eye(core.shape[-1], dtype=core.dtype)
    if step is lower_core:
        return core, eye, single(kind, store, seen, visit)
    above, around = bond(task, kind, store, seen, visit)
    if step is two_cores:
        return core, above, around
    around = around._replace(mine=(store.nodes[visit.node],))
    if around.grams is not None:
        own = tuple(stack[visit.node] for stack in store.grams)
        around = around._replace(grams=((own,), *around.grams[1:]))
    return eye, above, around


def _solved(step, task, kind, store, seen, visit, settings, outward):
    below, above, around = local_problem(step, task, kind, store, seen, visit)
    below, above, outputs, state, square, report = local_step(
        task.objective, task.squared, below, above, store.outputs, around,
        store.ranks[visit.node], store.square, settings, outward,
    )  # fmt: skip
    store = store._replace(
        square=square,
        ranks=store.ranks.at[visit.node].set(report.rank),
        outputs=None if task.is_open else outputs,
    )
    return below, above, state, store, report


# What is around -----------------------------------------------------------------------------------


def bond(task, kind, store, seen, visit):
    """The core above a node, the bond first, (D, *other children, up), and what is `Around`."""
    siblings = _states(kind.siblings, store, seen, visit.siblings)
    env, top = None, (None, 0)
    if kind.upper != ROOT:
        env = store.above[visit.upper_slot]
        if store.grams is not None:
            top = tuple(stack[visit.upper_slot] for stack in store.grams_above)
    grams = None
    if store.grams is not None:
        mine = _grams(kind.mine, store, seen, visit.mine)
        grams = mine, _grams(kind.siblings, store, seen, visit.siblings), top
    if task.is_open:
        # The siblings' outputs are those of all that is above.
        siblings, env = (), _fold(siblings, env)
        if grams is not None:
            grams = mine, (), kron(grams[1] if top[0] is None else (*grams[1], top))
    mine = _states(kind.mine, store, seen, visit.mine)
    return _upper(kind, store, visit), _around(seen, mine, siblings, env, grams)


def single(kind, store, seen, visit):
    """What is `Around` a node as a bond with nothing between it and what is above it."""
    grams = None
    if store.grams is not None:
        top = tuple(stack[visit.slot] for stack in store.grams_above)
        grams = _grams(kind.mine, store, seen, visit.mine), (), top
    mine = _states(kind.mine, store, seen, visit.mine)
    return _around(seen, mine, (), store.above[visit.slot], grams)


def around_root(mine, store, seen, numbers):
    """What is `Around` the root, from the names and numbers of its children's states."""
    grams = None
    if store.grams is not None:
        grams = _grams(mine, store, seen, numbers), (), (None, 0)
    return _around(seen, _states(mine, store, seen, numbers), (), None, grams)


def _around(seen, mine, siblings, env, grams):
    signs = None if env is None else seen.signs
    return Around(mine, siblings, env, grams, seen.exponent, seen.target, seen.weight, signs)


def _states(names, store, seen, numbers):
    stacks = {"nodes": store.nodes, "sites": seen.sites, "leaves": seen.leaves}
    return tuple(stacks[name][numbers[i]] for i, name in enumerate(names))


def _grams(names, store, seen, numbers):
    site = jnp.eye(seen.sites.shape[1], dtype=seen.sites.dtype)

    def gram(name, number):
        if name == "nodes":
            return tuple(stack[number] for stack in store.grams)
        return site if name == "sites" else seen.leaves[number, ..., 0], 0

    return tuple(gram(name, numbers[i]) for i, name in enumerate(names))


def _fold(siblings, above):
    """(batch, outputs, k m) of siblings (k, outputs, batch) and what is above their parent."""
    others = together(siblings).transpose(2, 1, 0)
    if above is None:
        return others
    both = others[:, :, None, :, None] * above[:, None, :, None]
    return both.reshape(len(above), others.shape[1] * above.shape[1], -1)


def order(slot, n):
    """Children of a node with one of them first, in exchange for that: what undoes it too."""
    return [slot, *(0 if i == slot else i for i in range(1, n))] if slot else list(range(n))


def _upper(kind, store, visit):
    core = store.cores[kind.upper][visit.upper]
    n = core.ndim - 1
    found = core.transpose(*order(kind.slot, n), n)
    return _if_alike(kind, visit, found, lambda: core.transpose(*order(n - 1, n), n))


def _if_alike(kind, visit, found, flipped):
    names = "nodes", *kind.siblings
    return found if kind.slot or not alike(names) else jnp.where(visit.flip, flipped(), found)


def alike(names):
    """Whether the first and the last child of a node have their states in one stack."""
    return names[0] == names[-1]


# Changes ------------------------------------------------------------------------------------------


def with_core(store, name, number, core):
    return store._replace(cores=store.cores | {name: store.cores[name].at[number].set(core)})


def _replaced(kind, store, visit, below, above):
    store = with_core(store, kind.mine, visit.lower, below)
    n = above.ndim - 1
    core = above.transpose(*order(kind.slot, n), n)
    core = _if_alike(kind, visit, core, lambda: above.transpose(*order(n - 1, n), n))
    return with_core(store, kind.upper, visit.upper, core)


def arrive(task, kind, store, seen, visit, core, state):
    """Keep the state of a node."""
    if task.is_open:
        state = fewer_outputs(state.transpose(2, 1, 0)).transpose(2, 1, 0)
    store = store._replace(nodes=store.nodes.at[visit.node].set(state))
    if store.grams is None:
        return store
    pair = gram_above(core, _grams(kind.mine, store, seen, visit.mine))
    return store._replace(grams=_with_pair(store.grams, visit.node, pair))


def _leave(task, store, visit, above, around):
    """Keep what is above a node."""
    found, pair = above_child(above, around)
    found = fewer_outputs(found) if task.is_open else found
    store = store._replace(above=store.above.at[visit.slot].set(found))
    if store.grams is None:
        return store
    return store._replace(grams_above=_with_pair(store.grams_above, visit.slot, pair))


def _with_pair(stacks, number, pair):
    return tuple(stack.at[number].set(one) for stack, one in zip(stacks, pair))


@partial(jax.jit, static_argnames=("task", "mine"), donate_argnames="store")
def arrive_at_root(task, mine, store, seen, numbers, exponent, exponents):
    """Find the outputs; returns the store and what is `Seen`, with the exponent of the scale.

    numbers: of the states of the root's children; exponents: of the scales of all other cores.
    """
    states = _states(mine, store, seen, numbers)
    exponent = exponent + jnp.sum(exponents)
    core, exponent, outputs = at_root(store.cores[ROOT][0], states, exponent, task.squared)
    store = with_core(store, ROOT, 0, core)
    store = store._replace(outputs=None if task.is_open else outputs)
    return store, seen._replace(exponent=exponent)


@partial(jax.jit, static_argnames=("task", "mine"), donate_argnames="store")
def root_step(task, mine, store, seen, numbers, settings):
    """Improve the root's core alone, and cut nothing; returns the store and the mean loss.

    mine, numbers: of the states of the root's children.
    """
    around = around_root(mine, store, seen, numbers)
    core, F, square, loss = single_step(
        task.objective, task.squared, store.cores[ROOT][0], store.outputs, around, store.square,
        settings,
    )  # fmt: skip
    store = with_core(store, ROOT, 0, core)
    return store._replace(outputs=None if task.is_open else F, square=square), loss
