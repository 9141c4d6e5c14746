"""Compression of a trained model in measured stages."""

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check, check_int, check_number, int_tuple
from ..losses import Loss
from ..training import Checkpoint
from ..training._checkpoint import as_checkpoint
from ._base import in_place_of
from ._changing import BITS, grow, quantise
from ._compressed import Compressed, compressed, large_weights, n_bytes, n_parameters
from ._fitting import fit
from ._training import CROSS_ENTROPY, evaluate, per_sample, predict, train
from ._trees import ATTNGenerator

logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    """Row of a report: the model after a stage of a `CompressionPipeline`.

    Attributes
    ----------
    name, n_parameters, n_bytes : of the stage, of the whole model
    validation_loss, seconds : float, mean over the validation samples, and duration of the stage
    """

    name: str
    n_parameters: int
    n_bytes: int
    validation_loss: float
    seconds: float


class CompressionReport(NamedTuple):
    """Result of `CompressionPipeline.run`.

    Attributes
    ----------
    model : Compressed, the model of the last stage that was kept
    stages : list of Stage, all stages, a rejected growth step included
    errors : list of float, relative errors of the fits to the old weights
    """

    model: Compressed
    stages: list
    errors: list


@dataclasses.dataclass(frozen=True)
class CompressionPipeline:
    """Choice of large weights, generation, fit, training, growth and quantisation, all measured.

    Source: arXiv 2606.00130, section 7.6.

    >>> import equinox as eqx, jax
    >>> from tn4ml_plus.generators import train
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> mlp = eqx.nn.MLP(64, 10, 256, 2, key=jax.random.key(0))
    >>> mlp = train(mlp, X[:1000], y[:1000], n_epochs=5, key=jax.random.key(1)).model
    >>> pipeline = CompressionPipeline(min_size=2**16, fit_steps=10, bonds=(3,), n_epochs=5)
    >>> report = pipeline.run(
    ...     mlp, X[:1000], y[:1000], validation=(X[1000:], y[1000:]), key=jax.random.key(2)
    ... )
    >>> [stage.name for stage in report.stages]
    ['dense', 'generated', 'trained', 'bond_dim 3', 'int8']
    >>> report.stages[0].n_parameters, report.stages[2].n_parameters
    (85002, 19706)

    Parameters
    ----------
    generator, where : as in `compress`; by default all large weights are chosen
    min_size : int, entries of a large weight
    fit_steps : int, steps of `fit` to each old weight; 0 for random starts
    max_error : float
        Largest relative error of a fit that is kept. A worse one is near zero, so a random start of
        the weight's size takes its place.
    bonds : tuple of int
        Larger bonds to grow to in turn, each trained, until the validation loss is not lowered.
    bits : int, optional, 4 or 8, those of integer cores; None for no rounding
    n_epochs, batch_size, patience, isometry_weight : as in `train`, for each training
    loss, apply : as in `train`; without targets the loss is for the model's own outputs
    checkpoint : as in `train`, optional; each fit and training has a numbered file of its own
    """

    generator: Callable = ATTNGenerator
    where: Callable | None = None
    min_size: int = 2**16
    fit_steps: int = 300
    max_error: float = 0.9
    bonds: tuple[int, ...] = ()
    bits: int | None = 8
    n_epochs: int = 10
    batch_size: int = 64
    patience: int | None = 3
    isometry_weight: float = 0.0
    loss: Callable = CROSS_ENTROPY
    apply: Callable = per_sample
    checkpoint: Checkpoint | None = None

    def __post_init__(self):
        object.__setattr__(self, "checkpoint", as_checkpoint(self.checkpoint))
        for name in ("min_size", "n_epochs", "batch_size"):
            check_int(name, getattr(self, name), 1)
        check_int("fit_steps", self.fit_steps, 0)
        check_int("patience", self.patience, 1, optional=True)
        for name in ("max_error", "isometry_weight"):
            check_number(name, getattr(self, name), at_least=0)
        check("bonds", self.bonds, isinstance(self.bonds, list | tuple), "a sequence of integers")
        bonds = int_tuple("each of bonds", self.bonds)
        if list(bonds) != sorted(set(bonds)):
            raise ValueError(f"bonds must increase, got {self.bonds}.")
        check("bits", self.bits, self.bits in (*BITS, None), "4, 8 or None")

    def run(self, model, X, y=None, *, validation, key: jax.Array) -> CompressionReport:
        """Compress a trained model, which itself stays unchanged.

        Parameters
        ----------
        model : pytree, the model; ValueError where none of its weights is large
        X, y : as in `train`; without y, `loss` compares outputs with those of the model
        validation : (X, y), or X alone without y, by which epochs and growth are judged
        key : jax.Array, key of starts and orders
        """
        if y is None:
            if isinstance(self.loss, Loss):
                raise ValueError(
                    "Without y the model's own outputs are the targets: give "
                    "loss=squared_distance, or SoftTargets() for logits."
                )
            y = predict(model, X, apply=self.apply)
            validation = validation, predict(model, validation, apply=self.apply)
        stages, start = [], time.perf_counter()

        def note(name, model):
            nonlocal start
            value = evaluate(model, *validation, loss=self.loss, apply=self.apply)
            seconds = time.perf_counter() - start
            stages.append(Stage(name, n_parameters(model), n_bytes(model), value, seconds))
            logger.info("%s", stages[-1])
            start = time.perf_counter()
            return value

        names = "loss", "apply", "n_epochs", "batch_size", "patience", "isometry_weight"
        options = {name: getattr(self, name) for name in names}
        files = self._files()

        def trained(model, key):
            given = options | {"validation": validation, "checkpoint": next(files)}
            return train(model, X, y, key=key, **given).model

        first, second, third, *keys = jax.random.split(key, 3 + 2 * len(self.bonds))
        note("dense", model)
        small, errors = self._generated(model, first, files)
        # Generators that cannot grow are refused before time is spent on training.
        for bond in self.bonds:
            eqx.filter_eval_shape(grow, small, bond, key=key)
        note("generated", small)
        small = trained(small, second)
        best = note("trained", small)
        for bond, grow_key, train_key in zip(self.bonds, keys[::2], keys[1::2], strict=True):
            larger = trained(grow(small, bond, key=grow_key), train_key)
            value = note(f"bond_dim {bond}", larger)
            if value >= best:
                break
            small, best = larger, value

        if self.bits is not None:
            small = trained(quantise(small, self.bits), third)
            note(f"int{self.bits}", small)
        return CompressionReport(small, stages, errors)

    def _files(self):
        """The checkpoints of all fits and trainings in their order."""
        for number in itertools.count(1):
            yield None if self.checkpoint is None else self.checkpoint.numbered(number)

    def _generated(self, model, key, files):
        """The model with generators, and the errors of their fits."""
        errors = []

        def make(weight, key):
            start = in_place_of(weight, key, generator=self.generator)
            if not self.fit_steps or not jnp.any(weight):
                return start
            fitted = fit(start, weight, n_steps=self.fit_steps, checkpoint=next(files))
            errors.append(fitted.error)
            return fitted.generator if fitted.error <= self.max_error else start

        where = large_weights(model, self.min_size) if self.where is None else self.where
        return compressed(model, where, make, key), errors
