"""Tree-like generators: tree, augmented tree and MERA."""

import math
from itertools import pairwise
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import _arrays
from .._arrays import on_device
from .._checks import check, check_int, check_number, int_tuple
from .._forks import unforked
from ._base import ELU, Activation, Generator, Identity, cast, check_dtype, one_program
from ._decoder import Layer, hidden, last
from ._tensorisations import Modes, Paired, Tensorisation, check_weight_shape

# Limit to the numbers of a hidden state: four gigabytes in single precision.
LARGEST_STATE = 2**30


def default_schedule(order: int, latent_order: int = 5) -> tuple[int, ...]:
    """Numbers of modes of the states: doubled until half the order, then the order itself.

    >>> default_schedule(24), default_schedule(8)
    ((5, 10, 12, 24), (4, 8))

    Parameters
    ----------
    order, latent_order : int, numbers of modes of the generated tensor, even, and of the latent one
    """
    check_int("latent_order", latent_order, 1)
    check_int("order", order, 2)
    if order % 2:
        raise ValueError(f"order must be even, as the last layer doubles modes, got {order}.")
    found = [min(latent_order, order // 2)]
    while found[-1] < order // 2:
        found.append(min(2 * found[-1], order // 2))
    return (*found, order)


class TreeGenerator(Generator):
    """The base of tree-like decoders: a latent tensor, layers that split its modes, activations.

    Cores are normal, of one variance in each layer, such that its state has the root mean square
    that its activation expects, and the weight `rms`: computed from the initial cores themselves,
    as the errors of rules by sizes add up. Source: arXiv 2606.00130, section 3.

    Parameters
    ----------
    shape, key : shape of the weight, any number of indices, and key of the initial cores
    bond_dim : int, size of the modes of hidden states; the last has bond_dim**(order / 2) numbers
    radix : int, size of the modes of the generated tensor, at least 2
    tensorisation : Tensorisation, assignment of modes to digits of the weight's indices
    schedule : tuple of int, optional
        Numbers of modes of the states, from the latent tensor's to the order, which is even; at
        most twofold in each step and twofold in the last. By default `default_schedule`.
    activation : type, class of the `Activation` after each hidden layer, called without arguments
    rms : float, optional, initial root mean square of the weight, by default sqrt(2 / shape[0])
    latent_std, gate_noise : float, initial spread of the latent tensor, of gates about identity
    dtype : floating-point type of the parameters
    """

    latent: jax.Array
    layers: tuple[Layer, ...]
    activations: tuple[Activation, ...]
    modes: Modes = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    bond_dim: int = eqx.field(static=True)
    schedule: tuple[int, ...] = eqx.field(static=True)
    # Layers with disentanglers.
    _gated: eqx.AbstractClassVar[slice]

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        key: jax.Array,
        bond_dim: int = 2,
        radix: int = 2,
        tensorisation: Tensorisation = Paired(),  # noqa: B008, a frozen dataclass
        schedule: tuple[int, ...] | None = None,
        activation: type[Activation] = ELU,
        rms: float | None = None,
        latent_std: float = 1.0,
        gate_noise: float = 1e-2,
        dtype=jnp.float32,
    ):
        self.shape = check_weight_shape(shape)
        check_int("bond_dim", bond_dim, 1)
        check_int("radix", radix, 2)
        check_number("latent_std", latent_std, above=0)
        check_number("gate_noise", gate_noise, at_least=0)
        check_number("rms", rms, above=0, optional=True)
        is_one = isinstance(tensorisation, Tensorisation)
        check("tensorisation", tensorisation, is_one, "one, such as Paired()")
        self.bond_dim = bond_dim
        self.modes = tensorisation.modes(self.shape, radix)
        self.schedule = _checked_schedule(schedule, len(self.modes.sides))
        check_state(bond_dim, self.schedule)
        check_dtype(dtype)
        _check_activation(activation)
        n_layers = len(self.schedule) - 1
        self.activations = cast(tuple(activation() for _ in range(n_layers - 1)), dtype)
        rms = math.sqrt(2 / self.shape[0]) if rms is None else rms
        sizes = [on_device(size, dtype) for size in (rms, latent_std, gate_noise)]
        plan = self.modes, bond_dim, self.schedule, range(n_layers)[self._gated], dtype
        self.latent, self.layers = _start(key, sizes, self.activations, plan)

    def _state(self):
        """Input of the last layer."""
        state = self.latent
        for layer, activation in zip(self.layers[:-1], self.activations, strict=True):
            state = activation(hidden(state, layer, self.bond_dim))
        return state

    def _factors(self, **sizes):
        return last(self._state(), self.layers[-1], self.bond_dim, self.modes.radix, **sizes)

    @one_program
    def __call__(self):
        return self._factors().weight(self.modes).reshape(self.shape)

    @one_program
    def product(self, x):
        if len(self.modes.sizes) != 2:
            return super().product(x)
        rows_first = self.modes.sides == tuple(sorted(self.modes.sides))
        return self._factors(left_rows=4 if rows_first else 8).product(x, self.modes)

    @one_program
    def entries(self, index):
        return self._factors().entries(self.modes.digits(index), self.modes.radix)

    def scaled(self, factor):
        layers = (*self.layers[:-1], _scaled(self.layers[-1], factor))
        return eqx.tree_at(lambda g: g.layers, self, layers)

    def to_quimb(self):
        """The quimb network of the generated tensor, whose modes are ``k0``, ``k1``, ...

        ValueError unless all activations are `Identity`: others are no tensors. Parts are tagged
        ``LATENT``, ``CORE``, ``GATE`` and ``LAYER{l}``.
        """
        import quimb.tensor as qtn

        for activation in self.activations:
            if not isinstance(activation, Identity):
                raise ValueError(
                    f"{type(activation).__name__} between the layers makes this generator "
                    "nonlinear, so it is no tensor network: build it with activation=Identity."
                )
        bond = self.bond_dim
        inds = [f"s0,{i}" for i in range(self.schedule[0])]
        latent = np.asarray(self.latent).reshape((bond,) * len(inds))
        tensors = [qtn.Tensor(latent, inds, tags=["LATENT"])]
        for number, layer in enumerate(self.layers):
            radix = self.modes.radix if number == len(self.layers) - 1 else bond
            made = []
            for i, core in enumerate(layer.cores):
                out = [f"y{number},{len(made) + o}" for o in range(1 + (i < len(layer.split)))]
                data = np.asarray(core).reshape(bond, *(radix,) * len(out))
                tensors.append(qtn.Tensor(data, [inds[i], *out], ["CORE", f"LAYER{number}"]))
                made += out
            for t, gate in enumerate(() if layer.gates is None else layer.gates):
                pair = made[2 * t + 1 : 2 * t + 3]
                out = [f"z{ind}" for ind in pair]
                data = np.asarray(gate).reshape((radix,) * 4)
                tensors.append(qtn.Tensor(data, [*pair, *out], ["GATE", f"LAYER{number}"]))
                made[2 * t + 1 : 2 * t + 3] = out
            inds = made
        network = qtn.TensorNetwork(tensors)
        return network.reindex_({ind: f"k{i}" for i, ind in enumerate(inds)})


class TTNGenerator(TreeGenerator):
    """A tree decoder: each mode of a layer's state splits in two or passes on.

    See `TreeGenerator` for the parameters.

    >>> import jax
    >>> TTNGenerator((4096, 4096), key=jax.random.key(0)).n_parameters
    216
    >>> small = TTNGenerator((8, 8), key=jax.random.key(0))
    >>> small().shape, (jax.numpy.ones((3, 8)) @ small).shape
    ((8, 8), (3, 8))
    """

    _gated: ClassVar[slice] = slice(0)


class ATTNGenerator(TreeGenerator):
    """An augmented tree: disentanglers on the pairs (1, 2), (3, 4), ... of the last layer's modes.

    See `TreeGenerator` for the parameters.

    >>> ATTNGenerator((4096, 4096), key=jax.random.key(0)).n_parameters
    392
    """

    _gated: ClassVar[slice] = slice(-1, None)


class MERAGenerator(TreeGenerator):
    """A MERA decoder: disentanglers on the pairs (1, 2), (3, 4), ... in every layer.

    See `TreeGenerator` for the parameters.

    >>> MERAGenerator((4096, 4096), key=jax.random.key(0)).n_parameters
    536
    """

    _gated: ClassVar[slice] = slice(None)


def check_state(bond_dim, schedule):
    """ValueError where the last hidden state, or the latent tensor, would be too large."""
    order = max(schedule[0], schedule[-2])
    if bond_dim**order > LARGEST_STATE:
        raise ValueError(
            f"The last hidden state would have bond_dim**{order} = {bond_dim**order:.1e} numbers: "
            "choose a smaller bond_dim, a larger radix, or a GroupedGenerator."
        )


def _check_activation(activation):
    try:
        made = activation()
    except TypeError:
        made = None
    check("activation", activation, isinstance(made, Activation), "a class such as ELU")


def _checked_schedule(schedule, order):
    if schedule is None:
        return default_schedule(order)
    schedule = schedule if isinstance(schedule, list | tuple) else (schedule,)
    schedule = int_tuple("each number in schedule", schedule)
    grows = all(n < m <= 2 * n for n, m in pairwise(schedule))
    if len(schedule) < 2 or not grows or not schedule[-1] == order == 2 * schedule[-2]:
        raise ValueError(
            f"schedule must increase to {order}, the number of modes of this weight, at most "
            f"twofold in each step and twofold in the last, such as {default_schedule(order)}, got "
            f"{schedule}."
        )
    return schedule


@unforked
@eqx.filter_jit
def _start(key, sizes, activations, plan):
    """Latent tensor and layers of a generator, at random and calibrated."""
    (rms, latent_std, gate_noise), (modes, bond_dim, schedule, gated, dtype) = sizes, plan
    steps = list(pairwise(schedule))
    outs = [bond_dim] * (len(steps) - 1) + [modes.radix]
    core_key, gate_key = jax.random.split(key)
    shapes = [(bond_dim ** schedule[0],)]
    for (n, m), out in zip(steps, outs, strict=True):
        shapes += [(m - n, bond_dim, out * out), (2 * n - m, bond_dim, out)]
    latent, *cores = _normal(core_key, shapes, dtype)
    latent = state = latent_std * latent
    shapes = [((m - 1) // 2, out**2, out**2) for (_, m), out in zip(steps, outs, strict=True)]
    gates = [
        near_identity(gate_noise, numbers) if number in gated else None
        for number, numbers in enumerate(_normal(gate_key, shapes, dtype))
    ]
    layers = list(map(Layer, cores[::2], cores[1::2], gates))
    for number, activation in enumerate(activations):
        found = hidden(state, layers[number], bond_dim)
        factor = activation.rms / jnp.sqrt(jnp.mean(found**2))
        layers[number] = _scaled(layers[number], factor)
        state = activation(factor * found)
    factors = last(state, layers[-1], bond_dim, modes.radix)
    if math.prod(modes.sizes) == modes.radix ** len(modes.sides):
        found = factors.rms()
    else:
        # The excess that is cut off must not count.
        found = jnp.sqrt(jnp.mean(factors.weight(modes) ** 2))
    return latent, (*layers[:-1], _scaled(layers[-1], rms / found))


def _normal(key, shapes, dtype):
    """Normal numbers of several shapes; one draw compiles much faster than many."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    numbers = jnp.split(jax.random.normal(key, (ends[-1],), dtype), ends[:-1])
    return [part.reshape(shape) for part, shape in zip(numbers, shapes, strict=True)]


@_arrays.one_program
def near_identity(noise, numbers):
    """Gates (n, size, size): the identity and noise."""
    return jnp.eye(numbers.shape[-1], dtype=numbers.dtype)[None] + noise * numbers


@_arrays.one_program
def _scaled(layer, factor):
    """The layer times a factor."""
    each = jnp.asarray(jnp.abs(factor) ** (1 / len(layer.cores)), layer.split.dtype)
    return Layer(signed(each * layer.split, factor), each * layer.keep, layer.gates)


@_arrays.one_program
def signed(cores, factor):
    """Cores, the first of which takes the sign of a factor."""
    return cores.at[0].multiply(jnp.sign(factor).astype(cores.dtype))
