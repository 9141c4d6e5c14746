"""Training of image models: what is learned, repeated, cut off and gone on with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tn4ml_plus.errors import ModelFileError, NotFiniteError
from tn4ml_plus.image import DTTN, LayerNormProduct, Variant
from tn4ml_plus.training import (
    CutMix,
    EarlyStopping,
    HorizontalFlip,
    ImageGradient,
    ImageProblem,
    LabelledImages,
    Mixup,
    RandomCrop,
    image_outputs,
)

VARIANT = Variant((8,), (1,), stem=(2,))


def labelled(n, seed, contrast=2):
    """Images whose brighter half is their label: up, down, left or right."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, 6, 6, 1)).astype(np.float32)
    target = rng.integers(0, 4, n).astype(np.int32)
    brighter = np.zeros((4, 6, 6, 1), np.float32)
    brighter[0, :3] = brighter[1, 3:] = brighter[2, :, :3] = brighter[3, :, 3:] = 1
    images += contrast * brighter[target]
    ones = np.ones(n, np.float32)
    return LabelledImages.padded(images, target, ones, np.zeros(1, "f4"), np.ones(1, "f4"))


def problem(n=200, validation=None, **options):
    model = DTTN(VARIANT, (6, 6), 4, merge=LayerNormProduct, key=jax.random.key(0))
    validation = validation and labelled(validation, 1)
    return ImageProblem(model, labelled(n, 0), n, 4, validation=validation, **options)


def accuracy(model, n=200):
    samples = labelled(n, 2)
    return float((image_outputs(model, samples).argmax(1) == samples.target)[:n].mean())


SHORT = ImageGradient(max_epochs=4, batch_size=32)


def equal(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        # Two at a time, since each program of training takes long to compile.
        {"ema": 0.9, "optimizer": optax.sgd(0.1, momentum=0.9)},
        *(
            pytest.param(options, marks=pytest.mark.long)
            for options in [
                {
                    "augmentations": (
                        RandomCrop(1),
                        Mixup(probability=0.2),
                        CutMix(probability=0.2),
                    ),
                    "dtype": "bfloat16",
                },
                {"clip_norm": None, "weight_decay": 0.0, "label_smoothing": 0.0},
            ]
        ),
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_it_learns(options):
    start = problem()
    result = ImageGradient(max_epochs=12, batch_size=32, **options).train(start)
    assert result.n_iter == 12
    assert result.history["loss"][-1] < result.history["loss"][0]
    assert accuracy(result.params) > 0.7 > 0.45 > accuracy(start.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(result.params)} == {jnp.dtype("float32")}


def test_same_seed_same_weights_and_other_seed_others():
    first, again, other = (SHORT.train(problem(seed=seed)).params for seed in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)


def test_a_second_training_compiles_nothing(compilations):
    SHORT.train(problem(validation=40))
    before = len(compilations)
    assert before
    # Nearby numbers of images share compiled code.
    SHORT.train(problem(n=199, validation=40, seed=3))
    assert len(compilations) == before


def test_weights_of_zero_and_padding_teach_nothing():
    given = problem()
    weight = given.samples.weight.at[:100].set(0)
    noise = jax.random.normal(jax.random.key(7), given.samples.images[:100].shape)
    images = given.samples.images.at[:100].set(given.samples.images[:100] + 0 * noise)
    swapped = given.samples.target.at[:100].set((given.samples.target[:100] + 1) % 4)
    trained = []
    for target in (given.samples.target, swapped):
        samples = LabelledImages(images, target, weight, given.samples.mean, given.samples.scale)
        trained.append(SHORT.train(dataclasses.replace(given, samples=samples)).params)
    assert equal(*trained)


@pytest.mark.long
def test_early_stopping_keeps_the_best_weights():
    # Labels that nothing tells: what is learned is noise, and the validation loss rises.
    samples, validation = labelled(40, 0, contrast=0), labelled(100, 1, contrast=0)
    given = dataclasses.replace(problem(n=40), samples=samples, validation=validation)
    trainer = ImageGradient(
        max_epochs=60, batch_size=20, early_stopping=EarlyStopping(patience=3), weight_decay=0
    )
    result = trainer.train(given)
    losses = result.history["validation_loss"]
    assert result.n_iter < 60
    assert result.n_iter == int(np.argmin(losses)) + 4
    assert abs(given.validation_loss(result.params) - min(losses)) < 1e-6


class Cut(Exception):
    pass


def cut_at(number):
    def callback(epoch):
        if epoch.number == number:
            raise Cut

    return callback


@pytest.mark.parametrize(
    "options", [{}, {"ema": 0.9}, {"early_stopping": EarlyStopping(patience=2)}], ids=str
)
def test_training_that_was_cut_off_goes_on_as_if_it_had_not(options, tmp_path):
    trainer = dataclasses.replace(SHORT, max_epochs=6, **options)
    whole = trainer.train(problem(validation=40))
    kept = dataclasses.replace(trainer, checkpoint=str(tmp_path / "run"))
    with pytest.raises(Cut) as error:
        kept.train(problem(validation=40, callbacks=(cut_at(3),)))
    assert error.value.result.n_iter in (2, 3)
    resumed = kept.train(problem(validation=40))
    assert equal(whole.params, resumed.params)
    assert whole.history["loss"] == resumed.history["loss"]
    assert np.all(np.diff(resumed.history["seconds"]) > 0)
    # What is complete is read, not trained again.
    again = kept.train(problem(validation=40))
    assert equal(again.params, whole.params)
    assert again.history == resumed.history


def test_a_checkpoint_of_other_images_models_or_numbers_is_refused(tmp_path):
    trainer = dataclasses.replace(SHORT, max_epochs=1, checkpoint=tmp_path / "run")
    trainer.train(problem())
    stem = Variant((12,), (2,), stem=(2,))
    other = DTTN(stem, (6, 6), 4, merge=LayerNormProduct, key=jax.random.key(0))
    for changed, names in (
        ({"samples": labelled(200, 5)}, "images and targets"),
        ({"params": other}, "start"),
        ({"seed": 1}, "random numbers"),
    ):
        with pytest.raises(ModelFileError, match=rf"differs in {names}\."):
            trainer.train(dataclasses.replace(problem(), **changed))
    for changed in (
        {"dtype": "bfloat16"},
        {"min_steps": 7},
        {"optimizer": optax.sgd(0.1)},
        {"augmentations": (RandomCrop(1),)},
    ):
        with pytest.raises(ModelFileError, match=rf"differs in {next(iter(changed))}\."):
            dataclasses.replace(trainer, **changed).train(problem())


def test_validation_that_is_not_finite_says_so():
    wild = problem(validation=100)
    images = wild.validation.images.at[3].set(1e30)
    wild = dataclasses.replace(wild, validation=wild.validation._replace(images=images))
    with pytest.raises(NotFiniteError, match="validation loss of epoch 1 is not a number"):
        dataclasses.replace(SHORT, early_stopping=EarlyStopping()).train(wild)


def test_a_loss_that_leaves_the_floats_says_so_and_keeps_what_was_trained():
    trainer = ImageGradient(
        max_epochs=9, batch_size=32, optimizer=optax.chain(optax.sgd(-1e3), optax.trace(9.0))
    )
    with pytest.raises(NotFiniteError, match="Lower learning_rate") as error:
        trainer.train(problem())
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(error.value.result.params))


@pytest.mark.some(2)
@pytest.mark.parametrize("n", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 31)), 33])
def test_any_number_of_images(n):
    result = dataclasses.replace(SHORT, max_epochs=2).train(problem(n=n))
    assert np.isfinite(result.history["loss"]).all()
    assert image_outputs(result.params, labelled(n, 0)).shape[1] == 4


def test_flips_and_crops_move_pixels_alone():
    images = jax.random.normal(jax.random.key(0), (64, 5, 6, 2))
    targets = jnp.ones((64, 3))
    flipped, same = HorizontalFlip()(jax.random.key(1), images, targets)
    was = jnp.all(flipped == images, axis=(1, 2, 3))
    mirrored = jnp.all(flipped == images[:, :, ::-1], axis=(1, 2, 3))
    assert jnp.all(was ^ mirrored)
    assert 16 < was.sum() < 48
    assert same is targets
    cropped, same = RandomCrop(1)(jax.random.key(1), images, targets)
    assert same is targets
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    places = set()
    for image, candidates in zip(cropped, padded, strict=True):
        found = [
            (i, j)
            for i in range(3)
            for j in range(3)
            if np.array_equal(image, candidates[i : i + 5, j : j + 6])
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) == 9


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_mixing_shares_images_and_targets_alike(kind):
    n = 400
    # Each image is constant, its number; so are targets: the mean tells the share.
    images = jnp.broadcast_to(jnp.arange(n, dtype=float)[:, None, None, None], (n, 8, 8, 1))
    targets = jnp.eye(n)
    mixed, shared = kind(probability=0.5)(jax.random.key(0), images, targets)
    np.testing.assert_allclose(shared.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(
        mixed.mean((1, 2, 3)), np.asarray(shared) @ np.arange(n), rtol=1e-4, atol=1e-3
    )
    own = jnp.diagonal(shared)
    assert 0.4 < (own == 1).mean() < 0.65
    if kind is CutMix:
        assert np.isin(mixed, np.arange(n)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0}, "learning_rate"),
        ({"max_epochs": 1.5}, "max_epochs"),
        ({"ema": 1}, "ema"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"augmentations": ("horizontal_flip",)}, "augmentations must be a sequence of objects"),
        ({"schedule": 3}, "schedule"),
        ({"early_stopping": True}, "early_stopping"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ImageGradient(**options)


@pytest.mark.parametrize("make", [lambda: RandomCrop(0), lambda: Mixup(0), lambda: CutMix(1, 2)])
def test_augmentations_are_checked(make):
    with pytest.raises(ValueError, match="must be"):
        make()
