"""Isometric sweeps: isometries at every visit, no rise, the same function to begin with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_program import call
from short_products import short_products_of
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tn4ml_plus import TNAnomalyDetector, TNBornMachine, TNClassifier
from tn4ml_plus.contraction import SquaredNorm, contract, pack
from tn4ml_plus.embeddings import Trigonometric
from tn4ml_plus.initializers import RandomNormal
from tn4ml_plus.losses import (
    CrossEntropy,
    LogNorm,
    LogQuadratic,
    NegativeLogLikelihood,
    SquaredError,
)
from tn4ml_plus.networks import MPS, TTN, SMPOSpec
from tn4ml_plus.training import IsometricSweep
from tn4ml_plus.training.sweeps import _isometric as module
from tn4ml_plus.training.sweeps._effective_problem import EffectiveObjective, Settings
from tn4ml_plus.training.sweeps._environments import EffectiveMap
from tn4ml_plus.training.sweeps._updates import (
    Bond,
    Place,
    Program,
    Scheme,
    extend_above,
    run_updates,
)

NSITES, PHYS, BATCH = 8, 3, 50
OBJECTIVES = [
    CrossEntropy(),
    SquaredError(),
    CrossEntropy() + 0.1 * LogNorm(),
    NegativeLogLikelihood(),
]
# Bonds larger than what is below some of them.
NETWORKS = {"chain": (MPS, 5), "tree": (TTN, 10)}
SETTINGS = Settings(
    ridge=1e-3, damping=0.1, shrinkage=0.1, steps=2, steps_after=0, cutoff=0.0, max_bond=1,
    forced=False,
)  # fmt: skip
every_network = pytest.mark.parametrize("kind", NETWORKS)
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=str)


def data(objective, seed=0):
    rng = np.random.default_rng(seed)
    target = {
        "classification": rng.integers(3, size=BATCH),
        "regression": rng.normal(size=(BATCH, 3)),
        "density": np.ones(BATCH),
    }[objective.loss.task]
    phi = jnp.asarray(rng.normal(size=(NSITES, PHYS, BATCH)), jnp.float32)
    return phi, jnp.asarray(target), jnp.ones(BATCH, jnp.float32)


def made(kind, objective, seed=0):
    """A sweeper, and the packed network that it was made from with its structure."""
    geometry, bond_dim = NETWORKS[kind]
    is_density = objective.loss.task == "density"
    packed, structure = pack(
        geometry.random(
            NSITES, bond_dim=bond_dim, phys_dim=PHYS, n_outputs=None if is_density else 3,
            initializer=RandomNormal(0.5), key=jax.random.key(seed),
        )
    )  # fmt: skip
    structure = SquaredNorm(structure) if is_density else structure
    return module._Isometric(structure, packed, objective, 1, 2_000_000_000), packed, structure


def isometry_error(core, rank):
    """Largest deviation of T^T T from one up to the rank and from zero beyond."""
    flat = np.asarray(core, float).reshape(-1, core.shape[-1])
    return np.abs(flat.T @ flat - np.diag(np.arange(flat.shape[1]) < int(rank))).max()


def isometry_errors(sweeper):
    return [isometry_error(*pair) for pair in zip(sweeper.cores, sweeper.state.ranks)]


def kept_and_made(task, layout, batch, place, state):
    """The core below a bond, the outputs as they are kept, from that core, the objective."""
    bond = Bond(task, layout, batch, place)
    fixed, core = bond.environment_of_lower(state), bond.lower(state)
    linear = EffectiveMap(fixed, (core.size // core.shape[-1], 1, core.shape[-1]))
    B, F = core.reshape(linear.shape), state.outputs
    value, *_ = EffectiveObjective(task, fixed, 0.0)(F, linear.inner(B, B), 0.0)
    return core, F, linear.outputs(B), value


@pytest.mark.some(2)
@every_network
@pytest.mark.parametrize("objective", OBJECTIVES[::3], ids=str)
def test_a_network_keeps_its_function_when_made_isometric(kind, objective, quick):
    sweeper, packed, structure = made(kind, objective)
    phi = data(objective)[0].transpose(2, 0, 1)
    expected = contract(packed, structure, phi).dense()
    found = contract(*sweeper.packed(), phi).dense()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert max(isometry_errors(sweeper)) < 1e-5


# Geometry and objective meet in the environments only: the tree once, other pairs long. What an
# objective without a penalty does is done with it, too.
@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("tree", OBJECTIVES[2]),
        *(
            pytest.param(kind, OBJECTIVES[i], marks=pytest.mark.long)
            for kind, i in [
                ("chain", 3),
                ("tree", 0),
                ("tree", 1),
                ("tree", 3),
                ("chain", 0),
                ("chain", 1),
                ("chain", 2),
            ]
        ),
    ],
    ids=str,
)
def test_updates_keep_isometries_and_never_rise(kind, objective, quick):
    sweeper, *_ = made(kind, objective)
    errors, falls = [], []

    def at(layout, place):
        """The core and the objective, from it and from the outputs as they are kept."""
        core, *pair, value = call(
            kept_and_made, sweeper.task, layout, sweeper.batch, place, sweeper.state
        )
        kept, made = map(np.asarray, pair)
        np.testing.assert_allclose(made, kept, rtol=1e-3, atol=1e-4 * np.abs(kept).max())
        return core, float(value)

    def checked(plan, reports, exponents):
        for update, layout, span in plan.runs:
            for i in range(*span):
                place = Place(*(column[i] for column in plan.places))
                is_update = update is not extend_above
                before = at(layout, place)[1] if is_update else None
                sweeper.state, found = run_updates(
                    Program(update, sweeper.task, layout), sweeper.state,
                    reports if is_update else None, sweeper.batch, plan.places, (i, i + 1),
                    exponents,
                )  # fmt: skip
                if is_update:
                    reports = found
                    core, after = at(layout, place)
                    core = np.ldexp(core, exponents[place.node])
                    errors.append(isometry_error(core, sweeper.state.ranks[place.node]))
                    falls.append(before - after)
        return reports

    for seed in range(2):
        sweeper.see(*data(objective, seed))
        sweeper._run = checked
        sweeper.sweep(SETTINGS)
        del sweeper._run
        assert max(isometry_errors(sweeper)) < 1e-5
    assert len(errors) == 2 * len(sweeper.state.ranks)
    assert max(errors) < 1e-5
    assert min(falls) > -1e-5
    assert max(falls) > 1e-3


@every_network
def test_a_sweep_tells_the_loss_of_the_network_that_it_leaves(kind, quick):
    objective = OBJECTIVES[1]
    sweeper, *_ = made(kind, objective)
    phi, target, weight = data(objective)
    # Scales that isometries cannot hold.
    phi = 8 * phi
    sweeper.see(phi, target, weight)
    loss, _ = sweeper.sweep(SETTINGS)
    losses = objective.loss(contract(*sweeper.packed(), phi.transpose(2, 0, 1)), target)
    assert loss == pytest.approx(float(losses.mean()), rel=1e-4)


@every_network
def test_all_products_ask_for_all_digits(kind):
    objective = OBJECTIVES[2]
    sweeper, *_ = made(kind, objective)
    plan = sweeper.plan(Scheme(extend_above, module.isometric_update, single=True))

    def swept(*samples):
        sweeper.see(*samples)
        loss = sweeper.improve_root(SETTINGS)
        changed = jnp.zeros(len(plan.places.node), bool)
        return loss, sweeper._run(plan, changed, sweeper.exponents)

    assert short_products_of(swept, *data(objective)) == []


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = X[y < 4].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    return train_test_split(X, y[y < 4], random_state=0)


@pytest.mark.long
@pytest.mark.parametrize("network", ["ttn", pytest.param("mps", marks=pytest.mark.long)])
def test_a_classifier_learns(digits, network):
    X, X_test, y, y_test = digits
    model = TNClassifier(
        4, network=network, n_members=1, trainer="isometric_sweep", max_epochs=6, random_state=0
    ).fit(X, y)
    assert model.score(X_test, y_test) > 0.95
    assert model.history_["loss"][-1] < model.history_["loss"][0]
    assert all(0 <= share <= 1 for share in model.history_["changed"])
    packed, structure = pack(model.network_)
    cores, ranks = structure.to_nodes(packed)
    assert max(map(isometry_error, cores, ranks)) < 1e-5


@pytest.mark.long
def test_a_density_learns(digits):
    X, X_test, _, _ = digits
    # A step that damping keeps from moving shows the start, by the programs of the others.
    still, moved = IsometricSweep(max_epochs=1, damping=1e9, ridge=0), IsometricSweep(max_epochs=5)
    start, model = (
        TNBornMachine(4, network="ttn", trainer=t, random_state=0).fit(X) for t in (still, moved)
    )
    assert model.score(X_test) > start.score(X_test) + 3


@pytest.mark.long
def test_many_sites(quick):
    rng = np.random.RandomState(0)
    X, y = rng.uniform(size=(40, 784)), rng.randint(2, size=40)
    options = {"network": "ttn", "bond_dim": 3, "n_members": 1, "random_state": 0}
    trainer = IsometricSweep(max_epochs=1)
    model = TNClassifier(**options, embedding=Trigonometric(), trainer=trainer).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("exponent", [200, -200])
def test_a_scale_beyond_the_root_s_floats_is_shared(exponent):
    sweeper, packed, structure = made("tree", OBJECTIVES[0])
    phi = data(OBJECTIVES[0])[0].transpose(2, 0, 1)
    sweeper.exponent = sweeper.exponent + exponent
    with pytest.warns(UserWarning, match="vectors of norm 1"):
        found = contract(*sweeper.packed(), phi).log_abs()
    expected = contract(packed, structure, phi).log_abs() + exponent * np.log(2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_operators_are_refused(digits):
    X, _, y, _ = digits
    model = TNAnomalyDetector(
        2, network=SMPOSpec(), loss=LogQuadratic(), n_members=1, trainer="isometric_sweep"
    )
    with pytest.raises(ValueError, match="outputs at one core"):
        model.fit(X[y == 0])
