"""Training of image models by gradients: augmentation and step in one compiled loop an epoch."""

import dataclasses
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._arrays import evenly_spaced
from .._checks import check_instance, check_int, check_number, function_tuple
from .._registry import register
from ._augmentations import Augmentation
from ._checkpoint import Checkpoint
from ._loop import run
from ._problem import bucket
from ._schedules import Schedule, WarmupCosine
from ._stopping import EarlyStopping

# Images that normalisations take their moments from, and those evaluated at a time.
_MOMENT_ROWS, _BLOCK = 4096, 256


class LabelledImages(NamedTuple):
    """Images on the device, padded to a bucketed length with images of weight zero.

    images: (length, height, width, channels), whole numbers or floats, which the model sees as
    (images - mean) / scale; target: (length,) classes; weight: (length,); mean, scale: (channels,).
    """

    images: jax.Array
    target: jax.Array
    weight: jax.Array
    mean: jax.Array
    scale: jax.Array

    @classmethod
    def padded(cls, images, target, weight, mean, scale):
        """From arrays of any length."""
        padding = (0, _length(len(images)) - len(images))
        parts = (jnp.asarray(np.pad(part, padding)) for part in (target, weight))
        images = np.pad(images, [padding, (0, 0), (0, 0), (0, 0)])
        return cls(jnp.asarray(images), *parts, jnp.asarray(mean), jnp.asarray(scale))


def _length(n):
    """Bucketed number of images, a multiple of those evaluated at a time where it is larger."""
    length = bucket(n)
    return length if length <= _BLOCK else -(-length // _BLOCK) * _BLOCK


@dataclasses.dataclass
class ImageProblem:
    """One training task: an image model on labelled images.

    params: the model, a pytree of arrays that is called, and has `with_moments`, as
    `tn4ml_plus.image.DTTN` does; n_samples: the real ones among `samples`; seed: of all that is
    random; task: numbers and strings that tell this training from others, for a checkpoint.
    """

    params: Any
    samples: LabelledImages
    n_samples: int
    n_classes: int
    seed: int = 0
    validation: LabelledImages | None = None
    callbacks: tuple = ()
    verbose: bool = False
    task: dict = dataclasses.field(default_factory=dict)

    # What the loop over epochs asks networks for, and models have not.
    structures = ()
    anchor = None

    def validation_loss(self, model):
        """Mean cross-entropy of a model on the validation images, in nats."""
        log_p = jax.nn.log_softmax(image_outputs(model, self.validation))
        losses = -jnp.take_along_axis(log_p, self.validation.target[:, None], 1)[:, 0]
        weight = self.validation.weight
        return float(jnp.sum(losses * weight) / jnp.sum(weight))

    def networks(self, model, structures):
        """The model, in a list."""
        return [model]


@register("image_trainer")
@dataclasses.dataclass(frozen=True)
class ImageGradient:
    """AdamW on minibatches of images, cross-entropy as loss.

    learning_rate: peak rate; max_epochs: taken exactly, None for ten but at least `min_steps`
    steps; batch_size: images a step, all where they are fewer; what is left of an epoch is left
    out, each time others; optimizer: any optax transformation in place of Adam, decay and rate;
    weight_decay: of weights, not of biases and scales, times the learning rate; label_smoothing: as
    in `CrossEntropy`; augmentations: applied in turn; ema: in [0, 1), how much of the averaged
    weights each step keeps, None to use the last weights; clip_norm: cap on the gradient's global
    norm; dtype: of the maps, "bfloat16" for mixed precision, None for that on a GPU and for single
    precision elsewhere; checkpoint: file that is written after each epoch and from which training
    goes on, with the same settings and, which no file can tell, the same optimizer; the rest as in
    `Gradient`.

    >>> ImageGradient(max_epochs=5).batch_size
    128
    """

    learning_rate: float = 8e-3
    max_epochs: int | None = None
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
    early_stopping: EarlyStopping | None = None
    time_limit: float | None = None
    checkpoint: str | None = None
    callbacks: tuple = ()

    def __post_init__(self):
        check_number("learning_rate", self.learning_rate, above=0)
        check_int("max_epochs", self.max_epochs, 1, optional=True)
        check_int("batch_size", self.batch_size, 1)
        check_int("min_steps", self.min_steps, 1)
        check_instance("schedule", self.schedule, Schedule)
        check_number("weight_decay", self.weight_decay, at_least=0)
        check_number("label_smoothing", self.label_smoothing, at_least=0, below=1)
        check_number("ema", self.ema, at_least=0, below=1, optional=True)
        check_number("clip_norm", self.clip_norm, above=0, optional=True)
        check_instance("early_stopping", self.early_stopping, EarlyStopping, optional=True)
        check_number("time_limit", self.time_limit, above=0, optional=True)
        object.__setattr__(self, "callbacks", function_tuple("callbacks", self.callbacks))
        augmentations = self.augmentations
        if not isinstance(augmentations, list | tuple) or not all(
            isinstance(each, Augmentation) for each in augmentations
        ):
            raise ValueError(
                "augmentations must be a sequence of objects such as RandomCrop(2), got "
                f"{augmentations!r}."
            )
        object.__setattr__(self, "augmentations", tuple(augmentations))
        if self.dtype is not None and self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be 'float32', 'bfloat16' or None, got {self.dtype!r}.")

    def epochs(self, n_samples):
        """Number of epochs for this many images."""
        steps = max(1, n_samples // self.batch_size)
        return self.max_epochs or max(10, -(-self.min_steps // steps))

    def train(self, problem):
        """Train the model of an `ImageProblem`; returns a `Result`, the model as its params."""
        n, samples = problem.n_samples, problem.samples
        batch_size = min(self.batch_size, n)
        steps, n_epochs = n // batch_size, self.epochs(n)
        program = Program(
            self.optimizer or _adamw(self.weight_decay, self.clip_norm),
            self.augmentations,
            problem.n_classes,
            self.label_smoothing,
            self.ema,
            self._dtype(),
        )
        rates = np.ones(n_epochs * steps)
        if self.optimizer is None:
            rates = self.learning_rate * self.schedule.factors(n_epochs * steps)
        rates = rates.reshape(n_epochs, steps)
        samples = samples._replace(weight=samples.weight * (n / samples.weight.sum()))
        # Each block sees all classes, however the images are sorted.
        rows = np.random.default_rng(problem.seed).permutation(evenly_spaced(n, _MOMENT_ROWS))
        chosen = _in_blocks(rows, batch_size)

        def step(epoch, params, state):
            rng = np.random.default_rng([problem.seed, epoch])
            batches = np.zeros((bucket(steps), batch_size), np.int32)
            batches[:steps] = rng.permutation(n)[: steps * batch_size].reshape(steps, -1)
            padded = np.zeros(len(batches), np.float32)
            padded[:steps] = rates[epoch]
            key = jax.random.key(rng.integers(2**31))
            params, state, loss = _epoch(
                program, params, state, samples, batches, steps, padded, epoch * steps, key
            )
            return params, state, float(loss) / steps, {"learning_rate": float(rates[epoch, -1])}

        def evaluated(params):
            return _with_moments(params[-1], samples, chosen), ()

        model = problem.params
        start = (model,) if self.ema is None else (model, model)
        return run(
            problem, step, _start(program.optimizer, model), n_epochs,
            "Lower learning_rate, or set clip_norm",
            self.early_stopping, self.time_limit, self.callbacks, start, evaluated,
            self.checkpoint and Checkpoint(self.checkpoint, self._task(problem)),
        )  # fmt: skip

    def _dtype(self):
        on_gpu = jax.default_backend() == "gpu"
        return self.dtype or ("bfloat16" if on_gpu else str(jnp.zeros(()).dtype))

    def _task(self, problem):
        """What tells this training from others."""
        names = ("learning_rate", "max_epochs", "min_steps", "batch_size", "weight_decay")
        names = (*names, "label_smoothing", "ema", "clip_norm")
        mine = {name: getattr(self, name) for name in names}
        mine |= {"dtype": self._dtype(), "optimizer": self.optimizer is not None}
        mine |= {"n_samples": problem.n_samples, "seed": problem.seed}
        rest = (self.schedule, self.augmentations, self.early_stopping)
        return problem.task | mine | {"schedule and augmentations": repr(rest)}


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled epoch is keyed by, besides the model and the shapes of arrays."""

    optimizer: Any
    augmentations: tuple
    n_classes: int
    label_smoothing: float
    ema: float | None
    dtype: str


@cache
def _adamw(weight_decay, clip_norm):
    # One object for all trainings with these numbers: compiled epochs are keyed by it.
    def decayed(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay, decayed),
        optax.scale(-1),
    )


@partial(jax.jit, static_argnames="optimizer")
def _start(optimizer, params):
    return optimizer.init(params)


def _standardised(samples, images):
    """Images as models see them, in the precision of `scale`."""
    return (images.astype(samples.scale.dtype) - samples.mean) / samples.scale


@partial(jax.jit, static_argnames="program")
def _epoch(program, params, state, samples, batches, steps, rates, first, key):
    smoothing, n_classes = program.label_smoothing, program.n_classes

    def loss(model, images, targets):
        log_p = jax.nn.log_softmax(model(images.astype(program.dtype), []).astype(targets.dtype))
        return -(targets * log_p).sum(axis=1).mean()

    def body(i, carry):
        (model, *average), state, total = carry
        index, n_keys = batches[i], max(1, len(program.augmentations))
        images = _standardised(samples, samples.images[index])
        targets = jax.nn.one_hot(samples.target[index], n_classes, dtype=images.dtype)
        targets = (1 - smoothing) * targets + smoothing / n_classes
        targets = targets * samples.weight[index][:, None].astype(images.dtype)
        keys = jax.random.split(jax.random.fold_in(key, i), n_keys)
        for augmentation, own in zip(program.augmentations, keys):
            images, targets = augmentation(own, images, targets)
        value, gradient = jax.value_and_grad(loss)(model, images, targets)
        updates, state = program.optimizer.update(gradient, state, model)
        rate = rates[i]
        model = jax.tree.map(lambda p, u: (p + rate * u).astype(p.dtype), model, updates)
        if average:
            # The first averages are of fewer steps, so that the start does not count.
            t = first + i + 1
            kept = jnp.minimum(program.ema, t / (t + 9.0))
            average = [jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, average[0], model)]
        return (model, *average), state, total + value

    total = jnp.zeros((), samples.scale.dtype)
    params, state, total = jax.lax.fori_loop(0, steps, body, (params, state, total))
    # Weights that left the floats in the last step would show in no loss of this epoch.
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
    return params, state, jnp.where(finite, total, jnp.nan)


def _in_blocks(rows, size):
    """Row numbers as (n_blocks, at most size), fewer than n_blocks rows left out."""
    size = len(rows) // -(-len(rows) // size)
    return rows[: len(rows) // size * size].reshape(-1, size).astype(np.int32)


@jax.jit
def _with_moments(model, samples, blocks):
    """The model with the moments of these images in place of those of single batches.

    Source: Ioffe and Szegedy 2015, algorithm 2.
    """

    def block(index):
        model(_standardised(samples, samples.images[index]), moments := [])
        return moments

    found = []
    for means, variances in jax.lax.map(block, blocks):
        found.append((means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)))
    return model.with_moments(found)


def image_outputs(model, samples):
    """Outputs (length, n_outputs) of a model for padded images, in single precision at least."""
    return _outputs(model, samples, min(_BLOCK, len(samples.images)))


@partial(jax.jit, static_argnames="block")
def _outputs(model, samples, block):
    def part(images):
        return model(_standardised(samples, images))

    blocks = samples.images.reshape(-1, block, *samples.images.shape[1:])
    return jax.lax.map(part, blocks).reshape(len(samples.images), -1)
