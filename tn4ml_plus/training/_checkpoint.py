"""Training that was cut off goes on from a file."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ..io import read, write


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file that holds what a training needs to go on, as it was after its last epoch.

    path: of the file, written anew after each epoch, complete or not at all; task: numbers and
    strings that tell this training from others.
    """

    path: str
    task: dict

    def save(self, tree, history):
        """Write a pytree of arrays, and lists of numbers by name."""
        arrays = {f"leaf.{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
        write(self.path, arrays, {"task": self.task, "history": history})

    def restore(self, tree):
        """What `save` wrote, for a pytree of the same shapes; None if there is no file.

        Raises ValueError for a file of another training.
        """
        if not Path(self.path).exists():
            return None
        arrays, metadata = read(self.path)
        leaves, treedef = jax.tree.flatten(tree)
        saved = [arrays.get(f"leaf.{i}") for i in range(len(leaves))]
        alike = len(arrays) == len(leaves) and all(
            array is not None and (array.shape, array.dtype) == (leaf.shape, leaf.dtype)
            for array, leaf in zip(saved, leaves, strict=True)
        )
        if metadata.get("task") != self.task or not alike:
            theirs = metadata.get("task") or {}
            other = [name for name in self.task if theirs.get(name) != self.task[name]]
            raise ValueError(
                f"The checkpoint {str(self.path)!r} is of another training, which differs in "
                f"{', '.join(other) or 'the model'}: remove the file to start again, or name "
                "another one."
            )
        return jax.tree.unflatten(treedef, map(jnp.asarray, saved)), metadata["history"]
