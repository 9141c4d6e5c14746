"""Training against loops written here, in float64."""

import dataclasses
import functools
import io
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tqdm import tqdm

from tn4ml_plus import TNClassifier, TNRegressor, load
from tn4ml_plus.contraction import contract, log_norm_squared, pack
from tn4ml_plus.errors import NotFiniteError
from tn4ml_plus.initializers import RandomNormal
from tn4ml_plus.losses import CrossEntropy, LogNorm
from tn4ml_plus.networks import MPS, TTN, Tree
from tn4ml_plus.training import (
    LBFGS,
    Constant,
    EarlyStopping,
    Gradient,
    Problem,
    Samples,
    WarmupCosine,
    _gradient,
    _run,
    bucket,
    outputs,
)
from tn4ml_plus.training._risk import losses

# Eleven samples in a bucket of twelve, in batches of four: the last batch has one place empty.
NSITES, N_CLASSES, N_SAMPLES, BATCH = 5, 3, 11, 4
STEPS = 3
LOSS = CrossEntropy(label_smoothing=0.1)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def packed_chain(seed):
    return pack(
        MPS.random(
            NSITES, bond_dim=2, n_outputs=N_CLASSES, output_std=1.0,
            initializer=RandomNormal(0.6, add_identity=True), key=jax.random.key(seed),
        )
    )  # fmt: skip


def random_samples(n_samples=N_SAMPLES, seed=0):
    rng = np.random.default_rng(seed)
    length = bucket(n_samples)
    weight = np.zeros(length)
    weight[:n_samples] = rng.uniform(0.2, 2, n_samples)
    weight /= weight.sum() / n_samples
    # What stands in the places of no sample must not matter.
    phi = rng.normal(size=(length, NSITES, 2)) * np.where(weight > 0, 1, 50)[:, None, None]
    target = rng.integers(0, N_CLASSES, length).astype(np.int32)
    return Samples(jnp.asarray(phi), jnp.asarray(target), jnp.asarray(weight))


def packed_tree(seed):
    """A tree with three arrays of one shape, which are updated as one."""
    tree = Tree(NSITES, ((0, 1), (5, 2), (6, 3), (7, 4)))
    options = {"n_outputs": N_CLASSES, "output_std": 1.0, "bond_dim": 2}
    return pack(TTN.random(NSITES, tree=tree, **options, key=jax.random.key(seed)))


def make_problem(
    n_members=1, n_samples=N_SAMPLES, objective=LOSS, seed=0, packed=packed_chain, **options
):
    packs = [packed(m) for m in range(n_members)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(packed for packed, _ in packs))
    return Problem(
        structures=tuple(structure for _, structure in packs),
        objective=objective,
        params=params,
        anchor=jax.tree.map(jnp.zeros_like, params),
        samples=random_samples(n_samples),
        n_samples=n_samples,
        neutral=jnp.ones((NSITES, 2)),
        random_state=np.random.RandomState(seed),
        **options,
    )


@functools.partial(jax.jit, static_argnums=1)
def batch_loss(params, structure, phi, target, weight):
    """Weighted sum over a batch by the number of its samples, as the definition has it."""
    losses = LOSS(contract(params, structure, phi), target)
    return jnp.sum(losses * weight) / len(weight)


def exact_loss(problem, member=0):
    """Weighted mean over all samples."""
    n = problem.n_samples
    phi, target, weight = (array[:n] for array in problem.samples)
    params = jax.tree.map(lambda leaf: leaf[member], problem.params)
    return batch_loss(params, problem.structure, phi, target, weight) * n / weight.sum()


batch_value_and_grad = jax.jit(jax.value_and_grad(batch_loss), static_argnums=1)


@functools.partial(jax.jit, static_argnums=(0, 5))
def update(optimizer, value, gradient, state, params, structure, *arrays):
    """Updates of one batch by an optimizer that may want its value and its function."""

    def value_fn(params):
        return batch_loss(params, structure, *arrays)

    optimizer = optax.with_extra_args_support(optimizer)
    extra = {"value": value, "grad": gradient, "value_fn": value_fn}
    with jax.numpy_dtype_promotion("standard"):  # which optax asks for
        return optimizer.update(gradient, state, params, **extra)


def loop(problem, optimizer, n_epochs, batch_size=BATCH, seed=0, pull=0.0, rates=None):
    """Parameters after training member 0 by hand: new shuffles every epoch."""
    rng = np.random.RandomState(seed)
    params = jax.tree.map(lambda leaf: leaf[0], problem.params)
    anchor = jax.tree.map(lambda leaf: leaf[0], problem.anchor)
    state, step = optimizer.init(params), 0
    for _ in range(n_epochs):
        order = rng.permutation(problem.n_samples)
        for start in range(0, problem.n_samples, batch_size):
            batch = order[start : start + batch_size]
            batch = problem.structure, *(array[batch] for array in problem.samples)
            value, gradient = batch_value_and_grad(params, *batch)
            updates, state = update(optimizer, value, gradient, state, params, *batch)
            strength = pull * (1 if rates is None else rates[step])
            params = jax.tree.map(
                lambda p, u, a, s=strength: p + u - s * (p - a), params, updates, anchor
            )
            step += 1
    return params


def assert_params(result, expected, **tolerance):
    for ours, theirs in zip(jax.tree.leaves(result.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours[0], theirs, **({"rtol": 1e-6, "atol": 1e-8} | tolerance))


def distance(one, other):
    """Euclidean distance of two pytrees."""
    squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), one, other)
    return float(jnp.sqrt(sum(jax.tree.leaves(squares))))


# The objective ----------------------------------------------------------------------------------


def test_gradient_of_the_objective_against_finite_differences():
    problem = make_problem(objective=LOSS + 0.3 * LogNorm())
    params = jax.tree.map(lambda leaf: leaf[0], problem.params)
    index = jnp.array([3, 10, 0, -1])

    @jax.jit
    def value(params):
        return problem.risk.of_member(params, None, index)

    gradient = jax.jit(jax.grad(lambda params: value(params)[0]))(params)
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
        ahead, behind = (
            value(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction))[0]
            for s in (1e-6, -1e-6)
        )
        inner = sum(jnp.vdot(gradient[part], direction[part]) for part in params)
        np.testing.assert_allclose(inner, (ahead - behind) / 2e-6, rtol=1e-6)
    real = index[:3]
    arrays = [array[real] for array in problem.samples]
    loss = batch_loss(params, problem.structure, *arrays)
    penalty = 0.3 * log_norm_squared(params, problem.structure) ** 2
    found, total = value(params)
    np.testing.assert_allclose(found, loss + penalty, rtol=1e-12)
    np.testing.assert_allclose(total, 3 * loss, rtol=1e-12)


# A bucket of 1,792, which is no multiple of the block of 1,024, and one of 12.
@pytest.mark.parametrize("n_samples", [N_SAMPLES, 1600])
def test_the_validation_loss_is_the_weighted_mean_over_the_samples(n_samples):
    problem = make_problem(n_members=2, n_samples=n_samples)
    problem = dataclasses.replace(problem, validation=problem.samples)
    found, weight = problem.validation_losses(problem.params)
    assert found.shape == (2, len(weight)) == (2, (problem.samples.weight > 0).sum())
    expected = [exact_loss(problem, m) for m in (0, 1)]
    np.testing.assert_allclose(np.average(found, axis=1, weights=weight), expected, rtol=1e-10)
    warmer = problem.structure.rescale(problem.params, -np.log(2))
    both, _ = problem.validation_losses(problem.params, [1.0, 2.0])
    expected_of_both = [found, problem.validation_losses(warmer)[0]]
    np.testing.assert_allclose(both, expected_of_both, rtol=1e-10)
    found = problem.validation_loss(problem.params)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-10)


def test_outputs_of_members_in_their_own_orders():
    problem = make_problem(n_members=2)
    orders = jnp.array([[0, 1, 2, 3, 4], [3, 1, 4, 0, 2]])
    phi = problem.samples.phi
    amplitude = outputs(problem.structure, problem.params, phi, orders)
    for m, order in enumerate(orders):
        params = jax.tree.map(lambda leaf, m=m: leaf[m], problem.params)
        alone = contract(params, problem.structure, phi[:, order]).dense()
        ours = jax.tree.map(lambda leaf, m=m: leaf[m], amplitude)
        np.testing.assert_allclose(ours.dense(), alone, rtol=1e-10)


# Steps ------------------------------------------------------------------------------------------

FROZEN = optax.sgd(0.0)
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "lion": optax.lion(1e-2),
    "chain with schedule": optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.scale_by_adam(),
        optax.scale_by_schedule(optax.linear_schedule(-0.1, -0.01, 5)),
    ),
    "value": optax.polyak_sgd(max_learning_rate=0.1),
    "plateau": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, rtol=0.5)),
    "line search": optax.chain(
        optax.sgd(0.2), optax.scale_by_backtracking_linesearch(max_backtracking_steps=4)
    ),
}


# Without a value, with one, with a search of its own; the rest are like one of these.
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("value", "plateau", "line search", "chain with schedule")
        else pytest.param(name, marks=pytest.mark.long)
        for name in OPTIMIZERS
    ],
)  # fmt: skip
def test_any_optax_transformation_is_really_used(name):
    problem = make_problem()
    optimizer = OPTIMIZERS[name]
    result = Gradient(optimizer=optimizer, max_epochs=2, batch_size=BATCH).train(problem)
    assert_params(result, loop(problem, optimizer, 2))
    assert distance(result.params, problem.params) > 1e-3


@pytest.mark.long
def test_states_of_optax_with_random_keys_are_stored(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    noisy = optax.chain(
        optax.add_noise(0.1, 0.5, key=jax.random.key(3, impl="rbg")), optax.sgd(0.1)
    )
    trainer = Gradient(optimizer=noisy)
    model = TNClassifier(2, n_members=2, trainer=trainer, random_state=0)
    model.partial_fit(X, y, classes=[0, 1])
    model.trainer = "gradient"
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model").set_params(trainer=trainer)
    model.set_params(trainer=trainer).partial_fit(X, y)
    loaded.partial_fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), loaded.predict_proba(X))
    # The key goes on: other noise, not that of the first epoch again.
    first, second = model._ensemble.trainer_state["Gradient"], loaded._ensemble.trainer_state
    assert any((leaf > 1e6).any() for leaf in first if leaf.dtype == np.uint32)
    for one, other in zip(first, second["Gradient"], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("opaque", [False, True])
def test_sharpness_aware_steps_take_what_they_are_given(opaque):
    problem = make_problem()
    sam = optax.contrib.sam(
        optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.01)),
        sync_period=2, opaque_mode=opaque,
    )  # fmt: skip
    trainer = Gradient(optimizer=sam, max_epochs=4, batch_size=N_SAMPLES)
    losses = trainer.train(problem).history["loss"]
    assert losses[-1] < losses[0]
    chained = Gradient(optimizer=optax.chain(sam), max_epochs=4, batch_size=N_SAMPLES)
    if not opaque:
        np.testing.assert_allclose(chained.train(problem).history["loss"], losses)


@pytest.mark.long
def test_lbfgs_of_optax_never_climbs_on_whole_batches():
    trainer = Gradient(optimizer=optax.lbfgs(memory_size=3), max_epochs=8, batch_size=12)
    losses = trainer.train(make_problem()).history["loss"]
    assert (np.diff(losses) < 0).all()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.long
def test_extra_arguments_are_those_of_each_member():
    problem = make_problem(n_members=2)
    for max_rate in (0.01, 100.0):
        polyak = optax.polyak_sgd(max_rate)
        result = Gradient(optimizer=polyak, max_epochs=1, batch_size=12).train(problem)
        for m in (0, 1):
            params = jax.tree.map(lambda leaf, m=m: leaf[m], problem.params)
            arrays = [array[:N_SAMPLES] for array in problem.samples]
            value, gradient = batch_value_and_grad(params, problem.structure, *arrays)
            squared = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
            rate = min(value / squared, max_rate)
            for part, leaf in result.params.items():
                expected = params[part] - rate * gradient[part]
                np.testing.assert_allclose(leaf[m], expected, atol=1e-10)


def test_one_optimizer_is_traced_once():
    traces = []

    def update(updates, state, params=None, *, value, **_):
        del params
        traces.append(value)
        return jax.tree.map(lambda u: -0.1 * u, updates), state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    for _ in range(2):
        Gradient(optimizer=spy, max_epochs=2, batch_size=BATCH).train(make_problem())
        assert len(traces) == 1


def test_a_plateau_is_reached():
    plain = loop(make_problem(), optax.sgd(0.1), 2)
    assert distance(loop(make_problem(), OPTIMIZERS["plateau"], 2), plain) > 1e-3


def test_one_step_of_sgd_is_the_gradient_of_the_exact_loss():
    problem = make_problem()
    trainer = Gradient(optimizer=OPTIMIZERS["sgd"], max_epochs=1, batch_size=12)
    result = trainer.train(problem)
    step = jax.tree.map(lambda new, old: (old - new)[0] / 0.1, result.params, problem.params)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), step)
    values = []
    for s in (1e-6, -1e-6):
        moved = jax.tree.map(lambda p, d, s=s: p + s * d[None], problem.params, direction)
        values.append(exact_loss(dataclasses.replace(problem, params=moved)))
    inner = sum(jnp.vdot(step[part], direction[part]) for part in step)
    np.testing.assert_allclose(inner, (values[0] - values[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "batch_size", [1, 12, *(pytest.param(n, marks=pytest.mark.long) for n in (4, 64))]
)
def test_epoch_loss_is_the_weighted_mean_over_samples(batch_size):
    problem = make_problem()
    trainer = Gradient(optimizer=FROZEN, max_epochs=2, batch_size=batch_size)
    result = trainer.train(problem)
    np.testing.assert_allclose(result.history["loss"], [exact_loss(problem)] * 2, rtol=1e-10)
    assert distance(result.params, problem.params) == 0


@pytest.mark.parametrize("packed", [packed_chain, packed_tree])
def test_default_adam_with_its_schedule_and_decay(packed):
    problem = make_problem(packed=packed)
    problem = dataclasses.replace(
        problem, anchor=jax.tree.map(lambda leaf: leaf + 0.5, problem.params)
    )
    trainer = Gradient(learning_rate=0.02, max_epochs=2, batch_size=BATCH, decay=0.3)
    rates = 0.02 * WarmupCosine().factors(2 * STEPS)
    adam = optax.adam(lambda count: jnp.asarray(rates)[count], b1=0.9, b2=0.99)
    result = trainer.train(problem)
    pull = 0.3 * np.sqrt(1000 / N_SAMPLES) * 2 / 8 * 5 / 8  # of bond 2 and of 5 sites
    assert_params(result, loop(problem, adam, 2, pull=pull, rates=rates))
    np.testing.assert_allclose(result.history["learning_rate"], rates[STEPS - 1 :: STEPS])


def test_decay_pulls_toward_the_anchor():
    problem = make_problem()
    distances = []
    for decay in (0.0, 1.0, 5.0):
        trainer = Gradient(learning_rate=0.01, max_epochs=8, batch_size=BATCH, decay=decay)
        problem = dataclasses.replace(problem, random_state=np.random.RandomState(0))
        distances.append(distance(trainer.train(problem).params, problem.anchor))
    assert distances[0] > distances[1] > distances[2]


def test_clip_norm_caps_the_gradient():
    problem = make_problem()
    sgd = OPTIMIZERS["sgd"]
    free = Gradient(optimizer=sgd, max_epochs=1, batch_size=12).train(problem)
    norm = distance(free.params, problem.params) / 0.1
    for share in (0.25, 4.0):
        problem = dataclasses.replace(problem, random_state=np.random.RandomState(0))
        clip = Gradient(optimizer=sgd, max_epochs=1, batch_size=12, clip_norm=share * norm)
        step = distance(clip.train(problem).params, problem.params) / 0.1
        np.testing.assert_allclose(step, min(share, 1) * norm, rtol=1e-9)


def test_epochs_shuffle_differently_and_members_too():
    seen = []

    def spy():
        def update(updates, state, params=None):
            del params
            jax.debug.callback(lambda g: seen.append(np.array(g)), updates["center"])
            return jax.tree.map(jnp.zeros_like, updates), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    problem = make_problem()
    Gradient(optimizer=spy(), max_epochs=2, batch_size=BATCH).train(problem)
    jax.effects_barrier()
    assert len(seen) == 2 * STEPS
    first, second = seen[:STEPS], seen[STEPS:]
    assert not any(np.allclose(a, b) for a in first for b in second)
    # Every sample counts once an epoch, whatever batch it is in.
    sizes = [4, 4, 3]
    totals = [sum(n * g for n, g in zip(sizes, epoch)) for epoch in (first, second)]
    # The callback runs outside the context of float64.
    np.testing.assert_allclose(*totals, rtol=1e-4, atol=1e-4)


def test_same_seed_same_weights_and_other_seed_others():
    def final(seed):
        trainer = Gradient(learning_rate=0.01, max_epochs=2, batch_size=BATCH, feature_dropout=0.3)
        return trainer.train(make_problem(n_members=2, seed=seed)).params

    one, again, other = final(0), final(0), final(1)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert distance(one, other) > 0


def test_members_learn_apart():
    problem = make_problem(n_members=2)
    result = Gradient(optimizer=OPTIMIZERS["sgd"], max_epochs=1, batch_size=12).train(problem)
    for m in (0, 1):
        params = jax.tree.map(lambda leaf, m=m: leaf[m], problem.params)
        arrays = [array[:N_SAMPLES] for array in problem.samples]
        _, gradient = batch_value_and_grad(params, problem.structure, *arrays)
        for part, leaf in result.params.items():
            np.testing.assert_allclose(leaf[m], params[part] - 0.1 * gradient[part], atol=1e-10)


APART = {
    "the default": {},
    "decay of each": {"decay": (0.5, 2.0, 0.0)},
    "a capped gradient": {"clip_norm": 0.01},
    "a state of scalars": {"optimizer": optax.adamw(0.1)},
    "no state": {"optimizer": optax.sgd(0.1)},
}


@pytest.fixture
def accelerator(monkeypatch):
    """A function after which networks are trained by one program, as on an accelerator."""
    return lambda: monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.fixture
def epochs(monkeypatch):
    """Of each call of the compiled epoch: networks, sum of losses, thread, and minibatches."""
    seen, epoch = [], _gradient._epoch

    def spy(*args):
        params, state, totals = epoch(*args)
        seen.append((len(totals[0]), float(totals.sum()), threading.get_ident(), args[-2]))
        return params, state, totals

    monkeypatch.setattr(_gradient, "_epoch", spy)
    return seen


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("packed", [packed_chain, packed_tree])
def test_networks_learn_one_by_one_and_on_threads_what_they_learn_together(
    name, packed, monkeypatch, epochs, accelerator
):
    orders = np.array([[0, 1, 2, 3, 4], [4, 2, 0, 1, 3], [1, 0, 2, 4, 3]])
    subsets = np.array([[0, 2, 3, 5, 7, 8, 10], [1, 2, 4, 6, 7, 9, 3], [4, 5, 6, 0, 1, 2, 3]])
    trainer = Gradient(max_epochs=2, batch_size=4, **APART[name])

    def trained():
        epochs.clear()
        problem = make_problem(3, packed=packed, orders=orders, subsets=subsets)
        result = trainer.train(problem)
        return result, [n for n, *_ in epochs], {thread for *_, thread, _ in epochs}

    apart, calls, threads = trained()
    assert calls == [1] * 6
    assert threads == {threading.get_ident()}
    monkeypatch.setattr(_gradient, "_LONG", 0)
    on_threads, calls, threads = trained()
    assert calls == [1] * 6
    assert threading.get_ident() not in threads
    accelerator()
    together, calls, threads = trained()
    assert calls == [3] * 2
    for found in ("params", "state"):
        results = ([*jax.tree.leaves(getattr(r, found))] for r in (apart, on_threads, together))
        for one, other, expected in zip(*results, strict=True):
            assert one.dtype == other.dtype == expected.dtype
            np.testing.assert_array_equal(one, other)
            np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(apart.history["loss"], together.history["loss"], rtol=1e-9)


def test_networks_one_by_one_lose_features_of_their_own(epochs):
    problem = make_problem(3)
    same = jax.tree.map(lambda leaf: leaf[:1].repeat(3, axis=0), problem.params)
    problem = dataclasses.replace(problem, params=same)
    # Losses of frozen networks that are all the same, on all samples at once.
    dropout = {"batch_size": 12, "feature_dropout": (0.4, 0.4, 0.0)}
    trainer = Gradient(optimizer=FROZEN, max_epochs=1, **dropout)
    for _ in range(2):
        problem.random_state.seed(0)
        trainer.train(problem)
    losses = [loss for _, loss, *_ in epochs]
    assert losses[:3] == losses[3:]
    assert len(set(losses)) == 3
    # Not only in another order of the samples.
    keys = {tuple(batches.dropout[0]) for *_, batches in epochs}
    assert len(keys) == 3
    np.testing.assert_allclose(losses[2], exact_loss(problem) * N_SAMPLES, rtol=1e-10)


def test_members_learn_from_samples_of_their_own():
    subsets = np.array([[0, 2, 3, 5, 7, 8, 10], [1, 2, 4, 6, 7, 9, 3]])
    problem = make_problem(2, subsets=subsets)
    trainer = Gradient(max_epochs=2, batch_size=8, learning_rate=0.1, schedule=Constant())
    found = trainer.train(problem)
    for m, subset in enumerate(subsets):
        samples = Samples(*(array[subset] for array in problem.samples))
        alone = dataclasses.replace(
            make_problem(),
            samples=samples,
            n_samples=len(subset),
            params=jax.tree.map(lambda leaf, m=m: leaf[m : m + 1], problem.params),
            subsets=None,
        )
        expected = trainer.train(alone)
        for ours, theirs in zip(
            jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True
        ):
            # Adam's steps do not depend on the scale of the gradient.
            np.testing.assert_allclose(ours[m], theirs[0], atol=1e-6)


def test_other_trainers_refuse_samples_of_each_member():
    problem = make_problem(2, subsets=np.array([[0, 1], [2, 3]]))
    with pytest.raises(ValueError, match="LBFGS trains all networks on the same samples"):
        LBFGS(max_epochs=1).train(problem)


def test_dropped_features_are_neutral():
    problem = make_problem()
    trainer = Gradient(optimizer=FROZEN, max_epochs=1, batch_size=12, feature_dropout=1 - 1e-9)
    loss = trainer.train(problem).history["loss"]
    neutral = jnp.broadcast_to(problem.neutral, problem.samples.phi.shape)
    problem = dataclasses.replace(problem, samples=problem.samples._replace(phi=neutral))
    np.testing.assert_allclose(loss, [exact_loss(problem)], rtol=1e-10)


def test_dropout_draws_anew_each_epoch_at_its_rate():
    problem = make_problem()
    trainer = Gradient(optimizer=FROZEN, max_epochs=6, batch_size=12, feature_dropout=0.4)
    assert len(set(trainer.train(problem).history["loss"])) == 6


def test_dropped_features_have_each_networks_share_and_no_pattern():
    shares = np.array([0.0, 0.1, 0.4, 1.0], np.float32)
    keys = np.random.RandomState(0).randint(2**32, size=(2, 4), dtype=np.uint32)
    draw = jax.jit(_gradient._dropped, static_argnums=3)
    # An odd number of features: two are drawn at a time.
    masks = np.array([draw(key, shares, step, (4, 33, 3)) for key in keys for step in range(25)])
    assert masks.shape == (50, 4, 33, 3)
    for axis in (0, 2, 3):
        others = tuple({0, 2, 3} - {axis})
        size = masks[:, 0].size / masks.shape[axis]
        deviation = np.sqrt(shares * (1 - shares) / size)
        means = np.moveaxis(masks.mean(axis=others), 0 if axis else 1, -1)
        assert (abs(means - shares) <= 5 * deviation).all()
    # Steps, networks, samples and features are independent of the next ones.
    centred = np.array([draw(keys[0], np.full(4, 0.4, "f4"), i, (4, 33, 3)) for i in range(50)])
    centred = centred.astype(float) - 0.4
    for axis in range(4):
        following = np.roll(centred, 1, axis)
        assert abs(np.mean(centred * following)) < 5 * 0.24 / np.sqrt(centred.size)
    np.testing.assert_array_equal(masks[3], draw(keys[0], shares, 3, (4, 33, 3)))


def test_an_epoch_brings_no_more_than_the_order_of_its_samples_to_the_device(
    monkeypatch, accelerator
):
    accelerator()
    given, epoch = [], _gradient._epoch
    monkeypatch.setattr(_gradient, "_epoch", lambda *args: given.append(args) or epoch(*args))
    trainer = Gradient(max_epochs=1, batch_size=4, feature_dropout=0.4)
    trainer.train(make_problem(2))
    arrays = [leaf for leaf in jax.tree.leaves(given) if isinstance(leaf, np.ndarray)]
    assert 0 < sum(array.nbytes for array in arrays) <= 2 * 4 * bucket(N_SAMPLES) + 200


@pytest.mark.parametrize(
    ("n_features", "options", "rate"),
    [
        # Each shape is compiled: what either number does alone is long.
        pytest.param(8, {"bond_dim": 2}, 5e-3, marks=pytest.mark.long),
        pytest.param(256, {"bond_dim": 2}, 5e-3 / 4, marks=pytest.mark.long),
        (4, {"bond_dim": 8}, 5e-3),
        (4, {"bond_dim": 32}, 5e-3 / 4),
        (70, {"bond_dim": 16}, 5e-3 * 64 / 70 / 2),
        # Nodes of three bonds, whose steps are larger by another root of the bond.
        (16, {"bond_dim": 32, "network": "ttn"}, 5e-3 / 8),
        pytest.param(16, {"bond_dim": 8, "network": "ttn"}, 5e-3, marks=pytest.mark.long),
        (4, {"bond_dim": 32, "learning_rate": 1e-2}, 1e-2),
    ],
)
def test_default_rate_falls_with_the_number_of_sites_and_large_bonds(n_features, options, rate):
    X = np.random.default_rng(0).uniform(size=(20, n_features))
    model = TNClassifier(n_members=1, **options).partial_fit(X, np.arange(20) % 2, [0, 1])
    np.testing.assert_allclose(model.history_["learning_rate"], [rate])


@pytest.mark.parametrize(
    ("n_sites", "bond_dim", "share"),
    [
        (4, 2, 0.125),
        (12, 16, 1.0),
        (96, 8, 1.5),
        *(pytest.param(*row, marks=pytest.mark.long) for row in [(8, 4, 0.5), (2, 8, 0.25)]),
    ],
)
def test_decay_falls_with_small_bonds_and_few_sites_and_rises_with_many(n_sites, bond_dim, share):
    mps = MPS.random(n_sites, bond_dim=bond_dim, n_outputs=N_CLASSES, key=jax.random.key(0))
    packed, structure = pack(mps)
    params = jax.tree.map(lambda leaf: leaf[None], packed)
    problem = dataclasses.replace(
        make_problem(), structures=(structure,), params=params,
        anchor=jax.tree.map(lambda leaf: leaf - 1, params), orders=jnp.arange(n_sites)[None],
    )  # fmt: skip
    options = {"learning_rate": 1e-3, "max_epochs": 1, "batch_size": 12, "schedule": Constant()}
    phi = jnp.ones((len(problem.samples.phi), n_sites, 2))
    samples = problem.samples._replace(phi=phi)
    problem = dataclasses.replace(problem, samples=samples, neutral=phi[0])
    still, pulled = (Gradient(decay=d, **options).train(problem).params for d in (0.0, 3.0))
    pull = 1e-3 * 3 * np.sqrt(1000 / N_SAMPLES) * share
    for before, after in zip(*map(jax.tree.leaves, (still, pulled)), strict=True):
        np.testing.assert_allclose(before - after, pull, rtol=1e-4)


def test_partial_training_carries_the_state():
    problem = make_problem()
    trainer = Gradient(learning_rate=0.01, batch_size=BATCH)
    for _ in range(3):
        result = trainer.partial_train(problem)
        assert result.n_iter == 1
        assert result.history["learning_rate"] == [0.01]
        problem = dataclasses.replace(problem, params=result.params, state=result.state)
    expected = loop(make_problem(), optax.adam(0.01, b1=0.9, b2=0.99), 3)
    assert_params(result, expected)


# Length -----------------------------------------------------------------------------------------


def test_histories_have_one_value_an_epoch():
    problem = make_problem(validation=random_samples(seed=5))
    result = Gradient(optimizer=OPTIMIZERS["sgd"], max_epochs=3, batch_size=BATCH).train(problem)
    assert result.n_iter == 3
    assert set(result.history) == {"loss", "learning_rate", "seconds", "validation_loss"}
    assert all(len(values) == 3 for values in result.history.values())
    assert result.history["seconds"] == sorted(result.history["seconds"])


@pytest.mark.parametrize("max_epochs", [1, 7])
def test_max_epochs_is_exact(max_epochs):
    trainer = Gradient(optimizer=FROZEN, max_epochs=max_epochs, batch_size=BATCH)
    assert trainer.train(make_problem()).n_iter == max_epochs


@pytest.mark.parametrize(
    ("n_samples", "epochs"), [(64, 500), (640, 50), (6400, 30), (10**6, 1), (640 * 2, 40)]
)
def test_default_number_of_epochs(n_samples, epochs):
    assert Gradient().epochs(n_samples) == epochs


def test_time_limit_starts_no_new_epoch():
    trainer = Gradient(optimizer=FROZEN, max_epochs=50, batch_size=BATCH, time_limit=1e-9)
    assert trainer.train(make_problem()).n_iter == 1


def test_callbacks_see_every_epoch_and_may_stop():
    seen, members = [], []

    def first(epoch):
        seen.append((epoch.number, len(epoch.history["loss"])))
        members.append(epoch.members())

    def second(epoch):
        return epoch.number == 3

    problem = make_problem(n_members=2, callbacks=(second,))
    trainer = Gradient(
        optimizer=OPTIMIZERS["sgd"], max_epochs=50, batch_size=BATCH, callbacks=(first,)
    )
    result = trainer.train(problem)
    assert seen == [(1, 1), (2, 2), (3, 3)]
    assert result.n_iter == 3
    for m, network in enumerate(members[-1]):
        assert isinstance(network, MPS)
        for part, leaf in pack(network)[0].items():
            np.testing.assert_array_equal(leaf, result.params[part][m])
    assert np.abs(members[0][0][1].data - members[1][0][1].data).max() > 0


def test_members_have_their_own_sizes():
    sizes = [(2, 3, 3, 2), (3, 2, 2, 3)]
    packs = [
        pack(MPS.random(4, bond_dim=2, phys_dim=s, n_outputs=N_CLASSES, key=jax.random.key(m)))
        for m, s in enumerate(sizes)
    ]
    phi = np.random.default_rng(0).normal(size=(bucket(N_SAMPLES), 4, 3))
    phi[:, [0, 3], 2] = 0
    seen = []
    problem = dataclasses.replace(
        make_problem(),
        structures=tuple(structure for _, structure in packs),
        params=jax.tree.map(lambda *leaves: jnp.stack(leaves), *(packed for packed, _ in packs)),
        anchor=jax.tree.map(lambda *leaves: jnp.stack(leaves), *(packed for packed, _ in packs)),
        samples=random_samples()._replace(phi=jnp.asarray(phi)),
        orders=jnp.array([[0, 1, 2, 3], [1, 0, 3, 2]]),
        neutral=jnp.zeros((4, 3)),
        callbacks=(lambda epoch: seen.extend(epoch.members()),),
    )
    result = Gradient(optimizer=OPTIMIZERS["sgd"], max_epochs=1, batch_size=12).train(problem)
    for m, network in enumerate(seen):
        packed, structure = pack(network)
        assert structure == problem.structures[m]
        assert structure.phys_dims == sizes[m]
        for part, leaf in packed.items():
            np.testing.assert_array_equal(leaf, result.params[part][m])
    assert distance(result.params, problem.params) > 0


def test_callbacks_are_any_sequence_of_functions():
    assert Gradient(callbacks=[print]) == Gradient(callbacks=(print,))
    assert hash(Gradient(callbacks=[print])) == hash(Gradient(callbacks=(print,)))


def test_progress_is_not_drawn_each_epoch(monkeypatch):
    stream = io.StringIO()
    quiet = functools.partial(tqdm, file=stream, mininterval=1e9)
    monkeypatch.setattr(_run, "tqdm", quiet)
    trainer = Gradient(optimizer=FROZEN, max_epochs=50, batch_size=BATCH)
    trainer.train(make_problem(verbose=True))
    assert "epochs:   0%" in stream.getvalue()
    assert stream.getvalue().count("epochs:") < 5


class Interrupting(np.random.RandomState):
    """Interrupts when a third permutation is drawn."""

    left = 2

    def permutation(self, n):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().permutation(n)


def interrupting(epoch):
    if epoch.number == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["step", "callback"])
def test_an_interrupt_keeps_the_finished_epochs(where):
    problem = make_problem(callbacks=(interrupting,) if where == "callback" else ())
    if where == "step":
        problem = dataclasses.replace(problem, random_state=Interrupting(0))
    trainer = Gradient(optimizer=optax.sgd(0.1, momentum=0.9), max_epochs=9, batch_size=BATCH)
    with pytest.raises(KeyboardInterrupt) as info:
        trainer.train(problem)
    result = info.value.result
    assert result.n_iter == 2
    assert all(len(values) == 2 for values in result.history.values())
    assert len(result.state) == len(jax.tree.leaves(problem.params))
    assert_params(result, loop(make_problem(), trainer.optimizer, 2))


def test_an_interrupt_of_the_first_epoch_keeps_the_start():
    problem = make_problem()
    problem = dataclasses.replace(problem, random_state=Interrupting(0))
    problem.random_state.left = 0
    with pytest.raises(KeyboardInterrupt) as info:
        Gradient(optimizer=FROZEN, max_epochs=9, batch_size=BATCH).train(problem)
    assert info.value.result.n_iter == 0
    assert distance(info.value.result.params, problem.params) == 0


def validation_loss(problem, params):
    problem = dataclasses.replace(problem, samples=problem.validation)
    weight = problem.validation.weight
    return float(
        np.average(losses(problem.risk, params, 12, np.ones(1))[0].mean(axis=0), weights=weight)
    )


def test_early_stopping_restores_the_best_weights():
    problem = make_problem(n_members=2, validation=random_samples(seed=5))
    stopping = EarlyStopping(patience=3)
    trainer = Gradient(
        learning_rate=0.2, max_epochs=100, batch_size=BATCH, schedule=Constant(),
        early_stopping=stopping,
    )  # fmt: skip
    result = trainer.train(problem)
    losses = result.history["validation_loss"]
    assert result.n_iter == len(losses) < 100
    assert len(losses) == np.argmin(losses) + 1 + stopping.patience
    np.testing.assert_allclose(validation_loss(problem, result.params), min(losses), rtol=1e-10)
    assert losses[-1] > min(losses)


def test_early_stopping_ignores_small_gains():
    problem = make_problem(validation=random_samples())
    trainer = Gradient(
        learning_rate=1e-3, max_epochs=50, batch_size=BATCH, schedule=Constant(),
        early_stopping=EarlyStopping(patience=2, min_delta=10.0),
    )  # fmt: skip
    assert trainer.train(problem).n_iter == 3


def test_without_early_stopping_the_last_weights_are_kept():
    problem = make_problem(n_members=2, validation=random_samples(seed=5))
    trainer = Gradient(learning_rate=0.2, max_epochs=6, batch_size=BATCH, schedule=Constant())
    result = trainer.train(problem)
    last = result.history["validation_loss"][-1]
    np.testing.assert_allclose(validation_loss(problem, result.params), last, rtol=1e-10)


# Divergence -------------------------------------------------------------------------------------

EXPLODING = {
    "first epoch": optax.sgd(1e200),
    "third epoch": optax.sgd(optax.piecewise_constant_schedule(0.01, {2 * STEPS: 1e202})),
}


@pytest.mark.parametrize("name", EXPLODING)
def test_divergence_keeps_the_last_finite_weights(name):
    problem = make_problem()
    trainer = Gradient(optimizer=EXPLODING[name], max_epochs=20, batch_size=BATCH)
    with pytest.raises(NotFiniteError, match="Lower learning_rate, set clip_norm") as info:
        trainer.train(problem)
    assert "a custom loss may be at fault" in str(info.value)
    result = info.value.result
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    assert np.isfinite(result.history["loss"]).all()
    assert result.n_iter == len(result.history["loss"])
    if name == "third epoch":
        assert result.n_iter == 2
        assert_params(result, loop(problem, optax.sgd(0.01), 2))


def test_weights_that_explode_in_the_last_step_are_not_returned():
    problem = make_problem()
    exploding = optax.sgd(1e308 * 1e3)  # infinite
    trainer = Gradient(optimizer=exploding, max_epochs=1, batch_size=12)
    with pytest.raises(NotFiniteError) as info:
        trainer.train(problem)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(info.value.result.params))


# Parts ------------------------------------------------------------------------------------------


def test_schedules():
    factors = WarmupCosine(warmup=0.1).factors(200)
    assert factors.shape == (200,)
    np.testing.assert_allclose(factors[:20], (np.arange(20) + 1) / 20 * np.cos(
        np.pi * np.arange(20) / 400) ** 2)  # fmt: skip
    assert (np.diff(factors[20:]) < 0).all()
    assert 0 < factors[-1] < 1e-3
    assert WarmupCosine(warmup=0).factors(1) == [1.0]
    np.testing.assert_array_equal(Constant().factors(3), 1)


def test_buckets_waste_at_most_a_quarter():
    sizes = np.arange(1, 5000)
    buckets = np.array([bucket(int(n)) for n in sizes])
    assert (buckets >= sizes).all()
    assert (buckets <= 1.25 * sizes).all()
    assert (np.diff(buckets) >= 0).all()
    assert len(set(buckets)) < 4 * 13


POSITIVE = "must be a finite number above 0, or None, got"
WHOLE = "must be an integer of at least 1"
WRONG = {
    "learning_rate": (POSITIVE, ["foo", [1], True, 0.0, np.inf, np.nan]),
    "clip_norm": (POSITIVE, ["foo", -1.0, np.inf]),
    "time_limit": (POSITIVE, ["foo", 0.0, -1]),
    "decay": ("must be a finite number of at least 0, got", ["foo", [1], None, -0.1, np.inf]),
    "feature_dropout": ("of at least 0 and below 1, got", ["foo", [1], 1.0, -0.1, np.nan]),
    "max_epochs": (f"{WHOLE}, or None, got", ["foo", 0, 3.0, 2.5, np.inf, True]),
    "batch_size": (f"{WHOLE}, or None, got", ["foo", 0, 2.5, np.inf]),
    "min_steps": (f"{WHOLE}, got", [0, "foo", None]),
    "max_steps": (f"{WHOLE}, got", [0, 1.0]),
    "schedule": ("must be an instance of Schedule, got", ["cosine", WarmupCosine, None]),
    "early_stopping": ("must be an instance of EarlyStopping, or None, got", [True, 3]),
    "callbacks": ("must be a sequence of functions, got", [print, [1], (print, None), "ab", None]),
    "optimizer": (
        r"must be an optax transformation, got .*write optax\.adam\(1e-3\)",
        ["adam", optax.adam, 1e-3],
    ),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, v) for name, (_, values) in WRONG.items() for v in values]
)
def test_bad_options(name, value):
    with pytest.raises(ValueError, match=f"^{name}.*{WRONG[name][0]}"):
        Gradient(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 1e-3, "optimizer": FROZEN}, "brings its own learning rate"),
        ({"decay": 1.0, "optimizer": FROZEN}, "chain optax.add_decayed_weights"),
    ],
)
def test_options_that_exclude_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        Gradient(**options)


def test_options_may_be_numpys():
    given = {"max_epochs": 2, "batch_size": BATCH, "learning_rate": 0.5, "decay": 0.25}
    numpys = {name: np.asarray(value)[()] for name, value in given.items()}
    assert_params(
        Gradient(**numpys).train(make_problem()),
        jax.tree.map(lambda leaf: leaf[0], Gradient(**given).train(make_problem()).params),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience must be an integer of at least 1, got 0"),
        ({"patience": "a"}, "patience must be an integer"),
        ({"patience": 2.5}, "patience must be an integer"),
        ({"validation_fraction": 1.0}, "validation_fraction .* above 0 and below 1, got 1.0"),
        ({"validation_fraction": 0}, "validation_fraction .* above 0 and below 1, got 0"),
        ({"validation_fraction": "x"}, "validation_fraction must be"),
        ({"min_delta": "x"}, "min_delta must be a finite number of at least 0, got 'x'"),
        ({"min_delta": np.nan}, "min_delta must be"),
    ],
)
def test_bad_stopping(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)


@pytest.mark.parametrize("warmup", [1.0, -0.1, "x", None])
def test_bad_warmup(warmup):
    with pytest.raises(ValueError, match="warmup must be a finite number of at least 0 and below"):
        WarmupCosine(warmup=warmup)


def test_an_optimizer_that_takes_more_than_parameters_is_named():
    slow = optax.lookahead(optax.sgd(0.1), 5, 0.5)
    with pytest.raises(ValueError, match="The optimizer lookahead takes more than"):
        TNRegressor(2, n_members=1, trainer=Gradient(optimizer=slow)).fit(np.eye(9), np.arange(9))
