"""Meshes of devices: what each device holds whole, and what they divide among them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .._registry import UNSTORED
from ._identity import digest, identity
from ._trainer import Trainer

# Names of the axes that divide samples, and bonds.
BATCH, BOND = "batch", "bond"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshTrainer(Trainer):
    """A trainer that may divide samples among devices, of one process or of several.

    Parameters
    ----------
    mesh : jax.sharding.Mesh, optional
        With the axis ``"batch"``. Files do not store it.
    """

    mesh: Any = dataclasses.field(default=None, **UNSTORED)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "mesh", None if self.mesh is None else _checked(self.mesh))

    def check(self, problem):
        if self.mesh is None or not self.mesh.is_multi_process:
            return
        found = identity(self, problem)
        for each in self.checkpoints:
            path = Path(each.path)
            found["checkpoint"] = digest(path.read_bytes() if path.exists() else None)
        _check_alike(found)

    @property
    def n_parts(self) -> int:
        """Number of devices that divide the samples."""
        return 1 if self.mesh is None else self.mesh.shape[BATCH]

    @property
    def writes(self):
        alone = self.mesh is None or not self.mesh.is_multi_process
        return alone or jax.process_index() == 0


def _check_alike(digests):
    """ValueError where processes differ in digests by name, which names one and what differs."""
    mine = np.array([list(bytes.fromhex(value)) for value in digests.values()], np.uint8)
    # Of one shape, whichever names others have.
    names = np.frombuffer(bytes.fromhex(digest(list(digests))), np.uint8)
    if len({row.tobytes() for row in multihost_utils.process_allgather(names)}) > 1:
        raise ValueError(
            "Processes of the mesh train in different ways: give all the same trainer."
        )
    of_all = multihost_utils.process_allgather(mine)
    for process, theirs in enumerate(of_all):
        differ = (theirs != of_all[0]).any(axis=1)
        if differ.any():
            words = ", ".join(name for name, other in zip(digests, differ) if other)
            raise ValueError(
                f"Process {process} of the mesh differs from process 0 in {words}: all must call "
                "fit on the same rows, with the same random_state and files."
            )


def _checked(mesh):
    """A mesh in which XLA decides on what is not said; ValueError for axes that mean nothing."""
    names = getattr(mesh, "axis_names", None)
    if not isinstance(mesh, Mesh) or names not in ((BATCH,), (BATCH, BOND)):
        raise ValueError(
            f"mesh must be a jax.sharding.Mesh with the axis {BATCH!r}, and {BOND!r} after it if "
            f"bonds are divided too, such as jax.make_mesh((8,), ({BATCH!r},)); got {mesh!r}."
        )
    return Mesh(mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))


def whole(mesh, tree):
    """Arrays that every device holds."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def by_samples(mesh, tree, axis):
    """Arrays of which each device holds its part of the samples, whose axis it divides."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH)))


def by_bonds(mesh, tree):
    """Packed networks, (n_members, ...), of which each device holds a part of the last bonds.

    Those of other sizes, and all where the mesh divides samples alone, are held whole.
    """
    size = mesh.shape.get(BOND, 1)

    def placed(leaf):
        divided = size > 1 and leaf.ndim > 2 and leaf.shape[-1] % size == 0
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), BOND) if divided else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(placed, tree)


def local(mesh, tree):
    """Arrays that this process has, of NumPy."""
    return jax.tree.map(np.asarray, whole(mesh, tree))
