"""Classification of images by deep tree tensor networks."""

import copy
import dataclasses
import functools
import math
from typing import Any, NotRequired

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from .. import training
from .._arrays import on_device, rounded
from .._checks import check, function_tuple, int_tuple, warn
from .._forks import is_forked, unforked
from .._registry import lookup, resolve
from ..losses import unsmoothed
from ..tables import unmasked
from ._classifier import ProbabilisticClassifier, read_classes
from ._deployable import Exportable
from ._estimator import (
    FittedInEpochs,
    ResumableOptions,
    as_estimator,
    check_repeatable,
    check_switches,
    extended,
    fits,
    reads,
    split,
)


class FittedImageClassifier(FittedInEpochs):
    """Results of fitting a classifier of images."""

    classes_: np.ndarray
    image_shape_: tuple[int, int, int]
    mean_: Float[np.ndarray, " channels"]
    scale_: Float[np.ndarray, " channels"]
    # Files of before it was undone know nothing of it.
    label_smoothing_: NotRequired[float]
    _leaves: list[np.ndarray]
    _folded: bool


# Differences with squares that are floats of full precision.
_LEAST_SPREAD = 1e-145


@as_estimator
class DTTNClassifier(ProbabilisticClassifier, Exportable, ResumableOptions):
    """Classifier of images by a deep tree tensor network, `tn4ml_plus.image.DTTN`.

    Images are (n_samples, height, width), with channels (n_samples, height, width, channels), or
    flattened, (n_samples, n_features). Numbers may have any scale: each channel is standardised as
    in the training images. See `TNClassifier` for the parameters, attributes and errors that are
    not described here.

    >>> from sklearn.datasets import load_digits
    >>> from tn4ml_plus.image import Variant
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = DTTNClassifier(Variant((16,), (2,)), random_state=0)
    >>> bool(clf.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.85)
    True

    Parameters
    ----------
    variant : str or `tn4ml_plus.image.Variant`
        ``"tiny"``, ``"small"`` and ``"base"`` are for images of up to some 64 pixels a side,
        ``"T"``, ``"S"`` and ``"L"`` those of the paper.
    image_shape : tuple
        (height, width) or (height, width, channels) of flattened images; None takes squares.
    block : str, class or sequence of them
        ``"aim"``, or as ablations ``"sim_conv"``, ``"sim_linear"``, ``"no_product"``;
        ``"token_mixing"`` reads the whole image at once. A sequence is used in turn.
    merge : str or class
        ``"batch_norm_product"`` is DTTN, which `to_tree` unfolds; ``"layer_norm_product"`` is
        DTTN-dagger, which is no tensor network.
    augmentations : sequence of str or `tn4ml_plus.training.Augmentation`
        Such as ``("horizontal_flip", RandomCrop(2))``; none unless given, since whether a flipped
        image shows the same depends on the images.
    trainer : `tn4ml_plus.training.ImageGradient`, all else: label smoothing, checkpoints, ...

    Attributes
    ----------
    model_ : trained `tn4ml_plus.image.DTTN`, which reads (image - mean_) / scale_
    image_shape_, mean_, scale_ : (height, width, channels); mean and deviation of the channels
    label_smoothing_ : float, that of the trainer, which `predict_proba` undoes

    Raises
    ------
    ImportError : without equinox, the extra ``image``
    """

    variant: Any = "tiny"
    _: dataclasses.KW_ONLY
    image_shape: tuple | None = None
    block: Any = "aim"
    merge: Any = "batch_norm_product"
    augmentations: Any = ()
    trainer: Any = None
    class_weight: Any = None

    _fitted = FittedImageClassifier
    _unchangeable = ("variant", "block", "merge", "image_shape")

    def __sklearn_is_fitted__(self):
        return "model_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    @fits
    def fit(self, X, y, sample_weight=None):
        """Train on images X; returns self. See `TNClassifier.fit` for the parameters."""
        going_on = self._goes_on()
        trainer = self._resolve_trainer()
        options = self._resolve_model()
        images = self._read(X, reset=not going_on)
        codes, weight, kept = read_classes(self, images, y, sample_weight, going_on=going_on)
        images = images[kept]
        rng = check_random_state(self.random_state)
        fitting, validation = split(trainer, codes, True, rng)
        seed, start = rng.randint(2**31 - 1, size=2)
        if going_on:
            if self._is_folded:
                raise ValueError(
                    "A folded classifier cannot be trained on: go on with the one that it came "
                    "from, or fit anew with warm_start=False."
                )
            self._check_unchanged("the model was made")
            model, history, n_iter = self.model_, self.history_, self.n_iter_
        else:
            self.mean_, self.scale_ = _standardization(images[fitting])
            model, history, n_iter = self._model(options, jax.random.key(start)), {}, 0

        def labelled(rows):
            return self._labelled(images[rows], codes[rows], weight[rows])

        problem = training.ImageProblem(
            params=model,
            samples=labelled(fitting),
            n_samples=len(fitting),
            n_classes=len(self.classes_),
            seed=int(seed),
            validation=None if validation is None else labelled(validation),
            callbacks=tuple(self.callbacks or ()),
            verbose=bool(self.verbose),
        )

        def keep(result):
            self.model_, self._is_folded, self._fixed = result.params, False, self._present_fixed()
            self.label_smoothing_ = trainer.label_smoothing
            self.history_ = extended(history, result.history)
            self.n_iter_ = n_iter + result.n_iter

        result = None
        try:
            result = trainer.train(problem)
            keep(result)
        except (Exception, KeyboardInterrupt) as error:
            result = getattr(error, "result", result)
            if result is not None and result.n_iter:
                keep(result)
            raise

    @reads
    def predict_proba(self, X) -> np.ndarray:
        """Class probabilities, (n_samples, n_classes) in the order of classes_.

        Without the label smoothing of training.
        """
        images = self._read(X, reset=False)
        padding = np.zeros(len(images), np.int32)
        samples = self._labelled(images, padding, padding.astype(float))
        outputs = np.asarray(training.image_outputs(self.model_, samples), float)
        if wrong := int((~np.isfinite(outputs[: len(images)])).any(axis=1).sum()):
            raise ValueError(
                f"The outputs of {wrong} of {len(images)} images are not finite: these images are "
                "far outside of those of fit. Give them in the same units."
            )
        with jax.enable_x64(True):
            return np.asarray(_softmax(outputs, self._smoothing))[: len(images)]

    # Files of before it was undone know nothing of it.
    _smoothing = property(lambda self: getattr(self, "label_smoothing_", 0.0))

    _readers = ()

    def _traced(self):
        shape, x64 = self.image_shape_, jax.config.jax_enable_x64
        leaves, tree = jax.tree.flatten(self.model_)
        mean, scale, dtype = self.mean_, self.scale_, jnp.result_type(float)

        def probabilities(X):
            images = (X.reshape(-1, *shape) - mean) / scale
            images = rounded(images.astype(dtype))
            # As the arguments that they are there: constants would be folded, and round anew.
            given = (rounded(on_device(x)) if hasattr(x, "shape") else x for x in leaves)
            model = jax.tree.unflatten(tree, given)
            channels = np.zeros_like(mean, dtype), np.ones_like(scale, dtype)
            samples = training.LabelledImages(images, None, None, *channels)
            with jax.enable_x64(x64):
                outputs = rounded(training.image_outputs(model, samples))
            return _softmax(outputs.astype(np.float64), self._smoothing)

        return probabilities

    @reads
    def fold_batchnorm(self):
        """A new classifier for inference, with normalisations folded into the maps before them.

        It predicts the same with less work, and cannot be trained on; this one stays as it is.
        """
        twin = copy.copy(self)
        twin.model_, twin._is_folded = self.model_.fold_batchnorm(), True
        return twin

    @reads
    def to_tree(self, image_shape=None):
        """The quimb tree that computes the outputs of `model_`, see `tn4ml_plus.image.DTTN`.

        It reads standardised images. Only for small models and images.
        """
        return self.model_.to_tree(image_shape)

    def __getstate__(self):
        state = super().__getstate__()
        if "model_" in state:
            state["model_"] = jax.tree.map(np.asarray, self.model_)
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if "model_" in state and not is_forked():
            self.model_ = jax.tree.map(on_device, self.model_)

    def _state(self):
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.model_)]
        return super()._state() | {"_leaves": leaves, "_folded": self._is_folded}

    def _restore(self, state):
        super()._restore(state)
        leaves, self._is_folded = vars(self).pop("_leaves"), vars(self).pop("_folded")
        channels = self.image_shape_[2]
        if math.prod(self.image_shape_) != self.n_features_in_ or len(self.mean_) != channels:
            raise ValueError(f"images of the shape {self.image_shape_} are not those of fitting")
        if not (self.scale_ > 0).all() or not 0 <= getattr(self, "label_smoothing_", 0) < 1:
            raise ValueError("scale_ must be positive and label_smoothing_ in [0, 1)")
        options = self._resolve_model()
        # Blocks and patches are made one by one, though without arrays but for constants.
        variant, n_numbers = options[0], sum(leaf.size for leaf in leaves)
        sizes = max(variant.channels + variant.expansions + (variant.stem or ()))
        if sum(variant.layers) + len(variant.stem or ()) > len(leaves) or sizes > n_numbers:
            raise ValueError(f"{len(leaves)} arrays of {n_numbers} numbers are not {variant}")
        model = self._shapes(options)
        found, wanted = ([(x.shape, x.dtype.kind) for x in each] for each in (leaves, model[0]))
        if found != wanted:
            raise ValueError(f"the arrays are not those of {options[0]}")
        self.model_ = jax.tree.unflatten(model[1], map(on_device, leaves))

    def _shapes(self, options):
        """Leaves of a model as shapes and dtypes, and its structure, without memory for arrays."""
        import equinox as eqx

        def make():
            model = self._model(options, jax.random.key(0))
            return model.fold_batchnorm() if self._is_folded else model

        return jax.tree.flatten(eqx.filter_eval_shape(make))

    def _resolve_model(self):
        check_switches(self)
        several = isinstance(self.block, list | tuple)
        blocks = [_class("block", each) for each in (self.block if several else [self.block])]
        if not blocks:
            raise ValueError("block must be one or several, got none.")
        return resolve("variant", self.variant), tuple(blocks), _class("merge", self.merge)

    def _model(self, options, key):
        from ..image import DTTN

        variant, block, merge = options
        n_outputs = len(self.classes_)
        return DTTN(variant, self.image_shape_, n_outputs, block=block, merge=merge, key=key)

    def _resolve_trainer(self):
        trainer = training.ImageGradient() if self.trainer is None else self.trainer
        valid = isinstance(trainer, training.ImageGradient)
        check("trainer", trainer, valid, "an ImageGradient or None")
        function_tuple("callbacks", () if self.callbacks is None else self.callbacks)
        flat = ("learning_rate", "max_epochs", "batch_size")
        changes = {name: getattr(self, name) for name in flat if getattr(self, name) is not None}
        if self.early_stopping and trainer.early_stopping is None:
            changes["early_stopping"] = training.EarlyStopping()
        valid = hasattr(self.augmentations, "__iter__") and not isinstance(self.augmentations, str)
        allowed = "a sequence such as ('horizontal_flip',)"
        check("augmentations", self.augmentations, valid, allowed)
        if trainer.optimizer is not None and self.learning_rate is not None:
            raise ValueError(
                "The trainer's optimizer brings its own learning rate: set learning_rate there."
            )
        given = tuple(
            each if isinstance(each, training.Augmentation) else resolve("augmentation", each)
            for each in self.augmentations
        )
        if given:
            changes["augmentations"] = given
        check_repeatable(trainer, self.random_state)
        return dataclasses.replace(trainer, **changes)

    def _read(self, X, reset):
        """Images as (n_samples, *image_shape_), whole numbers of eight bits or floats."""
        array = None if hasattr(X, "columns") else np.asarray(unmasked(X, "X"))
        if array is not None and array.ndim in (3, 4):
            shape = array.shape[1:]
            if self.image_shape is not None and _channelled(self.image_shape) != _channelled(shape):
                raise ValueError(
                    f"X has images of shape {shape}, but image_shape is {self.image_shape}."
                )
            if not reset and _channelled(shape) != self.image_shape_:
                raise ValueError(
                    f"X has images of shape {_channelled(shape)}, but those of fit had "
                    f"{self.image_shape_}."
                )
            X = array.reshape(len(array), math.prod(shape))
        else:
            shape = self.image_shape
        X = validate_data(self, X, reset=reset, dtype="numeric")
        if reset:
            self.image_shape_ = _shape_of(X.shape[1]) if shape is None else _channelled(shape)
            n_pixels = math.prod(self.image_shape_)
            if n_pixels != X.shape[1]:
                raise ValueError(
                    f"Images of shape {self.image_shape} have {n_pixels} numbers, X has "
                    f"{X.shape[1]} columns: set image_shape to the shape of the images."
                )
        if X.dtype != np.uint8:
            X = X.astype(float)
        return X.reshape(-1, *self.image_shape_)

    def _labelled(self, images, target, weight):
        """Images on the device, standardised unless they are bytes, of which that costs memory."""
        mean, scale = self.mean_, self.scale_
        dtype = jnp.result_type(float)
        if images.dtype != np.uint8:
            with np.errstate(over="ignore"):  # Outputs tell.
                images = ((images - mean) / scale).astype(dtype)
            mean, scale = np.zeros_like(mean), np.ones_like(scale)
        parts = (part.astype(dtype) for part in (weight, mean, scale))
        return training.LabelledImages.padded(images, target, *parts)


@unforked
@functools.partial(jax.jit, static_argnums=1, inline=True)
def _softmax(outputs, label_smoothing):
    """Class probabilities, without the label smoothing of training."""
    powers = jnp.exp(outputs - outputs.max(axis=1, keepdims=True))
    return unsmoothed(powers / powers.sum(axis=1, keepdims=True), label_smoothing)


def _standardization(images):
    """Mean and deviation of the channels; ValueError where the latter has no square."""
    axes = (0, 1, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = images.mean(axis=axes, dtype=float), images.std(axis=axes, dtype=float)
        spread = images.max(axis=axes).astype(float) - images.min(axis=axes)
    too_large, vanish = ~np.isfinite(scale), (spread > 0) & (spread < _LEAST_SPREAD)
    if too_large.any() or vanish.any():
        raise ValueError(
            f"The images' standard deviation is too {'large' if too_large.any() else 'small'} for "
            "its square to be a float: divide the images, for example by their largest value."
        )
    # A constant channel has the deviation that rounding leaves.
    constant = scale <= 10 * np.finfo(float).eps * np.abs(mean)
    return mean, np.where(constant, 1, scale)


def _class(kind, value):
    """The class of that name; classes and partial ones as they are."""
    if isinstance(value, str):
        return lookup(kind, value)
    check(kind, value, isinstance(value, type | functools.partial), "a name or a class")
    return value


def _channelled(shape):
    """(height, width, channels); ValueError for what is no shape of images."""
    valid = isinstance(shape, list | tuple) and len(shape) in (2, 3)
    check("image_shape", shape, valid, "(height, width) or (height, width, channels)")
    return (*int_tuple("each size in image_shape", shape), 1)[:3]


def _shape_of(n_features):
    """Shape of flattened images of which only the number of columns is known."""
    side = math.isqrt(n_features)
    if side**2 == n_features:
        return side, side, 1
    warn(
        f"{n_features} columns are no square image: read as one row of pixels. Set image_shape to "
        "(height, width) or (height, width, channels)."
    )
    return 1, n_features, 1
