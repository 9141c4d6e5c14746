"""Samples in windows: the updates of the same minibatches in memory."""

import dataclasses

import jax
import numpy as np
import pytest

from tn4ml_plus.contraction import pack
from tn4ml_plus.initializers import RandomNormal
from tn4ml_plus.losses import CrossEntropy
from tn4ml_plus.networks import MPS
from tn4ml_plus.training import LBFGS, Embedded, Gradient, Problem, Samples, Windows, stacked

N_SAMPLES = 12


class Parts(Windows):
    """Windows of the samples of a problem, in their order."""

    def __init__(self, samples, lengths):
        self.samples, self.n_each = samples, lengths
        self.n_samples = N_SAMPLES
        self.mean_weight = float(np.mean(np.asarray(samples.weight, float)))

    def lengths(self):
        return self.n_each

    def epoch(self, rng):
        return self._parts()

    def _parts(self):
        start, length = 0, self.n_each[0]
        for n in self.n_each:
            phi, target, weight = (np.asarray(array)[start : start + n] for array in self.samples)
            start += n
            pad = [(0, length - n)]
            columns = np.pad(phi.reshape(n, -1), [*pad, (0, 0)], mode="edge")
            embedded = Embedded(columns, jax.tree_util.Partial(unflattened), phi.shape[1:])
            yield Samples(embedded, np.pad(target, pad), np.pad(weight, pad))


def unflattened(columns):
    """Vectors of chains of four sites from their entries in a row."""
    return columns.reshape(len(columns), 4, -1)


class InOrder(np.random.RandomState):
    """Random numbers by which nothing is shuffled."""

    def permutation(self, n):
        return np.arange(n)


def problem(windows=None):
    """Two chains on weighted samples, all in memory or in windows of these lengths."""
    start = RandomNormal(0.6, add_identity=True)
    packs = [
        pack(MPS.random(4, bond_dim=3, n_outputs=3, initializer=start, key=jax.random.key(m)))
        for m in range(2)
    ]
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(N_SAMPLES, 4, 2)).astype(np.float32)
    weight = rng.uniform(0.2, 3, N_SAMPLES).astype(np.float32)
    samples = Samples(*map(jax.numpy.asarray, (phi, rng.integers(3, size=N_SAMPLES), weight)))
    params = stacked(packed for packed, _ in packs)
    parts = windows and Parts(samples, windows)
    return Problem(
        structures=tuple(structure for _, structure in packs),
        objective=CrossEntropy(),
        params=params,
        anchor=params,
        samples=samples,
        n_samples=N_SAMPLES,
        neutral=jax.numpy.ones((4, 2)),
        random_state=InOrder(0),
        mean_weight=parts and parts.mean_weight,
        windows=parts,
    )


@pytest.mark.parametrize("lengths", [[12], [4, 4, 4], [8, 4]])
def test_windows_make_the_updates_of_all_samples(lengths):
    # Minibatches of four: the same, wherever windows end.
    trainer = Gradient(max_epochs=3, batch_size=4, learning_rate=0.01, decay=0.5)
    whole, parts = trainer.train(problem()), trainer.train(problem(lengths))
    for ours, theirs in zip(
        jax.tree.leaves(parts.params), jax.tree.leaves(whole.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts.history["loss"], whole.history["loss"], rtol=1e-5)
    rates = [np.diff(r.history["learning_rate"]) for r in (parts, whole)]
    np.testing.assert_allclose(*rates)


def test_trainers_of_all_samples_refuse_windows():
    with pytest.raises(ValueError, match="LBFGS trains on rows in memory"):
        LBFGS(max_epochs=1).train(problem([4, 4, 4]))


def test_what_fails_while_it_is_read_is_told():
    class Broken(Parts):
        def _parts(self):
            yield from list(super()._parts())[:1]
            raise OSError("the disk is gone")

    given = problem([4, 4, 4])
    broken = dataclasses.replace(given, windows=Broken(given.samples, [4, 4, 4]))
    with pytest.raises(OSError, match="the disk is gone") as told:
        Gradient(max_epochs=1, batch_size=4).train(broken)
    assert told.value.result.n_iter == 0
