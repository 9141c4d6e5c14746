"""Options of estimators, which may be names, to the recipe of an ensemble, and its training."""

import dataclasses
import itertools
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import numpy as np
import quimb.tensor as qtn

from .._arrays import evenly_spaced, on_device
from .._checks import check_int, function_tuple
from .._registry import resolve
from ..contraction import as_tree
from ..embeddings import Legendre
from ..ensembles import (
    Batch,
    Candidate,
    Ensemble,
    Fitting,
    Recipe,
    resolve_objective,
    resolve_trainer,
)
from ..losses import CrossEntropy, NegativeLogLikelihood
from ..tables import TRACED, Table, TableReader, padded_length, resolve_columns
from ..training import Gradient, Samples
from ._densities import orthonormal
from ._estimator import check_repeatable, check_switches, split

# Of fewer rows what is set aside tells less than the defaults know.
_LEAST_ROWS = 300
# Rows from which on networks are as sure as they may be, and epochs before which they are, too.
_MANY_ROWS, _LEAST_EPOCHS = 10_000, 40
# The decay of a candidate for noisy rows, in that of the default.
_STRONGER = 4.0
# A network leaves out no more than one of these parts of the rows.
_LEAST_PARTS = 4
# Rows that the least-squares start and the calibration look at.
_START_ROWS = 4096
# Rows of a source at most that networks are not trained on.
_ASIDE = 2048
#: Fields of trainers that are parameters of estimators, too.
FLAT = ("learning_rate", "max_epochs", "batch_size", "feature_dropout", "decay")


def legendre(n_samples, n_features):
    """Legendre polynomials of the degree that the amount of data supports."""
    if n_samples < 500 or n_features > 10:
        return Legendre(2)
    return Legendre(7 if n_features <= 5 else 4)


def filled(defaults: Recipe, options, shape, owner: str) -> Recipe:
    """Defaults with `NetworkOptions` filled in, for a table of that shape; ValueError for bad ones.

    The embedding of the defaults is a function of the shape.
    """
    for name in ("bond_dim", "n_members"):
        check_int(name, getattr(options, name), at_least=1)
    check_switches(options)
    check_int("max_categories", options.max_categories, at_least=2, optional=True)
    reading = dataclasses.replace(defaults.reading, **options._reading())
    callbacks = getattr(options, "callbacks", None)
    callbacks = function_tuple("callbacks", () if callbacks is None else callbacks)
    embedding, scaler = defaults.columns
    embedding = embedding(*shape) if options.embedding is None else options.embedding
    network = options.network
    if not isinstance(network, qtn.TensorNetwork):
        network = resolve("network", network)
    changes = {n: getattr(options, n) for n in FLAT if getattr(options, n) is not None}
    early_stopping = getattr(options, "early_stopping", False)
    recipe = dataclasses.replace(
        defaults,
        columns=resolve_columns(embedding, options.scaler, scaler),
        reading=reading,
        network=network,
        bond_dim=options.bond_dim,
        n_members=options.n_members,
        initializer=resolve("initializer", options.initializer),
        objective=resolve_objective(options.loss, defaults.objective, defaults.task, owner),
        trainer=resolve_trainer(options.trainer, defaults.trainer, changes, early_stopping),
        callbacks=callbacks,
        verbose=bool(options.verbose),
    )
    check_repeatable(recipe.trainer, options.random_state)
    tempered = options.trainer == "gradient" and _tempered(recipe, shape[0])
    candidates = tuple(_candidates(recipe, options, *shape))
    if tempered and not candidates:
        candidates = (Candidate(recipe.columns[0], recipe.trainer.feature_dropout),)
    return dataclasses.replace(recipe, candidates=candidates, tempered=tempered)


def _tempered(recipe, n_samples):
    """Whether networks become surer of few rows than they may be of others."""
    return (
        recipe.objective.loss == CrossEntropy()
        and recipe.trainer.early_stopping is None
        and n_samples < _MANY_ROWS
        and recipe.trainer.epochs(n_samples) >= _LEAST_EPOCHS
    )


def _candidates(recipe, options, n_samples, n_features):
    """Candidates for the resolution of columns, and for whether features are dropped."""
    if recipe.task == "density" or options.trainer != "gradient" or n_samples < _LEAST_ROWS:
        return
    embeddings, shares = [recipe.columns[0]], [recipe.trainer.feature_dropout]
    given = isinstance(recipe.network, qtn.TensorNetwork)
    if options.embedding is None and not given and n_features <= 100:
        degrees = (2, 4) if n_samples < 2000 else (2, 4, 7) if n_samples < 10_000 else (2, 7, 20)
        embeddings += [e for e in map(Legendre, degrees) if e not in embeddings]
    if options.feature_dropout is None:
        shares.append(0.0)
    if len(embeddings) + len(shares) == 2:
        return
    few, many = n_samples < 2000, n_samples >= 10_000
    yield from (Candidate(embeddings[0], share) for share in shares)
    # Fewer candidates have more networks that judge them.
    others = itertools.product(embeddings[1:], shares[-1:] if few or many else shares)
    yield from itertools.starmap(Candidate, others)
    if options.feature_dropout is None and options.decay is None and few:
        coarsest = min(embeddings, key=attrgetter("phys_dim"))
        yield Candidate(coarsest, shares[0], _STRONGER * float(recipe.trainer.decay))


def fine_legendre(n_samples, n_features):
    """Orthonormal Legendre polynomials of a high degree, for densities."""
    many = n_samples >= 500 or n_features <= 10
    return Legendre(8 if many else 4, orthonormal=True)


#: Of what learns where samples lie, from squared norms of outputs.
DENSITY = Recipe(
    "density",
    NegativeLogLikelihood(),
    Gradient(learning_rate=1e-2, decay=1.0, clip_norm=10.0, max_steps=1000),
    (fine_legendre, "gaussian_cdf"),
    TRACED,
    output_std=1.0,
)


def of_density(recipe, owner, scalers, born):
    """The recipe with an embedding that densities can be integrated in; ValueError without one.

    scalers: what the scaler must be, and which are, in words; born: whether exact marginals are
    asked for, which likelihoods of open chains and trees have.
    """
    (embedding, scaler), (kind, names) = recipe.columns, scalers
    if not isinstance(scaler, kind):
        raise ValueError(
            f"{owner} cannot carry densities over to raw columns with {type(scaler).__name__}: "
            f"take {names}."
        )
    # Single columns are drawn, and left out, at sites of their own.
    if not embedding.columnwise or embedding.site_features > 1:
        raise ValueError(
            "Densities take embeddings of single features, with a domain to integrate over; "
            f"{embedding!r} is none: leave embedding=None."
        )
    loss = recipe.objective.loss
    if born and not isinstance(loss, NegativeLogLikelihood):
        raise ValueError(
            f"Only the likelihood trains a density, got {loss!r}: leave loss=None, or add "
            "penalties to NegativeLogLikelihood()."
        )
    # Only a density needs an orthonormal basis; the norms of a given one weigh components.
    embedding = orthonormal(embedding) if loss.normalized else embedding
    accepts = {"accepts": as_tree} if born else {}
    return dataclasses.replace(recipe, columns=(embedding, scaler), **accepts)


class Data(NamedTuple):
    """Rows to train on: a table, encoded targets, and weights without zeros.

    Attributes
    ----------
    counts : Counts or None, of all rows where these are some
    stream : Stream or None, all rows where these are some
    """

    table: Table
    target: np.ndarray
    weight: np.ndarray
    counts: Any = None
    stream: Any = None

    @property
    def shape(self):
        """Number of all rows, and of columns."""
        n_rows = len(self.table) if self.stream is None else self.stream.n_rows
        return n_rows, self.table.shape[1]

    @property
    def total_weight(self):
        """Sum of the weights of all rows."""
        if self.stream is not None:
            return self.stream.n_rows * self.stream.mean_weight
        return self.weight.sum()

    def rows(self, chosen):
        """The rows that a boolean mask chooses."""
        arrays = self.target[chosen], self.weight[chosen]
        return self._replace(table=self.table.rows(chosen), target=arrays[0], weight=arrays[1])


def _subsets(recipe, n_samples, before, rng):
    """Rows that each network is trained on, (n_members, n), None where all are on all."""
    n_parts = max(recipe.n_members, _LEAST_PARTS)
    able = getattr(recipe.trainer, "trains_on_subsets", False) and recipe.n_members > 1
    if not (recipe.leaves_out and able and before is None and n_samples >= 2 * n_parts):
        return None
    parts = np.array_split(rng.permutation(n_samples), n_parts)[: recipe.n_members]
    subsets = [np.setdiff1d(np.arange(n_samples), part) for part in parts]
    return np.array([rows[: min(map(len, subsets))] for rows in subsets])


def prepared(recipe, data, rng, before=None, outputs=(None, None)):
    """Reader, ensemble before training, and the arguments of its `train`.

    before: a reader and an ensemble to go on from; outputs: how many there are, and what they are
    without noise.
    """
    fitting, validation = split(recipe.trainer, data.target, recipe.task == "classification", rng)
    if data.stream is not None and validation is None:
        # They cost nothing where there are so many.
        mixed, n_aside = rng.permutation(len(fitting)), min(_ASIDE, len(fitting) // 2)
        fitting, validation = np.sort(mixed[n_aside:]), np.sort(mixed[:n_aside])
    if before is None:
        rows = fitting[evenly_spaced(len(fitting), _START_ROWS)]
        reader, U = TableReader.fit_transform(
            data.table, data.weight, recipe.columns, reading=recipe.reading, rows=rows,
            counts=data.counts,
        )  # fmt: skip
        batch = Batch(U[rows], reader.embed(U[rows]), data.weight[rows], reader.unit_weights)
        phys_dims = reader.embedding.phys_dims(reader.width)
        ensemble = Ensemble.start(recipe, batch, phys_dims, *outputs, rng)
    else:
        reader, ensemble = before
        U = reader.transform(data.table)

    def samples(rows):
        length, target = padded_length(len(rows)), data.target[rows]
        padding = [(0, length - len(rows))]
        return Samples(
            jax.device_put(reader.embed(U[rows], length)),
            on_device(np.pad(target, padding + [(0, 0)] * (target.ndim - 1))),
            on_device(np.pad(data.weight[rows], padding), float),
        )

    held_out = None if validation is None else samples(validation)
    if data.stream is None:
        subsets = _subsets(recipe, len(fitting), before, rng)
        fitted = Fitting(samples(fitting), len(fitting), subsets)
    else:
        few = fitting[evenly_spaced(len(fitting), _START_ROWS)]
        windows = data.stream.windows(reader, data.stream.kept[validation])
        fitted = Fitting(samples(few), windows.n_samples, windows=windows)
    return reader, ensemble, (recipe, fitted, held_out, reader.neutral, rng)
