"""Models with generated weights: layers, `compress`, training, the pipeline."""

import dataclasses
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_program import call
from short_products import short_products_of
from sklearn.datasets import load_digits

from tn4ml_plus.errors import ModelFileError
from tn4ml_plus.generators import (
    ATTNGenerator,
    BrickWallGenerator,
    ChannelsApart,
    CompressionPipeline,
    Conv2d,
    Identity,
    Linear,
    MERAGenerator,
    MultiheadAttention,
    SoftTargets,
    TTNGenerator,
    cached,
    compress,
    default_optimizer,
    distill,
    evaluate,
    fit,
    isometry,
    large_weights,
    n_bytes,
    n_parameters,
    predict,
    squared_distance,
    train,
)
from tn4ml_plus.generators._decoder import Factors
from tn4ml_plus.io import write
from tn4ml_plus.training import _checkpoint

KEY, OTHER = jax.random.key(0), jax.random.key(1)


def rms(array):
    return float(np.sqrt(np.mean(np.asarray(array, float) ** 2)))


def assert_close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# Layers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias", [True, False])
def test_linear_is_the_layer_that_it_caches(use_bias):
    layer = Linear(20, 12, use_bias, key=KEY)
    if use_bias:
        layer = eqx.tree_at(lambda m: m.bias, layer, jnp.arange(12.0))
    x = jax.random.normal(OTHER, (5, 20))
    dense = layer.cached()
    assert type(dense) is eqx.nn.Linear
    assert_close(call(jax.vmap(layer), x), call(jax.vmap(dense), x))
    assert_close(call(layer, x[0]), call(dense, x[0]))


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"groups": 2},
        {"dilation": 2, "use_bias": False},
        {"generator": partial(MERAGenerator, tensorisation=ChannelsApart())},
    ],
)
def test_conv_is_the_layer_that_it_caches(options):
    layer = call(Conv2d, 4, 6, 3, key=KEY, **options)
    x = jax.random.normal(OTHER, (4, 8, 8))
    dense = layer.cached()
    assert type(dense) is eqx.nn.Conv2d
    assert_close(call(layer, x), call(dense, x))
    assert rms(dense.weight) == pytest.approx(
        np.sqrt(2 / np.prod(dense.weight.shape[1:])), rel=0.01
    )


def test_attention_is_the_layer_that_it_caches():
    layer = call(MultiheadAttention, 2, 16, use_output_bias=True, key=KEY)
    dense = layer.cached()
    assert type(dense) is eqx.nn.MultiheadAttention
    x, y = (jax.random.normal(key, (6, 16)) for key in (KEY, OTHER))
    mask = jnp.tril(jnp.ones((6, 6), bool))
    assert_close(call(layer, x, y, y, mask=mask), call(dense, x, y, y, mask=mask))
    assert_close(layer.joint()[:, 16:32], dense.key_proj.weight.T)


def test_attention_of_unequal_sizes_is_refused():
    with pytest.raises(ValueError, match="need one size"):
        MultiheadAttention(2, 16, key_size=8, key=KEY)


@pytest.mark.parametrize(
    ("layer", "weight"),
    [
        (eqx.nn.Linear(20, 12, key=KEY), lambda m: m.weight),
        (eqx.nn.Conv2d(4, 6, 3, key=KEY), lambda m: m.weight),
        (eqx.nn.MultiheadAttention(2, 16, key=KEY), lambda m: m.output_proj.weight),
    ],
)
def test_layers_in_place_of_others_keep_size_and_bias(layer, weight):
    small = compress([layer], lambda m: m[0], key=KEY).model[0]
    assert rms(weight(small.cached())) == pytest.approx(rms(weight(layer)), rel=1e-4)
    if getattr(layer, "bias", None) is not None:
        assert_close(small.cached().bias, layer.bias)


# compress -----------------------------------------------------------------------------------------


def perceptron(key=KEY):
    return eqx.nn.MLP(64, 10, 64, 2, key=key)


def test_any_pytree_can_be_compressed():
    weights = {"a": jnp.ones((30, 20)), "b": jnp.arange(3.0)}
    small = compress(weights, lambda w: w["a"], generator=TTNGenerator, key=KEY)
    assert small.dense()["a"].shape == (30, 20)
    assert_close(small.dense()["b"], weights["b"])
    assert rms(small.dense()["a"]) == pytest.approx(1, rel=1e-4)
    assert small.n_parameters == small.model["a"].n_parameters + 3
    assert small.n_bytes == 4 * small.n_parameters
    with pytest.raises(TypeError, match=r"dense\(\)"):
        small(1)


@pytest.mark.parametrize("generator", [BrickWallGenerator, partial(ATTNGenerator, bond_dim=3)])
def test_compressed_and_cached_models_agree(generator):
    mlp = perceptron()
    small = compress(
        mlp, lambda m: [m.layers[0], m.layers[1].weight], generator=generator, key=OTHER
    )
    x = np.random.default_rng(0).normal(size=(7, 64)).astype("f4")
    assert type(small.cached()) is eqx.nn.MLP
    small_outputs = call(jax.vmap(small), x)
    assert_close(small_outputs, call(jax.vmap(small.cached()), x))
    assert n_parameters(small.cached()) == n_parameters(mlp)
    assert small.n_parameters < n_parameters(mlp) / 5
    assert not np.allclose(small_outputs, call(jax.vmap(mlp), x))


def test_weights_are_generated_once_for_a_batch():
    small = compress(perceptron(), lambda m: m.layers[1].weight, key=KEY)
    jaxpr = jax.make_jaxpr(jax.vmap(small))(jnp.ones((7, 64)))
    shapes = [v.aval.shape for step in jaxpr.eqns for v in step.outvars]
    assert (64, 64) in shapes
    assert not [s for s in shapes if np.prod(s) >= 7 * 64 * 64]


def test_zero_weights_stay_trainable():
    small = compress([jnp.zeros((16, 16))], lambda m: m[0], key=KEY)
    assert np.isfinite(small.dense()[0]).all()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (lambda m: m.layers[1].bias is None, "must choose arrays"),
        (lambda m: m.activation, "must choose arrays"),
        (lambda m: [], "chooses no part"),
    ],
)
def test_what_cannot_be_replaced_is_named(where, message):
    with pytest.raises(ValueError, match=message):
        compress(perceptron(), where, key=KEY)


def test_generators_must_be_generators():
    def array(shape, key):
        return jax.random.normal(key, shape)

    for generator in (array, "mera", TTNGenerator((64, 64), key=KEY)):
        with pytest.raises(ValueError, match="class of generators"):
            compress(perceptron(), lambda m: m.layers[0], generator=generator, key=KEY)
        with pytest.raises(ValueError, match="class of generators"):
            Linear(4, 4, generator=generator, key=KEY)


def test_compressed_models_are_compressed_further():
    once = compress(perceptron(), lambda m: m.layers[0], key=KEY)
    twice = compress(once, lambda m: m.layers[1].weight, key=KEY)
    assert type(twice.cached()) is eqx.nn.MLP
    chosen = large_weights(once, 640)(once.model)
    assert [layer.weight.shape for layer in chosen] == [(64, 64), (10, 64)]
    for where in (lambda m: m.layers[0], lambda m: m.layers[1], lambda m: m.layers[1].weight):
        with pytest.raises(ValueError, match=r"cached\(\)"):
            compress(twice, where, key=KEY)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(jnp.ones((8, 8), jnp.float16), "float16"), (jnp.full((8, 8), jnp.nan), "not finite")],
)
def test_weights_that_no_generator_can_replace_are_named(weight, message):
    with pytest.raises(ValueError, match=message):
        compress([weight], lambda m: m[0], key=KEY)


def test_scalar_layers_are_refused():
    layer = eqx.nn.Linear("scalar", 16, key=KEY)
    with pytest.raises(ValueError, match="exclude it from where"):
        compress([layer], lambda m: m[0], key=KEY)


def test_large_weights_are_chosen_by_size():
    model = {"mlp": perceptron(), "table": jnp.ones((100, 50)), "small": jnp.ones((3, 3))}
    chosen = large_weights(model, 4096)(model)
    assert [getattr(c, "shape", type(c)) for c in chosen] == [
        *(eqx.nn.Linear, eqx.nn.Linear),
        (100, 50),
    ]
    small = compress(model, large_weights(model, 4096), key=KEY)
    assert small.n_parameters < 2000
    with pytest.raises(ValueError, match="the largest has 5000"):
        large_weights(model, 5001)


# Fits ---------------------------------------------------------------------------------------------

POINTS = jnp.linspace(-1, 1, 32)
SMOOTH = jnp.exp(-20 * (POINTS[:, None] - POINTS[None]) ** 2)


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "options", [{}, {"n_entries": 256, "key": KEY}, {"loss": optax.huber_loss}]
)
def test_smooth_weights_are_fitted(options):
    start = TTNGenerator((32, 32), key=KEY, bond_dim=3)
    fitted = fit(start, 0.01 * SMOOTH, n_steps=600, **options)
    found = np.linalg.norm(fitted.generator() - 0.01 * SMOOTH) / np.linalg.norm(0.01 * SMOOTH)
    assert fitted.error == pytest.approx(found, rel=1e-3)
    assert fitted.error < 0.2
    assert fitted.losses.shape == (600,)
    assert fitted.losses[-50:].mean() < 0.2 * fitted.losses[:10].mean()


@pytest.mark.parametrize("tree", [TTNGenerator, ATTNGenerator, BrickWallGenerator])
def test_fits_find_the_size_and_the_sign(tree):
    start = tree((32, 32), key=KEY)
    fitted = fit(start, -7 * start(), n_steps=1, optimizer=optax.sgd(0.0))
    assert fitted.error < 1e-5
    assert_close(fitted.generator(), -7 * start(), 1e-4)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=pytest.mark.long) for i in (1, 2))])
def test_some_entries_teach_all(seed):
    places = np.arange(64)
    wave = jnp.asarray(np.outer(np.sin(places / 9), np.cos(places / 5)), jnp.float32)
    start = ATTNGenerator((64, 64), key=jax.random.key(seed))
    fitted = fit(start, wave, n_entries=1024, key=KEY)
    assert fitted.error < 0.4


def test_only_generators_are_fitted():
    with pytest.raises(ValueError, match="takes a generator"):
        fit(compressed_perceptron(), jnp.ones((64, 64)))


@pytest.mark.long
def test_fits_do_not_shrink_to_zero():
    """A narrow band, of which a start by chance has next to nothing."""
    points = jnp.linspace(-1, 1, 256)
    band = jnp.exp(-200 * (points[:, None] - points[None]) ** 2)
    assert fit(ATTNGenerator((256, 256), key=KEY), band, n_steps=300).error < 0.5


def test_fits_repeat_and_compile_once(compilations):
    generator = TTNGenerator((16, 16), key=KEY)
    first = fit(generator, SMOOTH[:16, :16], n_steps=20)
    compilations.clear()
    again = fit(generator, SMOOTH[:16, :16], n_steps=20)
    assert not compilations
    assert first.error == again.error


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (jnp.ones((8, 4)), {}, "built? the generator|has shape"),
        (jnp.zeros((8, 8)), {}, "not all zero"),
        (jnp.full((8, 8), jnp.nan), {}, "must be finite"),
        (jnp.ones((8, 8)), {"n_entries": 5}, "give key="),
        (jnp.ones((8, 8)), {"n_steps": 0}, "n_steps"),
        (jnp.ones((8, 8)), {"n_entries": 1, "key": KEY}, "n_entries"),
    ],
)
def test_what_cannot_be_fitted_is_named(weight, options, message):
    with pytest.raises(ValueError, match=message):
        fit(TTNGenerator((8, 8), key=KEY), weight, **options)


def test_diverging_fits_say_so():
    with pytest.raises(match="lower learning rate"):
        fit(
            TTNGenerator((16, 16), key=KEY), SMOOTH[:16, :16], optimizer=optax.sgd(1e38), n_steps=20
        )


def test_isometry_counts_cores_and_gates():
    generator = MERAGenerator((8, 8), key=KEY, schedule=(3, 6), activation=Identity)
    (layer,) = generator.layers
    expected = 0
    for array in (*layer.split, *layer.gates):
        array = np.asarray(array, float)
        expected += np.sum((array @ array.T - np.eye(len(array))) ** 2)
    assert float(isometry({"g": generator, "w": jnp.ones((5, 5))})) == pytest.approx(expected, 1e-4)
    weighted = fit(generator, SMOOTH[:8, :8], n_steps=300, isometry_weight=10.0).generator
    assert isometry(weighted) < 0.5 * expected


def test_isometry_and_sizes_ask_for_all_digits():
    generator = MERAGenerator((8, 8), key=KEY, schedule=(3, 6), activation=Identity)
    assert short_products_of(jax.grad(isometry), generator) == []
    one = jnp.ones((2, 3))
    assert short_products_of(Factors.rms, Factors(one, jnp.ones((2, 4, 2)), one)) == []


# Training -----------------------------------------------------------------------------------------

DIGITS, CLASSES = load_digits(return_X_y=True)
DIGITS = (DIGITS / 16).astype(np.float32)
TRAINING, VALIDATION = (DIGITS[:1000], CLASSES[:1000]), (DIGITS[1000:], CLASSES[1000:])


def compressed_perceptron(key=KEY):
    return compress(perceptron(), lambda m: m.layers[1], key=key)


@pytest.mark.long
def test_compressed_models_learn():
    trained = train(compressed_perceptron(), *TRAINING, key=KEY, n_epochs=20, validation=VALIDATION)
    accuracy = (predict(trained.model, VALIDATION[0]).argmax(1) == VALIDATION[1]).mean()
    assert accuracy > 0.8
    assert trained.losses[-1] < 0.5 * trained.losses[0]
    best = evaluate(trained.model, *VALIDATION)
    assert best == pytest.approx(min(trained.validation_losses), rel=1e-5)
    assert np.argmin(trained.validation_losses) == trained.best_epoch


def test_training_repeats_and_compiles_once(compilations):
    first, again = (
        train(compressed_perceptron(), *TRAINING, key=KEY, n_epochs=2) for _ in range(2)
    )
    assert first.losses == again.losses
    compilations.clear()
    train(compressed_perceptron(OTHER), *TRAINING, key=OTHER, n_epochs=2)
    assert not compilations


def test_patience_ends_training():
    # Classes at random: validation gets worse once training begins to remember.
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=1000)
    trained = train(
        perceptron(),
        *(TRAINING[0], y),
        key=KEY,
        n_epochs=200,
        validation=(TRAINING[0][:100], rng.permutation(y)[:100]),
        patience=2,
        optimizer=optax.adam(1e-2),
    )
    assert len(trained.losses) == trained.best_epoch + 3 < 200


def test_not_finite_losses_keep_the_model():
    with pytest.raises(match="lower learning rate") as caught:
        train(perceptron(), *TRAINING, key=KEY, n_epochs=5, optimizer=optax.sgd(1e30))
    assert np.isfinite(jax.tree.leaves(eqx.filter(caught.value.model, eqx.is_array))[0]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": CLASSES[:10]}, "one target per sample"),
        ({"loss": lambda outputs, y: outputs.sum()}, "one number for each"),
        ({"patience": 2}, "validation="),
        ({"n_epochs": 0}, "n_epochs"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_options_of_training_are_named(options, message):
    arguments = {"X": TRAINING[0], "y": TRAINING[1], "key": KEY} | options
    with pytest.raises(ValueError, match=message):
        train(perceptron(), **arguments)


@pytest.mark.long
def test_students_come_near_their_teachers():
    teacher = train(perceptron(), *TRAINING, key=KEY, n_epochs=5).model
    student = compressed_perceptron()

    def distance(model):
        outputs = predict(model, VALIDATION[0]), predict(teacher, VALIDATION[0])
        return squared_distance(*outputs).mean()

    for loss in (None, SoftTargets()):
        taught = distill(student, teacher, TRAINING[0], loss=loss, key=KEY, n_epochs=10).model
        assert distance(taught) < 0.6 * distance(student)


def test_losses_of_other_shapes_are_refused():
    outputs = jnp.ones((4, 1))
    for loss in (squared_distance, SoftTargets()):
        with pytest.raises(ValueError, match="same shape"):
            loss(outputs, jnp.ones(4))
    with pytest.raises(ValueError, match="temperature"):
        SoftTargets(0.0)


def test_validation_that_is_not_finite_ends_training():
    X = jnp.ones((8, 4))
    start = eqx.nn.Linear(4, 1, key=KEY)
    options = {"loss": squared_distance, "key": KEY, "validation": (np.nan * X, X[:, :1])}
    with pytest.raises(match="validation loss") as caught:
        train(start, X, X[:, :1], **options)
    assert np.isfinite(caught.value.model.weight).all()


def test_soft_targets_are_the_cross_entropy_of_soft_classes():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 3))
    p, q = (np.exp(each / 3) / np.exp(each / 3).sum(1, keepdims=True) for each in (b, a))
    assert_close(SoftTargets(3.0)(jnp.asarray(a), jnp.asarray(b)), -9 * np.sum(p * np.log(q), 1))


def test_generators_have_a_rate_of_their_own():
    model = {"g": TTNGenerator((8, 8), key=KEY), "w": jnp.ones(3)}
    optimizer = default_optimizer(100, 0.5, 0.25)
    ones = jax.tree.map(np.ones_like, model)
    with jax.numpy_dtype_promotion("standard"):  # which optax counts under
        updates, _ = call(
            lambda *both: optimizer.update(both[0], optimizer.init(both[1])), ones, model
        )
    assert_close(updates["w"], -0.25 * np.ones(3))
    assert_close(updates["g"].latent, -0.5 * np.ones(updates["g"].latent.shape))


def test_batches_of_outputs_are_the_whole():
    mlp = perceptron()
    assert_close(predict(mlp, DIGITS[:50], batch_size=7), jax.vmap(mlp)(DIGITS[:50]))
    whole = evaluate(mlp, DIGITS[:50], CLASSES[:50])
    assert evaluate(mlp, DIGITS[:50], CLASSES[:50], batch_size=7) == pytest.approx(whole, rel=1e-5)


# The pipeline -------------------------------------------------------------------------------------

QUICK = CompressionPipeline(min_size=4096, fit_steps=5, n_epochs=3, bonds=(3,), bits=8)


@pytest.fixture(scope="module")
def teacher():
    return train(perceptron(), *TRAINING, key=KEY, n_epochs=10).model


def test_the_pipeline_reports_its_stages(teacher):
    report = QUICK.run(teacher, *TRAINING, validation=VALIDATION, key=KEY)
    stages = {stage.name: stage for stage in report.stages}
    assert list(stages) == ["dense", "generated", "trained", "bond_dim 3", "int8"]
    assert stages["dense"].n_parameters == n_parameters(teacher)
    assert stages["trained"].n_parameters < stages["bond_dim 3"].n_parameters
    assert stages["trained"].validation_loss < stages["generated"].validation_loss
    assert len(report.errors) == 2
    last = report.stages[-1]
    assert (last.n_parameters, last.n_bytes) == (n_parameters(report.model), n_bytes(report.model))
    assert last.validation_loss == pytest.approx(evaluate(report.model, *VALIDATION), rel=1e-4)
    assert type(cached(report.model.model)) is eqx.nn.MLP


@pytest.mark.long
def test_growth_in_vain_is_taken_back(teacher):
    pipeline = CompressionPipeline(
        **{**vars(QUICK), "bits": None, "bonds": (3, 4), "loss": constant_loss}
    )
    report = pipeline.run(teacher, *TRAINING, validation=VALIDATION, key=KEY)
    assert [stage.name for stage in report.stages][2:] == ["trained", "bond_dim 3"]
    assert report.model.n_parameters == report.stages[2].n_parameters


def constant_loss(outputs, y):
    """Nothing lowers it."""
    return 0 * outputs.sum(1) + 1


@pytest.mark.long
def test_without_targets_the_model_teaches(teacher):
    pipeline = CompressionPipeline(**{**vars(QUICK), "loss": squared_distance, "bonds": ()})
    report = pipeline.run(teacher, TRAINING[0], validation=VALIDATION[0], key=KEY)
    assert report.stages[0].validation_loss == pytest.approx(0, abs=1e-6)
    assert report.stages[-1].validation_loss < report.stages[1].validation_loss


def test_good_fits_are_kept_bad_ones_not():
    model = {"smooth": SMOOTH, "noise": jax.random.normal(KEY, (32, 32))}
    pipeline = CompressionPipeline(
        partial(TTNGenerator, bond_dim=3), min_size=1024, fit_steps=500, max_error=0.6
    )
    small, errors = pipeline._generated(model, KEY, pipeline._files())
    noise, smooth = errors
    assert smooth < 0.4 < 0.6 < noise
    assert np.linalg.norm(small.dense()["smooth"] - SMOOTH) < 0.4 * np.linalg.norm(SMOOTH)
    # A fit in vain would be near zero.
    assert rms(small.dense()["noise"]) == pytest.approx(rms(model["noise"]), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "bits"),
        ({"bonds": (4, 3)}, "increase"),
        ({"min_size": 0}, "min_size"),
        ({"fit_steps": -1}, "fit_steps"),
        ({"bonds": 3}, "sequence"),
        ({"patience": 0}, "patience"),
        ({"isometry_weight": -1}, "isometry_weight"),
    ],
)
def test_bad_options_of_the_pipeline_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CompressionPipeline(**options)


def test_without_targets_a_loss_of_outputs_is_needed(teacher):
    with pytest.raises(ValueError, match="SoftTargets"):
        QUICK.run(teacher, TRAINING[0], validation=VALIDATION[0], key=KEY)


def test_zero_weights_are_not_fitted():
    pipeline = CompressionPipeline(min_size=256)
    small, errors = pipeline._generated([jnp.zeros((16, 16))], KEY, pipeline._files())
    assert not errors
    assert np.isfinite(small.dense()[0]).all()


def test_growth_of_what_has_no_bonds_fails_before_training(teacher):
    pipeline = CompressionPipeline(BrickWallGenerator, min_size=4096, fit_steps=0, bonds=(3,))
    with pytest.raises(ValueError, match="no bonds"):
        pipeline.run(teacher, *TRAINING, validation=VALIDATION, key=KEY)


# Checkpoints --------------------------------------------------------------------------------------


class Cut(Exception):
    """The end of a training before its time."""


def cut_after(monkeypatch, n_writes):
    """Have the process end, as it were, once so many checkpoints are written."""
    written = []

    def writing(*args):
        write(*args)
        written.append(args[0])
        if len(written) == n_writes:
            raise Cut

    monkeypatch.setattr(_checkpoint, "write", writing)
    return written


def equal(first, second):
    trees = (eqx.filter(tree, eqx.is_array) for tree in (first, second))
    return eqx.tree_equal(*trees)


def test_trainings_and_distillations_go_on(teacher, tmp_path, monkeypatch):
    student, options = compressed_perceptron(), {"key": KEY, "n_epochs": 3, "patience": 2}
    whole = distill(student, teacher, DIGITS[:200], validation=DIGITS[200:300], **options)
    options |= {"validation": DIGITS[200:300], "checkpoint": tmp_path / "run"}
    written = cut_after(monkeypatch, 2)
    with pytest.raises(Cut):
        distill(student, teacher, DIGITS[:200], **options)
    resumed = distill(student, teacher, DIGITS[:200], **options)
    assert equal(resumed.model, whole.model)
    assert resumed[1:] == whole[1:]
    assert len(written) == 3
    with pytest.raises(ModelFileError, match=r"differs in samples and targets\."):
        distill(student, teacher, DIGITS[:200] / 2, **options)


@pytest.mark.parametrize("n_entries", [None, 32])
def test_fits_go_on(n_entries, tmp_path, monkeypatch):
    start = TTNGenerator((16, 16), key=KEY, bond_dim=2)
    options = {"n_steps": 250, "n_entries": n_entries, "key": KEY}
    whole = fit(start, SMOOTH[:16, :16], **options)
    written = cut_after(monkeypatch, 2)
    with pytest.raises(Cut):
        fit(start, SMOOTH[:16, :16], checkpoint=tmp_path / "run", **options)
    resumed = fit(start, SMOOTH[:16, :16], checkpoint=tmp_path / "run", **options)
    assert equal(resumed.generator, whole.generator)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert resumed.error == whole.error
    # In five calls of fifty steps.
    assert len(written) == 5
    with pytest.raises(ModelFileError, match=r"differs in targets\."):
        fit(start, SMOOTH[:16, 1:17], checkpoint=tmp_path / "run", **options)


def test_a_pipeline_goes_on_where_it_was(teacher, tmp_path, monkeypatch):
    pipeline = CompressionPipeline(min_size=4096, fit_steps=5, n_epochs=1, bits=None)
    given = {"validation": VALIDATION, "key": KEY}
    whole = pipeline.run(teacher, *TRAINING, **given)
    pipeline = dataclasses.replace(pipeline, checkpoint=tmp_path / "run.ckpt")
    written = cut_after(monkeypatch, 2)
    with pytest.raises(Cut):
        pipeline.run(teacher, *TRAINING, **given)
    resumed = pipeline.run(teacher, *TRAINING, **given)
    assert equal(resumed.model, whole.model)
    assert resumed.errors == whole.errors
    assert [s._replace(seconds=0) for s in resumed.stages] == [
        s._replace(seconds=0) for s in whole.stages
    ]
    assert [Path(path).name for path in written] == ["run-1.ckpt", "run-2.ckpt", "run-3.ckpt"]
    with pytest.raises(ValueError, match="checkpoint"):
        CompressionPipeline(checkpoint=3)
