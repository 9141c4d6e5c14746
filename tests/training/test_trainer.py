"""A trainer of one's own, as the documentation shows it: it inherits all that makes it right."""

import dataclasses
import re
import sys
import types
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tn4ml_plus import TNBornMachine, TNClassifier, register
from tn4ml_plus._registry import from_json, to_json
from tn4ml_plus.contraction import SquaredNorm, contract, log_norm_squared, pack
from tn4ml_plus.embeddings import Legendre
from tn4ml_plus.errors import DivergenceWarning, DurationWarning, NotFiniteError
from tn4ml_plus.initializers import RandomNormal
from tn4ml_plus.losses import CrossEntropy, LogNorm, NegativeLogLikelihood
from tn4ml_plus.networks import MPS
from tn4ml_plus.training import (
    EarlyStopping,
    Gradient,
    Problem,
    Samples,
    Sequential,
    Step,
    Sweep,
    Trainer,
    _run,
)

NSITES, N_SAMPLES = 4, 12
ORDERS = np.array([[0, 1, 2, 3], [2, 0, 3, 1]])
PENALISED = CrossEntropy(0.1) + 0.3 * LogNorm()


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def sign_descent():
    """The class that docs/extending.md defines."""
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    (block,) = (
        block
        for block in re.findall(r"```{code-cell}\n(.*?)```", page, re.DOTALL)
        if "(Trainer):" in block
    )
    module = sys.modules["page"] = types.ModuleType("page")
    vars(module).update(dataclasses=dataclasses, jax=jax, jnp=jnp, register=register)
    exec(block, vars(module))
    yield module.SignDescent
    del sys.modules["page"]


def made(objective=PENALISED, **options):
    """Two members in orders of their own, weighted samples and padding."""
    is_density = objective.loss.task == "density"
    packs = [
        pack(
            MPS.random(
                NSITES, bond_dim=2, n_outputs=None if is_density else 3,
                initializer=RandomNormal(0.6, add_identity=True), key=jax.random.key(m),
            )
        )
        for m in range(2)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(N_SAMPLES + 2, NSITES, 2))
    phi[N_SAMPLES:] = 1e6
    weight = np.r_[rng.uniform(0.2, 3, N_SAMPLES), 0, 0]
    target = rng.integers(3, size=len(phi)) if not is_density else np.ones(len(phi))
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(packed for packed, _ in packs))
    dtype = jax.tree.leaves(params)[0].dtype
    given = {
        "samples": Samples(
            jnp.asarray(phi, dtype), jnp.asarray(target), jnp.asarray(weight, dtype)
        ),
        "orders": jnp.asarray(ORDERS),
    }
    return Problem(
        structures=tuple(SquaredNorm(s) if is_density else s for _, s in packs),
        objective=objective,
        params=params,
        anchor=params,
        n_samples=N_SAMPLES,
        neutral=jnp.ones((NSITES, 2), dtype),
        **given | options,
    )


def by_hand(problem, params, rows=None):
    """The objective of each member, sample by sample as its definition has it."""
    samples, values = problem.samples, []
    mean_weight = samples.weight.sum() / N_SAMPLES
    for m, order in enumerate(ORDERS):
        packed = jax.tree.map(lambda leaf, m=m: leaf[m], params)
        log_norm = log_norm_squared(packed, problem.structure)
        chosen = np.arange(N_SAMPLES) if rows is None else rows[m]
        phi, target, weight = (array[chosen] for array in samples)
        losses = problem.objective.loss(contract(packed, problem.structure, phi[:, order]), target)
        if problem.objective.loss.normalized:
            losses = losses + log_norm
        mean = jnp.sum(losses * weight) / (len(chosen) * mean_weight)
        values.append(mean + sum(w * r(log_norm) for w, r in problem.objective.terms))
    return np.array(values)


@pytest.mark.some(2)
@pytest.mark.parametrize("objective", [PENALISED, NegativeLogLikelihood()], ids=str)
def test_the_value_is_that_of_the_definition(objective, x64):
    problem = made(objective)
    np.testing.assert_allclose(problem.value(problem.params), by_hand(problem, problem.params))
    rows = np.array([[3, 0, 7], [11, 2, 4]])
    expected = by_hand(problem, problem.params, rows)
    np.testing.assert_allclose(problem.value(problem.params, rows), expected)
    np.testing.assert_allclose(problem.value(problem.params, np.c_[rows, [-1, -1]]), expected)
    # Batches of one size estimate the whole without a bias.
    parts = [problem.value(problem.params, np.arange(i, i + 3)) for i in range(0, N_SAMPLES, 3)]
    np.testing.assert_allclose(np.mean(parts, axis=0), by_hand(problem, problem.params))


def test_gradients_of_the_value_against_finite_differences(x64):
    problem = made()
    values, gradient = problem.value_and_grad(problem.params)
    np.testing.assert_allclose(values, problem.value(problem.params))
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), problem.params)
    ahead, behind = (
        problem.value(jax.tree.map(lambda p, d, s=s: p + s * d, problem.params, direction))
        for s in (1e-6, -1e-6)
    )
    inner = sum(
        (g * d).reshape(2, -1).sum(axis=1)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(inner, (ahead - behind) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("objective", [PENALISED, NegativeLogLikelihood()], ids=str)
def test_the_page_s_trainer_descends_the_objective(objective, sign_descent, x64):
    seen = []
    problem = made(objective, callbacks=(seen.append,))
    trainer = sign_descent(max_epochs=3, callbacks=[lambda epoch: epoch.number == 2])
    result = trainer.train(problem)
    assert result.stopped
    assert [epoch.number for epoch in seen] == [1, 2] == list(range(1, 1 + result.n_iter))
    params = problem.params
    for loss in result.history["loss"]:
        assert loss == pytest.approx(by_hand(problem, params).mean(), rel=1e-9)
        _, gradient = problem.value_and_grad(params)
        params = jax.tree.map(lambda p, g: p - 2e-3 * jnp.sign(g), params, gradient)
    for ours, theirs in zip(*map(jax.tree.leaves, (result.params, params)), strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_the_page_s_trainer_stops_early_and_in_time(sign_descent, x64):
    stopping = EarlyStopping(patience=2)
    problem = made()
    # Labels of which training knows nothing.
    target = (problem.samples.target + 1) % 3
    problem = dataclasses.replace(problem, validation=problem.samples._replace(target=target))
    trainer = sign_descent(learning_rate=0.05, max_epochs=50, early_stopping=stopping)
    result = trainer.train(problem)
    losses = result.history["validation_loss"]
    assert result.n_iter == np.argmin(losses) + 3 < 50
    assert problem.validation_loss(result.params) == pytest.approx(min(losses))
    assert sign_descent(time_limit=1e-9).train(problem).n_iter == 1
    assert sign_descent().epochs(N_SAMPLES) == 60


def test_estimators_train_by_the_page_s_trainer(sign_descent):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = (X[:, 0] > 0).astype(int)
    options = {"n_members": 1, "random_state": 0, "trainer": sign_descent(max_epochs=30)}
    weight = np.where(y, 5.0, 0.5)
    fits = [
        TNClassifier(2, loss=loss, **options).fit(X, y, sample_weight=w).predict_proba(X)
        for loss, w in ((None, None), (CrossEntropy() + 1e3 * LogNorm(), None), (None, weight))
    ]
    assert np.abs(fits[0] - fits[1]).max() > 0.01
    assert fits[2][:, 1].mean() > fits[0][:, 1].mean() + 0.01
    machine = TNBornMachine(2, random_state=0, trainer=sign_descent(max_epochs=30)).fit(X)
    # The history has minus the mean log-density of the columns in the embedding's domain.
    jacobian = machine._reader.log_derivatives(X).sum(axis=1).mean()
    assert machine.score(X) - jacobian == pytest.approx(-machine.history_["loss"][-1], abs=0.1)
    assert machine.history_["loss"][-1] < machine.history_["loss"][0] - 0.1
    with pytest.raises(ValueError, match="SignDescent cannot train on part of the samples"):
        TNClassifier(2, **options).partial_fit(X, y, classes=[0, 1])


@dataclasses.dataclass(frozen=True)
class Momentum(Trainer):
    """Steps that remember: a trainer with a state, which may end badly."""

    learning_rate: float = 0.05
    fails_at: int | None = None
    trains_on_parts = True

    def init(self, problem):
        return jax.tree.map(jnp.zeros_like, problem.params)

    def step(self, problem, params, state, epoch):
        losses, gradient = problem.value_and_grad(params)
        state = jax.tree.map(lambda s, g: 0.9 * s + g, state, gradient)
        rate = np.inf if epoch == self.fails_at else self.learning_rate
        params = jax.tree.map(lambda p, s: p - rate * s, params, state)
        return Step(params, state, losses, {"rate": self.learning_rate})


def test_states_go_on_from_part_to_part(x64):
    problem = made()
    whole = Momentum(max_epochs=3).train(problem)
    for _ in range(3):
        result = Momentum(max_epochs=9).partial_train(problem)
        assert result.n_iter == 1
        problem = dataclasses.replace(problem, params=result.params, state=result.state)
    for ours, theirs in zip(*map(jax.tree.leaves, (result.params, whole.params)), strict=True):
        np.testing.assert_allclose(ours, theirs)
    assert whole.history["rate"] == [0.05] * 3
    with pytest.raises(ValueError, match="optimizer differs"):
        Momentum().partial_train(dataclasses.replace(problem, state=result.state[:1]))


def test_weights_that_overflow_are_not_kept(x64):
    problem = made()
    with pytest.raises(NotFiniteError, match=r"epoch 3.* smaller steps") as caught:
        Momentum(fails_at=2).train(problem)
    kept, expected = caught.value.result, Momentum(max_epochs=2).train(problem)
    assert kept.n_iter == 2
    for ours, theirs in zip(*map(jax.tree.leaves, (kept.params, expected.params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scripted(Trainer):
    """Losses as they are given, and parameters that count the epochs."""

    losses: tuple
    first: float | None = None

    def step(self, problem, params, state, epoch):
        params = jax.tree.map(lambda leaf: jnp.full_like(leaf, epoch), params)
        return Step(params, state, self.losses[epoch], first=self.first if epoch == 0 else None)


@pytest.mark.parametrize(
    ("losses", "first", "kept"),
    [
        ((1.0, 0.5, 80.0, 2.0), None, 1),
        ((1.0, 0.5, 80.0, 0.4), None, 3),
        ((-3.0, -5.0, 9.0), None, 1),
        # What exploded in its first epoch is not measured by that.
        ((300.0, 200.0, 0.3), 0.7, 2),
    ],
)
def test_a_loss_that_climbs_is_told_once_and_the_best_weights_are_kept(losses, first, kept):
    trainer = Scripted(losses=losses, first=first, max_epochs=len(losses))
    with pytest.warns(DivergenceWarning, match=r"climbed from .*smaller steps") as told:
        result = trainer.train(made())
    assert len(told) == 1
    assert result.history["loss"] == list(losses)
    assert {float(leaf.ravel()[0]) for leaf in jax.tree.leaves(result.params)} == {kept}


def test_where_no_epoch_is_better_than_the_start_that_is_kept():
    problem = made()
    with pytest.warns(DivergenceWarning):
        result = Scripted(losses=(300.0, 2.0), first=0.7, max_epochs=2).train(problem)
    for kept, start in zip(*map(jax.tree.leaves, (result.params, problem.params)), strict=True):
        np.testing.assert_array_equal(kept, start)


@pytest.mark.parametrize("losses", [(1.0, 4.9, 2.0), (-3.0, 6.0), (1e-3, 0.9)])
def test_a_loss_that_climbs_a_little_is_left_alone(losses):
    result = Scripted(losses=losses, max_epochs=len(losses)).train(made())
    assert float(jax.tree.leaves(result.params)[0].ravel()[0]) == len(losses) - 1


def test_gradients_that_explode_within_an_epoch_are_noticed():
    X = np.random.default_rng(0).normal(size=(300, 6))
    given = {"embedding": Legendre(2), "feature_dropout": 0.2}
    model = TNClassifier(n_members=1, learning_rate=1.0, max_epochs=3, random_state=0, **given)
    with pytest.warns(DivergenceWarning, match="Lower learning_rate") as told:
        model.fit(X, X[:, 0] > 0)
    assert len(told) == 1
    # Probabilities are those of the best weights, in the worst case the shares of the classes.
    assert -np.log(model.predict_proba(X).max(axis=1)).mean() < 1


def test_common_options_are_checked_for_every_trainer(sign_descent):
    for wrong in ({"max_epochs": 0}, {"time_limit": -1}, {"callbacks": print}):
        for trainer in (sign_descent, Momentum, Gradient, Sweep):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                trainer(**wrong)


def test_a_sequence_is_stored_and_that_of_earlier_versions_is_read():
    trainer = Sequential((Sweep(max_epochs=2), Gradient(learning_rate=1e-3)))
    stored = to_json(trainer)
    assert stored["class"] == "sequential"
    assert from_json(stored) == trainer == from_json(stored | {"class": "in_turn"})


class Patient(Trainer):
    """A trainer that leaves everything as it is, by default for a hundred epochs."""

    def step(self, problem, params, state, epoch):
        return Step(params, state, 1.0)


LONG = r"some 3 more minutes, 100 epochs of 2 seconds.*4 sites.*2 networks.*SelectKBest"


@pytest.mark.parametrize(
    ("options", "seconds", "message"),
    [({}, 2.0, LONG), ({}, 0.5, None), ({"max_epochs": 100}, 2.0, None)],
)
def test_minutes_of_training_are_told_once(monkeypatch, options, seconds, message):
    now = iter(np.arange(10_000) * seconds)
    monkeypatch.setattr(_run.time, "perf_counter", lambda: next(now))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Patient(**options).train(made())
    assert len(seen) == (message is not None)
    if message:
        assert seen[0].category is DurationWarning
        assert re.search(message, str(seen[0].message))
