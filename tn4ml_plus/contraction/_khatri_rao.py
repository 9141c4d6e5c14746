"""Products of states, sample by sample."""

from functools import reduce


def khatri_rao(*factors):
    """(p, batch), (q, batch), ... -> (p * q * ..., batch), the first index slowest.

    >>> import numpy as np
    >>> khatri_rao(np.array([[1], [2]]), np.array([[3], [5]])).ravel().tolist()
    [3, 5, 6, 10]
    """
    return reduce(lambda a, b: (a[:, None] * b[None]).reshape(-1, b.shape[-1]), factors)
