"""Files of pytrees: arrays by their names, cores of quantised generators as integers."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..io import read, write
from ._activations import Activation
from ._quantising import Quantised, encode


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
    arrays = {}
    for name, leaf, bits in _leaves(tree):
        if bits is None:
            arrays[name] = np.asarray(leaf)
            continue
        codes, scales = encode(leaf, bits)
        codes = np.asarray(codes).reshape(-1)
        if bits == 4:
            codes = np.append(codes, np.zeros(codes.size % 2, np.int8)).astype(np.uint8) & 15
            codes = codes[::2] << 4 | codes[1::2]
        arrays[f"{name}.codes"], arrays[f"{name}.scales"] = codes, np.asarray(scales)
    bits = {name: [bits, *leaf.shape] for name, leaf, bits in _leaves(tree) if bits is not None}
    write(path, arrays, {"kind": "pytree", "bits": bits})


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
    if metadata.get("kind") != "pytree":
        raise ValueError(f"{str(path)!r} holds no pytree: give the path passed to save().")
    leaves, structure = jax.tree.flatten(like)
    found, wanted = iter(_leaves(like)), set()
    for place, leaf in enumerate(leaves):
        if not _is_array(leaf):
            continue
        name, _, bits = next(found)
        stored, *shape = metadata["bits"].get(name, [None])
        if stored != bits:
            raise ValueError(
                f"{name} is stored with bits={stored}, `like` has bits={bits}: quantise `like` as "
                "the saved tree was."
            )
        parts = [name] if bits is None else [f"{name}.codes", f"{name}.scales"]
        wanted.update(parts)
        if missing := [part for part in parts if part not in arrays]:
            raise ValueError(f"The file has no array {missing[0]!r}, which `like` has.")
        codes, *scales = (arrays[part] for part in parts)
        array = _decoded(codes, *scales, shape, bits) if scales else codes
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(
                f"{name} is stored as {array.dtype}{array.shape}, `like` has "
                f"{leaf.dtype}{tuple(leaf.shape)}: make `like` as the saved tree was made."
            )
        leaves[place] = jnp.asarray(array)
    if extra := sorted(arrays.keys() - wanted):
        raise ValueError(f"`like` has no place for what the file holds: {', '.join(extra)}.")
    return jax.tree.unflatten(structure, leaves)


def _leaves(tree):
    """Name, array and stored bits, or None, of each array of a tree."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    for (path, leaf), bits in zip(paths, _bits(tree), strict=True):
        if _is_array(leaf):
            yield jax.tree_util.keystr(path) or "array", leaf, bits


def _bits(tree):
    """Bits of each leaf of a tree that is the core of a quantised generator, None of others."""
    for leaf in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Quantised)):
        if not isinstance(leaf, Quantised):
            yield None
            continue
        for part in jax.tree.leaves(leaf, is_leaf=lambda x: isinstance(x, Activation)):
            if isinstance(part, Activation):
                yield from [None] * len(jax.tree.leaves(part))
            else:
                yield leaf.bits


def _is_array(leaf):
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray | jax.ShapeDtypeStruct)


def _decoded(codes, scales, shape, bits):
    """Cores from their integers and scales."""
    if bits == 4:
        codes = np.stack([codes >> 4, codes & 15], -1).astype(np.int8)
        # The four bits are a two's complement.
        codes = np.where(codes > 7, codes - 16, codes)
    n = int(np.prod(shape))
    return codes.reshape(-1)[:n].reshape(shape).astype(scales.dtype) * scales
