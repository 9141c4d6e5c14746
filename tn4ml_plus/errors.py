"""Errors and warnings that callers can catch by name."""


class NotFiniteError(FloatingPointError):
    """Training met a loss or gradient that is not finite; the last finite weights were kept."""


class ContractionTooLargeError(ValueError):
    """A contraction would need more memory or time than its limits allow."""


class MissingDataError(FileNotFoundError):
    """A data set's file is absent; the message names what to install or which path to give."""


class ForkedProcessError(RuntimeError):
    """JAX had run before this process was forked, and would hang; the message says what to do."""


class ModelFileError(ValueError):
    """A file of this library is damaged, contradicts itself or is of another kind or version."""


class DivergenceWarning(UserWarning):
    """The training loss climbed far above its start; the weights of the lowest loss were kept."""


class DurationWarning(UserWarning):
    """Training takes more than a minute by the trainer's own choice of epochs."""


class DomainWarning(UserWarning):
    """Features left the domain of their embedding and were clipped to it."""


class InformationWarning(UserWarning):
    """Something that columns hold is not used."""
