"""Classification of images: what goes in, what comes out, saving, folding, the tree."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import optax
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tn4ml_plus import DTTNClassifier, load
from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.image import AIM, VARIANTS, Variant
from tn4ml_plus.losses import unsmoothed
from tn4ml_plus.training import Augmentation, EarlyStopping, ImageGradient, RandomCrop

TINY = Variant((4,), (1,), stem=(2,))
SMALL = {"variant": TINY, "max_epochs": 2, "random_state": 0}


def expected_failed_checks(estimator):
    """Training draws batches of samples, so that a weight is not a number of repetitions."""
    del estimator
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "sample_weight is not equivalent to removing/repeating samples"
        ),
        "check_methods_subset_invariance": (
            "in single precision other numbers of images round differently, by up to 1e-6"
        ),
    }


# Most of the checks' tables are no square images, which is said once a fit.
@pytest.mark.filterwarnings("ignore:.*no square image")
@parametrize_with_checks(
    [DTTNClassifier(Variant((8,), (1,), stem=(1,)), max_epochs=50, learning_rate=0.02)],
    expected_failed_checks=expected_failed_checks,
)
def test_scikit_learns_checks(estimator, check, quick):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """The first 300 digits as whole numbers of eight bits, (300, 8, 8), and their labels."""
    images, y = load_digits(n_class=4, return_X_y=True)
    return images[:300].reshape(-1, 8, 8).astype(np.uint8), y[:300]


@pytest.fixture(scope="module")
def fitted(digits):
    return DTTNClassifier(**SMALL | {"max_epochs": 30}).fit(*digits)


@pytest.mark.long
def test_it_classifies_images_it_never_saw(digits):
    images, y = digits
    names = np.array(["zero", "one", "two", "three"])[y]
    model = DTTNClassifier(Variant((16,), (2,)), random_state=0).fit(images[:200], names[:200])
    flat = images.reshape(300, -1)
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(flat[:200], y[:200])
    linear = linear.score(flat[200:], y[200:])
    assert model.score(images[200:], names[200:]) >= 0.97 > 0.9 > linear
    assert model.classes_.tolist() == ["one", "three", "two", "zero"]
    p = model.predict_proba(images[200:])
    np.testing.assert_allclose(p.sum(1), 1)
    assert (model.predict(images[200:]) == model.classes_[p.argmax(1)]).all()


@pytest.mark.long
def test_all_forms_of_the_same_images_train_the_same_model(digits):
    images, y = digits
    forms = {
        "bytes": images,
        "floats": images.astype(float),
        "scaled": images.astype(np.float32) / 4,
        "channels": images[..., None],
        "flat": images.reshape(300, -1),
        "frame": pd.DataFrame(images.reshape(300, -1)),
    }
    models = {
        name: DTTNClassifier(**SMALL | {"max_epochs": 1}).fit(X, y) for name, X in forms.items()
    }
    first = models["bytes"].predict_proba(images)
    for name, model in models.items():
        assert model.image_shape_ == (8, 8, 1)
        assert model.n_features_in_ == 64
        np.testing.assert_allclose(model.predict_proba(forms[name]), first, atol=1e-4)


def test_colours_are_standardised_each(digits):
    images, y = digits
    rng = np.random.default_rng(0)
    colours = np.stack([images, 1000.0 + 5 * images, rng.normal(size=images.shape)], axis=-1)
    model = DTTNClassifier(**SMALL).fit(colours, y)
    assert model.image_shape_ == (8, 8, 3)
    np.testing.assert_allclose(model.mean_, colours.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(model.scale_, colours.std((0, 1, 2)), rtol=1e-6)
    flat = DTTNClassifier(**SMALL, image_shape=(8, 8, 3)).fit(colours.reshape(300, -1), y)
    np.testing.assert_array_equal(model.predict_proba(colours), flat.predict_proba(colours))


@pytest.mark.long
def test_images_that_are_no_squares(digits):
    images, y = digits
    model = DTTNClassifier(**SMALL, image_shape=(4, 16)).fit(images.reshape(300, -1), y)
    assert model.image_shape_ == (4, 16, 1)
    with pytest.warns(UserWarning, match="50 columns are no square image.*Set image_shape"):
        model = DTTNClassifier(**SMALL).fit(images.reshape(300, -1)[:, :50], y)
    assert model.image_shape_ == (1, 50, 1)


@pytest.mark.long
def test_sorted_images_train_as_shuffled_ones_do():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 8, 512)
    images = y[:, None, None] + 0.1 * rng.normal(size=(512, 4, 4))
    order = np.argsort(y, kind="stable")
    options = {"variant": Variant((8,), (1,), stem=(4,)), "max_epochs": 40, "batch_size": 64}
    scores = [
        DTTNClassifier(**options, random_state=0).fit(images[rows], y[rows]).score(images, y)
        for rows in (np.arange(512), order)
    ]
    assert min(scores) > 0.97


def test_images_in_other_units_are_refused(digits):
    images, y = digits
    model = DTTNClassifier(**SMALL).fit(images, y)
    with pytest.raises(ValueError, match="outputs of 2 of 5 images are not finite"):
        model.predict(np.concatenate([images[:3], 1e30 * (images[:2] + 1)]))
    with pytest.raises(ValueError, match="standard deviation is too large"):
        DTTNClassifier(**SMALL).fit(1e300 * images, y)


def test_a_channel_that_rounding_alone_moves_is_constant(digits):
    images, y = digits
    channels = np.stack([images, np.full_like(images, 0.1)], axis=-1)
    model = DTTNClassifier(**SMALL).fit(channels, y)
    assert model.scale_[1] == 1
    channels[..., 1] = 0.2
    assert np.isfinite(model.predict_proba(channels)).all()


@dataclasses.dataclass(frozen=True)
class Darker(Augmentation):
    def __call__(self, key, images, targets):
        return 0.5 * images, targets


def test_an_augmentation_of_ones_own_needs_no_name(digits):
    images, y = digits
    made = DTTNClassifier(**SMALL, augmentations=(Darker(),)).fit(images, y)
    plain = DTTNClassifier(**SMALL).fit(images, y)
    assert abs(made.predict_proba(images) - plain.predict_proba(images)).max() > 1e-3


def test_constant_images_and_channels_are_no_error(digits):
    _, y = digits
    model = DTTNClassifier(**SMALL).fit(np.zeros((300, 8, 8, 2)), y)
    assert np.isfinite(model.predict_proba(np.zeros((3, 8, 8, 2)))).all()


@pytest.mark.parametrize(
    ("options", "X", "message"),
    [
        ({"image_shape": (8, 9)}, "images", r"shape \(8, 8\), but image_shape is \(8, 9\)"),
        ({"image_shape": (8, 9)}, "flat", "have 72 numbers, X has 64 columns"),
        ({"image_shape": (8, 8, 1, 1)}, "flat", "image_shape must be"),
        ({"image_shape": (8, 0)}, "flat", "image_shape"),
        ({"variant": "tini"}, "images", "Unknown variant 'tini'. Did you mean 'tiny'"),
        ({"variant": 3}, "images", "variant must be one of .*got int"),
        ({"block": "aims"}, "images", "Unknown block 'aims'. Did you mean 'aim'"),
        ({"block": ()}, "images", "got none"),
        ({"block": 3}, "images", "block must be a name or a class"),
        ({"merge": "product"}, "images", "Unknown merge"),
        ({"augmentations": "horizontal_flip"}, "images", "must be a sequence such as"),
        ({"augmentations": ("flip",)}, "images", "augmentation"),
        ({"block": AIM(4, key=jax.random.key(0))}, "images", "block must be a name"),
        ({"merge": AIM}, "images", "merge must be a class"),
        (
            {"trainer": ImageGradient(optimizer=optax.sgd(0.1)), "learning_rate": 0.1},
            "images",
            "brings its own learning rate",
        ),
        ({"trainer": 3}, "images", "trainer must be an ImageGradient"),
        ({"early_stopping": "yes"}, "images", "early_stopping must be True or False"),
        ({"max_epochs": 0}, "images", "max_epochs"),
        ({"learning_rate": -1}, "images", "learning_rate"),
        ({"class_weight": {9: 1}}, "images", "class_weight"),
        (
            {"trainer": ImageGradient(checkpoint="c"), "random_state": None},
            "images",
            "random_state to an integer",
        ),
    ],
)
def test_bad_options_say_what_to_do(digits, options, X, message):
    images, y = digits
    X = {"images": images, "flat": images.reshape(300, -1)}[X]
    with pytest.raises(ValueError, match=message):
        DTTNClassifier(**SMALL | options).fit(X, y)


def test_bad_input_says_what_to_do(digits, fitted):
    images, y = digits
    with pytest.raises(NotFittedError):
        DTTNClassifier().predict(images)
    with pytest.raises(ValueError, match=r"\(4, 8, 1\), but those of fit had \(8, 8, 1\)"):
        fitted.predict(images[:, :4])
    with pytest.raises(ValueError, match="64 features"):
        fitted.predict(images.reshape(300, -1)[:, :50])
    with pytest.raises(ValueError, match="NaN"):
        fitted.predict(np.full((2, 8, 8), np.nan))
    with pytest.raises(ValueError, match="only one class"):
        DTTNClassifier(**SMALL).fit(images, np.zeros(300, int))
    with pytest.raises(ValueError, match="inconsistent"):
        DTTNClassifier(**SMALL).fit(images, y[:-1])


def test_the_same_random_state_repeats(digits, fitted):
    images, y = digits
    again = clone(fitted).fit(images, y)
    np.testing.assert_array_equal(fitted.predict_proba(images), again.predict_proba(images))
    other = clone(fitted).set_params(random_state=1).fit(images, y)
    assert not np.allclose(fitted.predict_proba(images), other.predict_proba(images))


def test_weights_of_zero_leave_samples_out(digits):
    images, y = digits
    weight = np.r_[np.ones(200), np.zeros(100)]
    weighted = DTTNClassifier(**SMALL).fit(images, y, sample_weight=weight)
    fewer = DTTNClassifier(**SMALL).fit(images[:200], y[:200])
    np.testing.assert_array_equal(weighted.predict_proba(images), fewer.predict_proba(images))
    heavy = DTTNClassifier(**SMALL | {"max_epochs": 20}, class_weight={0: 1e-3}).fit(images, y)
    assert (heavy.predict(images) == 0).mean() < 0.1 < (y == 0).mean()


def test_warm_start_goes_on(digits):
    images, y = digits
    model = DTTNClassifier(**SMALL, warm_start=True).fit(images, y)
    first = model.history_["loss"][-1]
    model.fit(images, y)
    assert model.n_iter_ == len(model.history_["loss"]) == 4
    assert model.history_["loss"][-1] < first
    with pytest.raises(ValueError, match=r"variant was .* set it back"):
        model.set_params(variant="tiny").fit(images, y)
    model.set_params(variant=TINY)
    with pytest.raises(ValueError, match="folded classifier cannot be trained on"):
        model.fold_batchnorm().fit(images, y)
    assert model.fit(images, y).n_iter_ == 6


def test_early_stopping_keeps_the_best(digits):
    images, y = digits
    model = DTTNClassifier(**SMALL | {"max_epochs": 60, "learning_rate": 0.05}, early_stopping=True)
    model.set_params(trainer=ImageGradient(early_stopping=EarlyStopping(patience=2)))
    model.fit(images, y)
    losses = model.history_["validation_loss"]
    assert model.n_iter_ == len(losses) < 60
    assert np.argmin(losses) == len(losses) - 3
    with pytest.raises(ValueError, match="set early_stopping=False"):
        model.fit(images[:5], [0, 0, 0, 0, 1])


def test_a_second_fit_compiles_nothing(digits, compilations):
    images, y = digits
    images = images[:, :7]  # of which no test before has compiled anything
    DTTNClassifier(**SMALL).fit(images, y).predict(images)
    before = len(compilations)
    assert before
    model = DTTNClassifier(**SMALL | {"random_state": 5, "learning_rate": 1e-3}).fit(images, y)
    model.predict(images)
    assert len(compilations) == before


def test_training_that_was_cut_off_goes_on_from_its_checkpoint(digits, tmp_path):
    images, y = digits

    def cut(epoch):
        if epoch.number == 2:
            raise KeyboardInterrupt

    options = SMALL | {"max_epochs": 4, "augmentations": (RandomCrop(1),)}
    whole = DTTNClassifier(**options).fit(images, y)
    model = DTTNClassifier(**options, trainer=ImageGradient(checkpoint=str(tmp_path / "c")))
    with pytest.raises(KeyboardInterrupt):
        clone(model).set_params(callbacks=[cut]).fit(images, y)
    resumed = clone(model).fit(images, y)
    np.testing.assert_array_equal(whole.predict_proba(images), resumed.predict_proba(images))
    with pytest.raises(ValueError, match="differs in images"):
        clone(model).fit(255 - images, y)


def test_what_was_trained_is_kept_when_training_is_interrupted(digits):
    images, y = digits

    def cut(epoch):
        if epoch.number == 1:
            raise KeyboardInterrupt

    model = DTTNClassifier(**SMALL, callbacks=[cut])
    with pytest.raises(KeyboardInterrupt):
        model.fit(images, y)
    assert model.n_iter_ == 1
    assert model.predict(images).shape == (300,)


def test_folding_predicts_the_same(digits, fitted):
    images, _ = digits
    folded = fitted.fold_batchnorm()
    p, q = fitted.predict_proba(images), folded.predict_proba(images)
    np.testing.assert_allclose(p, q, atol=1e-5)
    assert folded.model_.n_parameters < fitted.model_.n_parameters
    assert fitted.model_.moments
    assert not folded.model_.moments


@pytest.mark.long
def test_the_tree_of_a_trained_classifier(digits):
    images, y = digits
    # Blocks of 2 x 2 pixels as their sums, since nodes of the tree join the whole image.
    pooled = images.reshape(300, 4, 2, 4, 2).sum((2, 4))
    model = DTTNClassifier(**SMALL | {"max_epochs": 5, "variant": Variant((2,), (2,), stem=(2,))})
    model.fit(pooled, y)
    seen = ((pooled[..., None] - model.mean_) / model.scale_).reshape(300, -1)
    with jax.enable_x64(True):
        arrays, structure = pack(model.to_tree())
        leaves = np.repeat(np.c_[seen, np.ones(300)][:, None], structure.nsites, axis=1)
        outputs = np.asarray(contract(arrays, structure, leaves).dense())
    p = np.exp(outputs - outputs.max(1, keepdims=True))
    p = unsmoothed(p / p.sum(1, keepdims=True), model.label_smoothing_)
    np.testing.assert_allclose(p, model.predict_proba(pooled), rtol=1e-4, atol=1e-5)


def test_label_smoothing_is_not_reported(digits):
    images, y = digits
    model = DTTNClassifier(**SMALL | {"max_epochs": 3}).fit(images, y)
    assert model.label_smoothing_ == 0.1
    found, model.label_smoothing_ = model.predict_proba(images), 0.0
    as_trained = model.predict_proba(images)
    expected = np.maximum(as_trained - 0.1 / 4, 0.1 / 400)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True))


def test_masked_pixels_are_refused(digits):
    images, y = digits
    with pytest.raises(ValueError, match="X is masked in 1 places"):
        DTTNClassifier(**SMALL).fit(np.ma.masked_array(images, np.arange(images.size) == 7), y)


@pytest.fixture(scope="module")
def stored(digits, tmp_path_factory):
    """A model trained with many options, folded and not, with its probabilities elsewhere."""
    images, y = digits
    names = np.array(["zero", "one", "two", "three"])[y]
    folder = tmp_path_factory.mktemp("models")
    options = SMALL | {
        "variant": "tiny", "block": ("aim", "token_mixing"), "merge": "layer_norm_product",
        "augmentations": ("horizontal_flip", RandomCrop(1)), "trainer": ImageGradient(ema=0.9),
        "max_epochs": 1,
    }  # fmt: skip
    model = DTTNClassifier(**options).fit(images, names)
    models = {"trained": model, "folded": model.fold_batchnorm()}
    for name, model in models.items():
        model.save(folder / name)
    np.save(folder / "X.npy", images)
    code = """
import sys
import numpy as np, tn4ml_plus
folder, *names = sys.argv[1:]
X = np.load(folder + "/X.npy")
p = {name: tn4ml_plus.load(folder + "/" + name).predict_proba(X) for name in names}
np.savez(folder + "/p.npz", **p)
"""
    # One process for all: starting it takes longer than what it does.
    subprocess.run([sys.executable, "-c", code, str(folder), *models], check=True)
    found = np.load(folder / "p.npz")
    return {name: (model, load(folder / name), found[name]) for name, model in models.items()}


@pytest.mark.parametrize("name", ["trained", "folded"])
def test_another_process_predicts_bit_equally(name, stored, digits):
    model, loaded, found = stored[name]
    np.testing.assert_array_equal(found, model.predict_proba(digits[0]))
    assert loaded.get_params() == model.get_params()
    assert loaded.classes_.tolist() == model.classes_.tolist()
    assert loaded.history_ == model.history_
    assert set(vars(loaded)) == set(vars(model))


def test_a_loaded_model_is_trained_further_as_the_first(digits, tmp_path):
    images, y = digits
    model = DTTNClassifier(**SMALL, warm_start=True).fit(images, y)
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model").fit(images, y)
    model.fit(images, y)
    np.testing.assert_array_equal(model.predict_proba(images), loaded.predict_proba(images))


def test_a_class_as_block_cannot_be_saved(digits, tmp_path):
    model = DTTNClassifier(**SMALL, block=AIM).fit(*digits)
    with pytest.raises(ValueError, match="The parameter block cannot be saved"):
        model.save(tmp_path / "model")


@pytest.mark.long
def test_grid_search_reaches_into_the_variant(digits):
    images, y = digits
    search = GridSearchCV(
        DTTNClassifier(**SMALL), {"merge": ["batch_norm_product", "layer_norm_product"]}, cv=2
    )
    search.fit(images.reshape(300, -1), y)
    assert search.best_estimator_.n_features_in_ == 64
    model = DTTNClassifier(VARIANTS["tiny"]).set_params(variant__layers=(1,))
    assert model.variant.layers == (1,)


def test_without_equinox_the_error_names_the_extra():
    code = """
import sys
sys.modules["equinox"] = None
import numpy as np
import tn4ml_plus
try:
    tn4ml_plus.DTTNClassifier().fit(np.zeros((4, 8, 8)), [0, 1, 0, 1])
except ImportError as error:
    assert "tn4ml_plus[image]" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
