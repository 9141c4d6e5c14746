"""Trained generators further on: larger bonds, integer cores, files of pytrees."""

import math
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import on_device, one_program
from .._checks import check, check_int, check_number
from ..io import checked, read, write
from ._base import Activation, Generator, built, is_generator, mapped, parameters
from ._composite import GroupedGenerator
from ._decoder import Layer
from ._trees import TreeGenerator, check_state

BITS = (4, 8)


def grow(tree, bond_dim: int, *, key: jax.Array, noise: float = 1e-2):
    """A pytree whose generators have larger bonds and the same weights.

    Entries that read the new modes start at zero, so that weights stay the same up to rounding
    while gradients flow.

    >>> import jax
    >>> from tn4ml_plus.generators import MERAGenerator
    >>> small = MERAGenerator((64, 64), key=jax.random.key(0))
    >>> large = grow(small, 3, key=jax.random.key(1))
    >>> bool(abs(large() - small()).max() < 1e-6 * abs(small()).max())
    True

    Parameters
    ----------
    tree : pytree, a generator or a compressed model, say; ValueError for those without bonds
    bond_dim : int, new size of hidden modes, at least the old one
    key, noise : of the new entries, and their standard deviation over the rms of the old ones
    """
    check_int("bond_dim", bond_dim, 1)
    check_number("noise", noise, at_least=0)
    keys = iter(jax.random.split(key, len(jax.tree.leaves(tree, is_leaf=is_generator))))
    return mapped(lambda generator: _grown(generator, bond_dim, next(keys), noise), tree)


def _grown(generator, bond_dim, key, noise):
    if isinstance(generator, GroupedGenerator):
        keys = jax.random.split(key, generator.n_groups)
        groups = eqx.filter_vmap(lambda g, k: _grown(g, bond_dim, k, noise))(generator.groups, keys)
        return eqx.tree_at(lambda g: g.groups, generator, groups)
    if not isinstance(generator, TreeGenerator):
        raise ValueError(
            f"{type(generator).__name__} has no bonds to grow: grow before quantisation, and use "
            "TTNGenerator, ATTNGenerator or MERAGenerator."
        )
    old = generator.bond_dim
    if bond_dim < old:
        raise ValueError(f"bond_dim must be at least the {old} of the generator, got {bond_dim}.")
    check_state(bond_dim, generator.schedule)
    first, *keys = jax.random.split(key, 1 + len(generator.layers))
    latent = generator.latent.reshape((old,) * generator.schedule[0])
    latent = _larger(latent, (bond_dim,) * latent.ndim, first, noise)
    layers = []
    for number, (layer, key) in enumerate(zip(generator.layers, keys, strict=True)):
        inner = number < len(generator.layers) - 1
        layers.append(_larger_layer(layer, old, bond_dim, inner, key, noise))
    new = {"latent": latent.reshape(-1), "layers": tuple(layers), "bond_dim": bond_dim}
    return built(type(generator), generator, **new)


@partial(one_program, static_argnums=1)
def _larger(array, shape, key, noise):
    """The array in the leading corner of a larger one, noise elsewhere."""
    scale = noise * jnp.sqrt(jnp.mean(array**2)) if array.size else 0
    new = scale * jax.random.normal(key, shape, array.dtype)
    return new.at[tuple(map(slice, array.shape))].set(array)


@partial(one_program, static_argnums=(1, 2, 3))
def _larger_layer(layer, old, new, inner, key, noise):
    """A layer that reads bonds `new`; inner: whether it makes such bonds too."""
    split, keep = jax.random.split(key)

    def cores(array, n_out, key):
        if inner:
            array = array.reshape(len(array), old, *(old,) * n_out)
            array = _larger(array, (len(array), old, *(new,) * n_out), key, noise)
            array = array.reshape(len(array), old, new**n_out)
        # Nothing is read from the new modes yet.
        return jnp.pad(array, [(0, 0), (0, new - old), (0, 0)])

    gates = layer.gates
    if inner and gates is not None:
        n = len(gates)
        identity = jnp.broadcast_to(jnp.eye(new * new, dtype=gates.dtype), (n, new**2, new**2))
        corner = (slice(None), *(slice(old),) * 4)
        gates = identity.reshape(n, *(new,) * 4).at[corner].set(gates.reshape(n, *(old,) * 4))
        gates = gates.reshape(n, new**2, new**2)
    return Layer(cores(layer.split, 2, split), cores(layer.keep, 1, keep), gates)


class Quantised(Generator):
    """A generator whose cores are rounded to signed integers times one scale for each core.

    A latent tensor counts as a core, those of groups together as one; activations are not rounded.
    Gradients pass the rounding as if it were not there (straight-through estimator), so training
    goes on. Source: Jacob et al. 2018, section 3; Bengio et al. 2013 for the gradient.

    >>> import jax
    >>> from tn4ml_plus.generators import ATTNGenerator
    >>> generator = ATTNGenerator((256, 256), key=jax.random.key(0))
    >>> small = Quantised(generator, 8)
    >>> small.n_parameters == generator.n_parameters, generator.n_bytes, small.n_bytes
    (True, 960, 324)

    Parameters
    ----------
    generator, bits : the generator, and 4 or 8
    """

    generator: Generator
    bits: int = eqx.field(static=True)
    shape = property(lambda self: self.generator.shape)

    def __init__(self, generator: Generator, bits: int = 8):
        if not isinstance(generator, Generator):
            raise ValueError(f"generator must be a Generator, got {type(generator).__name__}.")
        check("bits", bits, isinstance(bits, int) and bits in BITS, "4 or 8")
        self.generator = generator
        self.bits = bits

    def rounded(self):
        """The generator that the forward pass sees."""

        def rounded(array):
            return _rounded(array, self.bits) if eqx.is_inexact_array(array) else array

        return jax.tree.map(rounded, self.generator, is_leaf=_is_activation)

    def __call__(self):
        return self.rounded()()

    def entries(self, index):
        return self.rounded().entries(index)

    def product(self, x):
        return self.rounded().product(x)

    def scaled(self, factor):
        return Quantised(self.generator.scaled(factor), self.bits)

    @property
    def n_bytes(self):
        """Bytes of the integers, of one scale per core, and of the activations' parameters."""
        leaves = jax.tree.leaves(self.generator, is_leaf=_is_activation)
        cores = [leaf for leaf in leaves if eqx.is_inexact_array(leaf)]
        kept = parameters([leaf for leaf in leaves if _is_activation(leaf)])
        integers = sum(-(-core.size * self.bits // 8) for core in cores)
        scales = sum(math.prod(core.shape[:-2]) * core.dtype.itemsize for core in cores)
        return integers + scales + sum(p.nbytes for p in kept)


@partial(one_program, static_argnums=1)
def _rounded(array, bits):
    # Gradients pass as if nothing were rounded.
    codes, scales = encode(array, bits)
    return array + jax.lax.stop_gradient(codes.astype(array.dtype) * scales - array)


@partial(one_program, static_argnums=1)
def encode(array, bits):
    """Integers (int8) and the scale of each core; cores are the last two axes of an array."""
    axes = tuple(range(max(0, array.ndim - 2), array.ndim))
    most = 2 ** (bits - 1) - 1
    largest = jnp.abs(array).max(axes, keepdims=True, initial=0)
    scales = jnp.where(largest > 0, largest, 1) / most
    codes = jnp.clip(jnp.round(array / scales), -most, most)
    return codes.astype(jnp.int8), scales


def _is_activation(leaf):
    return isinstance(leaf, Activation)


def quantise(tree, bits: int = 8):
    """A pytree with a `Quantised` generator in place of each; train on to recover from rounding.

    Parameters
    ----------
    tree, bits : a compressed model, for example, and 4 or 8
    """
    inner = lambda g: g.generator if isinstance(g, Quantised) else g  # noqa: E731
    return mapped(lambda generator: Quantised(inner(generator), bits), tree)


def save(path: str | Path, tree) -> None:
    """Write the arrays of a pytree to one safetensors file, complete or not at all.

    Cores of `Quantised` generators are stored as their integers, two of four bits in a byte;
    everything else unchanged.

    >>> import jax, os, tempfile
    >>> from tn4ml_plus.generators import ATTNGenerator
    >>> generator = ATTNGenerator((256, 256), key=jax.random.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "generator.safetensors")
    ...     save(path, generator)
    ...     again = load(path, ATTNGenerator((256, 256), key=jax.random.key(1)))
    >>> bool((again() == generator()).all())
    True

    Parameters
    ----------
    path, tree : where to, and a compressed model or a generator, for example
    """
    arrays, stored = {}, {}
    for _, name, leaf, bits in _leaves(tree):
        if bits is None:
            arrays[name] = np.asarray(leaf)
            continue
        stored[name] = [bits, *leaf.shape]
        codes, scales = encode(leaf, bits)
        codes = np.asarray(codes).reshape(-1)
        if bits == 4:
            codes = np.append(codes, np.zeros(codes.size % 2, np.int8)).astype(np.uint8) & 15
            codes = codes[::2] << 4 | codes[1::2]
        arrays[f"{name}.codes"], arrays[f"{name}.scales"] = codes, np.asarray(scales)
    write(path, arrays, {"kind": "pytree", "bits": stored})


def load(path: str | Path, like):
    """A pytree like another, with the arrays of a file that `save` made.

    (`tn4ml_plus.load` is for estimators.)

    Parameters
    ----------
    path : str or Path, the file
    like : pytree
        A tree of the same names, shapes and types, such as the model compressed anew, or its
        `equinox.filter_eval_shape`; gives all that is no array, such as activations.
    """
    arrays, metadata = read(path)
    with checked(path):
        return _filled(like, arrays, metadata)


def _filled(like, arrays, metadata):
    """A pytree like another with stored arrays; ValueError where these are not of its kind."""
    if metadata.get("kind") != "pytree":
        raise ValueError("it holds no pytree: give the path passed to save()")
    leaves, structure = jax.tree.flatten(like)
    wanted = set()
    for place, name, leaf, bits in _leaves(like):
        stored, *shape = metadata["bits"].get(name, [None])
        if stored != bits:
            raise ValueError(
                f"{name} is stored with bits={stored}, `like` has bits={bits}: quantise `like` as "
                "the saved tree was"
            )
        parts = [name] if bits is None else [f"{name}.codes", f"{name}.scales"]
        wanted.update(parts)
        if missing := [part for part in parts if part not in arrays]:
            raise ValueError(f"there is no array {missing[0]!r}, which `like` has")
        codes, *scales = (arrays[part] for part in parts)
        if scales and np.broadcast_shapes(scales[0].shape, shape) != leaf.shape:
            raise ValueError(f"{name} is stored as {shape}, `like` has {leaf.shape}")
        array = _decoded(codes, *scales, shape, bits) if scales else codes
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(
                f"{name} is stored as {array.dtype}{array.shape}, `like` has "
                f"{leaf.dtype}{tuple(leaf.shape)}: make `like` as the saved tree was made"
            )
        # Masks may hold infinities, which shapes alone do not tell.
        known = isinstance(leaf, jax.ShapeDtypeStruct) or not np.isfinite(leaf).all()
        if not (known and not np.isnan(array).any()) and not np.isfinite(array).all():
            raise ValueError(f"{name} has entries that are not finite")
        leaves[place] = on_device(array)
    if extra := sorted(arrays.keys() - wanted):
        raise ValueError(f"`like` has no place for what the file holds: {', '.join(extra)}")
    return jax.tree.unflatten(structure, leaves)


def _leaves(tree):
    """Place, name, array and stored bits, or None, of each leaf of a tree that is an array."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    for place, ((path, leaf), bits) in enumerate(zip(paths, _bits(tree), strict=True)):
        if eqx.is_array(leaf) or isinstance(leaf, np.ndarray | jax.ShapeDtypeStruct):
            yield place, jax.tree_util.keystr(path) or "array", leaf, bits


def _bits(tree):
    """Bits of each leaf of a tree that is the core of a quantised generator, None of others."""
    for leaf in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Quantised)):
        if not isinstance(leaf, Quantised):
            yield None
            continue
        for part in jax.tree.leaves(leaf, is_leaf=_is_activation):
            if _is_activation(part):
                yield from [None] * len(jax.tree.leaves(part))
            else:
                yield leaf.bits


def _decoded(codes, scales, shape, bits):
    """Cores from their integers and scales."""
    if bits == 4:
        codes = np.stack([codes >> 4, codes & 15], -1).astype(np.int8)
        # The four bits are a two's complement.
        codes = np.where(codes > 7, codes - 16, codes)
    n = int(np.prod(shape))
    return codes.reshape(-1)[:n].reshape(shape).astype(scales.dtype) * scales
