"""Selection of embedding, dropout, decay and temperature by what does best on rows set aside."""

import dataclasses
import itertools
import threading
from concurrent.futures import CancelledError
from operator import attrgetter

import jax
import numpy as np
from jaxtyping import Float
from sklearn.model_selection import KFold, StratifiedKFold

from .._checks import untold
from .._compiled import on_threads
from .._registry import variant
from ..ensembles import Candidate
from ..errors import DivergenceWarning, InformationWarning, NotFiniteError
from ..tables import TableReader, padded_length
from ..training import Gradient, Samples, Schedule
from ._recipes import prepared

# More rows than the most tell no more, these few take no memory worth counting.
_FEW_ROWS, _MOST_ROWS = 2000, 60_000
# The loss of what is not finite, of which a square still is.
_DIVERGED = 1e100
# What vectors take at most where all candidates have embeddings of their own, in bytes.
_BYTES = 1 << 30
_N_FOLDS = 5
# Fewer than this say nothing.
_LEAST_ROWS = 60
# Share of the epochs of a fit, and the rate in its rates: short trainings at the rates of long ones
# would prefer what learns by heart before it has done so.
_LENGTH, _SPEED = 0.25, 2.0
# Most work of all candidates together, in that of the networks of a fit, for a few rows. More tell
# enough without being parted, and take their time: one network of each candidate reads them.
_BUDGET = 0.9
# Temperatures that are tried, and the spread of their logarithm that is expected, in which those
# of few rows stay near 1.
_TEMPERATURES, _SPREAD = 2.0 ** np.arange(-1, 4.25, 0.25), 1.0


@variant("state", eq=False)
class Selection:
    """Candidates for embedding, feature dropout and decay, and how they did on rows set aside.

    Parameters
    ----------
    candidates : tuple of Candidate, the default first
    losses : ndarray of shape (n_candidates,), mean losses on the rows set aside
    errors : ndarray of shape (n_candidates,)
        Standard errors of the differences from the loss of the first.
    temperature : float
        What the outputs of the trained networks are divided by, so that they are as sure of
        classes as the best candidate could be on the rows set aside (Guo et al. 2017, section 4).

    Examples
    --------
    >>> import numpy as np
    >>> from tn4ml_plus.embeddings import Legendre
    >>> from tn4ml_plus.ensembles import Candidate
    >>> candidates = Candidate(Legendre(2), 0.2), Candidate(Legendre(2), 0.0)
    >>> Selection(candidates, np.array([0.5, 0.4]), np.array([0.0, 0.02])).best
    Candidate(embedding=Legendre(degree=2, orthonormal=False), feature_dropout=0.0, decay=None)
    """

    candidates: tuple[Candidate, ...]
    losses: Float[np.ndarray, " n_candidates"]
    errors: Float[np.ndarray, " n_candidates"]
    temperature: float = 1.0

    def __post_init__(self):
        if not len(self.candidates) == len(self.losses) == len(self.errors) > 0:
            raise ValueError("there must be one loss and one error for each candidate")

    @property
    def best(self) -> Candidate:
        """The candidate of the lowest loss."""
        return self.candidates[int(np.argmin(self.losses))]


def select(recipe, data, outputs, rng):
    """The `Selection` among a recipe's candidates, None where there is nothing to choose.

    Those of one embedding are trained as members of one ensemble, each without one of five parts of
    the same rows, by which it is judged: a quarter of the fit's epochs at twice its learning rate,
    and as many parts as make nine tenths of its work, or one of many rows. See `prepared` for the
    parameters.
    """
    candidates, table = recipe.candidates, data.table
    if all(raw is not None and raw.dtype == object for raw in table.raw):
        # Categories have no resolution.
        candidates = tuple(c for c in candidates if c.embedding is candidates[0].embedding)
    # Of a source, the rows in memory.
    data = _few(recipe, candidates, data._replace(stream=None), rng)
    if recipe.task == "classification":
        # Others cannot be set aside in proportion.
        data = data.rows((np.bincount(data.target) >= _N_FOLDS)[data.target])
    least = 1 if recipe.tempered else 2
    if len(candidates) < least or len(data.target) < _LEAST_ROWS or np.ptp(data.target) == 0:
        return None
    # What columns lose is told once, by the fit; candidates that diverge are not chosen.
    with untold(DivergenceWarning, InformationWarning):
        temperatures = _TEMPERATURES if recipe.tempered else np.ones(1)
        found, weight = _held_out(recipe, candidates, data, outputs, rng, temperatures)
    losses = found[np.flatnonzero(temperatures == 1)[0]]
    means, differences = np.average(losses, axis=1, weights=weight), losses - losses[0]
    differences -= np.average(differences, axis=1, weights=weight)[:, None]
    errors = np.sqrt(differences**2 @ weight**2) / weight.sum()
    found = np.average(found[:, np.argmin(means)], axis=1, weights=weight)
    surprise = len(weight) * found + (np.log(temperatures) / _SPREAD) ** 2 / 2
    return Selection(candidates, means, errors, float(temperatures[np.argmin(surprise)]))


@dataclasses.dataclass(frozen=True)
class _Brief(Gradient):
    """Fewer epochs at a higher learning rate."""

    def epochs(self, n_samples):
        return max(1, round(_LENGTH * super().epochs(n_samples)))


@dataclasses.dataclass(frozen=True)
class _Faster(Schedule):
    """A schedule at a higher rate."""

    schedule: Schedule

    def factors(self, total_steps):
        return _SPEED * self.schedule.factors(total_steps)


def _held_out(recipe, candidates, data, outputs, rng, temperatures):
    """Losses on rows set aside at each temperature, and the weights of these rows.

    The losses have shape (n_temperatures, n_candidates, n_samples).
    """
    n_networks = int(_BUDGET * recipe.n_members / (_LENGTH * len(candidates)))
    if len(data.target) > _FEW_ROWS:
        n_networks = 1
    n_parts, seed = int(np.clip(n_networks, 1, _N_FOLDS)), rng.randint(2**31 - 1)
    # As many for each part.
    n_networks = n_parts * max(1, n_networks // n_parts)
    folds = StratifiedKFold if recipe.task == "classification" else KFold
    folds = folds(_N_FOLDS, shuffle=True, random_state=rng).split(data.target, data.target)
    trained, parts = zip(*itertools.islice(folds, n_parts), strict=True)
    # Of one size.
    trained = [rng.permutation(rows)[: min(map(len, trained))] for rows in trained]
    owner = np.repeat(np.arange(n_parts), list(map(len, parts)))
    stop = threading.Event()
    changes = {"callbacks": (), "leaves_out": False, "n_members": n_networks}
    brief = {"schedule": _Faster(recipe.trainer.schedule)}
    brief |= {"early_stopping": None, "checkpoint": None, "callbacks": (_ends_with(stop),)}
    trainer = _Brief(**vars(recipe.trainer) | brief)
    brief = dataclasses.replace(recipe, **changes, trainer=trainer)

    def judged(embedding):
        """Losses of the candidates that have this embedding, and the weights."""
        # One number for each member of the fit says nothing of those that try.
        trainers = [each.of(recipe).trainer for each in candidates if each.embedding is embedding]
        own = {
            name: tuple(np.repeat([np.mean(getattr(t, name)) for t in trainers], n_networks))
            for name in ("feature_dropout", "decay")
        }
        columns = embedding, recipe.columns[1]
        given = dataclasses.replace(brief, columns=columns)
        # With one seed, all see the same rows.
        rng = np.random.RandomState(seed)
        start = prepared(given, data, rng, None, outputs)
        _, ensemble, (_, (samples, *rest), _, neutral, _) = start
        aside = _of(samples, np.concatenate(parts))
        given = brief, (samples, *rest), aside, neutral, rng
        repeated = np.tile(np.arange(n_networks), len(trainers))
        problem = ensemble.with_members(repeated).problem(*given)
        subsets = np.tile(trained, (len(trainers) * n_networks // n_parts, 1))
        try:
            # Nothing is asked of the rows set aside before the end.
            given = dataclasses.replace(problem, validation=None, subsets=subsets)
            params = dataclasses.replace(trainer, **own).train(given).params
        except NotFiniteError as error:
            params = error.result.params
        losses, weight = problem.validation_losses(params, temperatures)
        losses = np.where(np.isfinite(losses), losses, _DIVERGED)
        losses = losses.reshape(len(temperatures), len(trainers), -1, n_parts, len(owner))
        # Those of averaged likelihoods, and each row by the networks that have not seen it.
        losses = np.log(losses.shape[2]) - np.logaddexp.reduce(-losses, axis=2)
        return losses[:, :, owner, np.arange(len(owner))], weight

    embeddings = {id(each.embedding): each.embedding for each in candidates}
    found, weights = zip(*on_threads(judged, embeddings.values(), stop), strict=True)
    numbers = {name: iter(range(losses.shape[1])) for name, losses in zip(embeddings, found)}
    found = dict(zip(embeddings, found, strict=True))
    names = [id(each.embedding) for each in candidates]
    return np.stack([found[name][:, next(numbers[name])] for name in names], axis=1), weights[0]


def _ends_with(stop):
    """Callback that ends a training once an event is set: nobody waits for its outcome."""

    def callback(epoch):
        if stop.is_set():
            raise CancelledError(f"after epoch {epoch.number}")

    return callback


def _of(samples, rows):
    """The samples of these numbers, padded."""
    padding = (0, padded_length(len(rows)) - len(rows))
    phi, target, weight = (np.asarray(array)[np.pad(rows, padding)] for array in samples)
    weight = weight * np.pad(np.ones(len(rows), weight.dtype), padding)
    return jax.device_put(Samples(phi, target, weight))


def _few(recipe, candidates, data, rng):
    """Rows that are worth the time, and the memory of their vectors, in their order."""
    n_samples, most = len(data.target), _MOST_ROWS
    if n_samples > _FEW_ROWS:
        finest = max((each.embedding for each in candidates), key=attrgetter("phys_dim"))
        columns = finest, recipe.columns[1]
        reader = TableReader.fit(data.table, data.weight, *columns, recipe.reading)
        size = 4 * reader.nsites * reader.embedding.phys_dim * len(candidates)
        most = int(np.clip(_BYTES // size, _FEW_ROWS, _MOST_ROWS))
    chosen = np.ones(n_samples, bool)
    if n_samples > most:
        chosen[rng.permutation(n_samples)[most:]] = False
    return data.rows(chosen)
