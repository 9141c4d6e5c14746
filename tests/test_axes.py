"""Every registered variant of every axis keeps the contract of its axis.

A new variant is found by itself. Where its defaults do not make one that the contract can be tried
with, it needs a line in `MADE_BY_HAND`.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from covering import mostly_long, pairs
from jax.test_util import check_grads

import tn4ml_plus
from tn4ml_plus import (
    embeddings,
    ensembles,
    estimators,
    image,
    initializers,
    losses,
    networks,
    training,
)
from tn4ml_plus._arrays import on_device
from tn4ml_plus._registry import from_json, lookup, names, resolve, to_json
from tn4ml_plus.contraction import Amplitude, contract, pack, unpack
from tn4ml_plus.inspection import bond_entropies, compress
from tn4ml_plus.io import read, write

ROOMS = (
    tn4ml_plus,
    embeddings,
    ensembles,
    estimators,
    image,
    initializers,
    losses,
    networks,
    training,
)
# How a class makes an instance to try, where its defaults make none or one that trains for long.
MADE_BY_HAND = {
    ("candidate", "candidate"): lambda cls: cls(embeddings.Hat(), 0.2),
    ("embedding", "per_feature"): lambda cls: cls((embeddings.Hat(), embeddings.OneHot())),
    ("loss", "callable_loss"): lambda cls: cls(optax.losses.l2_loss),
    ("loss", "objective"): lambda cls: cls(losses.SquaredError(), ((0.5, losses.LogNorm()),)),
    ("loss", "optax_loss"): lambda cls: cls("log_cosh"),
    ("regularizer", "penalty"): lambda cls: cls(((0.5, losses.LogNorm()),)),
    ("trainer", "gradient"): lambda cls: cls(max_epochs=30, learning_rate=0.02),
    ("trainer", "in_turn"): lambda cls: cls(
        (training.Sweep(max_epochs=2), training.Gradient(max_epochs=2))
    ),
    ("trainer", "lbfgs"): lambda cls: cls(max_epochs=8),
    ("tree", "tree"): lambda cls: cls.balanced(5),
}
MADE_BY_HAND["trainer", "sequential"] = MADE_BY_HAND["trainer", "in_turn"]
# Functions and arrays, which a file cannot hold without running code.
NOT_STORED = {("loss", "callable_loss")}
# Estimators and their states are no values and have tests of their own; packing makes structures.
VALUES = [
    (kind, name)
    for kind in (
        "embedding", "loss", "regularizer", "initializer", "network", "scaler", "augmentation",
        "schedule", "stopping", "trainer", "image_trainer", "arrangement", "tree", "variant",
        "candidate",
    )
    for name in names(kind)
]  # fmt: skip


def variant(kind, name):
    """An instance of what is registered."""
    cls = lookup(kind, name)
    if not isinstance(cls, type):
        return cls
    try:
        return MADE_BY_HAND.get((kind, name), lambda cls: cls())(cls)
    except (ValueError, TypeError) as error:
        pytest.fail(
            f"The {kind} {name!r} is not made by its defaults: add the line "
            f"({kind!r}, {name!r}): lambda cls: cls(...) to MADE_BY_HAND in {__file__}. ({error})"
        )


def every(kind):
    """One test for each registered variant of a kind."""
    return pytest.mark.parametrize("name", names(kind))


def test_no_kind_is_left_out():
    from tn4ml_plus._registry import _CLASSES

    others = {"estimator", "structure", "state", "block", "merge"}  # "example" is a doctest's
    assert set(_CLASSES) - {"example"} == {kind for kind, _ in VALUES} | others


@pytest.mark.parametrize(("kind", "name"), VALUES)
def test_a_variant_is_a_value(kind, name):
    value = variant(kind, name)
    assert lookup(kind, name) in (type(value), value)
    assert any(getattr(room, type(value).__name__, None) is type(value) for room in ROOMS), (
        f"{type(value).__name__} is exported by no room"
    )
    assert resolve(kind, value) is value
    assert repr(value).startswith(f"{type(value).__name__}(")
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.anything = 1
    if (kind, name) in NOT_STORED:
        with pytest.raises(TypeError, match="cannot be stored without running code"):
            to_json(value)
    else:
        again = from_json(json.loads(json.dumps(to_json(value))))
        assert again == value
        assert hash(again) == hash(value)
        assert repr(again) == repr(value)


# Losses -------------------------------------------------------------------------------------------


def outputs_and_target(task):
    """Amplitude of five samples and a target that suits a task."""
    rng = np.random.default_rng(0)
    exponent = jnp.zeros(5, jnp.int32)
    if task == "density":
        return Amplitude(jnp.asarray(rng.uniform(0.5, 2, 5)), exponent), jnp.array([1, 1, 1, -1, 1])
    value = on_device(rng.normal(size=(5, 3)))
    classes = on_device(rng.integers(3, size=5))
    target = classes if task == "classification" else on_device(rng.normal(size=(5, 3)))
    return Amplitude(value, exponent), target


@every("loss")
def test_a_loss_has_right_gradients_refuses_wrong_shapes_and_takes_a_penalty(name):
    objective = variant("loss", name)
    loss = objective.loss
    with jax.enable_x64(True):
        amplitude, target = outputs_and_target(loss.task)
        found = jax.jit(loss)(amplitude, target)
        assert found.shape == (5,)
        assert np.isfinite(found).all()
        # Each sample's loss is its own.
        np.testing.assert_allclose(
            np.asarray(found)[:2],
            loss(*(jax.tree.map(lambda a: np.asarray(a)[:2], x) for x in (amplitude, target))),
            rtol=1e-12,
        )
        check_grads(
            jax.jit(lambda value: loss(amplitude._replace(value=value), target)),
            (np.asarray(amplitude.value),),
            order=1, modes=("rev",), eps=1e-6, rtol=1e-6,
        )  # fmt: skip
    amplitude, target = outputs_and_target(loss.task)
    assert loss(amplitude, target).dtype == jnp.float32
    for wrong in (target[:-1], target[None], jnp.ones((5, 4))):
        with pytest.raises(ValueError, match=r"[Tt]argets must"):
            loss(amplitude, wrong)
    both = objective + 0.25 * losses.LogNorm()
    assert both.needs_norm
    added = 0.25 * losses.LogNorm()(2.0)
    assert both.penalty(2.0) == pytest.approx(objective.penalty(2.0) + added)


@every("regularizer")
def test_a_regularizer_falls_toward_a_norm_and_is_finite(name):
    regularizer = variant("regularizer", name)
    logs = jnp.linspace(-40.0, 40.0, 9)
    slopes = jax.vmap(jax.grad(regularizer))(logs)
    assert np.isfinite(slopes).all()
    assert slopes[-1] > 0
    assert (2.0 * regularizer)(3.0) == pytest.approx(2 * regularizer(3.0))


# Initializers -------------------------------------------------------------------------------------


@every("initializer")
def test_an_initializer_makes_networks_of_any_size(name):
    initializer = variant("initializer", name)
    for nsites, bond_dim, phys_dim in ((1, 1, 1), (2, 5, 2), (5, 1, 3), (50, 3, 2)):
        options = {"bond_dim": bond_dim, "phys_dim": phys_dim, "initializer": initializer}
        mps = networks.MPS.random(nsites, n_outputs=2, key=jax.random.key(0), **options)
        assert mps.nsites == nsites
        assert max(mps.bond_sizes(), default=1) <= bond_dim
        assert all(np.isfinite(tensor.data).all() for tensor in mps)
        assert all(np.any(tensor.data != 0) for tensor in mps)


# Scalers, schedules, augmentations ----------------------------------------------------------------


@every("scaler")
def test_a_scaler_maps_columns_to_the_unit_interval_and_keeps_what_is_missing(name):
    scaler = variant("scaler", name)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 6)) * [1, 2, 3, 4, 5, 6]
    X[3, 2] = np.nan
    state = scaler.fit(X, np.ones(30))
    U = scaler.transform(X, state)
    assert U.shape == (30, scaler.n_outputs(6))
    assert isinstance(state, dict)
    if not isinstance(scaler, estimators.Passthrough):
        assert np.nanmin(U) >= 0
        assert np.nanmax(U) <= 1
    if not isinstance(scaler, estimators.PrincipalComponents):  # which fill in what is missing
        assert np.isnan(U[3]).tolist() == np.isnan(X[3]).tolist()
    assert np.ptp(np.delete(U, 3, axis=0), axis=0).min() > 0.01


@every("schedule")
def test_a_schedule_gives_a_factor_for_each_step(name):
    schedule = variant("schedule", name)
    for steps in (1, 2, 57):
        factors = schedule.factors(steps)
        assert factors.shape == (steps,)
        assert np.isfinite(factors).all()
        assert (factors >= 0).all()
        assert 0 < factors.max() <= 1


@every("augmentation")
def test_an_augmentation_keeps_shapes_and_the_weight_of_targets(name):
    augmentation = variant("augmentation", name)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(16, 6, 7, 2)), jnp.float32)
    targets = jnp.eye(4, dtype=jnp.float32)[rng.integers(4, size=16)]
    call = jax.jit(augmentation)
    found, mixed = call(jax.random.key(0), images, targets)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert mixed.shape == targets.shape
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-6)
    assert (found != images).any()
    again, _ = call(jax.random.key(0), images, targets)
    np.testing.assert_array_equal(again, found)
    assert (call(jax.random.key(1), images, targets)[0] != found).any()


# Parts of image models ----------------------------------------------------------------------------


# Every block and every merge: with each other they are tried by tests of their own.
@pytest.mark.parametrize(("block", "merge"), mostly_long(pairs(names("block"), names("merge"))))
def test_an_image_model_of_any_parts_gives_finite_outputs_and_gradients(block, merge):
    parts = {"block": lookup("block", block), "merge": lookup("merge", merge)}
    variant = image.Variant((2,), (1,), stem=())
    made = image.DTTN(variant, (4, 3, 2), 3, **parts, key=jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(5, 4, 3, 2)).astype("f4")
    outputs, gradient = jax.jit(
        jax.value_and_grad(lambda model: jnp.sum(jnp.tanh(model(images))) ** 2)
    )(made)
    assert np.isfinite(outputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(made.fold_batchnorm()(images), made(images), atol=1e-5)


# Topologies ---------------------------------------------------------------------------------------


def made(name, nsites=5, n_outputs=2):
    """Network of a topology."""
    options = {"bond_dim": 3, "phys_dim": 2, "key": jax.random.key(0)}
    return variant("network", name).random(nsites, n_outputs=n_outputs, **options)


def dense(network):
    """Array of a network, inputs first."""
    inputs = [f"k{i}" for i in range(network.nsites)]
    return network.contract(output_inds=[*inputs, *network.output_inds]).data


@every("network")
def test_a_topology_is_packed_stored_and_contracted(name, tmp_path):
    network = made(name)
    packed, structure = pack(network)
    assert hash(structure) == hash(pack(network.copy())[1])
    assert from_json(json.loads(json.dumps(to_json(structure)))) == structure
    assert structure.nsites == 5
    assert structure.phys_dims == (2,) * 5
    leaves, tree = jax.tree.flatten(packed)
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    write(tmp_path / "network", arrays, {"structure": to_json(structure)})
    stored, metadata = read(tmp_path / "network")
    again = unpack(
        jax.tree.unflatten(tree, [stored[str(i)] for i in range(len(leaves))]),
        from_json(metadata["structure"]),
    )
    assert type(again) is type(network)
    np.testing.assert_array_equal(dense(again), dense(network))
    phi = np.random.default_rng(0).normal(size=(4, 5, 2)).astype("f4")
    outputs = contract(packed, structure, phi)
    assert isinstance(outputs, Amplitude)
    expected = np.einsum("abcde...,za,zb,zc,zd,ze->z...", dense(network), *phi.swapaxes(0, 1))
    np.testing.assert_allclose(outputs.dense(), expected, rtol=1e-4, atol=1e-5)
    larger = dense(unpack(structure.rescale(packed, np.log(3.0)), structure))
    largest = np.abs(larger).max()
    np.testing.assert_allclose(larger, 3 * dense(network), rtol=0, atol=1e-5 * largest)


def works_or_says_why(call):
    """What a call returns, None where it is refused in words that help."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        if len(str(error)) < 40:
            raise
    return None


@every("network")
def test_a_topology_is_inspected_or_says_which_can_be(name):
    network = made(name, n_outputs=None)
    entropies = works_or_says_why(lambda: bond_entropies(network))
    if entropies is not None:
        assert np.isfinite(jax.tree.leaves(entropies)).all()
    smaller = works_or_says_why(lambda: compress(network, max_bond=2))
    if smaller is not None:
        assert np.isfinite(dense(network)).all()


# Trainers -----------------------------------------------------------------------------------------


def regression(seed=0, n_samples=60):
    """Rows and a smooth target."""
    X = np.random.default_rng(seed).uniform(-1, 1, size=(n_samples, 4))
    return X, X[:, 0] * X[:, 1] + 0.5 * X[:, 2]


def model(trainer, **options):
    """Regressor of one member that a trainer trains, with a penalty."""
    options = {"loss": losses.SquaredError() + 0.01 * losses.LogNorm()} | options
    return tn4ml_plus.TNRegressor(
        3, n_members=1, embedding=embeddings.Legendre(2), trainer=trainer, random_state=0, **options
    )


@pytest.fixture(scope="module")
def trained():
    """By names of trainers, a model, its rows and the numbers of its epochs."""

    @functools.cache
    def train(name):
        seen = []
        X, y = regression()
        call = [lambda epoch: seen.append(epoch.number)]
        return model(variant("trainer", name), callbacks=call).fit(X, y), X, y, seen

    return train


@every("trainer")
def test_a_trainer_trains_calls_back_and_tells_its_history(name, trained):
    trainer = variant("trainer", name)
    fitted, X, y, seen = trained(name)
    history = fitted.history_
    assert len(seen) == fitted.n_iter_ == len(history["loss"]) == len(history["seconds"]) > 0
    assert np.isfinite(history["loss"]).all()
    assert (np.diff(history["seconds"]) >= 0).all()
    assert fitted.score(X, y) > 0.3, "give it more epochs or larger steps in MADE_BY_HAND"
    weighted = model(trainer, callbacks=[lambda epoch: True])
    weighted.fit(X, y, sample_weight=np.where(X[:, 2] > 0, 10.0, 0.1))
    assert weighted.n_iter_ <= 2
    assert np.abs(weighted.predict(X) - fitted.predict(X)).max() > 1e-4


@every("trainer")
def test_a_trainer_minimises_penalties_and_watches_validation_samples(name, trained):
    trainer, (free, X, y, _) = variant("trainer", name), trained(name)
    pulled = model(trainer, loss=losses.SquaredError() + 1.0 * losses.LogNorm()).fit(X, y)
    logs = [abs(np.log(float(each.network_.norm()))) for each in (free, pulled)]
    assert logs[1] < 0.8 * logs[0]
    stopped = model(trainer, early_stopping=True).fit(X, y)
    found = stopped.history_["validation_loss"]
    assert len(found) == stopped.n_iter_
    assert np.isfinite(found).all()


@pytest.mark.long
@pytest.mark.parametrize(("name", "network"), pairs(names("trainer"), names("network")))
def test_a_trainer_trains_every_topology_or_says_which_it_can(name, network):
    X, y = regression()
    fitted = model(variant("trainer", name), network=network)
    if works_or_says_why(lambda: fitted.fit(X, y)):
        assert np.isfinite(fitted.history_["loss"]).all()
        assert np.isfinite(fitted.predict(X)).all()
    else:
        assert not hasattr(fitted, "networks_")
