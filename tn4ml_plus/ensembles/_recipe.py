"""Options as objects: what is trained, from what, how and on which loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from .._registry import names, resolve, variant
from ..embeddings import Embedding
from ..losses import CallableLoss, Loss, Objective, OptaxLoss
from ..training import EarlyStopping, Sequential, Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """All that decides on an ensemble and its training, in objects.

    Parameters
    ----------
    task : str
        ``"classification"``, ``"regression"`` or ``"density"``, which trains the squared norms of
        outputs instead of the outputs.
    objective : Objective
    trainer : Trainer
    columns : (Embedding, Scaler)
    reading : Reading
        Treatment of what is missing, of dates and of rare categories.
    output_std : float
        Standard deviation of the outputs before training.
    network : NetworkSpec or quimb TensorNetwork
        The specification of the networks, or the network to start from.
    bond_dim, n_members : int
    initializer : Initializer
    accepts : callable
        Raises ValueError for a network that cannot be used.
    callbacks : tuple of callables
    verbose : bool
    candidates : tuple of Candidate
        What a `Selection` chooses from, the default first.
    tempered : bool
        Whether a `Selection` chooses a temperature.
    leaves_out : bool
        Whether each of several networks is trained without a part of the rows, by which the noise
        of targets is measured.
    """

    task: str
    objective: Objective
    trainer: Any
    columns: tuple
    reading: Any
    output_std: float = 0.1
    network: Any = None
    bond_dim: int | None = None
    n_members: int = 1
    initializer: Any = None
    accepts: Callable = lambda network: None
    callbacks: tuple = ()
    verbose: bool = False
    candidates: tuple = ()
    tempered: bool = False
    leaves_out: bool = False


@variant("candidate")
class Candidate:
    """An embedding, a feature dropout and a decay that a selection may choose.

    Parameters
    ----------
    embedding : Embedding
    feature_dropout : float
    decay : float or None, which leaves that of the trainer
    """

    embedding: Embedding
    feature_dropout: float
    decay: float | None = None

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with this, and nothing left to choose."""
        decay = recipe.trainer.decay if self.decay is None else self.decay
        trainer = dataclasses.replace(
            recipe.trainer, feature_dropout=self.feature_dropout, decay=decay
        )
        columns = self.embedding, recipe.columns[1]
        return dataclasses.replace(recipe, columns=columns, trainer=trainer, candidates=())


def resolve_objective(loss, default: Objective, task: str, owner: str) -> Objective:
    """Objective that a loss stands for; ValueError for one that is unknown or of another task.

    Parameters
    ----------
    loss : str, Loss, Objective, callable or None
        None takes the default; names may be those of optax's losses.
    default : Loss or Objective
    task : str
        Task of the `Recipe`.
    owner : str
        Estimator to be trained, for the message.
    """
    loss = default if loss is None else loss
    if isinstance(loss, str) and loss not in names("loss") and hasattr(optax.losses, loss):
        loss = OptaxLoss(loss)
    if callable(loss) and not isinstance(loss, Loss | Objective | type):
        loss = CallableLoss(loss, task)
    loss = resolve("loss", loss)
    if loss.loss.task not in (task, None):
        raise ValueError(
            f"{type(loss.loss).__name__} is a {loss.loss.task} loss, which {owner} cannot train "
            "on: leave loss=None or choose another."
        )
    return loss


def resolve_trainer(trainer, default, changes: dict, early_stopping: bool):
    """Trainer that a name, an object or a sequence of them stands for.

    ValueError for an unknown trainer, and for changes of fields that none has.

    Parameters
    ----------
    trainer : str, Trainer or sequence of them
        A sequence is run in order, and each takes the changes that it has a field for.
    default : Trainer
        Stands for ``"gradient"``.
    changes : dict, values of fields
    early_stopping : bool
        Whether to stop early where no trainer says how.
    """
    several = isinstance(trainer, tuple | list)
    trainers = [
        default if each == "gradient" else resolve("trainer", each)
        for each in (trainer if several else [trainer])
    ]
    for each in trainers:
        if not isinstance(each, Trainer | Sequential):
            raise ValueError(
                f"{type(each).__name__} is no Trainer: derive it from tn4ml_plus.training.Trainer, "
                "and define its step."
            )
    if several or isinstance(trainers[0], Sequential):
        several, trainers = True, Sequential(trainers).trainers
    if early_stopping and not any(getattr(each, "early_stopping", None) for each in trainers):
        changes = changes | {"early_stopping": EarlyStopping()}
    fields = [{field.name for field in dataclasses.fields(each)} for each in trainers]
    unknown = sorted(set(changes).difference(*fields))
    if unknown:
        called = " or ".join(type(each).__name__ for each in trainers)
        raise ValueError(f"{called} has no {', '.join(unknown)}: leave it at its default.")
    trainers = [
        dataclasses.replace(each, **{n: v for n, v in changes.items() if n in known})
        for each, known in zip(trainers, fields, strict=True)
    ]
    return Sequential(trainers) if several else trainers[0]
