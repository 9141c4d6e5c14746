"""Labelled images, the training task that they make, and what a model makes of them."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays import on_device
from ..._forks import unforked
from .._problem import Result, Trainable, bucket

# Images evaluated at a time.
_BLOCK = 256


class LabelledImages(NamedTuple):
    """Images on the device, padded to a bucketed length with images of weight zero.

    Attributes
    ----------
    images : array (length, height, width, channels)
        Whole numbers or floats, which the model sees as (images - mean) / scale.
    target : int array (length,), classes
    weight : array (length,)
    mean, scale : array (channels,)
    """

    images: jax.Array
    target: jax.Array
    weight: jax.Array
    mean: jax.Array
    scale: jax.Array

    @classmethod
    def padded(cls, images, target, weight, mean, scale):
        """Images of any number; see `LabelledImages` for the parameters."""
        length = bucket(len(images))
        # A multiple of the images evaluated at a time where it is larger.
        length = length if length <= _BLOCK else -(-length // _BLOCK) * _BLOCK
        padding = (0, length - len(images))
        parts = (on_device(np.pad(part, padding)) for part in (target, weight))
        images = np.pad(images, [padding, (0, 0), (0, 0), (0, 0)])
        return cls(on_device(images), *parts, on_device(mean), on_device(scale))

    def standardised(self, images):
        """Images as models see them, in the precision of `scale`."""
        axes = (None,) * (images.ndim - 1)
        return (images.astype(self.scale.dtype) - self.mean[axes]) / self.scale[axes]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageProblem(Trainable):
    """A training task: an image model on labelled images.

    Parameters
    ----------
    params : pytree, the model, called with images and with `with_moments` as `image.DTTN` has it
    samples : LabelledImages
    n_samples : int, number of real images, which come before the padding
    n_classes : int
    seed : int, of all that is random
    validation : LabelledImages, optional
    callbacks : tuple of functions of an `Epoch`
    verbose : bool, whether to show progress
    """

    params: Any
    samples: LabelledImages
    n_samples: int
    n_classes: int
    seed: int = 0
    validation: LabelledImages | None = None
    callbacks: tuple = ()
    verbose: bool = False

    def validation_loss(self, params) -> float:
        """Mean cross-entropy of a model on the validation images, in nats."""
        log_p = jax.nn.log_softmax(image_outputs(params, self.validation))
        losses = -jnp.take_along_axis(log_p, self.validation.target[:, None], 1)[:, 0]
        weight = self.validation.weight
        return float(jnp.sum(losses * weight) / jnp.sum(weight))

    def outcome(self, params) -> Result:
        return Result(params)

    def networks(self, result: Result) -> list:
        return [result.params]


@unforked
@jax.jit
def image_outputs(model, samples: LabelledImages) -> jax.Array:
    """Outputs (length, n_outputs) of a model, in single precision at least.

    Parameters
    ----------
    model : pytree, as in `ImageProblem`
    samples : LabelledImages, padded
    """

    def part(images):
        return model(samples.standardised(images))

    block = min(_BLOCK, len(samples.images))
    blocks = samples.images.reshape(-1, block, *samples.images.shape[1:])
    return jax.lax.map(part, blocks).reshape(len(samples.images), -1)
