"""Compression of a trained model in stages, each of which is measured."""

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_int, check_number
from ..losses import CrossEntropy, Loss
from ._base import in_place_of
from ._compress import Compressed, compressed, large_weights, n_bytes, n_parameters
from ._fitting import fit
from ._growing import grow
from ._quantising import BITS, quantise
from ._training import evaluate, per_sample, predict, train
from ._trees import ATTNGenerator

logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    """One row of a report: the model after a stage of a `CompressionPipeline`.

    name: of the stage; n_parameters, n_bytes: of the whole model; validation_loss: mean over the
    validation samples; seconds: that the stage took.
    """

    name: str
    n_parameters: int
    n_bytes: int
    validation_loss: float
    seconds: float


class CompressionReport(NamedTuple):
    """What `CompressionPipeline.run` returns.

    model: the last stage's that was kept, a `Compressed`; stages: list of `Stage`, also of a
    growth that was tried in vain; errors: relative errors of the fits to the old weights.
    """

    model: Compressed
    stages: list
    errors: list


@dataclasses.dataclass(frozen=True)
class CompressionPipeline:
    """Choose large weights, generate them, fit, train, grow and quantise, looking at each stage.

    Parameters
    ----------
    generator : class of generators, or a partial of one with its options.
    where : function that gives of the model what to replace, as for `compress`; None: all weights
        of at least min_size entries.
    min_size : see where.
    fit_steps : steps of `fit` to each old weight, one weight after another; 0: random starts.
    max_error : relative error up to which a fit is kept. A worse one would start training from a
        weight near zero, so a random start of the weight's size takes its place.
    bonds : larger bonds to grow to in turn, each trained; the first that does not lower the
        validation loss is taken back and ends growth. Empty: no growth.
    bits : of integer cores, 4 or 8, trained with their rounding at last; None: no rounding.
    n_epochs, batch_size, patience, isometry_weight : of each training, as in `train`.
    loss : as in `train`, for the targets, or for the teacher's outputs where there are none.
    apply : as in `train`.

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
    loss: Callable = CrossEntropy()  # noqa: RUF009, a frozen dataclass
    apply: Callable = per_sample

    def __post_init__(self):
        check_int("min_size", self.min_size, 1)
        check_int("fit_steps", self.fit_steps, 0)
        check_number("max_error", self.max_error, at_least=0)
        check_int("n_epochs", self.n_epochs, 1)
        check_int("batch_size", self.batch_size, 1)
        check_int("patience", self.patience, 1, optional=True)
        check_number("isometry_weight", self.isometry_weight, at_least=0)
        if not isinstance(self.bonds, list | tuple):
            raise ValueError(f"bonds must be a sequence of integers, got {self.bonds!r}.")
        for bond in self.bonds:
            check_int("each of bonds", bond, 1)
        if list(self.bonds) != sorted(set(self.bonds)):
            raise ValueError(f"bonds must increase, got {self.bonds}.")
        if self.bits is not None and self.bits not in BITS:
            raise ValueError(f"bits must be 4, 8 or None, got {self.bits!r}.")

    def run(self, model, X, y=None, *, validation, key):
        """Compress a model that is trained already; it stays as it is.

        Parameters
        ----------
        model : the model.
        X, y : as in `train`; without y the model's own outputs are the targets, and `loss` must be
            one of outputs, such as `squared_distance` or `SoftTargets`.
        validation : (X, y), or X alone where there is no y: what growth and epochs are judged by.
        key : of starts and orders.

        Returns a `CompressionReport`. ValueError where nothing is large enough.
        """
        if y is None:
            if isinstance(self.loss, Loss):
                raise ValueError(
                    "Without y the model's own outputs are the targets: give "
                    "loss=squared_distance, or SoftTargets() for logits."
                )
            y = predict(model, X, apply=self.apply)
            validation = validation, predict(model, validation, apply=self.apply)
        stages = []

        def note(name, model, start):
            value = evaluate(model, *validation, loss=self.loss, apply=self.apply)
            seconds = time.perf_counter() - start
            stages.append(Stage(name, n_parameters(model), n_bytes(model), value, seconds))
            logger.info("%s", stages[-1])
            return value

        def trained(model, key):
            return train(
                model,
                *(X, y),
                loss=self.loss,
                key=key,
                n_epochs=self.n_epochs,
                batch_size=self.batch_size,
                validation=validation,
                patience=self.patience,
                isometry_weight=self.isometry_weight,
                apply=self.apply,
            ).model

        first, second, third, *keys = jax.random.split(key, 3 + 2 * len(self.bonds))
        note("dense", model, time.perf_counter())

        start = time.perf_counter()
        small, errors = self._generated(model, first)
        # What cannot grow shows before the time of training is spent.
        for bond in self.bonds:
            eqx.filter_eval_shape(grow, small, bond, key=key)
        note("generated", small, start)

        start = time.perf_counter()
        small = trained(small, second)
        best = note("trained", small, start)

        for bond, grow_key, train_key in zip(self.bonds, keys[::2], keys[1::2], strict=True):
            start = time.perf_counter()
            larger = trained(grow(small, bond, key=grow_key), train_key)
            value = note(f"bond_dim {bond}", larger, start)
            if value >= best:
                break
            small, best = larger, value

        if self.bits is not None:
            start = time.perf_counter()
            small = trained(quantise(small, self.bits), third)
            note(f"int{self.bits}", small, start)
        return CompressionReport(small, stages, errors)

    def _generated(self, model, key):
        """The model with generators, and the errors of their fits."""
        errors = []

        def make(weight, key):
            start = in_place_of(weight, key, generator=self.generator)
            if not self.fit_steps or not jnp.any(weight):
                return start
            fitted = fit(start, weight, n_steps=self.fit_steps)
            errors.append(fitted.error)
            return fitted.generator if fitted.error <= self.max_error else start

        where = large_weights(model, self.min_size) if self.where is None else self.where
        return compressed(model, where, make, key), errors
