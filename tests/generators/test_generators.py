"""Generators: their counts, that they are the networks that they are named after, and products."""

from functools import partial
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import mostly_long, pairs
from one_program import KEY, entries, form, make, product

from tn4ml_plus.generators import (
    ELU,
    GELU,
    ATTNGenerator,
    BrickWallGenerator,
    ChannelsApart,
    GroupedGenerator,
    Identity,
    MERAGenerator,
    Paired,
    PReLU,
    Rational,
    RowMajor,
    SiLU,
    Sine,
    TTNGenerator,
    default_schedule,
)

TREES = (TTNGenerator, ATTNGenerator, MERAGenerator)
ALL = (*TREES, BrickWallGenerator, partial(GroupedGenerator, n_groups=3))
# Where any shape will do, one whose groups are full, so that tests share compiled code.
SHAPE = (12, 10)
ACTIVATIONS = (ELU, GELU, Identity, PReLU, Rational, SiLU, Sine)


def difference(a, b):
    """Largest difference over the largest number of the second."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    assert a.shape == b.shape
    return np.abs(a - b).max() / np.abs(b).max()


def count(generator, *shapes):
    """Numbers of the leaves, whose shapes are known without making one."""
    made = [eqx.filter_eval_shape(generator, shape, key=KEY) for shape in shapes]
    return sum(leaf.size for leaf in jax.tree.leaves(made))


# Counts -------------------------------------------------------------------------------------------

FC2 = [(4096, 4096)]
CONVOLUTIONS = 5 * [(512, 512, 3, 3)]
ALEXNET = [(1024, 1024), (512, 1024)]


@pytest.mark.parametrize(
    ("generator", "shapes", "expected"),
    [
        (TTNGenerator, FC2, 216),
        (ATTNGenerator, FC2, 392),
        (MERAGenerator, FC2, 536),
        (TTNGenerator, CONVOLUTIONS, 1020),
        (ATTNGenerator, CONVOLUTIONS, 1820),
        (MERAGenerator, CONVOLUTIONS, 2540),
        (BrickWallGenerator, CONVOLUTIONS, 1820),
        (TTNGenerator, ALEXNET, 304),
        (ATTNGenerator, ALEXNET, 592),
        (MERAGenerator, ALEXNET, 720),
        (BrickWallGenerator, ALEXNET, 364),
        (BrickWallGenerator, [(512, 4096), (4096, 4096)], 424),
    ],
)
def test_counts_of_the_papers(generator, shapes, expected):
    assert count(generator, *shapes) == expected


def test_counts_agree_with_bytes_and_compression():
    generator = MERAGenerator((64, 64), key=KEY)
    assert generator.n_bytes == 4 * generator.n_parameters
    assert generator.compression == 4096 / generator.n_parameters
    assert generator.n_parameters == sum(p.size for p in jax.tree.leaves(generator))


@pytest.mark.parametrize("schedule", [(5, 10, 11, 22), (5, 8, 11, 22), (11, 22), (3, 6, 7, 11, 22)])
def test_counts_follow_the_schedule(schedule):
    expected = 2 ** schedule[0] + sum(4 * m + 16 * ((m - 1) // 2) for m in schedule[1:])
    assert count(partial(MERAGenerator, schedule=schedule), (1024, 2048)) == expected


@pytest.mark.parametrize(
    ("order", "expected"), [(24, (5, 10, 12, 24)), (22, (5, 10, 11, 22)), (20, (5, 10, 20))]
)
def test_default_schedule_doubles_until_half_of_the_order(order, expected):
    assert default_schedule(order) == expected


def test_default_schedule_of_every_even_order_is_valid():
    for order in range(2, 60, 2):
        steps = list(pairwise(default_schedule(order)))
        assert all(n < m <= 2 * n for n, m in steps)
        assert steps[-1] == (order // 2, order)


# They are networks --------------------------------------------------------------------------------


# Shapes, bond_dim, radix.
NETWORKS = [
    ((8, 8), 2, 2),
    ((64, 16), 3, 2),
    ((64, 128), 4, 2),  # layers in several parts, gates across them
    ((9, 9), 2, 3),
    ((10, 7), 1, 2),
    ((30,), 2, 2),
    ((1, 1), 2, 2),
    ((5, 3, 2, 2), 2, 2),
]


@pytest.mark.some(2)
@pytest.mark.parametrize(("sizes", "generator"), mostly_long(pairs(NETWORKS, TREES)))
def test_identity_activation_is_the_quimb_network(sizes, generator, x64):
    shape, bond_dim, radix = sizes
    options = {"bond_dim": bond_dim, "radix": radix, "gate_noise": 0.3, "dtype": jnp.float64}
    made = make(generator, shape, activation=Identity, **options)
    network = made.to_quimb()
    modes = [f"k{i}" for i in range(len(made.modes.sides))]
    tensor = network.contract(output_inds=modes, optimize="greedy").data.reshape(-1)
    assert difference(made.modes.weight(jnp.asarray(tensor)).reshape(shape), form(made)) < 1e-12


def test_parts_of_the_network_have_tags():
    network = MERAGenerator((64, 64), key=KEY, activation=Identity).to_quimb()
    assert len(network.select("LATENT").tensors) == 1
    assert len(network.select("CORE").tensors) == 5 + 6
    assert len(network.select(["GATE", "LAYER1"], which="all").tensors) == 5


def test_nonlinear_generators_are_no_networks():
    with pytest.raises(ValueError, match="activation=Identity"):
        TTNGenerator((64, 64), key=KEY).to_quimb()


@pytest.mark.some(2)
@pytest.mark.parametrize("size", [64, 32, 8, 3, 1])
def test_brick_wall_is_the_circuit(size, x64):
    """Powers of two add up to the size; each circuit is contracted gate by gate."""
    generator = make(BrickWallGenerator, (size,), dtype=jnp.float64)
    parts = []
    for circuit in generator.circuits:
        n = circuit.n_modes
        if n < 2:
            parts.append(np.ravel(circuit.vectors))
            continue
        state = np.ones(())
        for vector in np.asarray(circuit.vectors):
            state = np.multiply.outer(state, vector.reshape(2, 2))
        if n % 2:
            state = np.multiply.outer(state, [1.0, 0.0])
        for t, gate in enumerate(np.asarray(circuit.gates)):
            pair = 2 * t + 1, 2 * t + 2
            state = np.tensordot(state, gate.reshape(2, 2, 2, 2), (pair, (0, 1)))
            state = np.moveaxis(state, (-2, -1), pair)
        parts.append(state.ravel())
    assert difference(form(generator), np.concatenate(parts)) < 1e-12


def test_brick_wall_of_a_power_of_two_counts_vectors_and_gates():
    for order in range(2, 12):
        expected = 4 * (order // 2) + 16 * ((order - 1) // 2)
        assert count(BrickWallGenerator, (2**order,)) == expected


@pytest.mark.parametrize("activation", [ELU, Identity])
def test_without_gates_all_decoders_agree(activation, x64):
    ttn, attn, mera = (
        form(make(tree, (32, 32), gate_noise=0.0, activation=activation, dtype=jnp.float64))
        for tree in TREES
    )
    assert difference(attn, ttn) < 1e-13
    assert difference(mera, ttn) < 1e-13


# Adjoints by hand ---------------------------------------------------------------------------------


def expanded(state, cores, skip=None):
    """The state of n modes, each mode k taken to two by a core, but that of `skip`."""
    place = 0
    for k, core in enumerate(cores):
        if k == skip:
            place += 1
            continue
        state = np.moveaxis(np.tensordot(state, core, (place, 0)), (-2, -1), (place, place + 1))
        place += 2
    return state


def mixed(state, gates, skip=None):
    for t, gate in enumerate(gates):
        if t != skip:
            pair = 2 * t + 1, 2 * t + 2
            state = np.moveaxis(np.tensordot(state, gate, (pair, (0, 1))), (-2, -1), pair)
    return state


def unmixed(adjoint, gates):
    return mixed(adjoint, [gate.transpose(2, 3, 0, 1) for gate in gates])


def pulled_back(adjoint, cores):
    for k, core in enumerate(cores):
        adjoint = np.moveaxis(np.tensordot(adjoint, core, ((k, k + 1), (1, 2))), -1, k)
    return adjoint


def gate_gradients(before, adjoint, gates):
    for t in range(len(gates)):
        rest = [axis for axis in range(before.ndim) if axis not in (2 * t + 1, 2 * t + 2)]
        yield np.tensordot(mixed(before, gates, skip=t), adjoint, (rest, rest))


def core_gradients(state, adjoint, cores):
    for k in range(len(cores)):
        # With the branches of all other cores in place, core k takes mode k to two open ones.
        branches = expanded(state, cores, skip=k)
        theirs = [axis for axis in range(branches.ndim) if axis != 2 * k]
        ours = [axis for axis in range(adjoint.ndim) if axis not in (2 * k, 2 * k + 1)]
        yield np.tensordot(branches, adjoint, (theirs, ours))


def test_adjoints_by_hand_are_those_of_jax(x64):
    """A MERA of 3, 6 and 12 modes: equations of the paper's backward pass, in NumPy."""
    options = {"gate_noise": 0.3, "schedule": (3, 6, 12), "dtype": jnp.float64}
    generator = make(MERAGenerator, (2**12,), tensorisation=RowMajor(), **options)
    cotangent = np.random.default_rng(0).normal(size=2**12)
    found = jax.jit(jax.grad(lambda g: jnp.vdot(g(), cotangent)))(generator)

    cores = [np.asarray(layer.split).reshape(-1, 2, 2, 2) for layer in generator.layers]
    gates = [np.asarray(layer.gates).reshape(-1, 2, 2, 2, 2) for layer in generator.layers]
    latent = np.asarray(generator.latent).reshape(2, 2, 2)
    first = expanded(latent, cores[0])
    mixture = mixed(first, gates[0])
    state = np.where(mixture > 0, mixture, np.expm1(mixture))
    second = expanded(state, cores[1])
    assert difference(mixed(second, gates[1]).reshape(-1), form(generator)) < 1e-12

    above = cotangent.reshape((2,) * 12)
    second_bar = unmixed(above, gates[1])
    mixture_bar = pulled_back(second_bar, cores[1]) * np.where(mixture > 0, 1, np.exp(mixture))
    first_bar = unmixed(mixture_bar, gates[0])
    by_hand = [
        (found.latent, pulled_back(first_bar, cores[0])),
        (found.layers[0].split, list(core_gradients(latent, first_bar, cores[0]))),
        (found.layers[0].gates, list(gate_gradients(first, mixture_bar, gates[0]))),
        (found.layers[1].split, list(core_gradients(state, second_bar, cores[1]))),
        (found.layers[1].gates, list(gate_gradients(second, above, gates[1]))),
    ]
    for gradient, expected in by_hand:
        assert difference(gradient, np.reshape(expected, gradient.shape)) < 1e-12


# Products and entries without the weight ----------------------------------------------------------


# Shapes, bond_dim, radix.
WEIGHTS = [
    ((32, 32), 2, 2),
    ((10, 7), 3, 2),
    ((64, 5), 2, 2),
    ((3, 70), 1, 2),
    ((12, 20), 2, 3),
    ((64, 128), 6, 2),
]


# In pairs, of which one for each value now: a tree gives a state of modes, whatever a tensorisation
# makes of it, and the sizes only pad and slice that.
@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("sizes", "generator", "tensorisation"),
    mostly_long(pairs(WEIGHTS, TREES, [Paired(), RowMajor()])),
)
def test_products_and_entries_are_those_of_the_weight(sizes, generator, tensorisation, x64):
    shape, bond_dim, radix = sizes
    options = {"bond_dim": bond_dim, "radix": radix, "gate_noise": 0.3, "dtype": jnp.float64}
    made = make(generator, shape, tensorisation=tensorisation, **options)
    weight = form(made)
    assert weight.shape == shape
    x = np.random.default_rng(0).normal(size=(2, 3, shape[0]))
    assert difference(product(x, made), x @ weight) < 1e-12
    assert difference(entries(made, jnp.arange(weight.size)), weight.reshape(-1)) < 1e-12


@pytest.mark.parametrize("generator", ALL[len(TREES) :])
def test_brick_walls_and_groups_too(generator, x64):
    made = make(generator, (10, 12), dtype=jnp.float64)
    weight = form(made)
    x = np.random.default_rng(0).normal(size=(5, 10))
    assert difference(product(x, made), x @ weight) < 1e-12
    index = jnp.asarray([[0, 119], [7, 60]])
    assert difference(entries(made, index), weight.reshape(-1)[index]) < 1e-12


@pytest.mark.parametrize(
    ("generator", "tensorisation"), mostly_long(pairs(TREES, [Paired(), RowMajor()]))
)
def test_gradients_without_the_weight_are_those_with_it(generator, tensorisation, x64):
    made = make(generator, (40, 24), tensorisation=tensorisation, dtype=jnp.float64)
    x, y = (np.random.default_rng(0).normal(size=(6, n)) for n in (40, 24))

    def loss(weight_of):
        return lambda g, x: jnp.sum((x @ weight_of(g) - y) ** 2)

    without, formed = (
        jax.jit(jax.grad(loss(weight_of), argnums=(0, 1)))(made, x)
        for weight_of in (lambda g: g, lambda g: g())
    )
    for a, b in zip(jax.tree.leaves(without), jax.tree.leaves(formed), strict=True):
        assert difference(a, b) < 1e-12 if b.size else a.size == 0


@pytest.mark.parametrize(
    "generator", [*(pytest.param(g, marks=pytest.mark.long) for g in TREES[:-1]), TREES[-1]]
)
def test_single_precision_agrees_at_a_million_entries(generator):
    made = make(generator, (1024, 1024))
    weight = form(made)
    assert weight.dtype == jnp.float32
    assert np.isfinite(weight).all()
    x = np.random.default_rng(0).normal(size=(4, 1024)).astype(np.float32)
    assert difference(product(x, made), x @ weight) < 1e-5


@pytest.mark.parametrize("tensorisation", [Paired(), RowMajor()])
def test_no_array_as_large_as_the_weight_is_made_for_a_product(tensorisation):
    made = MERAGenerator((4096, 4096), key=KEY, tensorisation=tensorisation)
    x = jnp.ones((2, 4096))
    steps = jax.make_jaxpr(lambda g, x: x @ g)(made, x).eqns
    largest = max(v.aval.size for step in steps for v in step.outvars)
    assert largest < 4096 * 4096 / 4
    assert jax.make_jaxpr(lambda g: g())(made).out_avals[0].size == 4096 * 4096


def test_products_refuse_what_does_not_fit():
    made = TTNGenerator((8, 4), key=KEY)
    with pytest.raises(ValueError, match="needs a matrix and x"):
        jnp.ones((3, 4)) @ made
    with pytest.raises(ValueError, match="needs a matrix and x"):
        jnp.ones((3, 8)) @ TTNGenerator((8, 2, 2), key=KEY)


# Start --------------------------------------------------------------------------------------------


@pytest.mark.some(2)
@pytest.mark.parametrize(("generator", "activation"), mostly_long(pairs(TREES, ACTIVATIONS)))
def test_weights_start_with_the_wished_size(generator, activation):
    made = make(generator, (256, 256), activation=activation, bond_dim=3)
    assert np.sqrt(np.mean(form(made) ** 2)) == pytest.approx(np.sqrt(2 / 256), rel=1e-4)


@pytest.mark.some(2)
@pytest.mark.parametrize("generator", ALL)
def test_another_size_may_be_wished(generator):
    weight = form(make(generator, SHAPE, rms=0.5))
    assert np.sqrt(np.mean(weight**2)) == pytest.approx(0.5, rel=1e-4)


def test_he_initialisation_is_what_products_of_dense_layers_need():
    made = make(BrickWallGenerator, (512, 64))
    assert np.sqrt(np.mean(form(made) ** 2)) == pytest.approx(np.sqrt(2 / 512), rel=1e-4)


@pytest.mark.parametrize(("generator", "factor"), mostly_long(pairs(ALL, [3.0, -0.5])))
def test_scaled_multiplies_the_weight(generator, factor, x64):
    made = make(generator, SHAPE, dtype=jnp.float64)
    assert difference(form(made.scaled(factor)), factor * form(made)) < 1e-13


@pytest.mark.parametrize("generator", ALL)
def test_keys_decide_starts(generator):
    first, again = (form(make(generator, SHAPE)) for _ in range(2))
    assert (first == again).all()
    assert not jnp.allclose(first, form(make(generator, SHAPE, key=jax.random.key(1))))


@pytest.mark.some(2)
@pytest.mark.parametrize("generator", ALL)
def test_dtype_is_kept(generator, x64):
    for dtype in (jnp.float32, jnp.float64):
        made = make(generator, SHAPE, dtype=dtype)
        assert made.dtype == form(made).dtype == dtype


# Ranks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generator", "most"),
    [(TREES[0], 8), pytest.param(TREES[1], 16, marks=pytest.mark.long), (TREES[2], 16)],
)
def test_row_major_matrices_have_low_rank_paired_ones_full(generator, most, x64):
    """64 x 64 from twelve modes: at most 2**(12 / 4) for a TTN, twice that with gates."""
    options = {"gate_noise": 0.3, "schedule": (3, 6, 12), "dtype": jnp.float64}
    made = partial(make, generator, (64, 64), **options)
    assert np.linalg.matrix_rank(form(made(tensorisation=RowMajor()))) == most
    assert np.linalg.matrix_rank(form(made(tensorisation=Paired()))) == 64


# Groups -------------------------------------------------------------------------------------------


def test_groups_are_blocks_of_rows_from_generators_of_their_own(x64):
    grouped = make(GroupedGenerator, (10, 4), n_groups=3, dtype=jnp.float64)
    blocks = [form(jax.tree.map(lambda p, i=i: p[i], grouped.groups)) for i in range(3)]
    assert difference(form(grouped), np.concatenate(blocks)[:10]) < 1e-14
    single = ATTNGenerator((4, 4), key=KEY)
    assert grouped.n_parameters == 3 * single.n_parameters


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bond_dim": 0}, "bond_dim"),
        ({"radix": 1}, "radix"),
        ({"rms": 0}, "rms"),
        ({"bond_dim": 2000}, "choose a smaller bond_dim"),
        ({"latent_std": 0}, "latent_std"),
        ({"gate_noise": -1}, "gate_noise"),
        ({"tensorisation": "paired"}, r"such as Paired\(\)"),
        ({"tensorisation": ChannelsApart()}, "n_out, n_in"),
        ({"schedule": (5, 12)}, "schedule must increase to 6"),
        ({"schedule": (1, 3, 6)}, "twofold"),
        ({"schedule": (3, 3, 6)}, "increase"),
        ({"schedule": (4, 6)}, "twofold in the last"),
        ({"schedule": (6,)}, "schedule"),
        ({"schedule": 6}, "schedule"),
        ({"activation": "elu"}, "such as ELU"),
        ({"activation": jax.nn.elu}, "such as ELU"),
        ({"activation": ELU()}, "such as ELU"),
        ({"dtype": jnp.float16}, "float32 or float64"),
        ({"dtype": jnp.complex64}, "float32 or float64"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TTNGenerator((8, 8), key=KEY, **options)


@pytest.mark.parametrize("order", [0, 7])
def test_bad_orders_have_no_schedule(order):
    with pytest.raises(ValueError, match="order"):
        default_schedule(order)
    with pytest.raises(ValueError, match="latent_order"):
        default_schedule(24, 0)


@pytest.mark.parametrize("activation", [PReLU, Rational])
def test_activations_have_the_type_of_the_cores(activation, x64):
    made = make(MERAGenerator, (64, 64), activation=activation, dtype=jnp.float32)
    assert made.dtype == form(made).dtype == jnp.float32


@pytest.mark.parametrize("shape", [(), (0, 3), (2, -1), (1.5, 2)])
@pytest.mark.parametrize("generator", ALL)
def test_bad_shapes_are_refused(generator, shape):
    with pytest.raises((ValueError, TypeError), match="shape"):
        generator(shape, key=KEY)


@pytest.mark.parametrize(("n_groups", "message"), [(0, "n_groups"), (9, "only 8 rows")])
def test_bad_groups_are_refused(n_groups, message):
    with pytest.raises(ValueError, match=message):
        GroupedGenerator((8, 8), n_groups=n_groups, key=KEY)
