"""Tensorisations, activations, growth, rounding and files of generators."""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from one_program import KEY, call, entries, form, make, product

from tn4ml_plus.generators import (
    ELU,
    GELU,
    ATTNGenerator,
    BrickWallGenerator,
    ChannelsApart,
    GroupedGenerator,
    Identity,
    Linear,
    MERAGenerator,
    Paired,
    PReLU,
    Quantised,
    Rational,
    RowMajor,
    SiLU,
    Sine,
    TTNGenerator,
    compress,
    grow,
    isometry,
    load,
    quantise,
    save,
)

TREES = (TTNGenerator, ATTNGenerator, MERAGenerator)

# Tensorisations -----------------------------------------------------------------------------------

WEIGHTS = [
    (RowMajor(), (8, 8), 2),
    (RowMajor(), (5, 6), 2),
    (RowMajor(), (7,), 3),
    (Paired(), (8, 8), 2),
    (Paired(), (5, 70), 2),
    (Paired(), (10, 4), 3),
    (Paired(), (1, 1), 2),
    (ChannelsApart(), (6, 5, 3, 3), 2),
    (ChannelsApart(), (4, 4, 2), 2),
]


@pytest.mark.parametrize(("tensorisation", "shape", "radix"), WEIGHTS)
def test_weights_survive_padding_and_slicing(tensorisation, shape, radix):
    modes = tensorisation.modes(shape, radix)
    assert len(modes.sides) % 2 == 0
    weight = np.arange(1.0, 1 + np.prod(shape), dtype="f4").reshape(shape)
    flat = call(modes.flat, weight)
    assert flat.shape == (radix ** len(modes.sides),)
    assert np.count_nonzero(flat) == weight.size
    np.testing.assert_array_equal(call(modes.weight, flat).reshape(shape), weight)


@pytest.mark.parametrize(("tensorisation", "shape", "radix"), WEIGHTS)
def test_digits_say_where_an_entry_lies(tensorisation, shape, radix):
    modes = tensorisation.modes(shape, radix)
    weight = np.arange(np.prod(shape), dtype="f4")
    digits = np.asarray(call(modes.digits, np.arange(weight.size)))
    places = digits @ radix ** np.arange(digits.shape[1])[::-1]
    np.testing.assert_array_equal(call(modes.flat, weight)[places], weight)


def test_orders_of_digits():
    assert RowMajor().modes((4, 16), 2).sides == (0, 0, 1, 1, 1, 1)
    assert Paired().modes((4, 16), 2).sides == (1, 1, 0, 1, 0, 1)
    assert Paired().modes((16, 4), 2).sides == (0, 0, 0, 1, 0, 1)
    assert ChannelsApart().modes((4, 4, 3, 3), 2).sides == (0, 1, 0, 1, 2, 2, 2, 2)


# Activations --------------------------------------------------------------------------------------

STATES = np.linspace(-4, 4, 41)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (Identity(), STATES),
        (ELU(), np.where(STATES > 0, STATES, np.expm1(STATES))),
        (GELU(), STATES * scipy.special.ndtr(STATES)),
        (SiLU(), STATES * scipy.special.expit(STATES)),
        (PReLU(0.1), np.where(STATES > 0, STATES, 0.1 * STATES)),
        (Sine(3.0), np.sin(3 * STATES)),
    ],
)
def test_values_of_activations(activation, expected, x64):
    np.testing.assert_allclose(call(activation, STATES), expected, atol=1e-7)


def test_rational_starts_near_a_leaky_relu_and_has_no_pole(x64):
    rational = Rational()
    near = STATES[np.abs(STATES) <= 2]
    leaky = np.where(near > 0, near, 0.01 * near)
    assert np.abs(call(rational, near) - leaky).max() < 0.1
    steep = eqx.tree_at(lambda r: r.denominator, rational, jnp.asarray([-5.0, 3.0]))
    assert np.isfinite(call(steep, np.linspace(-100.0, 100.0, 100_001))).all()


def cubes(generator):
    """Sum over the weight, whose gradient tells all entries apart."""
    return jnp.sum(generator() ** 3)


@pytest.mark.parametrize("activation", [PReLU, Rational])
def test_numbers_of_activations_learn(activation):
    gradient = call(jax.grad(cubes), make(TTNGenerator, (64, 64), activation=activation))
    leaves = jax.tree.leaves(gradient.activations)
    assert leaves
    assert all(np.abs(leaf).max() > 0 for leaf in leaves)


def test_a_sine_wants_small_states():
    assert Sine(20.0).rms == 1 / 20
    with pytest.raises(ValueError, match="frequency"):
        Sine(0)


# Growth -------------------------------------------------------------------------------------------


def grown(generator, bonds, **options):
    """A generator before growth and after each step of it, and their weights."""
    steps = [generator(key=KEY, **options)]
    for bond_dim in bonds:
        steps.append(grow(steps[-1], bond_dim, key=KEY))
    return steps, [each() for each in steps]


# Of the trees, the one with every part of them; the others are long.
@pytest.mark.parametrize(
    "generator",
    [
        MERAGenerator,
        *(
            pytest.param(g, marks=pytest.mark.long)
            for g in (TTNGenerator, ATTNGenerator, partial(GroupedGenerator, n_groups=2))
        ),
    ],
)
def test_growth_keeps_the_weight(generator, x64):
    for dtype, most in ((jnp.float32, 1e-6), (jnp.float64, 1e-12)):
        options = {"shape": (32, 32), "gate_noise": 0.3, "dtype": dtype}
        steps, (small, *larger) = call(grown, generator, (3, 4), **options)
        for weight in larger:
            assert np.abs(weight - small).max() < most * np.abs(small).max()
            assert weight.dtype == dtype
        assert steps[-1].n_parameters > steps[0].n_parameters


def gradient_after_growth(generator):
    """Gradient of the squares of a weight whose generator has grown."""
    large = grow(generator((64, 64), key=KEY), 3, key=KEY)
    return jax.grad(lambda g: jnp.sum(g() ** 2))(large)


@pytest.mark.parametrize(
    "generator",
    [MERAGenerator, *(pytest.param(g, marks=pytest.mark.long) for g in TREES[:2])],
)
def test_gradients_reach_the_new_numbers(generator):
    gradient = call(gradient_after_growth, generator)
    # What reads the new modes is zero and must move first.
    for layer in gradient.layers:
        for cores in (layer.split, layer.keep):
            assert np.isfinite(cores).all()
            if cores.size:
                assert np.abs(np.asarray(cores)[:, 2:]).max() > 0


def test_growth_reaches_every_generator_of_a_model():
    model = {"a": make(TTNGenerator, (8, 8)), "b": jnp.ones(3)}
    grown = grow(model, 4, key=KEY)
    assert grown["a"].bond_dim == 4
    assert (grown["b"] == 1).all()


@pytest.mark.parametrize(
    ("generator", "bond_dim", "message"),
    [
        (BrickWallGenerator, 3, "no bonds"),
        (
            lambda *args, **options: Quantised(TTNGenerator(*args, **options)),
            3,
            "before quantisation",
        ),
        (partial(TTNGenerator, bond_dim=3), 2, "at least the 3"),
        (TTNGenerator, 0, "bond_dim"),
    ],
)
def test_what_cannot_grow_says_so(generator, bond_dim, message):
    # All of this is known of the shapes.
    made = eqx.filter_eval_shape(generator, (8, 8), key=KEY)
    with pytest.raises(ValueError, match=message):
        grow(made, bond_dim, key=KEY)


# Rounding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
def test_cores_are_integers_times_a_scale(bits, x64):
    generator = make(ATTNGenerator, (32, 32), dtype=jnp.float64)
    rounded = call(Quantised.rounded, Quantised(generator, bits))
    most = 2 ** (bits - 1) - 1
    split = (np.asarray(each.layers[0].split) for each in (rounded, generator))
    for core, start in zip(*split, strict=True):
        codes = most * core / np.abs(start).max()
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-9)
        assert np.abs(codes).max() == pytest.approx(most)
        assert np.abs(core - start).max() <= np.abs(start).max() / most / 2 + 1e-12


def test_numbers_of_activations_are_not_rounded():
    generator = make(TTNGenerator, (64, 64), activation=partial(PReLU, 0.123))
    rounded = call(Quantised.rounded, Quantised(generator, 4))
    assert rounded.activations[0].slope == generator.activations[0].slope


def roundings(generator):
    """A weight, and what eight bits and four make of it."""
    made = generator((32, 32), key=KEY)
    return [each() for each in (made, Quantised(made, 8), Quantised(made, 4))]


@pytest.mark.parametrize("generator", [*TREES, BrickWallGenerator])
def test_eight_bits_are_near_and_four_less_so(generator):
    weight, *rounded = call(roundings, generator)
    errors = [np.linalg.norm(each - weight) / np.linalg.norm(weight) for each in rounded]
    assert errors[0] < 0.1
    assert errors[0] < errors[1] < 1


def test_gradients_pass_the_rounding(x64):
    """The straight-through gradient is the plain one at the rounded cores."""
    small = Quantised(make(ATTNGenerator, (16, 16), dtype=jnp.float64))
    found = call(jax.grad(cubes), small).generator
    expected = call(lambda g: jax.grad(cubes)(g.rounded()), small)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_bytes_are_integers_and_scales():
    small = Quantised(make(TTNGenerator, (8, 8), schedule=(3, 6)), 4)
    # The latent tensor of 8 and three cores of 8 numbers, half a byte each, with a scale for each.
    assert small.n_bytes == 4 * (8 // 2 + 4)
    assert small.n_parameters == 32


def test_products_and_entries_are_of_the_rounded_weight():
    small = Quantised(make(MERAGenerator, (16, 16)), 4)
    x, weight = np.ones((2, 16), "f4"), np.asarray(form(small))
    np.testing.assert_allclose(product(x, small), x @ weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(entries(small, np.arange(256)), weight.reshape(-1), atol=1e-6)
    np.testing.assert_allclose(form(small.scaled(2.0)), 2 * weight, atol=1e-5)


def test_rounding_twice_keeps_the_last_bits():
    model = quantise(quantise({"w": make(TTNGenerator, (8, 8))}, 8), 4)
    assert model["w"].bits == 4
    assert isinstance(model["w"].generator, TTNGenerator)


@pytest.mark.parametrize("bits", [2, 16, "8", 8.0])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match="4 or 8"):
        Quantised(make(TTNGenerator, (8, 8)), bits)


def test_models_without_generators_neither_grow_nor_round():
    for function in (quantise, partial(grow, bond_dim=3, key=KEY)):
        with pytest.raises(ValueError, match="compress the model first"):
            function({"w": jnp.ones((8, 8))})


def test_growth_beyond_memory_is_refused():
    with pytest.raises(ValueError, match="choose a smaller bond_dim"):
        grow(make(TTNGenerator, (64, 64)), 200, key=KEY)


def test_circuits_of_isometries_are_isometric():
    unit = jnp.eye(1, 4)
    wall = make(BrickWallGenerator, (64,), gate_noise=0.0)
    circuit = wall.circuits[0]
    circuit = eqx.tree_at(lambda c: c.vectors, circuit, jnp.broadcast_to(unit, (3, 1, 4)))
    assert float(call(isometry, circuit)) == pytest.approx(0, abs=1e-10)


def test_only_generators_are_rounded():
    with pytest.raises(ValueError, match="must be a Generator"):
        Quantised(jnp.ones((8, 8)))


# Files --------------------------------------------------------------------------------------------


def compressed(key, n_outputs=3):
    """A compressed network."""
    mlp = eqx.nn.MLP(16, n_outputs, 32, 2, key=key)
    return compress(mlp, lambda m: [m.layers[0], m.layers[1].weight], key=key)


def models(bits=None, key=KEY):
    """A compressed network, its generators rounded or not."""
    small = call(compressed, key)
    return small if bits is None else quantise(small, bits)


@pytest.mark.some(2)
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_files_give_the_same_outputs(bits, tmp_path):
    model, path = models(bits), tmp_path / "model.safetensors"
    save(path, model)
    x = np.linspace(-1, 1, 16, dtype="f4")
    for like in (
        models(bits, jax.random.key(1)),
        eqx.filter_eval_shape(partial(models, bits), jax.random.key(1)),
    ):
        np.testing.assert_allclose(call(load(path, like), x), call(model, x), rtol=1e-5, atol=1e-6)


def test_rounded_cores_are_stored_small(tmp_path):
    sizes = {}
    generator = make(MERAGenerator, (256, 256), bond_dim=6, radix=4)
    for bits, dtype in ((None, "F32"), (8, "I8"), (4, "U8")):
        path = tmp_path / f"{bits}.safetensors"
        save(path, generator if bits is None else Quantised(generator, bits))
        sizes[bits] = path.stat().st_size
        assert dtype.encode() in path.read_bytes()
    saved = 3 * generator.n_parameters
    assert sizes[None] - sizes[8] > 0.8 * saved
    assert sizes[4] < sizes[8] < sizes[None]


def test_files_of_other_trees_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, models())
    with pytest.raises(ValueError, match="bits=None"):
        load(path, models(8))
    with pytest.raises(ValueError, match="no place for"):
        load(path, {})
    with pytest.raises(ValueError, match="there is no array"):
        load(path, {"more": jnp.ones(3)})
    with pytest.raises(ValueError, match="is stored as"):
        load(path, eqx.filter_eval_shape(compressed, KEY, n_outputs=4))


@pytest.mark.parametrize("bits", [8, 4])
def test_files_of_other_bonds_are_refused(bits, tmp_path):
    small = make(TTNGenerator, (64, 64))
    large = call(grow, small, 3, key=KEY)
    path = tmp_path / "generator.safetensors"
    for stored, like in ((large, small), (small, large)):
        save(path, quantise(stored, bits))
        with pytest.raises(ValueError, match="is stored as"):
            load(path, quantise(like, bits))


def test_layers_are_stored_too(tmp_path):
    layer, other = (call(Linear, 8, 8, key=key) for key in (KEY, jax.random.key(1)))
    save(tmp_path / "layer.safetensors", layer)
    again = load(tmp_path / "layer.safetensors", other)
    for a, b in itertools.zip_longest(jax.tree.leaves(again), jax.tree.leaves(layer)):
        np.testing.assert_array_equal(a, b)
