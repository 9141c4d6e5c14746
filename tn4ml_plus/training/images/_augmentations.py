"""Random changes of images that keep their content, drawn anew at every step."""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from ..._checks import check_int, check_number
from ..._registry import variant


class Augmentation(abc.ABC):
    """A frozen dataclass that is called inside the compiled step."""

    @abc.abstractmethod
    def __call__(self, key, images, targets):
        """Images and targets, both changed.

        Parameters
        ----------
        key : jax.Array, of random numbers
        images : array (batch, height, width, channels)
        targets : array (batch, n_classes), probabilities of the classes times sample weights
        """


@variant("augmentation")
class HorizontalFlip(Augmentation):
    """Left and right exchanged in half of the images, for classes that do not mind.

    >>> HorizontalFlip()
    HorizontalFlip()
    """

    def __call__(self, key, images, targets):
        flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
        return jnp.where(flipped, images[:, :, ::-1], images), targets


@variant("augmentation")
class RandomCrop(Augmentation):
    """Each image moved by up to `padding` pixels along both axes; its edges fill the rest.

    >>> RandomCrop(padding=4)
    RandomCrop(padding=4)
    """

    padding: int = 2

    def __post_init__(self):
        check_int("padding", self.padding, 1)

    def __call__(self, key, images, targets):
        n, shape, p = len(images), images.shape[1:], self.padding
        padded = jnp.pad(images, ((0, 0), (p, p), (p, p), (0, 0)), mode="edge")
        corners = jax.random.randint(key, (n, 2), 0, 2 * p + 1)
        crop = lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), shape)  # noqa: E731
        return jax.vmap(crop)(padded, corners), targets


@dataclasses.dataclass(frozen=True)
class _Mixing(Augmentation):
    """Images mixed with the next one of the batch; alpha: of the Beta(alpha, alpha) of shares."""

    alpha: float = 1.0
    probability: float = 0.5

    def __post_init__(self):
        check_number("alpha", self.alpha, above=0)
        check_number("probability", self.probability, above=0, at_most=1)

    def __call__(self, key, images, targets):
        chosen, share, place = jax.random.split(key, 3)
        n = len(images)
        mixed = jax.random.bernoulli(chosen, self.probability, (n,))
        shares = jax.random.beta(share, self.alpha, self.alpha, (n,), images.dtype)
        others = jnp.roll(images, 1, 0)
        images, shares = self._mixed(place, images, others, jnp.where(mixed, shares, 1))
        shares = shares[:, None]
        return images, shares * targets + (1 - shares) * jnp.roll(targets, 1, 0)

    @abc.abstractmethod
    def _mixed(self, key, images, others, shares):
        """Images with these shares (batch,) of their own, and the shares that they have."""


@variant("augmentation")
class Mixup(_Mixing):
    """Means of two images and of their targets (Zhang et al. 2018).

    >>> Mixup(alpha=0.2).probability
    0.5

    Parameters
    ----------
    alpha : float, above 0, of the Beta(alpha, alpha) that shares are drawn from
    probability : float, in (0, 1], that an image is mixed at all
    """

    def _mixed(self, key, images, others, shares):
        own = shares[:, None, None, None]
        return own * images + (1 - own) * others, shares


@variant("augmentation")
class CutMix(_Mixing):
    """A rectangle of another image, with its share of the target (Yun et al. 2019).

    See `Mixup` for the parameters.

    >>> CutMix().alpha
    1.0
    """

    def _mixed(self, key, images, others, shares):
        inside = True
        rows_and_columns = zip(images.shape[1:3], jax.random.split(key), strict=True)
        for axis, (size, key) in enumerate(rows_and_columns):
            centre = jax.random.uniform(key, shares.shape) * size
            half = jnp.sqrt(1 - shares) * size / 2
            pixel = jnp.arange(size, dtype=shares.dtype) + 0.5
            within = jnp.abs(pixel[None] - centre[:, None]) < half[:, None]
            inside = inside & jnp.expand_dims(within, (2, 3) if axis == 0 else (1, 3))
        return jnp.where(inside, others, images), 1 - inside.mean((1, 2, 3))
