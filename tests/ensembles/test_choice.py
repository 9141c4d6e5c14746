"""The choice of networks to average: all but those that are clearly worse."""

import numpy as np
import pytest

from tn4ml_plus.ensembles._choice import chosen_members

N_ROWS = 2000


def losses(shifts, spread, seed=0):
    """Losses of networks around those of the rows, (n_members, N_ROWS)."""
    rng = np.random.default_rng(seed)
    rows = rng.exponential(0.3, N_ROWS)
    return rows + np.asarray(shifts)[:, None] + spread * rng.normal(size=(len(shifts), N_ROWS))


def mixed(found, members):
    """Losses of the average of likelihoods."""
    return -np.log(np.mean(np.exp(-found[members]), axis=0))


@pytest.mark.parametrize("seed", range(20))
def test_networks_that_differ_by_chance_are_all_kept(seed):
    found = losses(np.zeros(4), 0.2, seed)
    assert chosen_members(found, np.ones(N_ROWS)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("failed", [[1], [0, 3], [1, 2, 3]])
def test_networks_that_fail_are_replaced(failed):
    found = losses(0.3 * np.isin(np.arange(4), failed), 0.05)
    chosen = chosen_members(found, np.ones(N_ROWS))
    assert len(chosen) == 4
    assert not set(chosen) & {*failed}
    assert mixed(found, chosen).mean() < mixed(found, np.arange(4)).mean()


def test_rows_count_by_their_weight():
    found, weight = losses([0.0, 0.0], 0.01), np.ones(N_ROWS)
    found[0, :1000] += 1.0
    found[1, 1000:] += 1.0
    # Each knows one half of the rows, and only one half has a weight.
    assert chosen_members(found, weight).tolist() == [0, 1]
    weight[:1000] = 0
    assert chosen_members(found, weight).tolist() == [0, 0]


def test_losses_of_any_size_are_compared():
    found = losses([0.0, 0.2], 0.01) + 2000.0
    assert chosen_members(found, np.ones(N_ROWS)).tolist() == [0, 0]
    found[1] += 5000.0
    assert chosen_members(found, np.ones(N_ROWS)).tolist() == [0, 0]
