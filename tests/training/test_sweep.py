"""Sweeps: local gradients against dense ones, steps that never rise, ranks, compilation."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_products import short_products, short_products_of
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tn4ml_plus import TNAnomalyDetector, TNBornMachine, TNClassifier, TNRegressor, load
from tn4ml_plus._amplitude import Amplitude
from tn4ml_plus.contraction import END, OPEN, SHUT, SquaredNorm, contract, pack
from tn4ml_plus.embeddings import Legendre, Trigonometric
from tn4ml_plus.losses import (
    BornCrossEntropy,
    CrossEntropy,
    Huber,
    LogNorm,
    LogQuadratic,
    NegativeLogLikelihood,
    ReluLogNorm,
    SquaredError,
)
from tn4ml_plus.networks import MPS, SMPO, TTN, MPSSpec, SMPOSpec, Tree
from tn4ml_plus.training import Gradient, Problem, Samples, Sequential, Sweep
from tn4ml_plus.training._risk import losses
from tn4ml_plus.training.sweeps._effective_problem import EffectiveObjective, Report, Settings
from tn4ml_plus.training.sweeps._environments import EffectiveMap
from tn4ml_plus.training.sweeps._sweeper import Sweeper
from tn4ml_plus.training.sweeps._updates import (
    SCHEMES,
    Bond,
    Place,
    Program,
    child_first,
    effective_problem,
    extend_above,
    lower_site_update,
    run_updates,
    two_site_update,
)

# So many sites that a tree has few kinds of nodes, each of which compiles a program.
NSITES, PHYS, BATCH = 8, 2, 40
SETTINGS = Settings(
    ridge=1e-2, damping=0.1, shrinkage=0.1, steps=2, steps_after=1, cutoff=1e-9, max_bond=3,
    forced=False, expansion=1,
)  # fmt: skip
OBJECTIVES = [
    CrossEntropy(0.1),
    BornCrossEntropy(),
    CrossEntropy() + 0.1 * LogNorm(),
    SquaredError(),
    Huber(),
    NegativeLogLikelihood(),
    LogQuadratic() + 0.3 * ReluLogNorm(),
]
# Leaves of different heights, among them some below the root.
TERNARY = Tree(8, ((0, 1, 2), (8, 3), (9, 4, 5, 6, 7)))
SIZES = {"bond_dim": 3, "phys_dim": PHYS}
NETWORKS = {
    "chain": lambda n, key: MPS.random(NSITES, n_outputs=n, key=key, **SIZES),
    "tree": lambda n, key: TTN.random(NSITES, n_outputs=n, key=key, **SIZES),
    "end": lambda n, key: MPS.random(NSITES, n_outputs=n, output_site=0, key=key, **SIZES),
    "ternary": lambda n, key: TTN.random(NSITES, tree=TERNARY, n_outputs=n, key=key, **SIZES),
    "smpo": lambda n, key: SMPO.random(NSITES, spacing=4, key=key, **SIZES),
}
# Objectives of the same targets, the first of which moves the sweep and reads the norm.
FAMILIES = {
    "classification": [OBJECTIVES[2], *OBJECTIVES[:2]],
    "regression": [SquaredError() + 0.1 * LogNorm(), *OBJECTIVES[3:5]],
    "density": [OBJECTIVES[6], OBJECTIVES[5]],
    "cross-entropy": OBJECTIVES[:1],
}


@pytest.fixture
def x64(quick):
    with jax.enable_x64(True):
        yield


def task(objective, seed=0, batch=BATCH):
    """phi (nsites, phys_dim, batch), target and weight that suit an objective."""
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(NSITES, PHYS, batch)) + 1.0
    target = {
        "classification": rng.integers(3, size=batch),
        "regression": rng.normal(size=(batch, 3)),
        "density": np.ones(batch),
    }[objective.loss.task]
    weight = rng.uniform(0.5, 2, size=batch)
    weight[:3] = 0
    return jnp.asarray(phi), jnp.asarray(target), jnp.asarray(weight)


def sweeper(kind, objective, size=3, seed=0, cache_bytes=2_000_000_000):
    is_density = objective.loss.task == "density"
    network = NETWORKS[kind](None if is_density else 3, jax.random.key(seed))
    packed, structure = pack(network)
    packed = jax.tree.map(lambda a: a.astype(jnp.result_type(float)), packed)
    structure = SquaredNorm(structure) if is_density else structure
    made = Sweeper(structure, packed, objective, size, cache_bytes)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (BATCH, made.n_signs))
    made.see(*task(objective, seed), jnp.asarray(signs, jnp.result_type(float)))
    return made


def dense_tensors(form, cores):
    """The dense tensor of the network, (basis, entries, outputs), and the order of its leaves.

    cores: arrays (basis, *children, up), a basis of 1 where nothing is varied.
    """
    found = {site: (np.eye(PHYS)[None], (site,)) for site in range(form.nsites)}
    for i, (core, children) in enumerate(zip(cores, form.nodes, strict=True)):
        state, sites = np.ones((1, 1, 1)), ()
        for child, size in zip(children, core.shape[1:]):
            # An end or a missing output is an index of any size of which the first entry is read.
            leaves = {END: (np.eye(1, size)[None], ()), SHUT: (np.eye(1, size)[None], ())}
            leaves[OPEN] = np.eye(size)[None], (OPEN,)
            other = (found | leaves)[child][0]
            # Outer products by broadcasting: einsum takes ten times as long.
            both = state[:, None, :, None, :, None] * other[:, None, :, None]
            state = both.reshape(len(state) * len(other), state.shape[1] * other.shape[1], -1)
            sites += (found | leaves)[child][1]
        state = np.matmul(state, core.reshape(len(core), -1, core.shape[-1]))
        found[form.nsites + i] = state, sites
    return found[form.nsites + len(cores) - 1]


@partial(jax.jit, static_argnames=("objective", "squared"))
@partial(jax.grad, argnums=(0, 1))
def slopes(F, norm, target, weight, objective, squared):
    """Derivatives of an objective in the outputs and the squared norm."""
    F = jnp.sum(F**2, axis=1) if squared else F
    losses = objective.loss(Amplitude(F, jnp.zeros(len(F), jnp.int32)), target)
    mean = jnp.sum(losses * weight) / weight.sum()
    mean = mean + (jnp.log(norm) if objective.loss.normalized else 0.0)
    return mean + (objective.penalty(jnp.log(norm)) if objective.needs_norm else 0.0)


def dense_gradients(made, objectives, node, data, update, outward):
    """Gradients of objectives in what an update optimises, from dense tensors."""
    form = made.form
    phi, target, weight = map(np.asarray, data)
    cores = [core[None] for core in made.cores]
    parent, slot = form.parents[node]
    n = cores[parent][0].ndim - 1
    # With the child first, as updates see the core above.
    first = (*child_first(slot, n), n)
    below, above = cores[node][0], cores[parent][0].transpose(first)
    B = np.tensordot(below.reshape(-1, below.shape[-1]), above, 1)
    if update is two_site_update:
        cores[node] = np.eye(len(B)).reshape(1, *below.shape[:-1], -1)
    elif outward:
        B = above
    else:
        B = below
    basis = np.eye(B.size).reshape(B.size, *B.shape)
    if update is not lower_site_update:
        cores[parent] = basis.transpose(0, *(1 + np.argsort(first)))
    else:
        cores[node] = basis
    tensors, sites = dense_tensors(form, cores)
    tensors = tensors * 2.0 ** int(made.exponent)
    # Entries, outputs summed over, samples.
    inputs = np.ones((1, 1, phi.shape[2]))
    for site in sites:
        if site == OPEN:
            inputs = np.einsum("eon,pq->epoqn", inputs, np.eye(2))
            inputs = inputs.reshape(2 * len(inputs), -1, phi.shape[2])
        else:
            inputs = (inputs[:, None] * phi[site][:, None]).reshape(-1, *inputs.shape[1:])
    F_basis = np.einsum("bsc,son->bnoc", tensors, inputs, optimize=True)
    F_basis = F_basis.reshape(*F_basis.shape[:2], -1)
    tensor = np.tensordot(B.ravel(), tensors, 1)
    norm = np.sum(tensor**2)

    def gradient(objective):
        F = np.tensordot(B.ravel(), F_basis, 1)
        r, slope = slopes(F, norm, target, weight, objective, made.task.squared)
        of_norm = 2 * slope * np.einsum("bsc,sc->b", tensors, tensor)
        return np.einsum("bnc,nc->b", F_basis, r) + of_norm

    return [gradient(objective) for objective in objectives]


@partial(jax.jit, static_argnames=("objectives", "program"))
def local_gradients(objectives, program, state, batch, place):
    """Gradients in the product of two cores, as updates have them, in plain coordinates."""
    bond = Bond(program.task, program.layout, batch, place)
    below, above, fixed = effective_problem(program.update, bond, state)
    B = jnp.tensordot(below.reshape(-1, len(above)), above, 1)
    B = B.reshape(len(B), len(fixed.siblings), -1)
    linear = EffectiveMap(fixed, B.shape, 0.1)
    whitened = linear.white(B)
    F = linear.outputs(whitened) if state.outputs is None else state.outputs
    values = (
        EffectiveObjective(program.task._replace(objective=objective), fixed, 0.0)
        for objective in objectives
    )
    return [linear.white(value.gradient(linear, whitened, F)) for value in values]


def gaps(made, data, n_sites=2, stale=None, objectives=None):
    """Relative errors of the local gradients in two sweeps, update by update.

    stale: a field of the state that the second sweep finds as the first has left it; objectives:
    whose gradients to take, that of the sweep where there are none.
    """
    objectives = tuple(objectives or [made.task.objective])
    found, plan = [], made.plan(SCHEMES[n_sites])
    rows = [(*row[:2], i) for row in plan.runs for i in range(*row[2])]
    for is_second in (False, True):
        old = {stale: jnp.copy(getattr(made.state, stale))} if stale and is_second else {}
        for update, layout, i in rows:
            made.state = made.state._replace(**jax.tree.map(jnp.copy, old))
            place, reports = Place(*(column[i] for column in plan.places)), None
            program = Program(update, made.task, layout)
            if update is not extend_above:
                pairs = zip(
                    dense_gradients(made, objectives, int(place.node), data, update, place.outward),
                    local_gradients(objectives, program, made.state, made.batch, place),
                    strict=True,
                )
                for dense, local in pairs:
                    found.append(np.abs(local.ravel() - dense).max() / np.abs(dense).max())
                reports = made.empty_report(len(rows))
            made.state, _ = run_updates(
                program, made.state, reports, made.batch, plan.places, (i, i + 1), SETTINGS
            )
    n_updates = len(list(made.route(with_ends=n_sites == 1)))
    assert len(found) == 2 * len(objectives) * n_updates
    return np.array(found)


# Geometry and objective meet in the environments only: each of them once, other pairs long.
@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("chain", "classification"),
        ("tree", "density"),
        *(
            pytest.param(*pair, marks=pytest.mark.long)
            for pair in [
                ("ternary", "regression"),
                ("end", "cross-entropy"),
                ("chain", "regression"),
                ("chain", "density"),
                ("tree", "classification"),
                ("tree", "regression"),
            ]
        ),
    ],
)
def test_local_gradients_are_the_dense_ones_in_two_sweeps(kind, family, x64):
    objectives = FAMILIES[family]
    data = task(objectives[0])
    assert gaps(sweeper(kind, objectives[0]), data, objectives=objectives).max() < 1e-9


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("chain", OBJECTIVES[2]), pytest.param("tree", OBJECTIVES[5], marks=pytest.mark.long)],
    ids=str,
)
def test_gradients_of_single_cores_are_the_dense_ones(kind, objective, x64):
    assert gaps(sweeper(kind, objective), task(objective), n_sites=1).max() < 1e-9


@pytest.mark.parametrize("n_sites", [2, pytest.param(1, marks=pytest.mark.long)])
def test_gradients_of_an_operator_are_the_dense_ones(n_sites, x64):
    objective = OBJECTIVES[6]
    made = sweeper("smpo", objective)
    assert gaps(made, task(objective), n_sites).max() < 1e-8


def test_local_gradients_in_float32(quick):
    made = sweeper("chain", OBJECTIVES[2])
    assert made.cores[0].dtype == jnp.float32
    assert gaps(made, task(OBJECTIVES[2])).max() < 1e-3


@pytest.mark.parametrize("stale", ["below", "above", "outputs"])
def test_a_stale_environment_shows_in_the_gradients(stale, x64):
    objective = OBJECTIVES[2]
    made = sweeper("chain", objective)
    assert gaps(made, task(objective), stale=stale).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("tree", OBJECTIVES[2]),
        *(pytest.param("chain", OBJECTIVES[i], marks=pytest.mark.long) for i in (2, 3, 4, 5, 6)),
    ],
    ids=str,
)
def test_steps_never_rise_and_rejected_ones_change_nothing(kind, objective, x64):
    for seed in range(2):
        made = sweeper(kind, objective, seed=seed)
        phi, target, weight = task(objective, seed)
        phi = phi.transpose(2, 0, 1)
        for cutoff, max_bond in ((1e-9, 3), (1e-3, 3), (1e-9, 1)):
            settings = SETTINGS._replace(cutoff=cutoff, max_bond=max_bond)
            reports = jax.tree.map(np.asarray, made.sweep(settings))
            # The mean squared norm of the outputs is what the slack is a share of.
            slack = 1e-6 * abs(reports.before) + cutoff * reports.square
            assert (reports.after <= reports.before + slack).all()
            assert np.isfinite(reports.after).all()
            # What the last update says is what the network does.
            found, structure = made.packed()
            params = jax.tree.map(lambda leaf: leaf[None], found)
            samples = Samples(phi, target, weight)
            problem = Problem((structure,), objective, params, None, samples, BATCH, None)
            loss = np.average(
                losses(problem.risk, params, BATCH, np.ones(1, "f4"))[0, 0], weights=weight
            )
            np.testing.assert_allclose(reports.loss[-1], loss, rtol=1e-6)
        # Rank 1 spoils these networks, so that steps to it are rejected.
        before, ranks = contract(found, structure, phi).dense(), list(map(int, made.state.ranks))
        settings = SETTINGS._replace(max_bond=1, steps=0, steps_after=0)
        accepted = np.asarray(made.sweep(settings).accepted)
        assert not accepted.any()
        after = contract(*made.packed(), phi).dense()
        np.testing.assert_allclose(after, before, rtol=1e-7, atol=1e-10)
        assert list(map(int, made.state.ranks)) == ranks


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "n_sites"),
    [
        ("chain", 1),
        *(pytest.param(kind, 2, marks=pytest.mark.long) for kind in ("ternary", "chain")),
    ],
)
def test_without_a_metric_one_objective_falls_from_bond_to_bond(kind, n_sites, x64):
    made = sweeper(kind, OBJECTIVES[3], size=4)
    settings = SETTINGS._replace(shrinkage=None, ridge=0.1, cutoff=0.0, max_bond=4)
    found = [jax.tree.map(np.asarray, made.sweep(settings, n_sites)) for _ in range(4)]
    before, after = (
        np.concatenate([getattr(r, name) for r in found]) for name in Report._fields[:2]
    )
    # What one bond has paid for the ridge is not asked of the next one again.
    n = len(found[0].before)
    np.testing.assert_allclose(before[n:], after[n - 1 : -1], rtol=1e-6)
    assert (np.diff(after[n:]) <= 1e-6 * abs(after[n:-1])).all()
    assert after[-1] < after[n]


@pytest.mark.long
def test_the_ridge_is_told_in_the_mean_square_of_the_outputs(x64):
    made, (phi, target, weight) = sweeper("chain", SquaredError(), size=4), task(SquaredError())
    settings = SETTINGS._replace(shrinkage=None, ridge=0.1, cutoff=0.0, max_bond=4)

    def in_units_of_now():
        outputs = np.asarray(contract(*made.packed(), phi.transpose(2, 0, 1)).dense())
        mean = partial(np.average, weights=weight)
        square = mean((outputs**2).sum(axis=1))
        return mean(((outputs - target) ** 2).mean(axis=1)) + 0.05 * square

    at_start = in_units_of_now()
    assert made.sweep(settings).before[0] == pytest.approx(at_start, rel=1e-6)
    # The unit stays, until another is asked for.
    last = in_units_of_now()
    assert made.sweep(settings).before[0] != pytest.approx(last, rel=1e-3)
    made.choose_unit()
    last = in_units_of_now()
    assert made.sweep(settings).before[0] == pytest.approx(last, rel=1e-6)


def test_an_improved_root_balances_loss_and_ridge(x64):
    made, (phi, target, weight) = sweeper("chain", SquaredError(), size=4), task(SquaredError())
    root = made.cores[-1]

    def loss_and_square():
        amplitude = contract(*made.packed(), phi.transpose(2, 0, 1))
        losses = SquaredError()(amplitude, target), (amplitude.dense() ** 2).sum(axis=1)
        return np.array([np.average(each, weights=weight) for each in losses])

    unit = loss_and_square()[1] / (root**2).sum()
    made.improve_root(SETTINGS._replace(shrinkage=None, ridge=0.5, damping=0.0, steps=60))
    best, shift = made.cores[-1], np.random.default_rng(0).normal(size=root.shape)
    ridge, values = 0.5 * unit * np.vdot(best, shift), []
    for sign in (1, -1):
        made.cores = [*made.cores[:-1], best + 1e-4 * sign * shift]
        values.append(loss_and_square()[0])
    assert abs(ridge) > 1e-3
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(-ridge, rel=1e-4)


@pytest.mark.long
def test_the_unit_of_the_ridge_is_chosen_once_more_after_the_first_sweep(digits, monkeypatch):
    X, _, y, _ = digits
    calls, original = [], Sweeper.choose_unit

    def choose_unit(self):
        calls.append(self)
        original(self)

    monkeypatch.setattr(Sweeper, "choose_unit", choose_unit)
    TNClassifier(**SMALL | {"n_members": 2}, trainer=Sweep(max_epochs=3)).fit(X, y)
    assert len(calls) == len(set(map(id, calls))) == 2


@pytest.mark.parametrize(
    ("kind", "n_sites"),
    [
        ("end", 2),
        *(pytest.param(*pair, marks=pytest.mark.long) for pair in [("ternary", 2), ("end", 1)]),
    ],
)
def test_what_is_above_is_made_again_where_it_does_not_fit(kind, n_sites, x64):
    objective = OBJECTIVES[2]
    all_kept, few = sweeper(kind, objective), sweeper(kind, objective, cache_bytes=1)
    for _ in range(2):
        for made in (all_kept, few):
            made.sweep(SETTINGS, n_sites)
    for one, other in zip(all_kept.cores, few.cores, strict=True):
        # Sweeps amplify rounding, so that float32 would tell processors from each other.
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-7)
    assert all_kept.spacing == 1 < few.spacing or kind == "ternary"
    assert len(few.state.above) <= (4 if kind == "end" else 2)


@pytest.mark.parametrize("n_sites", [1, 2])
def test_what_is_kept_is_not_made_again(n_sites):
    made = sweeper("end", OBJECTIVES[2])
    assert extend_above not in [update for update, *_ in made.plan(SCHEMES[n_sites]).runs]


@pytest.mark.parametrize("n_sites", [1, 2])
def test_sweeps_read_nothing_back(n_sites):
    """Where nothing has a value yet, nothing can be brought to the host."""
    made = sweeper("chain", OBJECTIVES[2])

    def losses(*data):
        made.see(*data)
        return made.sweep(SETTINGS, n_sites).loss

    found = jax.eval_shape(losses, *task(OBJECTIVES[2]), made.batch.signs)
    assert found.shape == (len(list(made.route(with_ends=n_sites == 1))),)


# The operator has outputs at many nodes, the end of a chain one arm only.
every_sweep = pytest.mark.parametrize(
    ("kind", "objective", "n_sites", "shrinkage"),
    [
        ("chain", OBJECTIVES[2], 2, 0.1),
        ("smpo", OBJECTIVES[6], 1, None),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [
                ("chain", OBJECTIVES[5], 1, 0.1),
                ("chain", OBJECTIVES[3], 2, None),
                ("end", OBJECTIVES[2], 1, None),
                ("tree", OBJECTIVES[2], 1, 0.1),
                ("tree", OBJECTIVES[6], 2, None),
                ("ternary", OBJECTIVES[1], 2, 0.1),
                ("smpo", OBJECTIVES[5], 2, 0.1),
            ]
        ),
    ],
    ids=str,
)


def seen_and_swept(made, settings, n_sites):
    """Function of samples: losses of a sweep and of its root alone."""

    def losses(*data):
        made.see(*data)
        return made.sweep(settings, n_sites).loss, made.improve_root(settings)

    return losses


@every_sweep
def test_all_products_ask_for_all_digits(kind, objective, n_sites, shrinkage):
    made = sweeper(kind, objective)
    losses = seen_and_swept(made, SETTINGS._replace(shrinkage=shrinkage), n_sites)
    assert short_products_of(losses, *task(objective), made.batch.signs) == []


@pytest.mark.long
@every_sweep
def test_short_products_change_nothing(kind, objective, n_sites, shrinkage, quick):
    def found():
        made = sweeper(kind, objective)
        settings = SETTINGS._replace(shrinkage=shrinkage)
        return seen_and_swept(made, settings, n_sites)(*task(objective), made.batch.signs)

    expected = found()
    with short_products():
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found(), expected)


@pytest.fixture(scope="module")
def teacher():
    """Values of a random chain of bond 6 and what it saw."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(7000, 9))
    phi = np.stack([np.ones_like(X), np.sqrt(3) * X], axis=-1)
    state = np.ones((len(X), 6)) / np.sqrt(6)
    for p in phi.transpose(1, 0, 2):
        core = rng.normal(size=(6, 2, 6)) / np.sqrt(6)
        state = np.einsum("na,ns,asb->nb", state, p, core)
    y = state.sum(axis=1)
    return X, y / y.std()


@pytest.mark.parametrize(
    ("n_sites", "bond_dim", "noise"),
    [
        (1, 2, 0),
        *(
            pytest.param(2, bond_dim, noise, marks=pytest.mark.long)
            for bond_dim, noise in [(2, 0), (20, 0), (20, 0.05)]
        ),
    ],
)
def test_bonds_find_the_rank_of_the_data(teacher, n_sites, bond_dim, noise):
    X, y = teacher
    noise = noise * np.random.default_rng(1).normal(size=3000)
    trainer = Sweep(
        n_sites, max_bond=max(bond_dim, 10), cutoff=1e-4, ridge=1e-6, damping=1e-3, shrinkage=1e-3,
        steps=6, steps_after=4, max_epochs=4,
    )  # fmt: skip
    options = {"embedding": Legendre(1), "scaler": "common_min_max", "n_members": 1}
    model = TNRegressor(bond_dim, trainer=trainer, random_state=0, **options)
    model.fit(X[:3000], y[:3000] + noise)
    assert model.score(X[6000:], y[6000:]) > 0.999
    # Two vectors a site allow no more than 2 and 4 near the ends.
    expected = [2, 4, 6, 6, 6, 6, 4, 2]
    assert model.history_["bond_dims"][-1] == expected
    assert model.network_.bond_sizes() == expected


# Through the estimators ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    # Sixteen pixels of four classes: small, and not trivial.
    X = X[y < 4].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    return train_test_split(X, y[y < 4], random_state=0)


SMALL = {"bond_dim": 4, "n_members": 1, "random_state": 0}


@pytest.mark.parametrize("network", ["mps", pytest.param("ttn", marks=pytest.mark.long)])
def test_a_classifier_learns_by_sweeps_alone(digits, network, tmp_path):
    X, X_test, y, y_test = digits
    model = TNClassifier(network=network, trainer="sweep", **SMALL).fit(X, y)
    assert model.score(X_test, y_test) > 0.95
    history = model.history_
    assert len(history["bond_dims"]) == len(history["truncation"]) == len(history["loss"]) == 4
    assert max(history["bond_dims"][-1]) <= 4
    assert all(0 <= error < 0.1 for error in history["truncation"][-1])
    assert history["loss"][-1] < history["loss"][0]
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X_test), model.predict_proba(X_test))
    assert again.history_ == history


def test_several_members_read_their_own_orders(digits):
    X, X_test, y, y_test = digits
    model = TNClassifier(**SMALL | {"n_members": 2}, trainer=Sweep(max_epochs=2)).fit(X, y)
    assert model.score(X_test, y_test) > 0.95
    assert np.shape(model.history_["bond_dims"][0]) == (2, 15)


def test_bonds_shrink_where_little_is_needed(digits):
    X, X_test, y, y_test = digits
    wide = TNClassifier(**SMALL | {"bond_dim": 8}, trainer=Sweep(cutoff=1e-2)).fit(X, y)
    assert wide.score(X_test, y_test) > 0.95
    assert np.mean(wide.history_["bond_dims"][-1]) < 6
    narrow = TNClassifier(**SMALL | {"bond_dim": 8}, trainer=Sweep(max_bond=3)).fit(X, y)
    assert max(narrow.network_.bond_sizes()) == 3
    assert narrow.score(X_test, y_test) > 0.9


@pytest.mark.long
def test_a_density_learns_by_sweeps(digits):
    X, X_test, _, _ = digits
    still, moved = Sweep(max_epochs=1, damping=1e9, ridge=0), Sweep(max_epochs=6)
    start, model = (TNBornMachine(4, trainer=t, random_state=0).fit(X) for t in (still, moved))
    losses = model.history_["loss"]
    assert losses == sorted(losses, reverse=True)
    assert model.score(X_test) > start.score(X_test) + 5
    # The history has the mean of -log p on the embedding's domain; raw columns add a constant map.
    jacobian = model._reader.log_derivatives(X).sum(axis=1).mean()
    assert model.score(X) - jacobian == pytest.approx(-losses[-1], abs=0.1)


@pytest.mark.long
@pytest.mark.parametrize("n_sites", [1, 2])
def test_an_operator_learns_by_sweeps(digits, n_sites, quick):
    X, X_test, y, y_test = digits
    start, model = (
        TNAnomalyDetector(
            4, network=SMPOSpec(spacing=4), loss=LogQuadratic() + 0.1 * LogNorm(),
            scaler="common_min_max", embedding=Trigonometric(), random_state=0, **options,
        ).fit(X[y == 0])
        for options in (
            {"max_epochs": 1, "learning_rate": 1e-9},
            {"trainer": Sweep(n_sites, max_epochs=2)},
        )
    )  # fmt: skip
    (view,), (first,) = model.views_, start.views_
    assert isinstance(view.network_, SMPO)
    assert max(view.history_["bond_dims"][-1]) <= 4
    losses = view.history_["loss"]
    assert losses[-1] < losses[0] < first.history_["loss"][0]
    normal, other = (model.score_samples(X_test[part]) for part in (y_test == 0, y_test != 0))
    assert np.isfinite(normal).all()
    assert normal.mean() > other.mean()


@pytest.mark.long
def test_sweeps_over_many_sites_stay_finite():
    X = np.random.RandomState(0).uniform(size=(30, 784))
    density = TNBornMachine(2, trainer=Sweep(max_epochs=1), random_state=0).fit(X)
    assert np.isfinite(density.score_samples(X)).all()
    assert np.isfinite(density.history_["loss"]).all()


@pytest.mark.long
def test_gradients_go_on_where_sweeps_end(digits):
    X, X_test, y, y_test = digits
    trainers = [Sweep(max_epochs=2), Gradient(max_epochs=5, learning_rate=1e-3)]
    # Without smoothing gradients go where sweeps, which weigh errors by how sure they are, do not.
    options = SMALL | {"loss": CrossEntropy(label_smoothing=0.05)}
    model = TNClassifier(trainer=trainers, **options).fit(X, y)
    alone = TNClassifier(trainer=trainers[0], **options).fit(X, y)
    losses = list(model.history_["loss"])
    assert len(losses) == 7 == model.n_iter_
    np.testing.assert_allclose(losses[:2], alone.history_["loss"], rtol=1e-5)
    assert losses[2] < 1.5 * losses[1]
    assert losses[-1] < losses[1]
    assert model.score(X_test, y_test) > 0.95
    model.set_params(warm_start=True, trainer="sweep").fit(X, y)
    assert model.n_iter_ == 11
    assert model.history_["loss"][-1] < losses[-1]


@pytest.mark.long
def test_lists_of_trainers_share_the_flat_options(digits):
    X, _, y, _ = digits
    model = TNClassifier(
        **SMALL, trainer=["sweep", "gradient"], max_epochs=1, learning_rate=1e-3,
        early_stopping=True,
    ).fit(X, y)  # fmt: skip
    assert model.n_iter_ == 2
    assert len(model.history_["validation_loss"]) == 2
    with pytest.raises(ValueError, match="Sweep has no learning_rate"):
        TNClassifier(trainer="sweep", learning_rate=1e-3).fit(X, y)
    with pytest.raises(ValueError, match="one or more trainers"):
        Sequential(())


def test_features_are_dropped(digits):
    X, X_test, y, y_test = digits
    model, rough, again = (
        TNClassifier(trainer=Sweep(max_epochs=2, feature_dropout=share), **SMALL).fit(X, y)
        for share in (0, 0.3, 0.3)
    )
    assert rough.history_["loss"][-1] > 1.1 * model.history_["loss"][-1]
    assert rough.history_ == again.history_ | {"seconds": rough.history_["seconds"]}
    assert rough.score(X_test, y_test) > 0.9


@pytest.mark.long
def test_batches_are_swept_in_turn(digits):
    X, X_test, y, y_test = digits
    model = TNClassifier(trainer=Sweep(batch_size=120, max_epochs=2), **SMALL).fit(X, y)
    assert model.score(X_test, y_test) > 0.9
    assert model.n_iter_ == 2
    model.partial_fit(X, y)
    assert model.n_iter_ == 3


def test_streams_are_swept_in_steps_that_become_shorter(digits):
    X, X_test, y, y_test = digits
    trainer = Sweep(damping=0.5)
    model, other = (TNClassifier(trainer=trainer, **SMALL) for _ in range(2))
    for each in (model, other):
        each.partial_fit(X[:240:2], y[:240:2], classes=range(4))
    # As many as were seen before make the steps half as long.
    other._ensemble = dataclasses.replace(other._ensemble, n_seen=0)
    other.set_params(trainer=dataclasses.replace(trainer, damping=1.0))
    for each in (model, other):
        each.partial_fit(X[1:240:2], y[1:240:2])
    np.testing.assert_array_equal(model.predict_proba(X_test), other.predict_proba(X_test))
    assert model.score(X_test, y_test) > 0.9


@pytest.mark.long
def test_few_samples_do_not_undo_a_fit(digits, tmp_path):
    X, X_test, y, y_test = digits
    model = TNClassifier(trainer="sweep", **SMALL).fit(X, y)
    model.save(tmp_path / "model")
    # Never seen, neither the few that come later nor those that tell.
    later = zip(X_test[:40].reshape(4, 10, -1), y_test[:40].reshape(4, 10), strict=True)
    X_test, y_test = X_test[40:], y_test[40:]
    before, model = model.score(X_test, y_test), load(tmp_path / "model")
    for part in later:
        model.partial_fit(*part)
    assert model.score(X_test, y_test) > before - 0.02


@pytest.mark.long
def test_a_sweep_cuts_a_trained_network_to_half():
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=0)
    options = {"n_members": 1, "random_state": 0, "warm_start": True}
    model = TNClassifier(20, trainer=Sweep(max_epochs=2), **options).fit(X, y)
    before = model.score(X_test, y_test)
    model.set_params(trainer=Sweep(max_bond=10, max_epochs=1)).fit(X, y)
    assert max(model.network_.bond_sizes()) == 10
    assert model.score(X_test, y_test) > before - 0.005


@pytest.mark.parametrize("network", ["mera", MPSSpec(cyclic=True)], ids=str)
def test_other_geometries_are_refused(digits, network):
    X, _, y, _ = digits
    with pytest.raises(ValueError, match="Sweeps need open"):
        TNClassifier(network=network, trainer="sweep", **SMALL).fit(X[:, :8], y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bond": 0}, "max_bond must be"),
        ({"cutoff": 1.0}, "cutoff must be"),
        ({"steps": 0}, "steps must be"),
        ({"cache_bytes": 0}, "cache_bytes must be"),
        ({"n_sites": 3}, "n_sites must be"),
        ({"feature_dropout": 1.0}, "feature_dropout must be"),
        ({"expansion": -1}, "expansion must be"),
        ({"ridge": -1.0}, "ridge must be"),
        ({"shrinkage": 2.0}, "shrinkage must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Sweep(**options)


def test_other_settings_and_seeds_compile_nothing(digits, compilations):
    X, _, y, _ = digits
    TNClassifier(trainer="sweep", **SMALL).fit(X, y)
    compilations.clear()
    other = Sweep(max_bond=4, cutoff=1e-3, max_epochs=1, ridge=1e-2, damping=0.5, steps=3)
    TNClassifier(**SMALL | {"random_state": 1}, trainer=other).fit(X, y)
    assert not {"run_updates", "evaluate_root"} & set(compilations.functions)
    # One program within the arms and one at the root for updates, one to find states.
    TNClassifier(**SMALL | {"bond_dim": 5}, trainer=Sweep(max_epochs=1)).fit(X, y)
    assert compilations.functions["run_updates"] == 3


@pytest.mark.long
def test_validation_compiles_once_while_ranks_change(digits, compilations):
    X, _, y, _ = digits
    trainer = Sweep(n_sites=1, expansion=1, max_bond=6, max_epochs=3)
    model = TNClassifier(**SMALL | {"bond_dim": 2}, trainer=trainer, early_stopping=True).fit(X, y)
    assert len({max(ranks) for ranks in model.history_["bond_dims"]}) > 1
    assert compilations.functions["losses"] == 1


@pytest.mark.parametrize("network", ["mps", pytest.param("ttn", marks=pytest.mark.long)])
def test_one_column_has_no_bond_to_sweep(network):
    X = np.random.default_rng(0).uniform(size=(60, 1))
    for n_sites in (1, 2):
        model = TNClassifier(network=network, trainer=Sweep(n_sites), **SMALL).fit(X, X[:, 0] > 0.4)
        assert model.score(X, X[:, 0] > 0.4) > 0.9
        assert model.history_["bond_dims"][-1] == []


@pytest.mark.parametrize("n_sites", [pytest.param(1, marks=pytest.mark.long), 2])
def test_bonds_are_no_larger_than_the_space_between_them(n_sites):
    X = np.random.default_rng(0).uniform(size=(80, 4))
    trainer = Sweep(n_sites, max_bond=1000, cutoff=0)
    model = TNRegressor(2, embedding=Legendre(2), trainer=trainer, n_members=1, random_state=0)
    model.fit(X, X.prod(axis=1))
    assert (np.array(model.history_["bond_dims"]) <= [3, 9, 3]).all()


@pytest.mark.long
def test_losses_of_batches_are_averaged(digits):
    X, _, y, _ = digits
    trainer = Sweep(batch_size=120, max_epochs=2, damping=1e6, ridge=0)
    model = TNClassifier(**SMALL, trainer=trainer).fit(X, y)
    whole = TNClassifier(**SMALL, trainer=dataclasses.replace(trainer, batch_size=9999)).fit(X, y)
    # Steps of no length: every sweep sees the start.
    np.testing.assert_allclose(model.history_["loss"], whole.history_["loss"], rtol=1e-3)
