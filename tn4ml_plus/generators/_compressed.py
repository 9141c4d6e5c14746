"""Models whose weights are generated, in place of the weights themselves."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_int
from ._base import in_place_of, is_generator, parameters
from ._generated_layers import LAYERS, GeneratedLayer
from ._trees import ATTNGenerator


class Compressed(eqx.Module):
    """A model with generators in place of some weights: a pytree that trains as the model did.

    Calls go to the model with the generated weights; `dense` returns that model itself, for models
    that are not functions, such as dictionaries of arrays. Under `jax.vmap` over samples the
    weights are generated once.
    """

    model: object

    def dense(self):
        """The model with generated weights; generated layers stay unchanged."""
        weight = lambda part: part() if is_generator(part) else part  # noqa: E731
        return jax.tree.map(weight, self.model, is_leaf=_is_part)

    def cached(self):
        """The model as it was built, weights in place of all generators: for inference."""
        return cached(self.model)

    def __call__(self, *args, **options):
        """Output of the model; see `model` for the parameters."""
        model = self.dense()
        if not callable(model):
            raise TypeError(
                f"This model is a {type(model).__name__}, which cannot be called: use its dense() "
                "in place of the model."
            )
        return model(*args, **options)

    @property
    def n_parameters(self) -> int:
        """Count of the model's numbers, those of generators in place of weights."""
        return n_parameters(self.model)

    @property
    def n_bytes(self) -> int:
        """Size of these numbers in bytes."""
        return n_bytes(self.model)


def compress(model, where: Callable, *, generator=ATTNGenerator, key: jax.Array) -> Compressed:
    """A model with chosen weights replaced by generators, as a `Compressed` one.

    The new weights are random, of the old ones' root mean square; `fit` brings them near to the old
    ones.

    >>> import equinox as eqx, jax
    >>> mlp = eqx.nn.MLP(64, 10, 512, 2, key=jax.random.key(0))
    >>> small = compress(mlp, lambda m: m.layers[1], key=jax.random.key(1))
    >>> small(jax.numpy.ones(64)).shape, n_parameters(mlp), small.n_parameters
    ((10,), 301066, 39190)

    Parameters
    ----------
    model : pytree, an equinox module or flax parameters, say; a `Compressed` one goes further
    where : callable
        Function of the model (of the one inside, if it is compressed) that returns what to replace,
        one or a sequence: arrays of floating-point numbers, or equinox layers (Linear, Conv2d,
        MultiheadAttention), whose generated form avoids forming the weight where it can.
    generator : type, class of generators, or a partial of one with its options
    key : jax.Array, key of the initial generators
    """
    return compressed(model, where, partial(in_place_of, generator=generator), key)


def compressed(model, where, make, key):
    """`compress` with `make`, a function from an old weight and a key to its generator."""
    model = model.model if isinstance(model, Compressed) else model
    chosen = where(model)
    several = isinstance(chosen, list | tuple)
    chosen = list(chosen) if several else [chosen]
    if not chosen:
        raise ValueError("where chooses no part of the model: return what is to be replaced.")
    keys = jax.random.split(key, len(chosen))
    new = [_replaced(each, make, key) for each, key in zip(chosen, keys, strict=True)]
    new = tuple(new) if several else new[0]
    return Compressed(eqx.tree_at(where, model, new, is_leaf=lambda x: x is None))


def large_weights(model, min_size: int = 2**16) -> Callable:
    """A `where` for `compress` that chooses all large weights of a model.

    Known layers (Linear, Conv2d, MultiheadAttention) are chosen whole, elsewhere arrays with two
    axes or more. The function serves all models of this structure.

    >>> import equinox as eqx, jax
    >>> mlp = eqx.nn.MLP(64, 10, 512, 2, key=jax.random.key(0))
    >>> compress(mlp, large_weights(mlp), key=jax.random.key(1)).n_parameters
    39190

    Parameters
    ----------
    model, min_size : the model and the entries of a large weight; ValueError where none has as many
    """
    check_int("min_size", min_size, 1)
    model = model.model if isinstance(model, Compressed) else model

    def parts(model):
        return jax.tree.leaves(model, is_leaf=lambda x: type(x) in LAYERS or _is_generated(x))

    def size(part):
        if _is_generated(part):
            return 0
        if type(part) in LAYERS:
            return max(p.size for p in parameters(part))
        return part.size if eqx.is_inexact_array(part) and part.ndim > 1 else 0

    sizes = [size(part) for part in parts(model)]
    chosen = [i for i, found in enumerate(sizes) if found >= min_size]
    if not chosen:
        raise ValueError(
            f"No weight has {min_size} entries, the largest has {max(sizes, default=0)}: choose a "
            "smaller min_size."
        )
    return lambda model: [parts(model)[i] for i in chosen]


def _is_generated(part):
    """Whether a part of a model is generated, or a layer with a generated weight."""
    if type(part) in LAYERS:
        return any(map(is_generator, jax.tree.leaves(part, is_leaf=is_generator)))
    return _is_part(part)


def _replaced(chosen, make, key):
    if _is_generated(chosen):
        raise ValueError(
            f"where chooses a {type(chosen).__name__} that is generated already: compress the "
            "model's cached() form to generate it anew."
        )
    if type(chosen) in LAYERS:
        return LAYERS[type(chosen)].of(chosen, make, key)
    floating = hasattr(chosen, "dtype") and jnp.issubdtype(chosen.dtype, jnp.floating)
    if not floating or chosen.ndim == 0:
        known = ", ".join(layer.__name__ for layer in LAYERS)
        raise ValueError(
            "where must choose arrays of floating-point numbers or equinox layers "
            f"({known}), got {type(chosen).__name__}."
        )
    return make(chosen, key)


def _is_part(leaf):
    return is_generator(leaf) or isinstance(leaf, GeneratedLayer)


def cached(model):
    """A pytree with weights in place of generators, and equinox layers in place of generated."""

    def weight(part):
        if isinstance(part, GeneratedLayer):
            return part.cached()
        return part() if is_generator(part) else part

    return jax.tree.map(weight, model, is_leaf=_is_part)


def n_parameters(model) -> int:
    """Count of the floating-point numbers in a pytree."""
    return sum(p.size for p in parameters(model))


def n_bytes(model) -> int:
    """Size in bytes of the floating-point numbers in a pytree, integer cores as stored."""
    leaves = jax.tree.leaves(model, is_leaf=is_generator)
    generated = sum(leaf.n_bytes for leaf in leaves if is_generator(leaf))
    return generated + sum(p.nbytes for p in parameters([x for x in leaves if not is_generator(x)]))
