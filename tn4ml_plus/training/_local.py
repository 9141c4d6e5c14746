"""The local problem of a sweep: one bond, all samples, everything else fixed.

Across a bond the outputs are f_ac = x_a^T B y_c. Below it is x, the product of the states of the
lower node's children; above it y_c, the product of the states of the upper node's other children
and of what the rest of the network makes of output c. At the root the outputs are an axis of B
instead. Outputs a come from below where nodes have outputs of their own; else there is one.
B is optimised in the metric of the samples, B~ = S_x B S_y with S^2 the second moments of x and y,
where |B~|^2 is the mean squared norm of the outputs; or with S^2 nearer to the mean of these
moments, a multiple of one, in which what few samples show stays small. A single core is such a B
too: with the states of its children or of one of them below, and nothing but the bond itself on the
other side.
"""

from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._typing import Amplitude, exponent_of, power_of_two
from ._bond import Bond, left
from ._states import surroundings


class Settings(NamedTuple):
    """Numbers of a local step, all traced: changing them compiles nothing, but for shrinkage None.

    ridge: weight of half |B~|^2, in units that make it the mean squared norm of the outputs when
    training begins, in the samples' metric at every bond anew; damping: of half the squared step,
    in the latter units; shrinkage: of the second moments toward their mean, None for 1; steps,
    steps_after: of conjugate gradients before and after truncation; cutoff: share of |B~|^2 that
    may be discarded; max_bond: cap on the rank; forced: whether a bond above that is cut even where
    the objective rises; expansion: what single cores add to a rank.
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


class Report(NamedTuple):
    """What a local step did.

    before, after: the objective with the ridge; loss: without penalties, after; square: mean
    squared norm of the outputs before; accepted: or not; rank: of the bond; truncation: the share
    discarded.
    """

    before: jax.Array
    after: jax.Array
    loss: jax.Array
    square: jax.Array
    accepted: jax.Array
    rank: jax.Array
    truncation: jax.Array


def _leading(matrix, size, max_bond, cutoff):
    """Leading left singular vectors (p, size), zero where cut; their number; share discarded."""
    values, vectors = jnp.linalg.eigh(matrix @ matrix.T)
    missing, index = max(0, size - len(values)), jnp.arange(size)
    values = jnp.pad(jnp.maximum(values[::-1], 0)[:size], (0, missing))
    vectors = jnp.pad(vectors[:, ::-1][:, :size], ((0, 0), (0, missing)))
    total = jnp.maximum(jnp.sum(matrix**2), jnp.finfo(matrix.dtype).tiny)
    beyond = jnp.maximum(total - jnp.sum(values), 0)
    # Each of the small ones alone, so that small shares keep their digits.
    tail = (jnp.sum(jnp.where(index >= index[:, None], values, 0), axis=1) + beyond) / total
    keep = (index == 0) | ((tail > cutoff) & (index < max_bond))
    lost = jnp.sum(jnp.where(keep, 0, values)) + beyond
    return vectors * keep, jnp.sum(keep, dtype=jnp.int32), lost / total


def _basis(matrix, rank):
    """Orthonormal columns (p, size) that span those of a matrix, zero from `rank` on."""
    Q = jnp.linalg.qr(matrix)[0]
    Q = jnp.pad(Q, ((0, 0), (0, matrix.shape[1] - Q.shape[1])))
    return jnp.where(jnp.arange(matrix.shape[1]) < rank, Q, 0)


class LocalObjective:
    """What is minimised, as a function of the outputs, the squared norm and |B~|^2."""

    def __init__(self, objective, squared, fixed, ridge):
        self.objective, self.squared = objective, squared
        self.fixed, self.ridge = fixed, ridge

    def mean_loss(self, F):
        exponent = jnp.full(len(F), self.fixed.exponent)
        if self.squared:
            own = lax.stop_gradient(exponent_of(F.T))
            F = jnp.sum((F * power_of_two(-own, F.dtype)[:, None]) ** 2, axis=1)
            exponent = 2 * (exponent + own)
        losses = self.objective.loss(Amplitude(F, exponent), self.fixed.target)
        return jnp.sum(jnp.where(self.fixed.weight > 0, losses, 0) * self.fixed.weight)

    def log_norm(self, norm):
        log = jnp.log(jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        exponent = 2 * self.fixed.exponent + self.fixed.gram_exponent
        return log + exponent.astype(norm.dtype) * np.log(2.0).astype(norm.dtype)

    def of_norm(self, norm):
        if not self.objective.needs_norm:
            return jnp.zeros_like(norm)
        log = self.log_norm(norm)
        return self.objective.penalty(log) + (log if self.objective.loss.normalized else 0.0)

    def second_order(self, bond, B, F):
        """The mean loss, its gradient and curvature in F, and of_norm's gradient in B over G B.

        The latter is a number, which gives a bound from above where of_norm is concave in the norm.
        """
        (loss, in_F), change = jax.linearize(jax.value_and_grad(self.mean_loss), F)
        slope = 2 * jax.grad(self.of_norm)(bond.inner(B, B))
        return loss, in_F, lambda dF: change(dF)[1], slope

    def gradient(self, bond, B, F):
        """In B."""
        _, in_F, _, slope = self.second_order(bond, B, F)
        return bond.adjoint(in_F) + slope * bond.gram(B) + self.ridge * B

    def __call__(self, F, norm, square):
        """The objective, and the mean loss as histories have it."""
        return self.total(self.mean_loss(F), norm, square)

    def total(self, loss, norm, square):
        """The same of a mean loss that is known."""
        value = loss + self.of_norm(norm) + 0.5 * self.ridge * square
        return jnp.stack(
            [value, loss + (self.log_norm(norm) if self.objective.loss.normalized else 0.0)]
        )


def natural_scale(fixed, B, F):
    """What |B~|^2 is to be multiplied by to be the mean squared norm of the outputs F."""
    mean = jnp.vdot(fixed.weight, jnp.sum(F**2, axis=1))
    tiny = jnp.finfo(F.dtype).tiny
    return jnp.maximum(mean, tiny) / jnp.maximum(jnp.vdot(B, B), tiny)


def ridge_scale(B, square, natural, settings):
    """What |B~|^2 is to be multiplied by for the ridge.

    Without a metric of its own |B|^2 is that of the whole network at every bond, but for the unit:
    `square` is what it was after the last visit, 0 before the first. A unit chosen anew at each
    bond would let one bond undo what the ridge has made another one pay for, again and again.
    """
    if settings.shrinkage is not None:
        return natural
    whole = square / jnp.maximum(jnp.vdot(B, B), jnp.finfo(B.dtype).tiny)
    return jnp.where(square > 0, whole, natural)


def _products(a, b):
    """<a, a>, <a, b> and <b, b>, in one go."""
    zero = jnp.zeros((), a.dtype)

    def add(x, y):
        return tuple(one + other for one, other in zip(x, y))

    return lax.reduce((a * a, a * b, b * b), (zero,) * 3, add, tuple(range(a.ndim)))


def solve(bond, objective, B, F, P, n_steps, damping):
    """Conjugate gradients on the Gauss-Newton model, then a search along the line: never rises.

    P: projector on the side of x that B stays in. Returns B, its outputs, and what the objective
    gave before and after.
    """
    loss, in_F, curvature, slope = objective.second_order(bond, B, F)
    bend, shift = jnp.maximum(slope, 0), objective.ridge + damping
    tiny = jnp.finfo(F.dtype).tiny

    def body(_, carry):
        s, dF, HdF, direction, rr = carry
        # The model's own gradient at s, so that there is one adjoint to compile.
        rest = bond.adjoint(in_F + HdF) + bond.gram(slope * B + bend * s)
        rest = -left(P, rest + objective.ridge * B + shift * s)
        square, cross, before = _products(rest, direction)
        ratio = square / jnp.maximum(rr, tiny)
        direction = rest + ratio * direction
        F_d = bond.outputs(direction)
        H_d = curvature(F_d)
        bent = jnp.vdot(F_d, H_d) + bend * bond.inner(direction, direction)
        bent = bent + shift * (square + ratio * (2 * cross + ratio * before))
        # Directions of negative curvature are left to the next step.
        length = jnp.where(bent > 0, square / jnp.where(bent > 0, bent, 1), 0)
        steps = zip((s, dF, HdF), (direction, F_d, H_d))
        return *(old + length * step for old, step in steps), direction, square

    zero, none = jnp.zeros_like(B), jnp.zeros_like(F)
    start = zero, none, none, zero, jnp.asarray(jnp.inf, F.dtype)
    s, dF, *_ = lax.fori_loop(0, n_steps, body, start)
    norms = bond.inner(B, B), 2 * bond.inner(B, s), bond.inner(s, s)
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


def local_step(objective, squared, below, above, F0, around, rank, square, settings, outward):
    """Improve the two cores at a bond and find its rank.

    below: (*children, D); above: (D, *other children, up); F0: (batch, outputs) of the network as
    it is, None where they are not known; around: `Around`; rank: of the bond so far, the rest of it
    being zeros; square: as in `ridge_scale`; outward: whether the center moves to the lower node.
    Returns the two cores, the outputs, the state of the lower node (D, outputs below, batch), the
    new square and a `Report`. A step that truncation would spoil is rejected: then nothing changes
    but the gauge.
    """
    fixed, size = surroundings(around), below.shape[-1]
    p, k = prod(below.shape[:-1]), len(fixed.others)
    m = above.size // (size * k)
    bond = Bond(fixed, (p, k, m), settings.shrinkage)
    lower = left(bond.root_x, below.reshape(p, size))
    B0 = bond.right((lower @ above.reshape(size, k * m)).reshape(p, k, m), bond.root_y)
    F0 = bond.outputs(B0) if F0 is None else F0
    scale = natural_scale(fixed, B0, F0)
    of_ridge = ridge_scale(B0, square, scale, settings)
    value = LocalObjective(objective, squared, fixed, of_ridge * settings.ridge)

    def stage(carry, numbers):
        B, F, P, U, rank, lost = carry
        n_steps, is_first = numbers
        B, F, first, last = solve(bond, value, B, F, P, n_steps, scale * settings.damping)

        def cut():
            # Smaller shares than that are rounding.
            cutoff = jnp.maximum(settings.cutoff, 4 * jnp.finfo(B.dtype).eps)
            U, rank, lost = _leading(B.reshape(p, -1), size, settings.max_bond, cutoff)
            P = U @ U.T
            short = left(P, B)
            return short, bond.outputs(short), P, U, rank, lost

        return lax.cond(is_first, cut, lambda: (B, F, P, U, rank, lost)), (first, last)

    # One body for both solutions, since it is most of what is compiled.
    stages = jnp.array([settings.steps, settings.steps_after]), jnp.array([True, False])
    eye = jnp.eye(p, size, dtype=B0.dtype)
    start = (B0, F0, jnp.eye(p, dtype=B0.dtype), eye, rank, jnp.zeros((), B0.dtype))
    (B, F, _, U, new_rank, lost), (firsts, lasts) = lax.scan(stage, start, stages)
    before, after = firsts[0], lasts[1]
    mean_square = scale * jnp.vdot(B0, B0)
    slack = 1e-6 * jnp.abs(before[0]) + settings.cutoff * mean_square
    accepted = (after[0] <= before[0] + slack) | (settings.forced & (rank > settings.max_bond))
    B, F, rank, after, lost = (
        jnp.where(accepted, *pair)
        for pair in ((B, B0), (F, F0), (new_rank, rank), (after, before), (lost, 0))
    )
    report = Report(before[0], *after, mean_square, accepted, rank, lost)

    # The factors U and U^T B, orthonormal below, or above if their norms go to the other side. Any
    # positive scale leaves their product as it is; this one keeps states and what is above at one.
    U = lax.cond(accepted, lambda: U, lambda: _basis(lower, rank))
    C, natural = U.T @ B.reshape(p, -1), jnp.sqrt(scale)
    squares = jnp.sum(C**2, axis=1)
    norms = jnp.sqrt(jnp.maximum(squares, 1e-6 * jnp.sum(squares) + jnp.finfo(C.dtype).tiny))
    norms = jnp.where(outward, norms * natural, 1 / natural)
    upper = bond.right((C / norms[:, None]).reshape(size, k, m), bond.inverse_y)
    upper = upper.reshape(above.shape)
    lower = left(bond.inverse_x, U * norms).reshape(below.shape)
    state = (U * norms).T @ bond.x
    state = state.reshape(size, *fixed.children.shape[1:])
    return lower, upper, F, state, of_ridge * jnp.vdot(B, B), report


def expand(objective, squared, below, above, F, around, rank, settings):
    """Add directions above a bond, with nothing below them yet: the function stays as it is.

    The arguments are those of `local_step`. Directions are those in which the gradient in both
    cores is largest, in the samples' metric and orthogonal to what the bond has. Returns the core
    above and the new rank, within what the settings allow.
    After Gleis, Li and von Delft 2023, Phys. Rev. Lett. 130, 246402.
    """
    fixed, size = surroundings(around), len(above)
    p, k = prod(below.shape[:-1]), len(fixed.others)
    m = above.size // (size * k)
    bond = Bond(fixed, (p, k, m), settings.shrinkage)
    # A ridge would pull along what the bond has, which is left out below.
    value = LocalObjective(objective, squared, fixed, 0.0)
    C = bond.right(above.reshape(size, k, m), bond.root_y).reshape(size, k * m)
    B = (left(bond.root_x, below.reshape(p, size)) @ C).reshape(p, k, m)
    F = bond.outputs(B) if F is None else F
    gradient = value.gradient(bond, B, F).reshape(p, k * m)
    U, _, _ = _leading(C.T, size, rank, -1.0)
    # What pads a bond has no gradient.
    rows, columns = (jnp.sum(jnp.any(gradient != 0, axis=axis)) for axis in (1, 0))
    largest = jnp.minimum(settings.max_bond, jnp.minimum(rows, columns))
    added = jnp.clip(largest - rank, 0, settings.expansion)
    gradient = gradient - (gradient @ U) @ U.T
    V, n_added, _ = _leading(gradient.T, size, added, 4 * jnp.finfo(B.dtype).eps)
    n_added = jnp.where(added > 0, n_added, 0)
    V = V * (jnp.arange(size) < n_added) * jnp.sqrt(jnp.vdot(C, C) / rank)
    new = bond.right(V.T.reshape(size, k, m), bond.inverse_y)
    return above + jnp.roll(new, rank, axis=0).reshape(above.shape), rank + n_added


def single_step(objective, squared, core, F0, around, square, settings):
    """Improve one core, and cut nothing; returns it, the outputs, the new square, the mean loss.

    core: (*children, up), nothing but the bond itself on the other side; all else: as in
    `local_step`.
    """
    fixed, shape = surroundings(around), (prod(core.shape[:-1]), 1, core.shape[-1])
    bond = Bond(fixed, shape, settings.shrinkage)
    B = bond.white(core.reshape(shape))
    F = bond.outputs(B) if F0 is None else F0
    scale = natural_scale(fixed, B, F)
    of_ridge = ridge_scale(B, square, scale, settings)
    value = LocalObjective(objective, squared, fixed, of_ridge * settings.ridge)
    whole, damping = jnp.eye(len(B), dtype=B.dtype), scale * settings.damping
    B, F, _, (_, loss) = solve(bond, value, B, F, whole, settings.steps, damping)
    square = of_ridge * jnp.vdot(B, B)
    B = bond.right(left(bond.inverse_x, B), bond.inverse_y)
    return B.reshape(core.shape), F, square, loss
