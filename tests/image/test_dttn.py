"""DTTN: its blocks, folding, the tree that it is, and that variants are what they are named."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from covering import mostly_long, pairs
from jax.test_util import check_grads
from one_program import call

from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.image import (
    AIM,
    BLOCKS,
    DTTN,
    VARIANTS,
    BatchNormProduct,
    BatchNormSum,
    LayerNormProduct,
    NoProduct,
    Product,
    SIMConv,
    SIMLinear,
    TokenMixing,
    Variant,
    fold_batchnorm,
    layer_core,
    polynomial_degree,
)

INTERACTIONS = [AIM, SIMConv, SIMLinear, NoProduct]
SMALL = Variant((2,), (2,), stem=())


def images(shape=(4, 3, 2), n=5):
    return jnp.asarray(np.random.default_rng(1).normal(size=(n, *shape)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "millions", "dagger"),
    [("T", 7.823, 7.803), ("S", 12.938, 12.908), ("L", 35.227, 35.171)],
)
def test_parameter_counts_of_the_variants_of_the_paper(name, millions, dagger):
    for merge, expected in ((BatchNormProduct, millions), (LayerNormProduct, dagger)):
        make = eqx.filter_eval_shape
        model = make(DTTN, VARIANTS[name], (224, 224, 3), 1000, merge=merge, key=jax.random.key(0))
        assert round(model.n_parameters / 1e6, 3) == expected


def test_parameter_counts_of_blocks():
    c, r = 5, 3
    h = r * c
    depthwise, norms, project = 10 * h, 4 * h, h * c + c + 2 * c + 1
    conv_first, linear_first = h * h + h, h * c + h
    expected = {
        AIM: conv_first + linear_first,
        NoProduct: conv_first + linear_first,
        SIMConv: 2 * conv_first,
        SIMLinear: 2 * linear_first,
    }
    for block, pointwise in expected.items():
        model = block(c, r, key=jax.random.key(0))
        moments = 2 * (2 * h + c)
        found = sum(leaf.size for leaf in jax.tree.leaves(model)) - moments
        assert found == pointwise + 2 * depthwise + norms + project


def test_an_aim_is_what_its_formula_says(x64):
    block = AIM(3, 2, alpha=0.7, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (3, 4, 4, 6))
    left = block.left.last(block.left.first(x))
    right = block.right.last(block.right.first(x))

    def normal(y):
        return (y - y.mean((1, 2, 3), keepdims=True)) / np.sqrt(
            y.var((1, 2, 3), keepdims=True) + 1e-5
        )

    expected = x + 0.7 * normal(block.project(normal(left) * normal(right)))
    np.testing.assert_allclose(block(x, []), expected, atol=1e-10)


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("block", "merge"),
    mostly_long(
        pairs(
            [*INTERACTIONS, (AIM, TokenMixing)], [BatchNormProduct, BatchNormSum, LayerNormProduct]
        )
    ),
)
def test_moments_of_a_batch_put_in_place_give_its_outputs_again(block, merge, x64):
    options = {"block": block, "merge": merge, "key": jax.random.key(0)}
    model = DTTN(SMALL, (4, 3, 2), 3, **options)
    outputs = model(images(), moments := [])
    assert len(moments) == len(model.moments)
    again = model.with_moments(moments)(images())
    np.testing.assert_allclose(again, outputs, atol=1e-10)
    half = model.with_moments(moments, momentum=0.5)
    for (mean, variance), (old, new) in zip(moments, half.moments, strict=True):
        np.testing.assert_allclose(old, mean / 2)
        np.testing.assert_allclose(new, (1 + variance) / 2)


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("block", "merge"),
    mostly_long(pairs([*INTERACTIONS, TokenMixing], [BatchNormProduct, LayerNormProduct])),
)
def test_folding_changes_no_output(block, merge, trained):
    model = trained(Variant((2, 4), (1, 2), stem=(2,)), (5, 6, 2), block=block, merge=merge)
    folded = model.fold_batchnorm()
    assert folded.moments == []
    x = images((5, 6, 2))
    expected = model(x)
    np.testing.assert_allclose(folded(x), expected, atol=1e-13)
    np.testing.assert_allclose(fold_batchnorm(folded)(x), expected, atol=1e-13)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model)
    small = x.astype(jnp.float32)
    np.testing.assert_allclose(single.fold_batchnorm()(small), single(small), atol=1e-5)


VARIANTS_OF_TREES = [
    *(Variant((2,), (n_layers,), stem=stem) for n_layers in (1, 2, 3) for stem in ((), (2,))),
    Variant((2, 3), (1, 2), stem=()),
]


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("variant", "block"), mostly_long(pairs(VARIANTS_OF_TREES, INTERACTIONS)), ids=str
)
def test_the_unfolded_tree_computes_the_same_function(variant, block, trained):
    model = trained(variant, block=block)
    tree = model.to_tree()
    x = images()
    leaves = np.append(x.reshape(len(x), -1), np.ones((len(x), 1)), axis=1)
    phi = np.repeat(leaves[:, None], tree.nsites, axis=1)
    expected = model(x)
    found = contract(*pack(tree), phi).dense()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # By quimb itself, of one image.
    network = tree.copy()
    for i in range(tree.nsites):
        network.gate_inds_(leaves[:1], [f"k{i}"])
    dense = network.contract(output_inds=[f"k{i}" for i in range(tree.nsites)] + ["out"])
    np.testing.assert_allclose(dense.data.ravel(), expected[0], atol=1e-12)


def test_a_tree_of_a_model_on_other_images_than_it_was_made_for(trained):
    model = trained(Variant((2,), (2,), stem=(2,)), (9, 9, 2))
    x = images((4, 2, 2))
    tree = model.to_tree((4, 2))
    phi = np.append(x.reshape(len(x), -1), np.ones((len(x), 1)), axis=1)[:, None]
    found = contract(*pack(tree), np.repeat(phi, 4, axis=1)).dense()
    np.testing.assert_allclose(found, model(x), atol=1e-12)


def test_a_layer_core_is_the_block(trained):
    (block,) = trained(Variant((2,), (1,), stem=())).stages[0]
    core = layer_core(block, 3, 2)
    x = np.random.default_rng(0).normal(size=(2, 3, 2))
    one = np.append(x, 1)
    expected = np.append(block(jnp.asarray(x[..., None])), 1)
    np.testing.assert_allclose(core @ one @ one, expected, atol=1e-13)


@pytest.mark.parametrize(
    ("n_layers", "block"), mostly_long(pairs([1, 2, 3], [AIM, SIMConv, SIMLinear]))
)
def test_the_degree_along_a_line_is_two_to_the_layers(n_layers, block, trained):
    model = trained(Variant((2,), (n_layers,), stem=()), block=block)
    x = images()[0]
    assert model.polynomial_degree(x) == 2**n_layers
    assert model.polynomial_degree(x, 2**n_layers - 1) is None


def test_blocks_without_product_are_affine_and_mixing_tokens_has_degree_three(trained):
    assert trained(SMALL, block=NoProduct).polynomial_degree(images()[0]) == 1
    model = trained(Variant((2,), (1,), stem=()), block=TokenMixing)
    assert model.polynomial_degree(images()[0], 6) == 3


def test_normalising_over_channels_makes_no_polynomial_and_no_tree(trained):
    model = trained(SMALL, merge=LayerNormProduct)
    assert model.polynomial_degree(images()[0]) is None
    assert model.polynomial_degree(images()[0], 20) is None
    with pytest.raises(ValueError, match="Use BatchNormProduct"):
        model.to_tree()


def repeated(model, n_layers):
    """The same model with its only block so often."""
    return eqx.tree_at(lambda model: model.stages[0], model, n_layers * model.stages[0])


def test_what_cannot_be_unfolded_says_so(trained):
    one_block = trained(Variant((2,), (1,), stem=()))
    with pytest.raises(ValueError, match="is too large: only models with few"):
        one_block.to_tree((40, 40))
    with pytest.raises(ValueError, match="tree of 2\\^13 leaves"):
        repeated(one_block, 13).to_tree()
    with pytest.raises(ValueError, match="not a product of two maps"):
        trained(SMALL, block=TokenMixing).to_tree()
    with pytest.raises(ValueError, match=r"Degrees up to 2048 .* at most 1024"):
        repeated(one_block, 11).polynomial_degree(images()[0])
    with pytest.raises(ValueError, match="max_degree"):
        polynomial_degree(lambda t: t, -1)


def test_degrees_of_functions():
    assert polynomial_degree(np.ones_like, 4) == 0
    assert polynomial_degree(lambda t: np.stack([t, t**4 + 1], axis=1), 4) == 4
    assert polynomial_degree(np.exp, 4) is None


def test_gradients_agree_with_differences(trained):
    model = trained(Variant((2,), (2,), stem=(2,)), merge=LayerNormProduct)
    x = images()
    leaves, tree = jax.tree.flatten(jax.device_get(model))
    loss = jax.jit(lambda *leaves: (jax.tree.unflatten(tree, leaves)(x, []) ** 2).sum())
    check_grads(loss, leaves, order=1, modes=["rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [*list(BLOCKS)[:1], *(pytest.param(b, marks=pytest.mark.long) for b in list(BLOCKS)[1:])],
)
def test_models_are_made_and_trained_in_ones_own_loop(name):
    variant = Variant((4,), (2,), stem=(2,))
    make = eqx.filter_jit(DTTN)
    model = make(variant, (6, 6), 2, block=BLOCKS[name], key=jax.random.key(0))
    eager = DTTN(variant, (6, 6), 2, block=BLOCKS[name], key=jax.random.key(0))
    assert eqx.tree_equal(model, eager)
    x = jax.random.normal(jax.random.key(1), (32, 6, 6))
    y = (x.mean((1, 2)) > 0).astype(int)
    optimizer = optax.adam(1e-2)

    def loss(model):
        outputs = model(x, moments := [])
        value = optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()
        return value, moments

    @jax.jit
    def step(model, state):
        (value, moments), gradient = jax.value_and_grad(loss, has_aux=True)(model)
        with jax.numpy_dtype_promotion("standard"):  # which optax counts under
            updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(model, updates).with_moments(moments), state, value

    state, values = optimizer.init(model), []
    for _ in range(30):
        model, state, value = step(model, state)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]


def test_models_made_in_a_compiled_function_are_those_made_outside_in_double_precision(x64):
    arguments = Variant((4,), (1,), stem=(2,)), (4, 4), 2
    compiled = call(DTTN, *arguments, key=jax.random.key(0))
    assert eqx.tree_equal(compiled, DTTN(*arguments, key=jax.random.key(0)))


def test_large_images_stay_finite():
    model = DTTN(VARIANTS["small"], (28, 28), 10, key=jax.random.key(0))
    outputs = model(1e3 * jax.random.normal(jax.random.key(1), (4, 28, 28)), [])
    assert jnp.isfinite(outputs).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": ()}, "channels must be a sequence"),
        ({"channels": (8, 8)}, "same stages"),
        ({"layers": (0,)}, "layers must be an integer of at least 1"),
        ({"stem": 4}, "stem must be a sequence"),
        ({"alpha": float("nan")}, "alpha must be a finite number"),
    ],
)
def test_variants_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Variant(**arguments)


def test_models_are_checked():
    with pytest.raises(ValueError, match="image_shape must be"):
        DTTN(SMALL, (4,), 3, key=jax.random.key(0))
    with pytest.raises(ValueError, match="of 3 channels need a first stage of as many, got 2"):
        DTTN(SMALL, (4, 3, 3), 3, key=jax.random.key(0))
    model = DTTN(SMALL, (4, 3, 2), 3, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"\(batch, height, width, 2\)"):
        model(jnp.ones((5, 4, 3)))
    assert isinstance(model.fold_batchnorm().stages[0][0].merge, Product)


def test_whole_numbers_and_other_shapes_are_refused():
    model = DTTN(SMALL, (4, 3, 2), 3, key=jax.random.key(0))
    with pytest.raises(ValueError, match="must be floating-point numbers, got uint8"):
        model(np.ones((5, 4, 3, 2), np.uint8))
    with pytest.raises(ValueError, match="must be floating-point numbers, got int32"):
        AIM(2, key=jax.random.key(0))(jnp.ones((2, 4, 3, 5), jnp.int32))
    with pytest.raises(ValueError, match="There are no images"):
        model(jnp.ones((0, 4, 3, 2)))
    for shape in ((4,), 4, (4, 3, 7), (0, 3)):
        with pytest.raises(ValueError, match="image_shape"):
            model.to_tree(shape)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("tiny", (4, 3)), {}, "variant must be an instance of Variant"),
        ((SMALL, 8), {}, "image_shape must be"),
        ((SMALL, (4, 3, 2)), {"merge": AIM}, "merge must be a class"),
        ((SMALL, (4, 3, 2)), {"block": ()}, "block must be a class"),
        ((SMALL, (4, 3, 2)), {"block": "aim"}, "block must be a class"),
    ],
)
def test_parts_that_are_none(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        DTTN(*arguments, 3, key=jax.random.key(0), **options)


def test_numbers_of_blocks_are_checked():
    for options in ({"alpha": np.nan}, {"alpha": None}, {"expansion": 0}):
        for block in (AIM, TokenMixing):
            with pytest.raises(ValueError, match=r"(alpha|expansion) must"):
                block(4, key=jax.random.key(0), **options)
    with pytest.raises(ValueError, match="head_dim must"):
        TokenMixing(4, head_dim=0, key=jax.random.key(0))


@pytest.mark.long
def test_many_networks_are_made_at_once():
    keys = jax.random.split(jax.random.key(0), 3)
    many = eqx.filter_vmap(lambda key: DTTN(SMALL, (4, 3, 2), 3, key=key))(keys)
    alone = DTTN(SMALL, (4, 3, 2), 3, key=keys[1])
    np.testing.assert_array_equal(many.head.weight[1], alone.head.weight)


def test_the_degree_is_of_the_blocks_and_of_finite_numbers():
    model = DTTN(SMALL, (4, 3, 2), 3, block=TokenMixing, key=jax.random.key(0))
    image = images(n=1)[0]
    assert model.polynomial_degree(image) == 9
    with pytest.raises(ValueError, match="not finite on the line"):
        model.polynomial_degree(image * np.nan)


def test_stems_leave_small_maps():
    # A patch is never larger than a narrow image needs.
    assert Variant().stem_of(1, 3072) == (1,)
    assert Variant().stem_of(4, 64) == (4,)
    stems = {size: Variant().stem_of(size, size)[0] for size in (1, 8, 9, 16, 28, 32, 33, 64)}
    assert stems == {1: 1, 8: 1, 9: 2, 16: 2, 28: 4, 32: 4, 33: 8, 64: 8}
