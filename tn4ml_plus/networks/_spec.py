"""Networks yet to be made, as estimators take them."""

import numpy as np
from jaxtyping import Int

from .._types import AnyArray

Orders = Int[np.ndarray, "{n_members} {nsites}"]


class NetworkSpec:
    """The base of specs, which make their network by a method ``random(nsites, ..., key=...)``."""

    #: Whether the squares of its networks without outputs have exact marginals, see `BornDensity`.
    has_exact_marginals = False

    def for_data(self, X: AnyArray, nsites: int) -> "NetworkSpec":
        """The spec with everything settled that depends on the data.

        Parameters
        ----------
        X : (n_samples, n_features), features, with NaN where they are missing
        nsites : int, number of sites that read them

        Raises
        ------
        ValueError
            Where the features at the sites do not allow it.
        """
        del X, nsites
        return self

    def orders(self, nsites: int, n_members: int, rng: np.random.RandomState) -> Orders:
        """Orders in which members read the sites of the data, (n_members, nsites).

        Parameters
        ----------
        nsites, n_members : int, number of sites and of networks
        rng : numpy.random.RandomState, for all members but the first, which has the given order
        """
        shuffled = [rng.permutation(nsites) for _ in range(n_members - 1)]
        return np.stack([np.arange(nsites), *shuffled])
