"""Members of a committee that detects anomalies: each scores rows that it reads in its own way."""

import dataclasses

import numpy as np
from sklearn.utils import Tags, TargetTags

from .._registry import register
from ..ensembles import Ensemble
from ..tables import TableReader
from ._base import HoldsNetworks
from ._scores import Score


@register("state")
@dataclasses.dataclass(frozen=True, eq=False)
class View(HoldsNetworks):
    """A reader, an ensemble, how they score rows, and how the ensemble was trained."""

    _reader: TableReader
    _ensemble: Ensemble
    score: Score
    history_: dict
    n_iter_: int
    random_state: int

    def __sklearn_tags__(self):
        tags = Tags(estimator_type=None, target_tags=TargetTags(required=False))
        tags.input_tags.allow_nan = True
        return tags

    @property
    def n_features_in_(self) -> int:
        """Number of columns."""
        return self._reader.n_features

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the columns, where they have any."""
        if self._reader.names is None:
            raise AttributeError("These columns have no names.")
        return np.array(self._reader.names, object)

    @property
    def explains_columns(self) -> bool:
        """Whether each site reads one column, so that `surprises` are those of columns."""
        return self._reader.explains_columns

    def of_table(self, table) -> np.ndarray:
        """Scores of the rows of a table, (n_samples,)."""
        return self.score.of_rows(self._reader, self._ensemble, table)

    def surprises(self, table) -> np.ndarray:
        """Score without a column minus that with it, (n_samples, n_features)."""
        return self.score.surprises(self._reader, self._ensemble, table)

    def score_samples(self, X) -> np.ndarray:
        """Log-densities of the rows of X, or minus their losses, (n_samples,)."""
        return self.of_table(self._read(X))
