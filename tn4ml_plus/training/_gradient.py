"""Training by gradients: minibatches for any optax transformation, and full-batch L-BFGS."""

import abc
import dataclasses
import math
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from .. import _precise as precise
from .._checks import check, check_instance, check_int, check_number
from .._compiled import bounded_cache, compiled, on_threads
from .._registry import variant
from ._mesh import MeshTrainer, by_bonds, by_samples, local, whole
from ._problem import Begun, bucket
from ._risk import count, nan_unless_finite, over_members, start, updated
from ._trainer import Step, Trainer

# One object for the whole process: compiled epochs are keyed by it.
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.99)
# Bonds that the default rate and decay were tuned at; the second is that of densities.
_BOND, _DENSITY_BOND = 8, 6
# Sites from which on the decay of networks with outputs is the whole one, and those beyond which
# it rises and the rate falls.
_SITES, _MANY_SITES = 8, 64
# Weights of a network times samples, from which on an epoch is worth a thread: some 10 ms.
_LONG = 2**23


class Schedule(abc.ABC):
    """A shape over the run that the peak learning rate is multiplied with."""

    @abc.abstractmethod
    def factors(self, total_steps):
        """Factors of the peak learning rate, (total_steps,)."""


@variant("schedule")
class WarmupCosine(Schedule):
    """Linear warm-up over a share of the steps, then half a cosine to zero.

    >>> WarmupCosine(warmup=0.5).factors(4).round(3).tolist()
    [0.5, 0.854, 0.5, 0.146]
    """

    warmup: float = 0.05

    def __post_init__(self):
        check_number("warmup", self.warmup, at_least=0, below=1)

    def factors(self, total_steps):
        step = np.arange(total_steps)
        ramp = np.minimum(1, (step + 1) / max(1.0, self.warmup * total_steps))
        return ramp * 0.5 * (1 + np.cos(np.pi * step / total_steps))


@variant("schedule")
class Constant(Schedule):
    """The same learning rate at every step.

    >>> Constant().factors(2).tolist()
    [1.0, 1.0]
    """

    def factors(self, total_steps):
        return np.ones(total_steps)


@variant("trainer")
class Gradient(MeshTrainer):
    """Minibatch gradient descent with padded, weighted last batches.

    >>> Gradient(max_epochs=5, learning_rate=1e-3).max_epochs
    5

    Parameters
    ----------
    learning_rate : float, optional
        Peak rate of the default Adam(0.9, 0.99); None: 5e-3, and less in proportion with more than
        64 sites, since each step changes all cores at once. It falls with bonds above 8 too: a step
        moves every entry by the rate, and so a core of k bonds of size D by the rate times
        D**(k/2), its Frobenius norm; this is kept at that of bond 8.
    batch_size : int, optional
        Samples per step. None: 64, or 128 of more than 20,000 samples, which the largest number of
        steps would pass over too seldom.
    optimizer : optax transformation, optional
        In place of Adam. It brings its own rate and schedule, and is given the value and the
        function of the minibatch too.
    schedule : Schedule, shape of the learning rate over the run
    min_steps, max_steps : int
        Where max_epochs is None, training takes 40 epochs but at least min_steps and at most
        max_steps steps, rounded to whole epochs and never less than one.
    clip_norm : float, optional, cap on the gradient's global norm
    decay : float or tuple of float, one per member
        Pull toward the identity start per unit of learning rate for 1000 samples, scaled by
        sqrt(1000 / size) with size the sum of the sample weights, at least n_samples, and below
        bond 8 (6 in densities) in proportion to the bond: entries settle where Adam's step, of size
        one, and the pull balance, up to 1 / decay from the start, and a path through many cores
        adds up D such products a core. Except in densities it falls with the sites, too, below 8
        of them, since each has to do more, and rises with them beyond 64, as what they add up to
        does.
    feature_dropout : float or tuple of float, one per member
        Share of the features that each sample loses in each step, in [0, 1).
    mesh : jax.sharding.Mesh, optional
        Devices among which each minibatch is divided: ``jax.make_mesh((8,), ("batch",))``. Weights
        are those of one device to rounding. A second axis, ``"bond"``, divides the last bond of
        each core, for networks too wide for one device. The mesh may be of several processes, each
        of which calls the same on the same data. Files do not store it.
    max_epochs, early_stopping, time_limit, callbacks, checkpoint : as in `Trainer`
    """

    learning_rate: float | None = None
    batch_size: int | None = None
    optimizer: Any = None
    schedule: Schedule = dataclasses.field(default=WarmupCosine())
    min_steps: int = 500
    max_steps: int = 3000
    clip_norm: float | None = None
    decay: float | tuple[float, ...] = 0.0
    feature_dropout: float | tuple[float, ...] = 0.0

    trains_on_parts: ClassVar[bool] = True
    trains_on_subsets: ClassVar[bool] = True
    trains_on_windows: ClassVar[bool] = True
    advice: ClassVar[str] = "Lower learning_rate, set clip_norm, or use another initializer"

    def __post_init__(self):
        super().__post_init__()
        check_number("learning_rate", self.learning_rate, above=0, optional=True)
        check_int("batch_size", self.batch_size, 1, optional=True)
        for name in ("min_steps", "max_steps"):
            check_int(name, getattr(self, name), 1)
        check_instance("schedule", self.schedule, Schedule)
        check_number("clip_norm", self.clip_norm, above=0, optional=True)
        for name, bounds in (("decay", {}), ("feature_dropout", {"below": 1})):
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                check_number(name, number, at_least=0, **bounds)
        if self.optimizer is None:
            return
        parts = (getattr(self.optimizer, name, None) for name in ("init", "update"))
        if not all(map(callable, parts)):
            raise ValueError(
                f"optimizer must be an optax transformation, got {self.optimizer!r}: write "
                "optax.adam(1e-3)."
            )
        if np.any(self.decay):
            raise ValueError(
                "decay goes with the default optimizer: chain optax.add_decayed_weights into "
                "yours, or set decay=0."
            )
        if self.learning_rate is not None:
            raise ValueError(
                "optimizer brings its own learning rate: give learning_rate to it instead, e.g. "
                "Gradient(optimizer=optax.adam(1e-3))."
            )

    def check(self, problem):
        n = problem.n_members
        for name in ("decay", "feature_dropout"):
            value = getattr(self, name)
            allowed = f"one number, or one for each of the {n} networks"
            check(name, value, np.size(value) in (1, n), allowed)
        size = self._batch_size(problem.n_samples)
        if size % self.n_parts:
            raise ValueError(
                f"{self.n_parts} devices cannot share {size} samples evenly: set batch_size to a "
                f"multiple of {self.n_parts}, such as {-(-size // self.n_parts) * self.n_parts}."
            )
        super().check(problem)

    def _batch_size(self, n_samples):
        """Samples per step."""
        return self.batch_size or (64 if n_samples <= 20_000 else 128)

    def epochs(self, n_samples: int) -> int:
        steps = -(-n_samples // self._batch_size(n_samples))
        if self.max_epochs is not None:
            return self.max_epochs
        total = np.clip(40 * steps, self.min_steps, self.max_steps)
        return int(max(1, round(total / steps)))

    def partial_train(self, problem):
        """One epoch at the peak learning rate, continuing from ``problem.state``."""
        constant = dataclasses.replace(self, schedule=Constant(), max_epochs=1)
        return super(Gradient, constant).partial_train(problem)

    def init(self, problem):
        if self.optimizer is not None:
            return start(self.optimizer, problem.params)
        # What `start` would give, without a program.
        zeros = jax.tree.map(lambda p: jax.device_put(np.zeros(p.shape, p.dtype)), problem.params)
        steps = jax.device_put(np.zeros(problem.n_members, np.int32))
        return optax.ScaleByAdamState(steps, zeros, zeros)

    def step(self, problem, params, state, epoch):
        """One compiled epoch of shuffled minibatches, or one of each window of samples."""
        size, windows = self._batch_size(problem.n_samples), problem.windows
        lengths = [problem.n_trained] if windows is None else windows.lengths()
        steps = [-(-length // size) for length in lengths]
        # Networks of several bonds have rates and decays of their own.
        peaks, shares = np.array([(_rate(s), _share(s)) for s in problem.structures]).T
        if self.learning_rate is not None:
            peaks[:] = self.learning_rate
        # That of all samples, so that networks that are trained on parts of them share a program.
        length = bucket(-(-(problem.n_samples if windows is None else lengths[0]) // size))
        rates = epoch_rates(self, peaks, problem.n_samples, epoch, sum(steps))
        decay = np.multiply(self.decay, np.sqrt(1000 / problem.effective_size) * shares)
        parts, done = [problem], problem.begun
        if windows is not None:
            done = done or Begun(problem.random_state.randint(2**31 - 1), 0, 0.0, 0.0)
            parts = problem.parts(done.seed, done.n_windows)
        done = done or Begun(0, 0, 0.0, 0.0)
        for part in parts:
            before, own = sum(steps[: done.n_windows]), steps[done.n_windows]
            dtype = part.samples.weight.dtype
            rows = _batches(part, size, length)
            padded = np.pad(rates[before : before + own], [(0, length - own), (0, 0)])
            batches = Minibatches(rows, padded.astype(dtype), own, self._dropout(part))
            traced = part.risk, params, state, part.anchor, batches, decay.astype(dtype)
            params, state, found = self._trained(part, *traced)
            losses, first = np.asarray(found, float)[:own].mean(axis=1), done.first
            if not done.n_windows:
                # Of one sample it would be a matter of chance.
                few = min(own, -(-64 // size))
                first = float(losses[:few].sum() / min(few * size, lengths[0]))
            total = done.total + float(losses.sum())
            done = Begun(done.seed, done.n_windows + 1, total, first)
            if problem.reached is not None and done.n_windows < len(lengths):
                problem.reached(params, state, done)
        numbers = {"learning_rate": float(rates[-1].mean())}
        return Step(params, state, done.total / sum(lengths), numbers, done.first)

    def _trained(self, problem, *traced):
        """Parameters, state and sums of losses after an epoch of minibatches."""
        static = self.optimizer or _ADAM, self.clip_norm
        if self.mesh is not None:
            risk, *networks, anchor, batches, decay = traced
            rows = by_samples(self.mesh, batches.rows, axis=2)
            rest = whole(self.mesh, batches._replace(rows=None))
            risk, anchor, decay = whole(self.mesh, (risk, anchor, decay))
            given = *by_bonds(self.mesh, networks), anchor, rest._replace(rows=rows), decay
            *networks, totals = _epoch(*static, risk, *given)
            return *by_bonds(self.mesh, networks), whole(self.mesh, totals)
        if problem.n_members == 1 or jax.default_backend() != "cpu":
            return _epoch(*static, *traced)
        n_weights = sum(map(np.size, jax.tree.leaves(problem.params))) // problem.n_members
        each = on_threads if n_weights * problem.n_trained >= _LONG else map
        return _one_by_one(each, *static, *traced)

    def outcome(self, problem, params):
        """A `Result` with these parameters, in arrays of this process."""
        return problem.outcome(params if self.mesh is None else local(self.mesh, params))

    def _dropout(self, problem):
        """Key and shares of the features that samples lose, or None."""
        shares = np.broadcast_to(np.float32(self.feature_dropout), problem.n_members)
        if not shares.any():
            return None
        return problem.random_state.randint(2**32, size=4, dtype=np.uint32), shares


class Minibatches(NamedTuple):
    """The minibatches of an epoch, padded to a bucketed number.

    rows: (length, n_members, batch_size) sample numbers, -1 for none, or (length, batch_size) of
    images; rates: (length, n_members) learning rates, or (length,); steps: the real ones; dropout:
    a key of four uint32 and the shares (n_members,) of features that samples lose, or None; first:
    number of steps before these.
    """

    rows: Any
    rates: Any
    steps: int
    dropout: Any = None
    first: int = 0

    def of_member(self, m):
        """Those of one of several networks."""
        rows, rates, _, dropout, _ = self
        if dropout is not None:
            key, shares = dropout
            dropout = key + np.array([0, m, 0, 0], key.dtype), shares[m : m + 1]
        own = slice(m, m + 1)
        return self._replace(rows=rows[:, own], rates=rates[:, own], dropout=dropout)


def _rate(structure):
    """Default learning rate, see `Gradient`."""
    excess = max(1.0, structure.max_bond / _BOND)
    return 5e-3 * min(1.0, _MANY_SITES / structure.nsites) * excess ** (-structure.max_degree / 2)


def _share(structure):
    """Factor of the decay for small bonds, few and many sites, see `Gradient`."""
    if structure.squared:
        return min(1.0, structure.max_bond / _DENSITY_BOND)
    few, many = min(1.0, structure.nsites / _SITES), max(1.0, structure.nsites / _MANY_SITES)
    return min(1.0, structure.max_bond / _BOND) * few * many


def epoch_rates(trainer, peak, n_samples, epoch, steps):
    """Learning rates of the steps of an epoch, ones where an optimizer brings its own.

    peak: a number, or one per member for rates (steps, n_members).
    """
    total, own = trainer.epochs(n_samples) * steps, trainer.optimizer is not None
    factors = np.ones(total) if own else trainer.schedule.factors(total)
    factors = factors[epoch * steps :][:steps]
    return np.multiply.outer(factors, np.ones_like(peak) if own else peak)


def _batches(problem, batch_size, length):
    """Shuffled sample numbers, (length, n_members, batch_size) int32, -1 where there is none."""
    n_members, n_trained = problem.n_members, problem.n_trained
    subsets = [n_trained] * n_members if problem.subsets is None else problem.subsets
    flat = np.full((n_members, length * batch_size), -1, np.int32)
    for row, subset in zip(flat, subsets, strict=True):
        row[:n_trained] = problem.random_state.permutation(subset)
    return flat.reshape(n_members, length, batch_size).transpose(1, 0, 2)


@partial(compiled, static_argnames=("optimizer", "clip_norm"))
def _epoch(optimizer, clip_norm, risk, params, state, anchor, batches, decay):
    rows, rates, steps, dropout, _ = batches
    joined = parted = lambda tree: tree
    if optimizer is _ADAM:
        joined, parted = _by_shape(params)
        params, anchor = joined(params), joined(anchor)
        state = state._replace(mu=joined(state.mu), nu=joined(state.nu))

    def member(params, state, anchor, decay, order, rows, dropped, rate):
        def value_fn(p):
            return risk.of_member(parted(p), order, rows, dropped)

        (value, total), gradient = jax.value_and_grad(value_fn, has_aux=True)(params)
        clipped = gradient
        if clip_norm is not None:
            norm = optax.tree.norm(gradient)
            factor = jnp.minimum(1, clip_norm / jnp.maximum(norm, 1e-30))
            clipped = jax.tree.map(lambda g: g * factor, gradient)
        # Line searches need the function itself, other optimizers its value.
        extra = {
            "value": value, "grad": gradient, "value_fn": lambda p: value_fn(p)[0],
            "grad_fn": lambda p, _: jax.grad(value_fn, has_aux=True)(p)[0],
        }  # fmt: skip
        updates, state = updated(optimizer, clipped, state, params, **extra)

        def moved(p, u, a):
            u, a, own = (x.astype(p.dtype) for x in (u, a, rate))
            # Updates of the default have no rate yet.
            return p + (-own if optimizer is _ADAM else 1.0) * u - own * decay * (p - a)

        params = jax.tree.map(moved, params, updates, anchor)
        return params, state, total

    n_members = rows.shape[1]
    axes = (0, 0, 0, 0, risk.order_axis, 0, None if dropout is None else 0, 0)
    step = over_members(member, n_members, axes)

    def body(i, carry):
        params, state, totals = carry
        dropped = None
        if dropout is not None:
            dropped = _dropped(*dropout, i, (*rows.shape[1:], risk.samples.phi.shape[1]))
        given = params, state, anchor, decay, risk.orders, rows[i], dropped, rates[i]
        params, state, total = step(*given)
        return params, state, totals.at[i].set(total)

    totals = jnp.zeros((len(rows), n_members), rates.dtype)
    params, state, totals = lax.fori_loop(0, steps, body, (params, state, totals))
    totals = nan_unless_finite(params, totals)
    if optimizer is _ADAM:
        params, mu, nu = map(jax.vmap(parted), (params, state.mu, state.nu))
        state = state._replace(mu=mu, nu=nu)
    return params, state, totals


def _one_by_one(each, optimizer, clip_norm, risk, params, state, anchor, batches, decay):
    """The outcome of `_epoch` by a program of one network, which `each` calls for every one.

    On processors that takes no longer than one program for all. Any number of networks shares it,
    and threads can: XLA divides none of a loop's small steps among cores.
    """

    leaves, tree = jax.tree.flatten((risk.orders, params, state, anchor, decay))
    leaves = list(map(np.asarray, leaves))

    def member(m):
        orders, *given, decay = tree.unflatten([leaf[m : m + 1] for leaf in leaves])
        read = dataclasses.replace(risk, orders=orders)
        found = _epoch(optimizer, clip_norm, read, *given, batches.of_member(m), decay)
        return jax.block_until_ready(found)

    *trained, totals = zip(*each(member, range(count(params))), strict=True)
    # Arrays of NumPy, which the next epoch parts again.
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *zip(*trained, strict=True))
    return *joined, np.concatenate(totals, axis=1)


def _by_shape(params):
    """Functions that join leaves (n_members, length, ...) of one shape, and part those of a member.

    XLA compiles the update of a leaf for a twentieth of a second, and networks of many tensors have
    many. Two of one shape, the arms of a chain, stay apart: joined, their steps take longer.
    """
    leaves, build = jax.tree.flatten(params)
    like = {}
    for i, leaf in enumerate(leaves):
        like.setdefault(leaf.shape[2:] if leaf.ndim > 1 else i, []).append(i)
    kinds = []
    for kind in like.values():
        kinds += [kind] if len(kind) > 2 else [[i] for i in kind]

    def joined(tree):
        parts = jax.tree.leaves(tree)
        stacks = ([parts[i] for i in kind] for kind in kinds)
        return [jnp.concatenate(stack, axis=1) if len(stack) > 1 else stack[0] for stack in stacks]

    def parted(stacks):
        found = {}
        for kind, stack in zip(kinds, stacks, strict=True):
            ends = np.cumsum([leaves[i].shape[1] for i in kind[:-1]], dtype=int)
            found |= zip(kind, jnp.split(stack, ends) if len(kind) > 1 else [stack])
        return build.unflatten(found[i] for i in range(len(leaves)))

    return joined, parted


def _dropped(key, shares, step, shape):
    """Features that the samples of a step lose, bools (n_members, batch_size, nsites).

    Drawn where the networks are trained: an epoch's would take long to bring there. 16 bits decide.
    """
    n_members, *shape = shape
    size = math.prod(shape)

    def of_member(m):
        own = key.at[0].add(step.astype(key.dtype)).at[1].add(m)
        # Of JAX's generators the quickest to compile, the same on all devices.
        kind = lax.RandomAlgorithm.RNG_THREE_FRY
        _, bits = lax.rng_bit_generator(own, (-(-size // 2),), algorithm=kind)
        bits = lax.bitcast_convert_type(bits, np.uint16).reshape(-1)[:size]
        return bits.reshape(shape).astype(np.int32) < (shares[m] * 2**16).astype(np.int32)

    # A network draws the same whether it is trained with others or by itself, see `of_member`; of
    # several keys at once `jax.vmap` would use the first.
    return jnp.stack([of_member(m) for m in range(n_members)])


@variant("trainer", "lbfgs")
class LBFGS(Trainer):
    """Limited-memory BFGS on all samples at once, with optax's zoom line search.

    Deterministic except for the start. The first fit of a shape takes several seconds to compile,
    later ones none. An epoch is an iteration, of which there are 100 by default.

    >>> LBFGS(max_epochs=20).memory
    10

    Parameters
    ----------
    memory : int, number of past gradients kept
    decay : float
        Weight of half the squared distance from the identity start, divided by the sum of the
        sample weights, at least n_samples.
    max_epochs, early_stopping, time_limit, callbacks, checkpoint : as in `Trainer`

    References
    ----------
    Nocedal and Wright, Numerical Optimization (2006), algorithms 7.5 and 3.5.
    """

    memory: int = 10
    decay: float = 1.0

    advice: ClassVar[str] = 'Use another initializer or trainer="gradient"'

    def __post_init__(self):
        super().__post_init__()
        check_int("memory", self.memory, 1)
        check_number("decay", self.decay, at_least=0)

    def init(self, problem):
        return start(_optimizer(self.memory), problem.params)

    def step(self, problem, params, state, epoch):
        """One compiled iteration."""
        pull = self.decay / problem.effective_size
        return Step(*_iterate(self.memory, params, state, problem.risk, problem.anchor, pull))


@bounded_cache(64)
def _optimizer(memory):
    return optax.lbfgs(memory_size=memory)


@partial(compiled, static_argnames="memory")
def _iterate(memory, params, state, risk, anchor, pull):
    optimizer = _optimizer(memory)

    def member(params, state, anchor, order):
        def value(p):
            mean, _ = risk.of_member(p, order)
            gaps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), p, anchor)
            return mean + 0.5 * pull * sum(jax.tree.leaves(gaps))

        loss, gradient = optax.value_and_grad_from_state(value)(params, state=state)
        extra = {"value": loss, "grad": gradient, "value_fn": value}
        updates, state = updated(optimizer, gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state, loss

    step = over_members(member, count(params), (0, 0, 0, risk.order_axis))
    # A line search compares losses that differ in their last digits.
    with precise.everywhere():
        params, state, losses = step(params, state, anchor, risk.orders)
    return params, state, nan_unless_finite(params, losses)
