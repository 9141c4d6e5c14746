"""Properties that only a small fault breaks, found by planting such faults: planted_faults.py."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from tn4ml_plus import DTTNClassifier, TNClassifier, TNRegressor, TNTransformer, load
from tn4ml_plus.contraction import Amplitude, SquaredNorm, calibrate, contract, pack
from tn4ml_plus.embeddings import Legendre, OneHot, PerFeature
from tn4ml_plus.errors import InformationWarning
from tn4ml_plus.image import DTTN, Variant
from tn4ml_plus.initializers import LeastSquaresIdentity
from tn4ml_plus.networks import MPS, SMPO, LayeredMPS, MutualInformation
from tn4ml_plus.training import Constant, Gradient, ImageGradient, LabelledImages, Sweep
from tn4ml_plus.training.images._gradient import _with_moments
from tn4ml_plus.training.sweeps._effective_problem import _leading


@pytest.mark.parametrize("fan", [16, 4096])
def test_default_noise_has_a_variance_of_half_over_fan(fan):
    noise = LeastSquaresIdentity(None).noise(np.random.default_rng(0), (64, 2, 64), fan)
    # Six standard deviations of the variance of as many normal numbers.
    assert noise.var() * fan == pytest.approx(0.5, rel=6 * np.sqrt(2 / noise.size))


class Given(MutualInformation):
    """Arrangement by given mutual information in place of that of data."""

    def matrix(self, X):
        return X


def test_clusters_join_by_mean_and_not_by_total_information():
    shared = np.full((5, 5), 0.3)
    shared[0, 1] = shared[1, 0] = shared[2, 3] = shared[3, 2] = 1.0
    shared[:2, 4] = shared[4, :2] = 0.4
    shared[2:4, 4] = shared[4, 2:4] = 0.1
    # The pair (0, 1) shares 4 x 0.3 with (2, 3) but 0.4 on average with 4 alone.
    assert list(map(set, Given().tree(shared).nodes)) == [{0, 1}, {2, 3}, {4, 5}, {6, 7}]


def test_layers_carry_the_exponents_of_both():
    below, above = jax.random.split(jax.random.key(0))
    smpo = SMPO.random(4, bond_dim=2, key=below)
    mps = MPS.random(2, bond_dim=2, n_outputs=2, key=above)
    plain = LayeredMPS(smpo, mps).contract().data
    smpo.exponent, mps.exponent = 2.0, 1.0
    network = LayeredMPS(smpo, mps)
    assert network.exponent == 3.0
    np.testing.assert_allclose(network.contract().data, 1000 * plain, rtol=1e-5)


def test_scales_beyond_one_step_are_exact():
    # 2**-100 * 2**200 and 2**100 * 2**-200: no float32 holds either scale.
    value = jnp.asarray([2.0**-100, 2.0**100], jnp.float32)
    dense = Amplitude(value, jnp.asarray([200, -200], jnp.int32)).dense()
    np.testing.assert_array_equal(dense, np.float32([2.0**100, 2.0**-100]))


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-20])
def test_the_exponent_is_that_of_the_largest_output(scale):
    mps = MPS.random(4, bond_dim=2, n_outputs=3, output_std=1.0, key=jax.random.key(0))
    packed, structure = pack(mps * scale)
    phi = np.random.default_rng(0).uniform(0.5, 1, (5, 4, 2)).astype(np.float32)
    largest = np.abs(contract(packed, structure, phi).value).max(axis=1)
    assert ((largest >= 1) & (largest < 2)).all()


def test_the_heaviest_levels_of_a_category_are_known():
    # Of 17 levels the one with a single row has the largest weight, and 15 are kept.
    levels = [f"level {i}" for i in range(16)] * 2 + ["heavy"]
    weight = np.where(np.array(levels) == "heavy", 100.0, 1.0)
    frame = pd.DataFrame({"a": levels, "b": np.linspace(0, 1, len(levels))})
    with pytest.warns(InformationWarning, match="keeps 15 of 17"):
        transformer = TNTransformer().fit(frame, sample_weight=weight)
    assert TNTransformer(max_categories=17).fit(frame).embedding_.embeddings[0] == OneHot(17)
    known, unknown = transformer.transform(pd.DataFrame({"a": ["heavy", "new"], "b": [0.5, 0.5]}))
    assert not np.allclose(known, unknown, atol=0.1)


def test_members_are_compressed_in_their_own_orders():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, n, 80) for n in (2, 4)] + [rng.uniform(-1, 1, 80)])
    embedding = PerFeature((OneHot(2), OneHot(4), Legendre(2)))
    options = {"n_members": 4, "bond_dim": 3, "max_epochs": 1, "random_state": 0}
    model = TNRegressor(embedding=embedding, **options).fit(X, X @ [1.0, 2.0, 3.0])
    # Orders that differ in the sizes of their sites.
    assert len({tuple(np.array([2, 4, 3])[order]) for order in model.orders_}) > 1
    np.testing.assert_allclose(model.compress(cutoff=0).predict(X), model.predict(X), rtol=1e-3)


def test_streams_of_sweeps_go_on_as_if_never_stored(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = (X[:, 0] > 0).astype(int)
    model = TNClassifier(trainer=Sweep(max_bond=3), n_members=1, bond_dim=3, random_state=0)
    model.partial_fit(X, y, classes=[0, 1])
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    first, second = (each.partial_fit(X, y).predict_proba(X) for each in (model, loaded))
    np.testing.assert_array_equal(first, second)


def test_losses_of_batches_count_by_their_weights():
    rng = np.random.default_rng(0)
    X, y, weight = rng.normal(size=(10, 3)), rng.normal(size=10) ** 3, np.r_[[9.0] * 3, [1.0] * 7]
    found = []
    for batch_size in (4, 10):
        # Steps of no length: every batch sees the start.
        trainer = Sweep(batch_size=batch_size, max_epochs=1, damping=1e6, ridge=0, max_bond=2)
        model = TNRegressor(trainer=trainer, n_members=1, bond_dim=2, random_state=0)
        found.append(model.fit(X, y, sample_weight=weight).history_["loss"][0])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.fixture(scope="module")
def one_step():
    """Function that trains a small image model by one step, and its images and labels."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(24, 4, 4)), np.arange(24) % 3

    def train(**options):
        trainer = ImageGradient(batch_size=24, schedule=Constant(), **options)
        variant = Variant((4,), (1,), stem=(2,))
        model = DTTNClassifier(variant, trainer=trainer, max_epochs=1, random_state=0)
        return model.fit(images, labels)

    return train, images, labels


def test_smoothed_labels_are_probabilities(one_step):
    train, images, labels = one_step
    model = train(learning_rate=1e-30, label_smoothing=0.3)
    targets = 0.7 * np.eye(3)[labels] + 0.1
    q = 0.7 * model.predict_proba(images) + 0.1
    loss = -(targets * np.log(q)).sum(axis=1).mean()
    np.testing.assert_allclose(model.history_["loss"], [loss], rtol=1e-4)


def test_the_first_average_of_weights_is_of_few_steps(one_step):
    train, *_ = one_step
    start, end, average = (
        train(**options).model_.head.weight
        for options in ({"learning_rate": 1e-30}, {}, {"ema": 0.99})
    )
    np.testing.assert_allclose(average, 0.1 * start + 0.9 * end, rtol=1e-4, atol=1e-6)
    assert not np.allclose(start, end, atol=1e-3)


def test_squared_norms_are_calibrated_to_the_given_size():
    packed, structure = pack(MPS.random(6, bond_dim=3, key=jax.random.key(0)))
    structure = SquaredNorm(structure)
    phi = np.random.default_rng(0).uniform(0.5, 1, (20, 6, 2)).astype(np.float32)
    packed = calibrate(packed, structure, phi, std=3.0)
    squares = contract(packed, structure, phi).dense() ** 2
    assert np.sqrt(squares.mean()) == pytest.approx(3, rel=1e-4)


def test_last_batches_are_filled_with_nothing():
    # Ten samples are not padded themselves, so that a row of none would be the last sample.
    X = np.random.default_rng(0).normal(size=(10, 3))
    found = []
    for batch_size in (4, 10):
        trainer = Gradient(learning_rate=1e-30, max_epochs=1, batch_size=batch_size)
        model = TNRegressor(trainer=trainer, n_members=1, bond_dim=2, random_state=0)
        found.append(model.fit(X, X[:, 0]).history_["loss"][0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(("max_bond", "cutoff"), [(2, 0.0), (4, 0.5), (1, 0.0)])
def test_a_cut_loses_what_the_bond_has_no_room_for(max_bond, cutoff):
    matrix = np.diag([3.0, 2.0, 1.0, 1.0, 1.0, 1.0]).astype(np.float32)
    kept, rank, lost = _leading(jnp.asarray(matrix), 4, max_bond, cutoff)
    # Shares 9, 4, 1, 1, 1, 1 of 17: behind the first one there are 8 / 17 < 0.5.
    expected = 1 if cutoff else max_bond
    assert rank == expected
    assert lost == pytest.approx([8 / 17, 4 / 17][expected - 1], rel=1e-5)
    np.testing.assert_allclose(np.abs(kept), np.eye(6, 4) * (np.arange(4) < int(rank)), atol=1e-6)


def test_the_state_of_a_trainer_goes_into_the_next_part():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.integers(2, size=60)
    model = TNClassifier(2, n_members=1, random_state=0).partial_fit(X, y, classes=[0, 1])
    without = copy.deepcopy(model)
    without._ensemble = dataclasses.replace(without._ensemble, trainer_state={})
    first, second = (each.partial_fit(X, y).predict_proba(X) for each in (model, without))
    assert np.abs(first - second).max() > 1e-6


def test_the_prior_of_a_start_counts_weights():
    X = np.random.default_rng(0).normal(size=(60, 4))
    y = np.arange(60) % 2
    model = TNClassifier(2, n_members=1, learning_rate=1e-9, max_epochs=1, random_state=0)
    odds = []
    for weight in (np.ones(60), np.where(y == 0, 9.0, 1.0)):
        p = model.fit(X, y, sample_weight=weight).predict_proba(X)
        odds.append(np.mean(np.log(p[:, 0] / p[:, 1])))
    assert odds[1] - odds[0] == pytest.approx(np.log(9), abs=0.3)


def test_moments_of_blocks_count_what_differs_between_them():
    model = DTTN(Variant((4,), (1,), stem=(2,)), (4, 4), 2, key=jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype("f4")
    images[4:] += 5
    samples = LabelledImages(images, None, None, np.zeros(1, "f4"), np.ones(1, "f4"))
    apart, together = (
        _with_moments(model, samples, np.arange(8).reshape(shape)).moments
        for shape in ((2, 4), (1, 8))
    )
    # Of what no other normalisation comes before.
    np.testing.assert_allclose(apart[0], together[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [MPS, SMPO])
def test_ranks_of_both_arms_are_told_from_left_to_right(network):
    options = {"n_outputs": 3} if network is MPS else {"spacing": 6}
    packed, structure = pack(network.random(6, bond_dim=5, key=jax.random.key(0), **options))
    structure = dataclasses.replace(structure, bond_dims=(1, 2, 4, 5, 4, 3, 1))
    _, twin = structure.from_nodes(*structure.to_nodes(packed))
    assert twin.bond_dims == structure.bond_dims
