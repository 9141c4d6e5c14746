"""The effective problem of a sweep: one bond, all samples, everything else fixed.

Across a bond the outputs are f_ac = x_a^T B y_c. Below it is x, the product of the states of the
lower node's children; above it y_c, the product of the states of the upper node's other children
and of that node's environment for output c. At the root the outputs are an axis of B instead.
Outputs a come from below where nodes have outputs of their own; else there is one.
B is optimised in the metric of the samples, B~ = S_x B S_y with S^2 the second moments of x and y,
where |B~|^2 is the mean squared norm of the outputs; or with S^2 nearer to the mean of these
moments, a multiple of one, in which what few samples show stays small. A single core is such a B
too: with the states of its children or of one of them below, and nothing but the bond itself on the
other side.
"""

from collections import namedtuple
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ... import _precise as precise
from ..._amplitude import Amplitude, exponent_of, power_of_two
from ._environments import EffectiveMap, left


class Task(NamedTuple):
    """The static part of an effective problem.

    squared: whether the objective is of the squared norm of the outputs; is_open: whether nodes
    have outputs of their own, whose basis changes from bond to bond.
    """

    objective: object
    squared: bool
    is_open: bool


class Settings(NamedTuple):
    """Numbers of an update, as in `Sweep`, all traced: changing them compiles nothing.

    ridge: weight of half |B~|^2, in the unit of `ridge_scale`; shrinkage: None, which does compile,
    for 1; forced: whether a bond above max_bond is cut even where the objective rises.
    """

    ridge: float
    damping: float
    shrinkage: float | None
    steps: int
    steps_after: int
    cutoff: float
    max_bond: int
    forced: bool
    expansion: int = 0


class Report(namedtuple("Report", "before after loss square accepted rank truncation")):
    """The outcome of an update of two cores: the objective with the ridge before and after it.

    loss: without penalties, after; square: mean squared norm of the outputs, before; truncation:
    the share discarded.
    """


class BondCores(NamedTuple):
    """The cores at a bond, (*children, D) and (D, *other children, up).

    outputs: (batch, outputs) of the whole network, None where they are not known; rank: of the
    bond, the rest of it being zeros; square: as in `ridge_scale`.
    """

    below: jax.Array
    above: jax.Array
    outputs: jax.Array | None
    rank: jax.Array
    square: jax.Array

    def product(self, fixed, settings):
        """The `EffectiveMap` of the product of both cores."""
        p, k = prod(self.below.shape[:-1]), len(fixed.siblings)
        m = self.above.size // (len(self.above) * k)
        return EffectiveMap(fixed, (p, k, m), settings.shrinkage)


def _leading(matrix, size, max_bond, cutoff):
    """Leading left singular vectors (p, size), zero where cut; their number; share discarded."""
    values, vectors = jnp.linalg.eigh(precise.matmul(matrix, matrix.T))
    missing, index = max(0, size - len(values)), jnp.arange(size, dtype=jnp.int32)
    values = jnp.pad(jnp.maximum(values[::-1], 0)[:size], (0, missing))
    vectors = jnp.pad(vectors[:, ::-1][:, :size], ((0, 0), (0, missing)))
    total = jnp.maximum(jnp.sum(matrix**2), jnp.finfo(matrix.dtype).tiny)
    beyond = jnp.maximum(total - jnp.sum(values), 0)
    # Each of the small ones alone, so that small shares keep their digits.
    tail = jnp.sum(jnp.where(index[None] >= index[:, None], values[None], 0), axis=1)
    tail = (tail + beyond) / total
    keep = (index == 0) | ((tail > cutoff) & (index < max_bond))
    lost = jnp.sum(jnp.where(keep, 0, values)) + beyond
    return vectors * keep[None].astype(vectors.dtype), jnp.sum(keep, dtype=jnp.int32), lost / total


def _basis(matrix, rank):
    """Orthonormal columns (p, size) that span those of a matrix, zero from `rank` on."""
    Q = jnp.linalg.qr(matrix)[0]
    Q = jnp.pad(Q, ((0, 0), (0, matrix.shape[1] - Q.shape[1])))
    return jnp.where(jnp.arange(len(Q.T), dtype=rank.dtype)[None] < rank, Q, 0)


class EffectiveObjective:
    """The objective as a function of the outputs, the squared norm and |B~|^2."""

    def __init__(self, task, fixed, ridge):
        self.objective, self.squared = task.objective, task.squared
        self.fixed, self.batch, self.ridge = fixed, fixed.batch, ridge

    def mean_loss(self, F):
        exponent = jnp.full(len(F), self.batch.exponent)
        if self.squared:
            own = lax.stop_gradient(exponent_of(F.T))
            F = jnp.sum((F * power_of_two(-own, F.dtype)[:, None]) ** 2, axis=1)
            exponent = 2 * (exponent + own)
        losses = self.objective.loss(Amplitude(F, exponent), self.batch.target)
        return jnp.sum(jnp.where(self.batch.weight > 0, losses, 0) * self.batch.weight)

    def log_norm(self, norm):
        log = jnp.log(jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        exponent = 2 * self.batch.exponent + sum(exponent for _, exponent in self.fixed.grams)
        return log + exponent.astype(norm.dtype) * np.log(2.0).astype(norm.dtype)

    def of_norm(self, norm):
        if not self.objective.needs_norm:
            return jnp.zeros_like(norm)
        log = self.log_norm(norm)
        return self.objective.with_log_norm(self.objective.penalty(log), log)

    def second_order(self, linear, B, F):
        """The mean loss, its gradient and curvature in F, and of_norm's gradient in B over G B.

        The latter is a number, which gives a bound from above where of_norm is concave in the norm.
        """
        (loss, in_F), change = jax.linearize(jax.value_and_grad(self.mean_loss), F)
        slope = 2 * jax.grad(self.of_norm)(linear.inner(B, B))
        return loss, in_F, lambda dF: change(dF)[1], slope

    def gradient(self, linear, B, F):
        _, in_F, _, slope = self.second_order(linear, B, F)
        return linear.adjoint(in_F) + slope * linear.gram(B) + self.ridge * B

    def __call__(self, F, norm, square):
        """The objective, and the mean loss for histories, with log n but without penalties."""
        return self.total(self.mean_loss(F), norm, square)

    def total(self, loss, norm, square):
        """The same of a mean loss that is known."""
        value = loss + self.of_norm(norm) + 0.5 * self.ridge * square
        normalized = self.objective.loss.normalized
        log_norm = self.log_norm(norm) if normalized else 0.0
        return jnp.stack([value, self.objective.with_log_norm(loss, log_norm)])


def natural_scale(fixed, B, F):
    """Factor from |B~|^2 to the mean squared norm of the outputs F."""
    mean = precise.vdot(fixed.batch.weight, jnp.sum(F**2, axis=1))
    tiny = jnp.finfo(F.dtype).tiny
    return jnp.maximum(mean, tiny) / jnp.maximum(precise.vdot(B, B), tiny)


def ridge_scale(B, square, natural, settings):
    """Factor from |B~|^2 to the square that the ridge weighs.

    Without a metric |B|^2 is that of the whole network at every bond, but for the unit: `square` is
    what it was after the last update, 0 before the first. A unit chosen anew at each bond would let
    one bond undo what the ridge has made another one pay for.
    """
    if settings.shrinkage is not None:
        return natural
    whole = square / jnp.maximum(precise.vdot(B, B), jnp.finfo(B.dtype).tiny)
    return jnp.where(square > 0, whole, natural)


def _products(a, b):
    """<a, a>, <a, b> and <b, b>, in one go."""
    zero = jnp.zeros((), a.dtype)

    def add(x, y):
        return tuple(one + other for one, other in zip(x, y))

    return lax.reduce((a * a, a * b, b * b), (zero,) * 3, add, tuple(range(a.ndim)))


def solve(linear, objective, B, F, P, n_steps, damping):
    """Conjugate gradients on the Gauss-Newton model, then a search along the line: never rises.

    P: projector on the side of x. Returns B, its outputs, the objective before and after.
    """
    loss, in_F, curvature, slope = objective.second_order(linear, B, F)
    bend, shift = jnp.maximum(slope, 0), objective.ridge + damping
    tiny = jnp.finfo(F.dtype).tiny

    def body(_, carry):
        s, dF, HdF, direction, rr = carry
        # The model's own gradient at s, so that there is one adjoint to compile.
        rest = linear.adjoint(in_F + HdF) + linear.gram(slope * B + bend * s)
        rest = -left(P, rest + objective.ridge * B + shift * s)
        square, cross, before = _products(rest, direction)
        ratio = square / jnp.maximum(rr, tiny)
        direction = rest + ratio * direction
        F_d = linear.outputs(direction)
        H_d = curvature(F_d)
        bent = precise.vdot(F_d, H_d) + bend * linear.inner(direction, direction)
        bent = bent + shift * (square + ratio * (2 * cross + ratio * before))
        # Directions of negative curvature are left to the next step.
        length = jnp.where(bent > 0, square / jnp.where(bent > 0, bent, 1), 0)
        steps = zip((s, dF, HdF), (direction, F_d, H_d))
        return *(old + length * step for old, step in steps), direction, square

    zero, none = jnp.zeros_like(B), jnp.zeros_like(F)
    start = zero, none, none, zero, jnp.asarray(jnp.inf, F.dtype)
    s, dF, *_ = lax.fori_loop(0, n_steps, body, start)
    norms = linear.inner(B, B), 2 * linear.inner(B, s), linear.inner(s, s)
    square, cross, bent = _products(B, s)
    squares = square, 2 * cross, bent
    first = objective.total(loss, norms[0], squares[0])

    def at(t):
        def on_line(a):
            return a[0] + t * (a[1] + t * a[2])

        return objective(F + t * dF, on_line(norms), on_line(squares))

    t, values = lax.while_loop(
        lambda c: ~(c[1][0] <= first[0]) & (c[0] > 1e-3),
        lambda c: (0.4 * c[0], at(0.4 * c[0])),
        (jnp.asarray(2.5, F.dtype), jnp.full_like(first, jnp.inf)),
    )
    better = values[0] <= first[0]
    t = jnp.where(better, t, 0)
    return B + t * s, F + t * dF, first, jnp.where(better, values, first)


def two_site_step(task, cores, fixed, settings, outward):
    """Improve two cores and find the rank: new `BondCores`, state of the lower node, `Report`.

    outward: whether the orthogonality centre moves to the lower node. A step that truncation would
    spoil is rejected: then nothing changes but the gauge.
    """
    below, above, F0, rank, square = cores
    size = below.shape[-1]
    linear = cores.product(fixed, settings)
    p, k, m = linear.shape
    lower = left(linear.root_x, below.reshape(p, size))
    B0 = precise.matmul(lower, above.reshape(size, k * m)).reshape(p, k, m)
    B0 = linear.right(B0, linear.root_y)
    F0 = linear.outputs(B0) if F0 is None else F0
    scale = natural_scale(fixed, B0, F0)
    of_ridge = ridge_scale(B0, square, scale, settings)
    value = EffectiveObjective(task, fixed, of_ridge * settings.ridge)

    def stage(carry, numbers):
        B, F, P, U, rank, lost = carry
        n_steps, is_first = numbers
        B, F, first, last = solve(linear, value, B, F, P, n_steps, scale * settings.damping)

        def cut():
            # Smaller shares than that are rounding.
            cutoff = jnp.maximum(settings.cutoff, 4 * jnp.finfo(B.dtype).eps)
            U, rank, lost = _leading(B.reshape(p, -1), size, settings.max_bond, cutoff)
            P = precise.matmul(U, U.T)
            short = left(P, B)
            return short, linear.outputs(short), P, U, rank, lost

        return lax.cond(is_first, cut, lambda: (B, F, P, U, rank, lost)), (first, last)

    # One body for both solutions, since it is most of what is compiled.
    stages = jnp.array([settings.steps, settings.steps_after]), jnp.array([True, False])
    eye = jnp.eye(p, size, dtype=B0.dtype)
    start = (B0, F0, jnp.eye(p, dtype=B0.dtype), eye, rank, jnp.zeros((), B0.dtype))
    (B, F, _, U, new_rank, lost), (firsts, lasts) = lax.scan(stage, start, stages)
    before, after = firsts[0], lasts[1]
    mean_square = scale * precise.vdot(B0, B0)
    slack = 1e-6 * jnp.abs(before[0]) + settings.cutoff * mean_square
    accepted = (after[0] <= before[0] + slack) | (settings.forced & (rank > settings.max_bond))
    pairs = (B, B0), (F, F0), (new_rank, rank), (after, before), (lost, 0)
    B, F, rank, after, lost = (jnp.where(accepted, *pair) for pair in pairs)
    report = Report(before[0], *after, mean_square, accepted, rank, lost)

    # The factors U and U^T B, orthonormal below, or above if their norms go to the other side. Any
    # positive scale leaves their product as it is; this one keeps states and environments at one.
    U = lax.cond(accepted, lambda: U, lambda: _basis(lower, rank))
    C, natural = precise.matmul(U.T, B.reshape(p, -1)), jnp.sqrt(scale)
    squares = jnp.sum(C**2, axis=1)
    norms = jnp.sqrt(jnp.maximum(squares, 1e-6 * jnp.sum(squares) + jnp.finfo(C.dtype).tiny))
    norms = jnp.where(outward, norms * natural, 1 / natural)
    upper = linear.right((C / norms[:, None]).reshape(size, k, m), linear.inverse_y)
    upper = upper.reshape(above.shape)
    U = U * norms[None]
    lower = left(linear.inverse_x, U).reshape(below.shape)
    state = precise.matmul(U.T, linear.x)
    state = state.reshape(size, *fixed.lower.shape[1:])
    new = BondCores(lower, upper, F, rank, of_ridge * precise.vdot(B, B))
    return new, state, report


def expand_bond(task, cores, fixed, settings):
    """Add directions above a bond, with nothing below them yet: the function stays as it is.

    Directions are those in which the gradient in both cores is largest, in the samples' metric and
    orthogonal to what the bond has. Returns the core above and the new rank.
    After Gleis, Li and von Delft 2023, Phys. Rev. Lett. 130, 246402.
    """
    below, above, F, rank, _ = cores
    size = len(above)
    linear = cores.product(fixed, settings)
    p, k, m = linear.shape
    # A ridge would pull along what the bond has, which is left out below.
    value = EffectiveObjective(task, fixed, 0.0)
    C = linear.right(above.reshape(size, k, m), linear.root_y).reshape(size, k * m)
    B = precise.matmul(left(linear.root_x, below.reshape(p, size)), C).reshape(p, k, m)
    F = linear.outputs(B) if F is None else F
    gradient = value.gradient(linear, B, F).reshape(p, k * m)
    U, _, _ = _leading(C.T, size, rank, -1.0)
    # What pads a bond has no gradient.
    shown = gradient != 0
    rows, columns = (jnp.sum(shown.any(axis), dtype=jnp.int32) for axis in (1, 0))
    largest = jnp.minimum(settings.max_bond, jnp.minimum(rows, columns))
    added = jnp.clip(largest - rank, 0, settings.expansion)
    gradient = gradient - precise.matmul(gradient, U, U.T)
    V, n_added, _ = _leading(gradient.T, size, added, 4 * jnp.finfo(B.dtype).eps)
    n_added = jnp.where(added > 0, n_added, 0)
    used = (jnp.arange(size, dtype=jnp.int32)[None] < n_added).astype(V.dtype)
    V = V * used * jnp.sqrt(precise.vdot(C, C) / rank.astype(V.dtype))
    new = linear.right(V.T.reshape(size, k, m), linear.inverse_y)
    return above + jnp.roll(new, rank, axis=0).reshape(above.shape), rank + n_added


def one_site_step(task, core, F0, fixed, square, settings):
    """Improve one core, and cut nothing; returns it, the outputs, the new square, the mean loss.

    core: (*children, up); F0: its outputs, None where they are not known.
    """
    shape = prod(core.shape[:-1]), 1, core.shape[-1]
    linear = EffectiveMap(fixed, shape, settings.shrinkage)
    B = linear.white(core.reshape(shape))
    F = linear.outputs(B) if F0 is None else F0
    scale = natural_scale(fixed, B, F)
    of_ridge = ridge_scale(B, square, scale, settings)
    value = EffectiveObjective(task, fixed, of_ridge * settings.ridge)
    whole, damping = jnp.eye(len(B), dtype=B.dtype), scale * settings.damping
    B, F, _, (_, loss) = solve(linear, value, B, F, whole, settings.steps, damping)
    square = of_ridge * precise.vdot(B, B)
    B = linear.right(left(linear.inverse_x, B), linear.inverse_y)
    return B.reshape(core.shape), F, square, loss
