"""Several packed networks as one pytree, and the scalar that trainers minimise."""

import dataclasses
import inspect
import re
from collections.abc import Iterable
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from .._arrays import on_device
from .._compiled import compiled
from .._forks import unforked
from ..contraction import contract, log_norm_squared, pack, unpack


def members(structures: tuple, params) -> list[tuple]:
    """Pairs of a structure and the packed network (NumPy) that it describes.

    Parameters
    ----------
    structures : tuple, one per network
    params : pytree, the packed networks, with leaves (n_members, ...)
    """
    params = jax.device_get(params)
    pairs = enumerate(structures)
    return [(structure, jax.tree.map(itemgetter(m), params)) for m, structure in pairs]


def stacked(trees: Iterable) -> Any:
    """Packed networks as one pytree with a leading member axis; smaller arrays are zero-padded."""

    def stack(*leaves):
        shape = np.max([leaf.shape for leaf in leaves], axis=0)
        padding = [[(0, size) for size in shape - np.array(leaf.shape)] for leaf in leaves]
        return on_device(np.stack([*map(np.pad, leaves, padding)]))

    return jax.tree.map(stack, *trees)


def trimmed(structures: tuple, params) -> Any:
    """Packed networks, arrays as large as the largest needs; see `members` for the parameters."""
    networks = [unpack(packed, structure) for structure, packed in members(structures, params)]
    return stacked(pack(network)[0] for network in networks)


def count(params):
    """Number of networks."""
    return len(jax.tree.leaves(params)[0])


def over_members(function, n_members, in_axes):
    """vmap over members; a single member is squeezed instead, which keeps GEMMs unbatched."""
    if n_members > 1:
        return jax.vmap(function, in_axes=in_axes)

    def single(*args):
        pairs = zip(args, in_axes, strict=True)
        args = [jax.tree.map(lambda a: a[0], arg) if axis == 0 else arg for arg, axis in pairs]
        return jax.tree.map(lambda a: jnp.asarray(a)[None], function(*args))

    return single


@unforked
@partial(jax.jit, static_argnames="optimizer")
def start(optimizer, params):
    """The state of an optax transformation for each member, random keys as their numbers."""
    return jax.vmap(lambda p: _numbers_of_keys(optimizer.init(p)))(params)


def updated(optimizer, gradient, state, params, **extra):
    """Updates of an optax transformation, which mixes dtypes, and its next state.

    Of the extra arguments it gets those that it takes. ValueError where these are not enough.
    """
    update = optax.with_extra_args_support(optimizer).update
    if "grad_fn" not in inspect.signature(update).parameters:
        extra.pop("grad_fn", None)
    if any(map(_is_key, jax.tree.leaves(jax.eval_shape(optimizer.init, params)))):
        like = optimizer.init(params)
        state = jax.tree.map(
            lambda part, leaf: random.wrap_key_data(leaf, impl=random.key_impl(part))
            if _is_key(part) else leaf,
            like, state,
        )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        while True:
            try:
                updates, state = update(gradient, state, params, **extra)
                return updates, _numbers_of_keys(state)
            except TypeError as error:
                # Chains hand them on to parts that do not take them.
                unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
                if not unknown or extra.pop(unknown[1], None) is None:
                    raise
            except AttributeError as error:
                name = optimizer.update.__qualname__.partition(".")[0]
                raise ValueError(
                    f"The optimizer {name} takes more than gradients and parameters ({error}): "
                    "take another one."
                ) from error


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _numbers_of_keys(state):
    """A state without random keys, which no file holds: their numbers instead."""
    return jax.tree.map(lambda leaf: random.key_data(leaf) if _is_key(leaf) else leaf, state)


def nan_unless_finite(params, losses):
    """The losses; NaN where a parameter overflowed in the last step, which no loss shows."""
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
    return jnp.where(finite, losses, jnp.nan)


def reordered(phi, order):
    """Samples (batch, nsites, phys_dim) as the network with this site order reads them."""
    return phi if order is None else jnp.take(phi, order, axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Risk:
    """The regularised risk of several networks on weighted samples: mean loss plus penalties.

    A pytree, whose structure and objective are static: pass it to compiled functions.

    Parameters
    ----------
    structure, objective, samples, orders, neutral : as in `Problem`
    scale : float, factor that makes the mean weight one
    """

    structure: Any = dataclasses.field(metadata={"static": True})
    objective: Any = dataclasses.field(metadata={"static": True})
    samples: Any
    orders: jax.Array | None
    neutral: jax.Array | None
    scale: Any

    #: Member axis of `orders`, for `over_members`.
    order_axis = property(lambda self: None if self.orders is None else 0)

    def of_member(self, params, order, rows=None, dropped=None):
        """The risk of one network, and the sum of its weighted losses.

        Parameters
        ----------
        params : pytree, one packed network
        order : int array (nsites,), optional, its row of `orders`
        rows : int array (n_rows,), optional, as in `Problem.value`
        dropped : bool array (n_rows, nsites), optional, true for features that a sample loses
        """
        phi, target, weight = self.samples
        if rows is not None:
            phi, target = phi[rows], target[rows]
            weight = jnp.where(rows >= 0, weight[rows] * self.scale, 0)
        if dropped is not None:
            phi = jnp.where(dropped[..., None], self.neutral[None], phi)
        phi = reordered(phi, order)
        count = weight.sum() if rows is None else jnp.sum(rows >= 0).astype(weight.dtype)
        amplitude = contract(params, self.structure, phi)
        losses, penalty = self.objective.loss(amplitude, target), 0.0
        if self.objective.needs_norm:
            log_norm = log_norm_squared(params, self.structure)
            penalty = self.objective.penalty(log_norm)
            losses = self.objective.with_log_norm(losses, log_norm)
        total = _weighted_sum(losses, weight)
        return total / count + penalty, total


def _weighted_sum(losses, weight):
    # A sample of weight zero is padding: whatever its loss is, it must not reach the sum.
    return jnp.sum(jnp.where(weight > 0, losses, 0) * weight)


@unforked
@partial(jax.jit, static_argnames="transform")
def value(risk, params, rows, transform=lambda function: function):
    """Risk of every member, (n_members,), as a transformation of functions has it."""
    by_member = 0 if rows is not None and rows.ndim == 2 else None
    function = transform(lambda p, *rest: risk.of_member(p, *rest)[0])
    step = over_members(function, count(params), (0, risk.order_axis, by_member))
    return step(params, risk.orders, rows)


def outputs(structure, params, phi, orders):
    """Amplitude, value (n_members, length, *outputs), of every member on all samples.

    Parameters
    ----------
    structure : Structure, the padded one of the packed networks
    params : pytree, with leaves (n_members, ...)
    phi : array (length, nsites, phys_dim)
    orders : int array (n_members, nsites), or None for the given order
    """

    def member(params, order):
        return contract(params, structure, reordered(phi, order))

    axes = (0, None if orders is None else 0)
    return over_members(member, count(params), axes)(params, orders)


@partial(compiled, static_argnames="block")
def losses(risk, params, block, temperatures):
    """Losses of every member on all samples, (n_temperatures, n_members, length), block by block.

    temperatures: what the outputs are divided by.
    """
    structure, objective = risk.structure, risk.objective

    def part(samples):
        phi, target = samples
        amplitude = outputs(structure, params, phi, risk.orders)

        def at(temperature):
            value = amplitude.value / temperature.astype(amplitude.value.dtype)
            return jax.vmap(objective.loss, (0, None))(amplitude._replace(value=value), target)

        return jax.lax.map(at, temperatures)

    samples = [a.reshape(-1, block, *a.shape[1:]) for a in risk.samples[:2]]
    found = jnp.moveaxis(jax.lax.map(part, samples), 0, 2)
    found = found.reshape(*found.shape[:2], -1)
    if objective.loss.normalized:
        log_norm = jax.vmap(lambda p: log_norm_squared(p, structure))(params)
        found = objective.with_log_norm(found, log_norm[None, :, None])
    return found
