"""The choice of trained networks to average, by rows that none of them was trained on."""

import numpy as np

# Standard errors of the fall of the loss that a choice needs.
_ERRORS = 3.0


def chosen_members(losses, weight) -> np.ndarray:
    """Numbers of the networks to average, as many as there are, some in place of worse ones.

    Networks are added one by one, with replacement, each the one with which the average of the
    likelihoods does best (Caruana et al. 2004, section 2.1). All networks are kept unless that is
    better by three standard errors: most differ by chance alone, and each makes the average better.

    >>> losses = np.tile([[0.2], [0.9], [0.3]], 100) + 0.1 * np.sin(np.arange(100))
    >>> chosen_members(losses, np.ones(100)).tolist()
    [0, 0, 0]

    Parameters
    ----------
    losses : ndarray of shape (n_members, n_samples)
        Minus the log-likelihoods of rows that no network was trained on.
    weight : ndarray of shape (n_samples,)
    """
    everyone = np.arange(len(losses))
    likelihoods = np.maximum(np.exp(losses.min(axis=0) - losses), np.finfo(float).tiny)
    chosen, total = [], np.zeros(losses.shape[1])
    for _ in everyone:
        found = np.log(total + likelihoods) @ weight
        chosen.append(int(np.argmax(found)))
        total += likelihoods[chosen[-1]]
    gain = np.log(total) - np.log(likelihoods.sum(axis=0))
    mean = np.average(gain, weights=weight)
    error = np.sqrt((gain - mean) ** 2 @ weight**2) / weight.sum()
    return np.sort(chosen) if mean > _ERRORS * error else everyone
