"""When to stop before the last epoch."""

import dataclasses

from .._registry import register


@register("stopping")
@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation loss has not fallen for `patience` epochs; keep the best weights.

    validation_fraction: share of the training samples set aside, in (0, 1); min_delta: by how much
    the loss must fall to count.

    >>> EarlyStopping(patience=3)
    EarlyStopping(patience=3, validation_fraction=0.1, min_delta=0.0)
    """

    patience: int = 10
    validation_fraction: float = 0.1
    min_delta: float = 0.0

    def __post_init__(self):
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, got {self.patience!r}.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be between 0 and 1, got {self.validation_fraction!r}."
            )
