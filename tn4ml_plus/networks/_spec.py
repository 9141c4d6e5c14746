"""What estimators ask of a network yet to be made."""

import numpy as np


class NetworkSpec:
    """Base of the specs, which make their network by a method ``random(nsites, ..., key=...)``."""

    def for_data(self, X, nsites):
        """The spec with what hangs on the data settled; X: (n_samples, n_features), may have NaN.

        Raises ValueError where the features at the sites do not allow it.
        """
        del X, nsites
        return self

    def orders(self, nsites, n_members, rng):
        """Which site of the data each member's sites read, (n_members, nsites).

        The given order first, then random ones from the `numpy.random.RandomState` rng.
        """
        shuffled = [rng.permutation(nsites) for _ in range(n_members - 1)]
        return np.stack([np.arange(nsites), *shuffled])
