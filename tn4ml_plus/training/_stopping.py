"""When to stop before the last epoch."""

from .._checks import check_int, check_number
from .._registry import variant


@variant("stopping")
class EarlyStopping:
    """Stop when the validation loss has not fallen for `patience` epochs; keep the best weights.

    >>> EarlyStopping(patience=3)
    EarlyStopping(patience=3, validation_fraction=0.1, min_delta=0.0)

    Parameters
    ----------
    patience : int, epochs to wait
    validation_fraction : float, share of the training samples set aside, in (0, 1)
    min_delta : float, fall of the loss that counts, at least
    """

    patience: int = 10
    validation_fraction: float = 0.1
    min_delta: float = 0.0

    def __post_init__(self):
        check_int("patience", self.patience, 1)
        check_number("validation_fraction", self.validation_fraction, above=0, below=1)
        check_number("min_delta", self.min_delta, at_least=0)
