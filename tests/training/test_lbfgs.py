"""L-BFGS on a problem small enough to be solved."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_products import short_products_of

from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.errors import NotFiniteError
from tn4ml_plus.initializers import RandomNormal
from tn4ml_plus.losses import SquaredError
from tn4ml_plus.networks import MPS
from tn4ml_plus.training import LBFGS, Problem, Samples, _gradient

N_SAMPLES, PADDING = 10, 2


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def make_problem():
    """Samples of a chain of bond dimension 1, for two chains of bond dimension 2 to find."""
    packs = [
        pack(
            MPS.random(
                3, bond_dim=2, n_outputs=1, output_std=1.0,
                initializer=RandomNormal(0.5, add_identity=True), key=jax.random.key(m),
            )
        )
        for m in (0, 1)
    ]  # fmt: skip
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(packed for packed, _ in packs))
    phi = np.random.default_rng(0).normal(size=(N_SAMPLES + PADDING, 3, 2))
    target = phi[:, 0, :1] * phi[:, 1, 1:] * (phi[:, 2, :1] - 0.5 * phi[:, 2, 1:])
    weight = np.r_[np.ones(N_SAMPLES), np.zeros(PADDING)]
    target[N_SAMPLES:] = 1e6
    return Problem(
        structures=tuple(structure for _, structure in packs),
        objective=SquaredError(),
        params=params,
        anchor=jax.tree.map(jnp.zeros_like, params),
        samples=Samples(*map(jnp.asarray, (phi, target, weight))),
        n_samples=N_SAMPLES,
        neutral=jnp.zeros((3, 2)),
        random_state=np.random.RandomState(0),
    )


def test_the_line_search_sees_all_digits():
    problem = make_problem()
    trainer = LBFGS(max_epochs=1)
    state = trainer.init(problem)
    traced = problem.params, state, problem.risk, problem.anchor, 0.0
    assert short_products_of(partial(_gradient._iterate, 10), *traced) == []


def test_finds_the_function_and_never_climbs():
    problem = make_problem()
    result = LBFGS(max_epochs=60, decay=0.0).train(problem)
    losses = np.array(result.history["loss"])
    assert result.n_iter == len(losses) == 60
    assert (np.diff(losses) < 1e-12).all()
    assert losses[-1] < 1e-3 * losses[0]
    phi, target, _ = (array[:N_SAMPLES] for array in problem.samples)
    errors = [
        contract(jax.tree.map(lambda leaf, m=m: leaf[m], result.params), problem.structure, phi)
        for m in (0, 1)
    ]
    worst = max(np.abs(amplitude.dense() - target).max() for amplitude in errors)
    assert worst < 0.1 * np.abs(target).max()


def test_decay_pulls_toward_the_anchor():
    norms = []
    for decay in (0.0, 10.0):
        params = LBFGS(max_epochs=60, decay=decay).train(make_problem()).params
        norms.append(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)))
    assert norms[1] < 0.9 * norms[0]


def test_decay_costs_half_of_the_squared_distance():
    losses = [
        LBFGS(max_epochs=1, decay=decay).train(make_problem()).history["loss"][0]
        for decay in (0.0, 10.0)
    ]
    leaves = jax.tree.leaves(make_problem().params)
    squares = sum(float(jnp.sum(leaf**2)) for leaf in leaves) / len(leaves[0])
    np.testing.assert_allclose(losses[1] - losses[0], 0.5 * 10 / N_SAMPLES * squares, rtol=1e-10)


def test_batches_of_samples_are_refused():
    with pytest.raises(ValueError, match=r'LBFGS cannot .* trainer="gradient"'):
        LBFGS().partial_train(make_problem())


def test_a_loss_that_is_not_finite_names_what_helps():
    problem = make_problem()
    samples = problem.samples._replace(target=problem.samples.target * np.nan)
    problem = dataclasses.replace(problem, samples=samples)
    with pytest.raises(
        NotFiniteError, match=r'initializer or trainer="gradient";.* custom'
    ) as info:
        LBFGS().train(problem)
    assert "learning_rate" not in str(info.value)
    assert info.value.result.n_iter == 0


def test_an_interrupt_keeps_the_finished_epochs():
    losses = LBFGS(max_epochs=3).train(make_problem()).history["loss"]

    def interrupting(epoch):
        if epoch.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as info:
        LBFGS(callbacks=[interrupting]).train(make_problem())
    assert info.value.result.n_iter == 3
    assert info.value.result.history["loss"] == losses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 0}, "max_epochs must be an integer of at least 1, or None, got 0"),
        ({"max_epochs": 2.5}, "max_epochs must be an integer"),
        ({"memory": 0}, "memory must be an integer of at least 1, got 0"),
        ({"memory": None}, "memory must be an integer"),
        ({"decay": -1.0}, "decay must be a finite number of at least 0, got -1.0"),
        ({"decay": "x"}, "decay must be"),
        ({"time_limit": -1}, "time_limit must be a finite number above 0, or None, got -1"),
        ({"early_stopping": True}, "early_stopping must be an instance of EarlyStopping, or None"),
        ({"callbacks": print}, "callbacks must be a sequence of functions"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LBFGS(**options)
