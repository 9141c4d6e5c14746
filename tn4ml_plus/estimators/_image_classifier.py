"""Classification of images by deep tree tensor networks."""

import copy
import dataclasses
import difflib
import functools
import math
import numbers
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .._checks import check_int, function_tuple
from .._registry import register, resolve
from ..io import write
from ..training import (
    Augmentation,
    EarlyStopping,
    ImageGradient,
    ImageProblem,
    LabelledImages,
    image_outputs,
)
from ..training._problem import extend_history
from ._classes import ProbabilisticClassifier, read_classes
from ._parameters import NestedParameters
from ._state import to_state

# Parameters that training on from an earlier model cannot change.
_FIXED = ("variant", "block", "merge", "image_shape")


@register("estimator")
class DTTNClassifier(ProbabilisticClassifier, NestedParameters):
    """Classifier of images by a deep tree tensor network, `tn4ml_plus.image.DTTN`.

    Images are (n_samples, height, width), with channels (n_samples, height, width, channels), or
    flattened, (n_samples, n_features). Numbers may have any scale: each channel is standardised as
    in the training images.

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
    trainer : `tn4ml_plus.training.ImageGradient`
        Everything else about the training: label smoothing, averaged weights, checkpoints, ...
    learning_rate, max_epochs, batch_size : number
        Override the trainer's own values where not None.
    early_stopping : bool
        Set a tenth of the samples aside and keep the weights that did best on it.
    class_weight, warm_start, callbacks, random_state, verbose
        As in `TNClassifier`.

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_, n_iter_
        As in scikit-learn.
    model_
        The trained `tn4ml_plus.image.DTTN`, which reads (image - mean_) / scale_.
    image_shape_, mean_, scale_
        (height, width, channels); mean and deviation of the channels.
    history_
        Lists by name, one value an epoch.

    Raises
    ------
    ImportError
        Without equinox, the extra ``image``.
    ValueError
        For input or options that do not fit, before training.
    NotFiniteError
        When the loss stops being finite; the last finite weights are kept.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from tn4ml_plus.image import Variant
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = DTTNClassifier(Variant((16,), (2,)), random_state=0)
    >>> bool(clf.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.85)
    True
    """

    def __init__(
        self,
        variant="tiny",
        *,
        image_shape=None,
        block="aim",
        merge="batch_norm_product",
        augmentations=(),
        trainer=None,
        learning_rate=None,
        max_epochs=None,
        batch_size=None,
        early_stopping=False,
        class_weight=None,
        warm_start=False,
        callbacks=None,
        random_state=None,
        verbose=False,
    ):
        self.variant = variant
        self.image_shape = image_shape
        self.block = block
        self.merge = merge
        self.augmentations = augmentations
        self.trainer = trainer
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags

    def fit(self, X, y, sample_weight=None):
        """Train on images X, see the class, and labels y (n_samples,); returns self."""
        going_on = self.warm_start and hasattr(self, "model_")
        trainer = self._resolve_trainer()
        options = self._resolve_model()
        images = self._read(X, reset=not going_on)
        codes, weight, kept = read_classes(self, images, y, sample_weight, going_on=going_on)
        images = images[kept]
        rng = check_random_state(self.random_state)
        fitting, validation = self._split(trainer, codes, rng)
        seed, start = rng.randint(2**31 - 1, size=2)
        if going_on:
            self._check_unchanged()
            model = self.model_
        else:
            vars(self).pop("model_", None)
            self._fixed = {name: getattr(self, name) for name in _FIXED}
            self._is_folded = False
            axes = tuple(range(images.ndim - 1))
            self.mean_ = images[fitting].mean(axis=axes, dtype=float)
            with np.errstate(over="ignore"):
                scale = images[fitting].std(axis=axes, dtype=float)
            if not np.isfinite(scale).all():
                raise ValueError(
                    "The images' standard deviation is too large for a float: divide the images, "
                    "for example by their largest value."
                )
            # A constant channel has the deviation that rounding leaves.
            constant = scale <= 10 * np.finfo(float).eps * np.abs(self.mean_)
            self.scale_ = np.where(constant, 1, scale)
            model = self._model(options, jax.random.key(start))
            self.history_, self.n_iter_ = {}, 0

        def labelled(rows):
            return self._labelled(images[rows], codes[rows], weight[rows])

        problem = ImageProblem(
            params=model,
            samples=labelled(fitting),
            n_samples=len(fitting),
            n_classes=len(self.classes_),
            seed=int(seed),
            validation=None if validation is None else labelled(validation),
            callbacks=tuple(self.callbacks or ()),
            verbose=bool(self.verbose),
            task=self._task(trainer, images, codes, weight),
        )
        try:
            result = trainer.train(problem)
        except (Exception, KeyboardInterrupt) as error:
            if hasattr(error, "result") and error.result.n_iter:
                self._keep(error.result)
            raise
        self._keep(result)
        return self

    def predict_proba(self, X):
        """Class probabilities, (n_samples, n_classes) in the order of classes_."""
        check_is_fitted(self, "model_")
        images = self._read(X, reset=False)
        padding = np.zeros(len(images), np.int32)
        samples = self._labelled(images, padding, padding.astype(float))
        outputs = np.asarray(image_outputs(self.model_, samples), float)[: len(images)]
        if wrong := int((~np.isfinite(outputs)).any(axis=1).sum()):
            raise ValueError(
                f"The outputs of {wrong} of {len(images)} images are not finite: these images are "
                "far outside of those of fit. Give them in the same units."
            )
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def fold_batchnorm(self):
        """A new classifier for inference, with normalisations folded into the maps before them.

        It predicts the same with less work, and cannot be trained on; this one stays as it is.
        """
        check_is_fitted(self, "model_")
        twin = copy.copy(self)
        twin.history_ = copy.deepcopy(self.history_)
        twin.model_, twin._is_folded = self.model_.fold_batchnorm(), True
        return twin

    def to_tree(self, image_shape=None):
        """The quimb tree that computes the outputs of `model_`, see `tn4ml_plus.image.DTTN`.

        It reads standardised images. Only for small models and images.
        """
        check_is_fitted(self, "model_")
        return self.model_.to_tree(image_shape)

    def save(self, path):
        """Write the fitted model to one safetensors file, atomically; `tn4ml_plus.load` reads it.

        Raises NotFittedError before fit, ValueError for parameters that only code could rebuild
        (functions, classes), naming the parameter.
        """
        check_is_fitted(self, "model_")
        write(path, *to_state(self))

    def _restore(self, leaves, folded):
        """Put the stored numbers of a model in place."""
        model = self._model(self._resolve_model(), jax.random.key(0))
        model = model.fold_batchnorm() if folded else model
        treedef = jax.tree.structure(model)
        self.model_ = jax.tree.unflatten(treedef, map(jnp.asarray, leaves))
        self._is_folded = folded
        self._fixed = {name: getattr(self, name) for name in _FIXED}

    # Strings to objects -------------------------------------------------------------------------

    def _resolve_model(self):
        from .. import image  # needs equinox

        for name in ("early_stopping", "warm_start", "verbose"):
            if not isinstance(getattr(self, name), bool | int | np.bool_):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        several = isinstance(self.block, list | tuple)
        blocks = [
            _named("block", image.BLOCKS, block)
            for block in (self.block if several else [self.block])
        ]
        if not blocks:
            raise ValueError("block must be one or several, got none.")
        variant = _named("variant", image.VARIANTS, self.variant)
        if not isinstance(variant, image.Variant):
            raise ValueError(f"variant must be a name or a Variant, got {variant!r}.")
        return variant, tuple(blocks), _named("merge", image.MERGES, self.merge)

    def _model(self, options, key):
        from ..image import DTTN

        variant, block, merge = options
        n_outputs = len(self.classes_)
        return DTTN(variant, self.image_shape_, n_outputs, block=block, merge=merge, key=key)

    def _resolve_trainer(self):
        trainer = ImageGradient() if self.trainer is None else self.trainer
        if not isinstance(trainer, ImageGradient):
            raise ValueError(f"trainer must be an ImageGradient or None, got {trainer!r}.")
        function_tuple("callbacks", () if self.callbacks is None else self.callbacks)
        flat = ("learning_rate", "max_epochs", "batch_size")
        changes = {name: getattr(self, name) for name in flat if getattr(self, name) is not None}
        if self.early_stopping and trainer.early_stopping is None:
            changes["early_stopping"] = EarlyStopping()
        if isinstance(self.augmentations, str) or not hasattr(self.augmentations, "__iter__"):
            raise ValueError(
                f"augmentations must be a sequence such as ('horizontal_flip',), got "
                f"{self.augmentations!r}."
            )
        if trainer.optimizer is not None and self.learning_rate is not None:
            raise ValueError(
                "The trainer's optimizer brings its own learning rate: set learning_rate there."
            )
        given = tuple(
            each if isinstance(each, Augmentation) else resolve("augmentation", each)
            for each in self.augmentations
        )
        if given:
            changes["augmentations"] = given
        if trainer.checkpoint is not None and not isinstance(self.random_state, numbers.Integral):
            raise ValueError(
                "A checkpoint needs the same random numbers again: set random_state to an integer."
            )
        return dataclasses.replace(trainer, **changes)

    # Reading ------------------------------------------------------------------------------------

    def _read(self, X, reset):
        """Images as (n_samples, *image_shape_), whole numbers of eight bits or floats."""
        array = None if hasattr(X, "columns") else np.asarray(X)
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
        dtype = jnp.zeros(()).dtype
        if images.dtype != np.uint8:
            images = ((images - mean) / scale).astype(dtype)
            mean, scale = np.zeros_like(mean), np.ones_like(scale)
        parts = (part.astype(dtype) for part in (weight, mean, scale))
        return LabelledImages.padded(images, target, *parts)

    def _split(self, trainer, codes, rng):
        """Row numbers to fit on and to validate on (None without early stopping)."""
        rows = np.arange(len(codes))
        if trainer.early_stopping is None:
            return rows, None
        share = trainer.early_stopping.validation_fraction
        try:
            return train_test_split(rows, test_size=share, random_state=rng, stratify=codes)
        except ValueError as error:
            raise ValueError(
                f"Early stopping cannot set aside a validation set: {error} Give more samples or "
                "set early_stopping=False."
            ) from error

    def _task(self, trainer, images, codes, weight):
        """What tells this training from others, for a checkpoint."""
        if trainer.checkpoint is None:
            return {}
        digest = zlib.crc32(np.ascontiguousarray(images))
        for part in (codes, weight):
            digest = zlib.crc32(part, digest)
        return {
            "images, labels and weights": digest,
            "variant, block and merge": repr([self.variant, self.block, self.merge]),
            "random_state": int(self.random_state),
            "epochs before": self.n_iter_,
        }

    def _keep(self, result):
        self.model_ = result.params
        extend_history(self.history_, result.history)
        self.n_iter_ += result.n_iter

    def _check_unchanged(self):
        if self._is_folded:
            raise ValueError(
                "A folded classifier cannot be trained on: go on with the one that it came from, "
                "or fit anew with warm_start=False."
            )
        for name, first in self._fixed.items():
            if getattr(self, name) != first:
                raise ValueError(
                    f"{name} was {first!r} when the model was made and is {getattr(self, name)!r} "
                    "now: set it back, or fit anew with warm_start=False."
                )


def _named(kind, table, value):
    """The entry of that name; other values as they are."""
    if isinstance(value, str):
        if value not in table:
            close = difflib.get_close_matches(value, table, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"Unknown {kind} {value!r}.{hint} Valid names: {', '.join(map(repr, table))}."
            )
        return table[value]
    if not isinstance(value, type | functools.partial) and kind != "variant":
        raise ValueError(f"{kind} must be a name or a class, got {value!r}.")
    return value


def _channelled(shape):
    """(height, width, channels); ValueError for what is no shape of images."""
    valid = isinstance(shape, list | tuple) and len(shape) in (2, 3)
    if not valid:
        raise ValueError(
            f"image_shape must be (height, width) or (height, width, channels), got {shape!r}."
        )
    for size in shape:
        check_int("each size in image_shape", size, 1)
    return (*map(int, shape), 1)[:3]


def _shape_of(n_features):
    """Shape of flattened images of which only the number of columns is known."""
    side = math.isqrt(n_features)
    if side**2 == n_features:
        return side, side, 1
    warnings.warn(
        f"{n_features} columns are no square image: read as one row of pixels. Set image_shape to "
        "(height, width) or (height, width, channels).",
        stacklevel=4,
    )
    return 1, n_features, 1
