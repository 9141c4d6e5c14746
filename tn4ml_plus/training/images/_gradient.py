"""Training of image models by gradients: augmentation and step in one compiled loop per epoch."""

import abc
import dataclasses
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..._arrays import evenly_spaced
from ..._checks import check, check_instance, check_int, check_number
from ..._compiled import bounded_cache
from ..._forks import unforked
from ..._registry import variant
from .._gradient import Minibatches, Schedule, WarmupCosine, epoch_rates
from .._problem import bucket
from .._risk import nan_unless_finite, updated
from .._trainer import Step, Trainer

# Images that normalisations take their moments from.
_MOMENT_ROWS = 4096


@variant("image_trainer")
class ImageGradient(Trainer):
    """AdamW on minibatches of images, with the cross-entropy as loss.

    What is left over in an epoch is left out, other images each time.

    >>> ImageGradient(max_epochs=5).batch_size
    128

    Parameters
    ----------
    learning_rate : float, peak rate
    batch_size : int, images per step; all where they are fewer
    optimizer : optax transformation, optional, in place of Adam, decay and rate
    schedule : Schedule, shape of the learning rate over the run
    min_steps : int, steps at least, and ten epochs, where max_epochs is None
    weight_decay : float, of weights, not of biases and scales, times the learning rate
    label_smoothing : float, as in `tn4ml_plus.losses.CrossEntropy`
    augmentations : sequence of Augmentation, applied in sequence
    ema : float, optional
        Share of the averaged weights that each step keeps, in [0, 1); None: use the last weights.
    clip_norm : float, optional, cap on the gradient's global norm
    dtype : str, optional
        Of the maps, "bfloat16" for mixed precision; None: that on a GPU and single precision
        elsewhere.
    max_epochs, early_stopping, time_limit, callbacks, checkpoint : as in `Trainer`
    """

    learning_rate: float = 8e-3
    batch_size: int = 128
    optimizer: Any = None
    schedule: Schedule = dataclasses.field(default=WarmupCosine())
    min_steps: int = 300
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    augmentations: tuple = ()
    ema: float | None = None
    clip_norm: float | None = 1.0
    dtype: str | None = None

    advice: ClassVar[str] = "Lower learning_rate, or set clip_norm"

    def __post_init__(self):
        super().__post_init__()
        check_number("learning_rate", self.learning_rate, above=0)
        check_int("batch_size", self.batch_size, 1)
        check_int("min_steps", self.min_steps, 1)
        check_instance("schedule", self.schedule, Schedule)
        check_number("weight_decay", self.weight_decay, at_least=0)
        check_number("label_smoothing", self.label_smoothing, at_least=0, below=1)
        check_number("ema", self.ema, at_least=0, below=1, optional=True)
        check_number("clip_norm", self.clip_norm, above=0, optional=True)
        given = self.augmentations
        valid = isinstance(given, list | tuple) and all(isinstance(a, Augmentation) for a in given)
        check("augmentations", given, valid, "a sequence of objects such as RandomCrop(2)")
        object.__setattr__(self, "augmentations", tuple(given))
        valid = self.dtype in (None, "float32", "bfloat16")
        check("dtype", self.dtype, valid, "'float32', 'bfloat16' or None")

    def epochs(self, n_samples: int) -> int:
        steps = max(1, n_samples // self.batch_size)
        return self.max_epochs or max(10, -(-self.min_steps // steps))

    def init(self, problem):
        return jax.jit(self._program(problem).optimizer.init)(problem.params)

    def begin(self, problem):
        """The model, twice where its weights are averaged, and the state."""
        model = problem.params
        return (model,) if self.ema is None else (model, model), self.init(problem)

    def step(self, problem, params, state, epoch):
        """One compiled epoch of shuffled minibatches."""
        n, samples = problem.n_samples, problem.samples
        batch_size = min(self.batch_size, n)
        steps = n // batch_size
        weight = np.asarray(samples.weight)
        samples = samples._replace(weight=weight * weight.dtype.type(n / weight.sum(dtype=float)))
        rates = epoch_rates(self, self.learning_rate, n, epoch, steps)
        rates = np.pad(rates, (0, bucket(steps) - steps))
        rng = np.random.default_rng([problem.seed, epoch])
        rows = np.zeros((len(rates), batch_size), np.int32)
        rows[:steps] = rng.permutation(n)[: steps * batch_size].reshape(steps, -1)
        key = jax.random.key(rng.integers(2**31))
        batches = Minibatches(rows, rates.astype(np.float32), steps, first=epoch * steps)
        params, state, loss = _epoch(self._program(problem), params, state, samples, batches, key)
        return Step(params, state, float(loss) / steps, {"learning_rate": float(rates[steps - 1])})

    def outcome(self, problem, params):
        """A `Result` with the model, averaged or last, with moments of many images."""
        n = problem.n_samples
        # Each block sees all classes, however the images are sorted.
        rows = np.random.default_rng(problem.seed).permutation(evenly_spaced(n, _MOMENT_ROWS))
        # Blocks of one size, fewer than n_blocks rows left out.
        n_blocks = -(-len(rows) // min(self.batch_size, n))
        size = len(rows) // n_blocks
        blocks = rows[: len(rows) // size * size].reshape(-1, size).astype(np.int32)
        return problem.outcome(_with_moments(params[-1], problem.samples, blocks))

    def _program(self, problem):
        optimizer = self.optimizer or _adamw(self.weight_decay, self.clip_norm)
        numbers = problem.n_classes, self.label_smoothing, self.ema
        return Program(optimizer, self.augmentations, *numbers, self._dtype())

    def _dtype(self):
        on_gpu = jax.default_backend() == "gpu"
        return self.dtype or ("bfloat16" if on_gpu else str(jnp.result_type(float)))


class Program(NamedTuple):
    """Static part of a compiled epoch, besides the model and the shapes of arrays."""

    optimizer: Any
    augmentations: tuple
    n_classes: int
    label_smoothing: float
    ema: float | None
    dtype: str


@bounded_cache(64)
def _adamw(weight_decay, clip_norm):
    # One object for all trainings with these numbers: compiled epochs are keyed by it.
    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay, partial(jax.tree.map, lambda leaf: leaf.ndim > 1)),
        optax.scale(-1),
    )


@unforked
@partial(jax.jit, static_argnames="program")
def _epoch(program, params, state, samples, batches, key):
    rows, rates, steps, _, first = batches
    smoothing, n_classes = program.label_smoothing, program.n_classes

    def loss(model, images, targets):
        log_p = jax.nn.log_softmax(model(images.astype(program.dtype), []).astype(targets.dtype))
        return -(targets * log_p).sum(axis=1).mean()

    def body(i, carry):
        (model, *average), state, total = carry
        index, n_keys = rows[i], max(1, len(program.augmentations))
        images = samples.standardised(samples.images[index])
        targets = jax.nn.one_hot(samples.target[index], n_classes, dtype=images.dtype)
        targets = (1 - smoothing) * targets + smoothing / n_classes
        targets = targets * samples.weight[index][:, None].astype(images.dtype)
        keys = jax.random.split(jax.random.fold_in(key, i), n_keys)
        for augmentation, own in zip(program.augmentations, keys):
            images, targets = augmentation(own, images, targets)
        value, gradient = jax.value_and_grad(loss)(model, images, targets)
        updates, state = updated(program.optimizer, gradient, state, model)
        rate = rates[i]
        model = jax.tree.map(lambda p, u: (p + rate * u).astype(p.dtype), model, updates)
        if average:
            # The first averages are of fewer steps, so that the start does not count.
            t = (first + i + 1).astype(jnp.result_type(float))
            kept = jnp.minimum(program.ema, t / (t + 9.0))
            average = [jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, average[0], model)]
        return (model, *average), state, total + value

    total = jnp.zeros((), samples.scale.dtype)
    params, state, total = jax.lax.fori_loop(0, steps, body, (params, state, total))
    return params, state, nan_unless_finite(params, total)


@unforked
@jax.jit
def _with_moments(model, samples, blocks):
    """The model with the moments of these images in place of those of single batches.

    Source: Ioffe and Szegedy 2015, algorithm 2.
    """

    def block(index):
        model(samples.standardised(samples.images[index]), moments := [])
        return moments

    found = []
    for means, variances in jax.lax.map(block, blocks):
        found.append((means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)))
    return model.with_moments(found)


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
