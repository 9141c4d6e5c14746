"""What estimators tell of themselves: explanations, activations, Gram matrices, compression."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import train_test_split

from tn4ml_plus import TNAnomalyDetector, TNBornMachine, TNClassifier, TNRegressor
from tn4ml_plus._amplitude import Amplitude
from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.embeddings import Embedded, Legendre, Patches, PerFeature, Trigonometric
from tn4ml_plus.inspection import activations, interaction_orders
from tn4ml_plus.losses import BornCrossEntropy
from tn4ml_plus.networks import TTNSpec

# Two members, the same everywhere, so that tests of the same table share compiled code.
QUICK = {"n_members": 2, "max_epochs": 15, "random_state": 0}
ALONE = QUICK | {"n_members": 1}
# Nothing is chosen from the data.
GIVEN = {"embedding": Legendre(4), "feature_dropout": 0.1}


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def synthetic():
    """Ten columns of which the label reads the first two."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(1500, 10))
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


# Explanations -------------------------------------------------------------------------------------


# A network and a loss meet in its outputs only.
@pytest.mark.parametrize(
    ("network", "loss"),
    [("mps", None), pytest.param("ttn", BornCrossEntropy(), marks=pytest.mark.long)],
)
def test_a_classifier_is_explained_by_averaging_sites_out(iris, loss, network):
    X, y = iris
    clf = TNClassifier(4, network=network, loss=loss, **QUICK).fit(X, y)
    phi, rows = clf.embed(X), np.arange(len(X))

    @jax.jit
    def log_p(phi):
        parts = [
            clf._ensemble.loss.probabilities(contract(*pack(network), phi[:, order]))
            for network, order in zip(clf.networks_, clf.orders_, strict=True)
        ]
        return jnp.log(jnp.mean(jnp.asarray(parts), axis=0))

    for labels in (None, y):
        chosen = clf.predict(X) if labels is None else labels
        expected = np.empty((len(X), 4))
        for site in range(4):
            without = phi.copy()
            without[:, site] = clf._reader.neutral[site]
            expected[:, site] = np.asarray(log_p(phi) - log_p(without))[rows, chosen]
        np.testing.assert_allclose(clf.explain(X, labels), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"y has labels \[7\] that are not among"):
        clf.explain(X, np.full(len(X), 7))


def test_a_regressor_is_explained_in_units_of_its_targets(synthetic):
    X, _ = synthetic
    y = np.stack([3 * X[:, 0] - X[:, 1], 100 + 50 * X[:, 2]], axis=1)
    linear = {"embedding": Legendre(1), "scaler": "common_min_max", "feature_dropout": 0.05}
    model = TNRegressor(4, **linear, **QUICK).fit(X, y)
    found = model.explain(X)
    assert found.shape == (len(X), 10, 2)
    centred = X - X.mean(axis=0)
    np.testing.assert_allclose(found[:, 0, 0], 3 * centred[:, 0], atol=0.3)
    np.testing.assert_allclose(found[:, 2, 1], 50 * centred[:, 2], atol=5)
    assert np.abs(found[:, 3:, 0]).mean() < 0.05 * np.abs(found[:, 0, 0]).mean()
    one = TNRegressor(4, n_members=1, max_epochs=1, **linear).fit(X, y[:, 0])
    assert one.explain(X[:5]).shape == (5, 10)


def test_a_density_is_explained_by_tracing_columns_out(iris):
    X = iris[0][::3].copy()
    machine = TNBornMachine(4, **QUICK).fit(X)
    X[0, 1] = np.nan
    found = machine.explain(X)
    for column in range(4):
        without = X.copy()
        without[:, column] = np.nan
        expected = machine.score_samples(X) - machine.score_samples(without)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-6, atol=1e-6)
    assert found[0, 1] == 0


@pytest.mark.long
def test_columns_that_do_not_matter_are_told_from_those_that_do(synthetic):
    X, y = synthetic
    clf = TNClassifier(6, n_members=1, random_state=0, **GIVEN).fit(X, y)
    assert clf.score(X, y) > 0.9
    share = np.abs(clf.explain(X)).mean(axis=0)
    assert share[:2].min() > 20 * share[2:].max()


def test_other_weights_give_another_picture(synthetic):
    X, y = synthetic
    clf = TNClassifier(6, **ALONE, **GIVEN).fit(X, y)
    before = clf.explain(X, y)
    again = TNClassifier(6, **ALONE, **GIVEN).fit(X, y)
    np.testing.assert_array_equal(again.explain(X, y), before)
    rng = np.random.default_rng(0)
    for tensor in again.network_:
        flat = np.asarray(tensor.data).ravel()
        tensor.modify(data=rng.permutation(flat).reshape(tensor.shape))
    after = again.explain(X, y)
    assert abs(spearmanr(before.ravel(), after.ravel()).statistic) < 0.3


def test_what_is_averaged_out_explains_nothing(iris):
    X, y = iris[0].copy(), iris[1]
    X[::5, 2] = np.nan
    clf = TNClassifier(4, missing="averaged", **QUICK).fit(X, y)
    found = clf.explain(X)
    np.testing.assert_allclose(found[::5, 2], 0, atol=1e-6)
    assert (found[1::5, 2] != 0).all()
    # Where gaps have a vector of their own, they say something.
    found = TNClassifier(4, **QUICK).fit(X, y).explain(X)
    assert (found[:, 2] != 0).all()


@pytest.mark.long
@pytest.mark.parametrize(("order", "name"), [(1, "linear"), (3, "product")])
def test_orders_of_trained_models(synthetic, order, name):
    X, _ = synthetic
    y = X[:, 0] + 2 * X[:, 1] if name == "linear" else X[:, 0] * X[:, 1] * X[:, 2]
    options = {"embedding": Legendre(1), "scaler": "common_min_max", "n_members": 1}
    options |= {"feature_dropout": 0.05}
    model = TNRegressor(8, learning_rate=1e-2, max_epochs=60, random_state=0, **options)
    model.fit(X[:, :5], y)
    assert model.score(X[:, :5], y) > 0.97
    phi = model.embed(X[:, :5])
    means = phi.mean(axis=0)
    covariances = model.grams(X[:, :5]) - means[:, :, None] * means[:, None]
    shares = interaction_orders(model.network_, means, covariances)[0]
    assert shares[order] > 0.95 * shares[1:].sum()


# Embedded rows and their inner products -----------------------------------------------------------


def test_embedded_rows_are_what_networks_read(iris):
    X, y = iris
    clf = TNClassifier(4, network=TTNSpec(), **QUICK).fit(X, y)
    phi = clf.embed(X)
    outputs = contract(*pack(clf.networks_[1]), jnp.asarray(phi[:, clf.orders_[1]])).dense()
    expected = clf._predict(X, Amplitude.dense)[1]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    layers = clf.activations(X, member=1)
    direct = activations(clf.networks_[1], phi[:, clf.orders_[1]])
    for found, other in zip(layers, direct, strict=True):
        np.testing.assert_array_equal(found, other)


@pytest.mark.parametrize(
    "embedding",
    [
        None,
        pytest.param("trigonometric", marks=pytest.mark.long),
        PerFeature((Legendre(2), Trigonometric())),
    ],
    ids=str,
)
def test_grams_are_integrals_over_the_domain(embedding):
    # Quantiles of uniform columns fill the domain evenly.
    X = np.random.default_rng(0).uniform(size=(4000, 2))
    options = {"embedding": embedding, "feature_dropout": 0.0, "n_members": 1}
    clf = TNClassifier(2, scaler="min_max", max_epochs=1, **options).fit(X, X[:, 0] > 0.5)
    width = np.diff(clf.embedding_.domains(2), axis=1)[:, :, None]
    np.testing.assert_allclose(clf.grams() / width, clf.grams(X), atol=0.03)
    phi = np.asarray(clf.embed(X), float)
    np.testing.assert_allclose(clf.grams(X)[1], phi[:, 1].T @ phi[:, 1] / len(X), rtol=1e-6)


def test_grams_that_are_not_known(iris):
    X, y = iris
    unbounded = TNClassifier(2, embedding=Embedded(2), **QUICK).fit(X, y)
    with pytest.raises(ValueError, match="no finite domain to integrate over: give X"):
        unbounded.grams()
    assert np.isfinite(unbounded.grams(X)).all()
    patches = TNClassifier(2, embedding=Patches((2, 2), (1, 2)), **QUICK).fit(X, y)
    assert patches.grams(X).shape[0] == 2


# Compression --------------------------------------------------------------------------------------


# A network is cut in the basis of its sites, whatever embedding that basis is of.
@pytest.mark.parametrize(
    ("network", "embedding"),
    [("mps", None), pytest.param("ttn", "trigonometric", marks=pytest.mark.long)],
)
def test_compression_keeps_the_predictions(iris, network, embedding):
    X, y = iris
    clf = TNClassifier(
        4, n_members=2, network=network, embedding=embedding, max_epochs=30, random_state=0
    ).fit(X, y)  # fmt: skip
    before = clf.predict_proba(X)
    same = clf.compress(cutoff=0.0)
    np.testing.assert_allclose(same.predict_proba(X), before, atol=1e-4)
    smaller = clf.compress(max_bond=2)
    assert all(max(net.bond_sizes()) == 2 for net in smaller.networks_)
    assert smaller.score(X, y) > clf.score(X, y) - 0.05
    # The original stays as it was.
    np.testing.assert_array_equal(clf.predict_proba(X), before)
    assert max(clf.networks_[0].bond_sizes()) > 2


@pytest.mark.long
def test_samples_mend_what_is_cut():
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    options = {"embedding": Legendre(2), "feature_dropout": 0.2, "max_epochs": 20}
    clf = TNClassifier(12, n_members=1, random_state=0, **options).fit(X[:1200], y[:1200])
    cut, mended = clf.compress(max_bond=3), clf.compress(max_bond=3, X=X[:1200], y=y[:1200])
    assert max(mended.network_.bond_sizes()) == 3
    scores = [model.score(X[1200:], y[1200:]) for model in (cut, mended, clf)]
    assert scores[0] + 0.1 < scores[1] < scores[2] + 0.01
    assert mended.get_params() == clf.get_params()


@pytest.mark.long
def test_what_samples_do_not_show_is_not_cut():
    rng = np.random.default_rng(0)
    Z = rng.uniform(-1, 1, size=(600, 4))
    Z[::2, 3] = 0
    y = (Z[:, 0] * Z[:, 1] + Z[:, 3] > 0).astype(int)
    clf = TNClassifier(8, n_members=1, random_state=0, **GIVEN).fit(Z, y)
    part = Z[::2], y[::2]
    same = clf.compress(8, 0.0, X=part[0], y=part[1])
    assert same.score(Z, y) > clf.score(Z, y) - 0.1
    # Nor do bonds grow.
    small = clf.compress(2).compress(30, X=Z, y=y)
    assert max(small.network_.bond_sizes()) == 2


def test_compression_says_what_it_needs(iris):
    X, y = iris
    clf = TNClassifier(4, **QUICK).fit(X, y)
    for options, message in (
        ({"y": y}, "give X, too"),
        ({"X": X}, "needs y: give it beside X"),
        ({"max_bond": 0}, "max_bond must be"),
    ):
        with pytest.raises(ValueError, match=message):
            clf.compress(**options)
    with pytest.raises(ValueError, match="member must be the number of a network"):
        clf.activations(X, member=4)


def test_explanations_do_not_depend_on_a_scale_that_cancels(iris):
    X, y = iris
    clf = TNClassifier(4, loss=BornCrossEntropy(), **ALONE).fit(X, y)
    before = clf.explain(X)
    clf.network_.apply_to_arrays(lambda a: 1e-12 * a)
    np.testing.assert_allclose(clf.explain(X), before, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_half_the_bond_is_enough():
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=0)
    clf = TNClassifier(20, n_members=1, random_state=0).fit(X, y)
    smaller = clf.compress(max_bond=10, X=X, y=y)
    # Sweeps leave out what the data do not need.
    assert 5 < max(smaller.network_.bond_sizes()) <= 10
    assert smaller.score(X_test, y_test) > clf.score(X_test, y_test) - 0.005


def test_training_goes_on_after_compression(iris, tmp_path):
    X, y = iris
    clf = TNClassifier(4, warm_start=True, **ALONE).fit(X, y)
    smaller = clf.compress(max_bond=2)
    smaller.fit(X, y)
    assert max(smaller.network_.bond_sizes()) == 2
    assert (clf.n_iter_, smaller.n_iter_) == (15, 30)
    assert len(clf.history_["loss"]) == 15
    smaller.partial_fit(X, y)
    smaller.save(tmp_path / "smaller")


def test_densities_are_compressed(iris):
    X = iris[0][:50]
    machine = TNBornMachine(4, **ALONE).fit(X)
    smaller = machine.compress(max_bond=2)
    assert max(smaller.network_.bond_sizes()) == 2
    assert smaller.score(X) > machine.score(X) - 1
    mended = machine.compress(max_bond=2, X=X)
    assert mended.score(X) > smaller.score(X)


@pytest.mark.long
def test_detectors_are_compressed(iris):
    X = iris[0][:50]
    options = {"max_epochs": 5, "scaler": "gaussian_cdf", "random_state": 0}
    detector = TNAnomalyDetector(4, **options).fit(X)
    small = detector.compress(max_bond=2)
    assert {max(view.network_.bond_sizes()) for view in small.views_} == {2}
    assert small.offset_ == detector.offset_
    mended = detector.compress(max_bond=2, X=X)
    scores = mended.score_samples(X)
    low, high = np.percentile(scores, (25, 75))
    assert mended.offset_ == pytest.approx(low - 1.5 * (high - low), rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(mended.explain(X).mean(axis=0), 0, atol=1e-6)
    assert {max(view.network_.bond_sizes()) for view in detector.views_} == {4}


def test_rings_are_not_compressed(iris):
    from tn4ml_plus.networks import MPSSpec

    ring = TNClassifier(3, n_members=1, network=MPSSpec(cyclic=True), max_epochs=1).fit(*iris)
    with pytest.raises(ValueError, match="canonical form needs open ends"):
        ring.compress(2)


def test_categories_have_grams_of_their_own_size():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=60), "b": rng.choice(list("xyz"), 60)})
    clf = TNClassifier(3, **ALONE).fit(X, X["b"] == "x")
    grams = clf.grams()
    np.testing.assert_allclose(grams[1], np.eye(3))
    np.testing.assert_allclose(
        clf.compress(cutoff=0.0).predict_proba(X), clf.predict_proba(X), atol=1e-4
    )


@pytest.mark.long
def test_what_was_trained_in_single_precision_is_read_in_double(iris):
    clf = TNClassifier(4, **QUICK).fit(*iris)
    expected = clf.predict_proba(iris[0]), clf.explain(iris[0])
    with jax.enable_x64(True):
        found = clf.predict_proba(iris[0]), clf.explain(iris[0])
        clf.set_params(warm_start=True).fit(*iris)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
