"""Structures, the static part of packed networks, and their view as nodes below a root."""

import abc
import dataclasses
from functools import cached_property
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._amplitude import Amplitude
from .._arrays import on_device
from .._registry import variant
from .._types import AnyArray

#: What stands among the children of a node for the end of a chain, a bond of size 1; for an output
#: that is summed over as an index of its own; and for one that is not there, a bond of size 1 too.
END, OPEN, SHUT = -1, -2, -3


@dataclasses.dataclass(frozen=True)
class Rooted:
    """Nodes in an order in which children come first, the root last.

    Parameters
    ----------
    nsites : int, number of sites
    nodes : tuple of tuple of int
        Children of each node: a site 0 .. nsites - 1, a node nsites + i, `END`, `OPEN` or `SHUT`.
    bonds : tuple of int, the nodes below all bonds, in the order that users know
    """

    nsites: int
    nodes: tuple[tuple[int, ...], ...]
    bonds: tuple[int, ...]

    @classmethod
    def chain(cls, nsites, center, leaves=None):
        """Two arms, the left one first, both from the ends of a chain to its center, the root.

        Parameters
        ----------
        nsites, center : int, number of sites and the root's
        leaves : sequence of tuple, optional, other children of the sites, by default the inputs
        """
        n, c, last = nsites, center, nsites - 1
        leaves = [(i,) for i in range(n)] if leaves is None else leaves
        left = [(END if i == 0 else n + i - 1, *leaves[i]) for i in range(c)]
        right = [(END if i == last else 2 * n + c - 2 - i, *leaves[i]) for i in range(last, c, -1)]
        top = (n + c - 1 if c > 0 else END, *leaves[c], n + n - 2 if c < last else END)
        return cls(n, (*left, *right, top), arms(range(n - 1), c))

    @cached_property
    def parents(self):
        """Parent of every node but the root, and its place among the children of that."""
        found = {
            child - self.nsites: (i, slot)
            for i, children in enumerate(self.nodes)
            for slot, child in enumerate(children)
            if child >= self.nsites
        }
        return tuple(found[i] for i in range(len(self.nodes) - 1))

    @cached_property
    def heights(self):
        """Length of the longest way from each node down to a site, a tuple."""
        found = []
        for i in range(len(self.nodes)):
            found.append(1 + max((found[node] for node in self.below(i)), default=0))
        return tuple(found)

    #: Whether it is a chain, with ends.
    is_chain = property(lambda self: END in self.nodes[0])

    @cached_property
    def is_open(self):
        """Whether there are outputs besides those of the root."""
        return any(OPEN in children for children in self.nodes)

    def below(self, node):
        """The nodes among the children of a node."""
        return [child - self.nsites for child in self.nodes[node] if child >= self.nsites]


def arms(bonds, center):
    """Values of a chain's bonds from left to right in the order of `Rooted.chain`, or back."""
    return (*bonds[:center], *bonds[center:][::-1])


#: Embedded samples.
Phi = Float[AnyArray, "batch nsites phys_dim"]


class Structure(abc.ABC):
    """Everything that a packed network can do; subclass it for a topology with a kernel of its own.

    `pack` splits a network into a pytree of arrays, ``packed``, and its structure: a frozen
    dataclass, registered by ``@register("structure", name=...)``, by which compiled functions are
    keyed and from which saved files are read. Whoever needs an ability asks the structure for it,
    never for its class.

    A subclass has the attributes below as fields or properties, and the abstract methods. The
    squared norm of the outputs follows from them. A view as nodes below a root, by which networks
    are swept, compressed, sampled and looked into, takes `rooted`, `to_nodes` and `from_nodes`,
    with None as `rooted_needs`; only operators have `transform`. An ability that is not there
    refuses, a ValueError that says what it needs.

    Attributes
    ----------
    phys_dims, output_dims : tuple of int, sizes of the inputs, one per site, and of the outputs
    output_inds : tuple of str, names of the outputs

    Notes
    -----
    Parameters of the methods are `packed`, the arrays of the network; `phi`, embedded samples,
    (batch, nsites, phys_dim); `bias`, other arrays of this structure; `log_factor` and
    `at_outputs`, floats.
    """

    phys_dims: tuple[int, ...]
    output_inds: tuple[str, ...]
    output_dims: tuple[int, ...]

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # A format could ask for names of any length.
            if field.name.endswith("_id") and set(value.replace("{}", "", 1)) & {*"{}"}:
                raise ValueError(f"{field.name} must be like 'k{{}}', got {value!r}.")

    #: Whether `contract` gives the squared norm of the network's outputs.
    squared = False
    #: Largest number of bonds at one tensor.
    max_degree = 2

    # No property, which no field of that name could replace.
    @cached_property
    def nsites(self) -> int:
        """Number of sites."""
        return len(self.phys_dims)

    @property
    def phys_dim(self) -> int:
        """Largest phys_dim, that of the packed arrays and of embedded samples."""
        return max(self.phys_dims)

    @property
    def max_bond(self) -> int:
        """Size of the largest bond, 8 where there are no `bond_dims`: what trainers expect."""
        return max(getattr(self, "bond_dims", ()), default=8)

    def padded(self, phys_dim: int | None = None):
        """Structure with the sizes of the packed arrays at every site and bond.

        Networks that differ in the order of their sites share it, and so their compiled code.
        phys_dim: that of arrays that are padded beyond their own.
        """
        sizes = {"phys_dims": (phys_dim or self.phys_dim,) * self.nsites}
        if bonds := getattr(self, "bond_dims", ()):
            sizes["bond_dims"] = (max(bonds),) * len(bonds)
        return dataclasses.replace(self, **sizes)

    # What every structure can do ------------------------------------------------------------------

    @abc.abstractmethod
    def contract(self, packed: Any, phi: Phi) -> Amplitude:
        """Outputs on embedded samples, see `contract` for the parameters."""

    @abc.abstractmethod
    def log_norm_squared(self, packed: Any) -> Float[Array, ""]:
        """Natural logarithm of the squared Frobenius norm of the whole network."""

    @abc.abstractmethod
    def unpack(self, packed: Any):
        """Network that `pack` took apart, with these arrays (NumPy)."""

    @property
    @abc.abstractmethod
    def n_tensors(self) -> int:
        """Number of tensors, which share a change of scale."""

    @property
    @abc.abstractmethod
    def output_tensors(self):
        """Numbers of tensors with outputs in the packed arrays, a pytree like these."""

    def with_bias(self, packed, bias):
        """Sum with the tensors with outputs of `bias`, see `Structure` for the parameters."""
        packed, bias = jax.device_get((packed, bias))
        total = jax.tree.map(lambda a, b, n: a + b if n else a, packed, bias, self.output_tensors)
        return jax.tree.map(on_device, total)

    def rescale(self, packed, log_factor, at_outputs=2.0**10):
        """Multiply the outputs by exp(log_factor), see `Structure` for the parameters.

        Their tensors take a factor of up to `at_outputs`, all tensors alike what is left.
        """
        counts = self.output_tensors
        n_outputs = sum(jax.tree.leaves(counts))
        limit = np.log(at_outputs) if n_outputs else 0.0
        taken = np.clip(log_factor, -limit, limit)
        each = np.exp((log_factor - taken) / self.n_tensors)
        factors = {False: each, True: each * np.exp(taken / max(n_outputs, 1))}
        packed = jax.device_get(packed)
        scaled = jax.tree.map(lambda a, n: a * a.dtype.type(factors[n > 0]), packed, counts)
        return jax.tree.map(on_device, scaled)

    # What some can do -----------------------------------------------------------------------------

    def contract_squared(self, packed: Any, phi: Phi) -> Amplitude:
        """Squared norm of the outputs, (batch,), see `Structure` for the parameters."""
        value, exponent = self.contract(packed, phi)
        return Amplitude(jnp.sum(value.reshape(len(value), -1) ** 2, axis=1), 2 * exponent)

    @property
    def rooted_needs(self) -> str | None:
        """Words for what a view as nodes below a root would need; None where there is one."""
        return f"open chains or trees, this is a {_kind(self)} network"

    @property
    def has_exact_marginals(self) -> bool:
        """Whether `BornDensity` takes such networks, as far as they have no outputs."""
        return self.rooted_needs is None and not self.rooted().is_open

    def check_rooted(self, who, remedy=""):
        """ValueError unless there is a view as nodes below a root.

        Parameters
        ----------
        who, remedy : str, beginning and end of the message, around what is needed
        """
        if self.rooted_needs is not None:
            raise ValueError(f"{who} {self.rooted_needs}{remedy}.")

    def check_swept(self):
        """ValueError unless sweeps can train it: trees, open chains, operators' squared norms."""
        self.check_rooted("Sweeps need", ": train it by gradients")
        if self.rooted().is_open and not self.squared:
            raise ValueError(
                "Sweeps see an operator's outputs through their squared norm, as losses of "
                "densities do: train it on another loss by gradients."
            )

    def rooted(self) -> Rooted:
        """The view as nodes below a root; raises ValueError where there is none."""
        self.check_rooted("A view as nodes below a root needs")
        raise NotImplementedError(f"{type(self).__name__} lacks a method of its rooted view.")

    def to_nodes(self, packed: Any) -> tuple[list, tuple[int, ...]]:
        """Cores of the nodes, in NumPy, and sizes of the bonds above all of them but the root.

        A core is (*children, up); the last axis of the root are its outputs, flattened.
        """
        return self.rooted()

    def from_nodes(self, cores: list, ranks: tuple[int, ...]):
        """Packed network and structure of cores, the inverse of `to_nodes`.

        Parameters
        ----------
        cores : list of arrays, (*children, up) each
        ranks : tuple of int, sizes to which the bonds above all nodes but the root are cut
        """
        return self.rooted()

    def nodes(self, packed: Any) -> list[np.ndarray]:
        """Cores as from `to_nodes` in float64, with no padding of their bonds."""
        form, (cores, ranks) = self.rooted(), self.to_nodes(packed)
        sizes = dict(enumerate(ranks, form.nsites)) | {END: 1, SHUT: 1}
        found = []
        for i, (core, children) in enumerate(zip(cores, form.nodes, strict=True)):
            used = (sizes.get(child) for child in (*children, form.nsites + i))
            found.append(np.asarray(core, float)[tuple(map(slice, used))])
        return found

    def transform(self, packed: Any, phi):
        """Transformed states of embedded samples, see `transform` for the parameters."""
        raise ValueError(
            f"Transformed states need an operator, an SMPO or MPO: this is a {_kind(self)} network."
        )


def attributes(owner, *names):
    """Attributes of a network or structure that have one name in both, a dict."""
    return {name: getattr(owner, name) for name in names}


def _kind(structure):
    return type(structure).__name__.removesuffix("Structure").lower()


@variant("structure", "squared_norm")
class SquaredNorm(Structure):
    """A packed network whose `contract` gives the squared norm of its outputs, one per sample.

    Parameters
    ----------
    structure : Structure, that of the network itself, which `unpack` gives back

    Examples
    --------
    >>> import jax, numpy as np
    >>> from tn4ml_plus.contraction import contract, pack
    >>> from tn4ml_plus.networks import MPS
    >>> packed, structure = pack(MPS.random(5, n_outputs=3, key=jax.random.key(0)))
    >>> phi = np.ones((2, 5, 2), "f4")
    >>> outputs = contract(packed, structure, phi).dense()
    >>> squares = contract(packed, SquaredNorm(structure), phi).dense()
    >>> bool(np.allclose(squares, (outputs**2).sum(axis=1)))
    True
    """

    structure: Structure

    squared = True
    output_inds = ()
    output_dims = ()

    # All else is that of the network.
    phys_dims = property(attrgetter("structure.phys_dims"))
    max_bond = property(attrgetter("structure.max_bond"))
    max_degree = property(attrgetter("structure.max_degree"))
    n_tensors = property(attrgetter("structure.n_tensors"))
    output_tensors = property(attrgetter("structure.output_tensors"))
    rooted_needs = property(attrgetter("structure.rooted_needs"))
    log_norm_squared = property(attrgetter("structure.log_norm_squared"))
    unpack = property(attrgetter("structure.unpack"))
    rooted = property(attrgetter("structure.rooted"))
    to_nodes = property(attrgetter("structure.to_nodes"))

    def padded(self, phys_dim=None):
        """The same of the padded structure."""
        return SquaredNorm(self.structure.padded(phys_dim))

    def rescale(self, packed, log_factor, at_outputs=2.0**10):
        """Multiply the squared norms by exp(log_factor)."""
        return self.structure.rescale(packed, log_factor / 2, at_outputs)

    def contract(self, packed, phi):
        return self.structure.contract_squared(packed, phi)

    def from_nodes(self, cores, ranks):
        """Packed network and structure, see `Structure.from_nodes`."""
        packed, structure = self.structure.from_nodes(cores, ranks)
        return packed, SquaredNorm(structure)
