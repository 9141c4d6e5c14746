"""Samples in windows: the updates of the same minibatches in memory."""

import dataclasses

import jax
import numpy as np
import pytest

from tn4ml_plus.contraction import pack
from tn4ml_plus.errors import ModelFileError
from tn4ml_plus.initializers import RandomNormal
from tn4ml_plus.io import read, write
from tn4ml_plus.losses import CrossEntropy
from tn4ml_plus.networks import MPS
from tn4ml_plus.training import (
    LBFGS,
    Embedded,
    Gradient,
    Problem,
    Samples,
    Windows,
    _run,
    stacked,
)

N_SAMPLES = 12


class Parts(Windows):
    """Windows of the samples of a problem, in their order."""

    def __init__(self, samples, lengths):
        self.samples, self.n_each, self.seeds = samples, lengths, []
        self.n_samples = N_SAMPLES
        self.mean_weight = float(np.mean(np.asarray(samples.weight, float)))

    def lengths(self):
        return self.n_each

    def epoch(self, seed):
        self.seeds.append(seed)
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


class Cut(Parts):
    """Windows of which not all can be read."""

    n_readable = 0

    def _parts(self):
        for window in super()._parts():
            if not self.n_readable:
                raise KeyboardInterrupt
            self.n_readable -= 1
            yield window


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("n_read", [1, 2])
def test_epochs_go_on_after_the_windows_that_were_trained_on(n_read, epoch, tmp_path, monkeypatch):
    monkeypatch.setattr(_run, "_OFTEN", 0.0)
    lengths, path = [4, 4, 4], tmp_path / "run"
    given = dataclasses.replace(problem(lengths), random_state=np.random.RandomState(3))
    trainer = Gradient(max_epochs=3, batch_size=2, learning_rate=0.01, feature_dropout=0.2)
    whole = trainer.train(given)
    trained, step = [], Gradient._trained
    monkeypatch.setattr(
        Gradient, "_trained", lambda self, part, *a: trained.append(1) or step(self, part, *a)
    )
    trainer = dataclasses.replace(trainer, checkpoint=path)
    windows = Cut(given.samples, lengths)
    windows.n_readable = 3 * epoch + n_read
    cut = dataclasses.replace(given, windows=windows, random_state=np.random.RandomState(3))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(cut)
    windows = Parts(given.samples, lengths)
    rest = dataclasses.replace(given, windows=windows, random_state=np.random.RandomState(3))
    result = trainer.train(rest)
    jax.tree.map(np.testing.assert_array_equal, result.params, whole.params)
    for name in ("loss", "learning_rate"):
        np.testing.assert_allclose(result.history[name], whole.history[name], rtol=1e-12)
    # None is trained on again, and the order of the epoch is the one that it had.
    assert len(trained) == 9
    assert windows.seeds[0] == cut.windows.seeds[-1]


@pytest.mark.parametrize(
    "begun",
    [[1, 1, 0.5], [1, 3, 0.5, 0.5], [1, 0, 0.5, 0.5], [-1, 1, 0.5, 0.5], [2**31, 1, 0.5, 0.5],
     [1, 1.0, 0.5, 0.5], [True, 1, 0.5, 0.5], [1, 1, None, 0.5], [1, 1, 0.5, float("inf")], "1"],
)  # fmt: skip
def test_epochs_that_cannot_have_begun_are_refused(begun, tmp_path, monkeypatch):
    monkeypatch.setattr(_run, "_OFTEN", 0.0)
    lengths, path = [4, 4, 4], tmp_path / "run"
    trainer = Gradient(max_epochs=1, batch_size=4, checkpoint=path)
    given = problem(lengths)
    windows = Cut(given.samples, lengths)
    windows.n_readable = 2
    with pytest.raises(KeyboardInterrupt):
        trainer.train(dataclasses.replace(given, windows=windows))
    arrays, metadata = read(path)
    assert metadata["checkpoint"]["begun"][1] in (1, 2)
    metadata["checkpoint"]["begun"] = begun
    write(path, arrays, metadata)
    with pytest.raises(ModelFileError, match="is damaged: the epoch that it has begun"):
        trainer.train(problem(lengths))


def test_checkpoints_within_epochs_are_written_once_in_a_while(tmp_path):
    path = tmp_path / "run"
    given = problem([4, 4, 4])
    windows = Cut(given.samples, [4, 4, 4])
    windows.n_readable = 2
    trainer = Gradient(max_epochs=1, batch_size=4, checkpoint=path)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(dataclasses.replace(given, windows=windows))
    assert not path.exists()


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
