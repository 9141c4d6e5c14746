"""Counts of categories and gaps in all rows of a table or a source."""

import dataclasses

import numpy as np

from ._kinds import is_missing
from ._table import Table

# Categories of a column that are counted where there are more.
_COUNTED = 1 << 16


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """Counts of all rows, whichever of them are kept.

    Parameters
    ----------
    n_rows : int
    missing : tuple of bool, whether a column has missing entries
    categories : tuple, per column the weights of its categories by these, None for others
    lowest, highest : ndarray of shape (n_columns,), ends of the numbers, NaN where there are none
    """

    n_rows: int
    missing: tuple[bool, ...]
    categories: tuple[dict | None, ...]
    lowest: np.ndarray
    highest: np.ndarray

    @classmethod
    def of(cls, table: Table, weight) -> "Counts":
        """Counts of the rows of a table.

        Parameters
        ----------
        table : Table
        weight : ndarray of shape (n_samples,)
        """
        missing, categories = [], []
        for floats, values in zip(table.floats.T, table.raw, strict=True):
            if values is None or values.dtype != object:
                categories.append(None)
                missing.append(bool(np.isnan(floats).any()))
                continue
            found = {}
            for value, w in zip(values.tolist(), weight.tolist(), strict=True):
                key = None if is_missing(value) else value
                found[key] = found.get(key, 0) + w
            missing.append(found.pop(None, None) is not None)
            categories.append(found)
        ends = np.fmin.reduce(table.floats), np.fmax.reduce(table.floats)
        return cls(len(table), tuple(missing), tuple(categories), *ends)

    def plus(self, others: "Counts") -> "Counts":
        """Counts of the rows of both; of very many categories, those of the frequent ones."""
        categories = []
        for one, other in zip(self.categories, others.categories, strict=True):
            found = one
            if other is not None:
                found = dict(one or {})
                for value, w in other.items():
                    found[value] = found.get(value, 0) + w
                if len(found) > 2 * _COUNTED:
                    found = {value: found[value] for value in by_frequency(found)[:_COUNTED]}
            categories.append(found)
        missing = (a or b for a, b in zip(self.missing, others.missing, strict=True))
        return Counts(
            self.n_rows + others.n_rows,
            tuple(missing),
            tuple(categories),
            np.fmin(self.lowest, others.lowest),
            np.fmax(self.highest, others.highest),
        )


def by_frequency(weights) -> list:
    """Categories by their weights, the most frequent first, ties in order of their text.

    Parameters
    ----------
    weights : dict
    """
    return sorted(weights, key=lambda v: (-weights[v], str(v)))
