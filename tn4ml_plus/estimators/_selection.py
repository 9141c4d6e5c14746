"""Selection of the embedding and of feature dropout by what does best on rows set aside."""

import dataclasses
import warnings
from typing import NamedTuple

import jax
import numpy as np
from sklearn.model_selection import train_test_split

from .._arrays import on_device
from .._registry import variant
from ..ensembles import Candidate, Ensemble
from ..errors import DivergenceWarning, InformationWarning, NotFiniteError
from ..training import EarlyStopping, Samples
from ._recipes import prepared

# More rows tell no more.
_MOST_ROWS = 60_000
_SHARE = 0.2
# Networks of each candidate: a single one would take those that need no averaging for the best.
_MEMBERS = 2


@variant("state", eq=False)
class Selection:
    """Candidates for the embedding and for feature dropout, and how they did on rows set aside.

    Parameters
    ----------
    candidates : tuple of Candidate, the default first
    losses : ndarray of shape (n_candidates,), mean losses on the rows set aside
    errors : ndarray of shape (n_candidates,)
        Standard errors of the differences from the loss of the first.
    """

    candidates: tuple
    losses: np.ndarray
    errors: np.ndarray

    @property
    def best(self) -> Candidate:
        """The candidate of the lowest loss."""
        return self.candidates[int(np.argmin(self.losses))]


class _Start(NamedTuple):
    """Networks of one embedding before training, and the rows as they read them."""

    ensemble: Ensemble
    samples: Samples
    held_out: Samples
    neutral: np.ndarray


def select(recipe, data, outputs, rng):
    """The `Selection` among a recipe's candidates, None where there is nothing to choose.

    See `prepared` for the parameters.

    All are trained together, as members of one ensemble that see the same rows through different
    embeddings, for half the epochs and at most a quarter of the largest number of steps.
    """
    categories = all(raw is not None and raw.dtype == object for raw in data.table.raw)
    candidates = recipe.candidates
    if categories:  # which have no resolution
        candidates = tuple(c for c in candidates if c.embedding == candidates[0].embedding)
    if len(candidates) < 2:
        return None
    recipe = dataclasses.replace(recipe, candidates=candidates)
    with warnings.catch_warnings():
        # What columns lose is told once, by the fit; candidates that diverge are not chosen.
        for told in (DivergenceWarning, InformationWarning):
            warnings.simplefilter("ignore", told)
        return _select(recipe, data, outputs, rng)


def _select(recipe, data, outputs, rng):
    seed = rng.randint(2**31 - 1)
    if len(data.target) > _MOST_ROWS:
        stratify = data.target if recipe.task == "classification" else None
        rows, _ = train_test_split(
            np.arange(len(data.target)), train_size=_MOST_ROWS, random_state=seed, stratify=stratify
        )
        data = data.rows(np.isin(np.arange(len(data.target)), rows))
    trainer = recipe.trainer
    shorter = {
        "early_stopping": EarlyStopping(validation_fraction=_SHARE),
        "max_epochs": trainer.max_epochs and -(-trainer.max_epochs // 2),
        "min_steps": -(-trainer.min_steps // 2),
        "max_steps": -(-trainer.max_steps // 4),
    }
    changes = {"n_members": _MEMBERS, "trainer": dataclasses.replace(trainer, **shorter)}
    recipe = dataclasses.replace(recipe, callbacks=(), **changes)

    def started(embedding):
        own = dataclasses.replace(recipe, columns=(embedding, recipe.columns[1]))
        given = prepared(own, data, np.random.RandomState(seed), None, outputs)
        _, ensemble, (_, (samples, n_samples), held_out, neutral, _) = given
        return _Start(ensemble, samples, held_out, neutral), n_samples

    starts = {candidate.embedding: None for candidate in recipe.candidates}
    for embedding in starts:
        starts[embedding], n_samples = started(embedding)
    parts = list(starts.values())
    samples, held_out = (
        part[0]._replace(phi=on_device(_side_by_side([each.phi for each in part])))
        for part in ([s.samples for s in parts], [s.held_out for s in parts])
    )
    neutral = _side_by_side([part.neutral for part in parts])
    nsites = [len(part.neutral) for part in parts]
    before = dict(zip(starts, np.cumsum([0, *nsites[:-1]]), strict=True))
    members = [(starts[c.embedding].ensemble, before[c.embedding]) for c in recipe.candidates]
    ensemble = Ensemble.joined(*zip(*members, strict=True))
    shares = tuple(np.repeat([c.feature_dropout for c in recipe.candidates], _MEMBERS).tolist())
    trainer = dataclasses.replace(recipe.trainer, feature_dropout=shares, early_stopping=None)
    problem = ensemble.problem(recipe, (samples, n_samples), None, neutral, rng)
    try:
        params = trainer.train(problem).params
    except NotFiniteError as error:
        params = error.result.params
    problem = dataclasses.replace(problem, validation=held_out)
    losses, weight = problem.validation_losses(params)
    losses = np.where(np.isfinite(losses), losses, np.inf)
    # Of averaged likelihoods.
    losses = losses.reshape(len(recipe.candidates), _MEMBERS, -1)
    losses = np.log(_MEMBERS) - np.logaddexp.reduce(-losses, axis=1)
    means = np.average(losses, axis=1, weights=weight)
    with np.errstate(invalid="ignore"):
        differences = losses - losses[0]
        squares = (differences - np.average(differences, axis=1, weights=weight)[:, None]) ** 2
    errors = np.sqrt(squares @ weight**2) / weight.sum()
    return Selection(recipe.candidates, means, errors)


def _side_by_side(arrays):
    """Vectors (..., nsites, phys_dim) of several embeddings, padded, along one axis of sites."""
    phys_dim = max(array.shape[-1] for array in arrays)
    arrays = jax.device_get(arrays)
    return np.concatenate(
        [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, phys_dim - a.shape[-1])]) for a in arrays],
        axis=-2,
    )
