"""Anomaly detection: scores, threshold, explanations, other networks and losses, few labels."""

import jax
import numpy as np
import pandas as pd
import pytest
import quimb.tensor as qtn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from tn4ml_plus import TNAnomalyDetector, TNBornMachine, load
from tn4ml_plus.embeddings import Trigonometric
from tn4ml_plus.estimators import GaussianCDF, LogisticCDF, ProbabilisticPCA, Rotated
from tn4ml_plus.estimators._recipes import DENSITY
from tn4ml_plus.losses import (
    LogQuadratic,
    NegativeLogLikelihood,
    ReluLogNorm,
    SemiSupervisedLogistic,
    SemiSupervisedLogQuadratic,
)
from tn4ml_plus.networks import MPS, SMPOSpec

SMALL = {"bond_dim": 2, "max_epochs": 20, "random_state": 0}
# One member of the committee, so that less is compiled and scores are one log-density.
SINGLE = SMALL | {"scaler": "gaussian_cdf"}
TNAD = {"network": "smpo", "loss": LogQuadratic() + 0.3 * ReluLogNorm()}


def expected_failed_checks(estimator):
    """Training draws batches of samples, so that a weight is not a number of repetitions."""
    del estimator
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "sample_weight is not equivalent to removing/repeating samples"
        )
    }


# One member of the committee: each of many small tables costs its compilation.
@parametrize_with_checks(
    [TNAnomalyDetector(bond_dim=2, max_epochs=2, scaler="gaussian_cdf")],
    expected_failed_checks=expected_failed_checks,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def X():
    """Normal rows (120, 4): the first two columns are nearly equal, the last is noise."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4))
    X[:, 1] = X[:, 0] + 0.2 * X[:, 1]
    return X * [1.0, 1.0, 100.0, 1.0]


@pytest.mark.parametrize(
    ("n_rows", "expected"),
    [(30, 4 / 90), *(pytest.param(*row, marks=pytest.mark.long) for row in [(5, 0.2), (40, 0.0)])],
)
def test_features_are_dropped_where_rows_are_few(X, n_rows, expected):
    def scores(n_zero=5, **options):
        model = TNAnomalyDetector(**SINGLE | {"max_epochs": 3} | options)
        weight = np.r_[np.ones(n_rows), np.zeros(n_zero)]
        return model.fit(X[: n_rows + n_zero], sample_weight=weight).score_samples(X)

    given, none = scores(n_zero=0, feature_dropout=expected), scores(feature_dropout=0.0)
    np.testing.assert_array_equal(scores(), given)
    assert (expected == 0) == np.array_equal(given, none)
    # A trainer that is an object keeps its own.
    trainer = DENSITY.trainer
    np.testing.assert_array_equal(scores(trainer=trainer), none)


@pytest.fixture(scope="module")
def fitted(X):
    return TNAnomalyDetector(bond_dim=4, scaler="gaussian_cdf", random_state=0).fit(X)


def fresh(X, seed=1):
    """Other rows of the same distribution."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=X.shape)
    Z[:, 1] = Z[:, 0] + 0.2 * Z[:, 1]
    return Z * [1.0, 1.0, 100.0, 1.0]


def auroc(detector, normal, anomalies):
    score = np.concatenate([detector.score_samples(normal), detector.score_samples(anomalies)])
    return roc_auc_score(np.repeat([1, 0], [len(normal), len(anomalies)]), score)


# Scores and the threshold ------------------------------------------------------------------------


@pytest.mark.long
def test_the_defaults_find_what_breaks_a_relation(X):
    detector = TNAnomalyDetector(random_state=0).fit(X)
    normal = fresh(X)
    anomalies = fresh(X, 2)
    anomalies[:, 1] = np.random.default_rng(3).permutation(anomalies[:, 1])
    assert auroc(detector, normal, anomalies) > 0.8
    assert len(detector.views_) == 3
    assert (detector.predict(normal) == 1).mean() > 0.8
    assert (detector.predict(normal + 10) == -1).all()


def test_scores_are_the_mean_of_the_views_log_densities(X):
    scalers = (GaussianCDF(), Rotated())
    together = TNAnomalyDetector(**SMALL | {"scaler": scalers}).fit(X)
    parts = [view.score_samples(X) for view in together.views_]
    np.testing.assert_allclose(together.score_samples(X), np.mean(parts, axis=0))
    view = together.views_[0]
    alone = TNBornMachine(bond_dim=2, max_epochs=20, random_state=view.random_state)
    alone.set_params(embedding=view.embedding_, feature_dropout=0.0).fit(X)
    np.testing.assert_array_equal(alone.score_samples(X), parts[0])


def test_the_threshold(X, fitted):
    scores = fitted.score_samples(X)
    low, high = np.percentile(scores, (25, 75))
    assert fitted.offset_ == pytest.approx(low - 1.5 * (high - low), rel=1e-5, abs=1e-5)
    np.testing.assert_array_equal(fitted.decision_function(X), scores - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(X), np.where(scores < fitted.offset_, -1, 1))


def test_contamination_is_the_share_of_outliers_in_fitting(X):
    detector = TNAnomalyDetector(**SINGLE, contamination=0.1)
    assert (detector.fit_predict(X) == -1).sum() == 12


@pytest.mark.parametrize("contamination", [0, -0.1, 0.6, "other", None, True, np.nan])
def test_contamination_must_be_auto_or_a_share(X, contamination):
    with pytest.raises(ValueError, match="contamination must be"):
        TNAnomalyDetector(contamination=contamination).fit(X)


@pytest.mark.long
def test_a_rotated_view_sees_what_single_columns_do_not():
    # All mass on a thin diagonal in six columns; anomalies have the same columns one by one.
    rng = np.random.default_rng(0)
    draw = rng.choice([-1.0, 1.0], (300, 1))
    normal = draw + 0.3 * rng.normal(size=(300, 6)) * [1, -1, 1, -1, 1, -1]
    turned = normal[150:].copy()
    turned[:, ::2] *= -1
    areas = {
        scaler: auroc(
            TNAnomalyDetector(**SMALL | {"bond_dim": 1, "scaler": scaler}).fit(normal[:100]),
            normal[100:150],
            turned,
        )
        for scaler in ("gaussian_cdf", "rotated")
    }
    assert areas["rotated"] > 0.95
    assert areas["gaussian_cdf"] < 0.6


# A network and a scaler meet in the domain only.
@pytest.mark.parametrize(
    ("network", "scaler"),
    [("smpo", LogisticCDF()), pytest.param("mps", GaussianCDF(), marks=pytest.mark.long)],
    ids=str,
)
def test_a_subspace_and_its_noise_are_a_density_of_all_columns(network, scaler):
    rng = np.random.default_rng(0)
    X = rng.choice([-1.0, 1.0], size=(200, 1)) * [2.0, 1.0] + 0.5 * rng.normal(size=(200, 2))
    options = {"bond_dim": 2, "max_epochs": 20, "random_state": 0}
    detector = TNAnomalyDetector(network=network, scaler=ProbabilisticPCA(1, scaler), **options)
    detector.fit(X)
    assert detector.views_[0].network_.L == 1
    edges = np.linspace(-40, 40, 401)
    grid = np.stack(np.meshgrid(edges, edges, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.exp(detector.score_samples(grid)).sum() * (edges[1] - edges[0]) ** 2
    assert mass == pytest.approx(1, rel=1e-3)


def test_a_subspace_ranks_what_leaves_it_and_survives_storage(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 30)) + 0.1 * rng.normal(size=(300, 30))
    normal, anomalies = X[200:], X[200:] + 0.3 * rng.normal(size=(100, 30))
    detector = TNAnomalyDetector(max_epochs=20, scaler=ProbabilisticPCA(3), random_state=0)
    detector.fit(X[:200])
    assert auroc(detector, normal, anomalies) > 0.95
    detector.save(tmp_path / "detector.safetensors")
    again = load(tmp_path / "detector.safetensors")
    np.testing.assert_array_equal(again.score_samples(normal), detector.score_samples(normal))


def test_norms_refuse_a_scaler_whose_noise_they_would_not_see(X):
    with pytest.raises(ValueError, match="PCA before the detector"):
        TNAnomalyDetector(scaler=ProbabilisticPCA(2), **TNAD).fit(X)


def test_names_of_scalers_are_as_good_as_the_objects(X):
    for name, scaler in (("rotated", Rotated()), ("probabilistic_pca", ProbabilisticPCA())):
        scores = [
            TNAnomalyDetector(max_epochs=5, scaler=given, random_state=0).fit(X).score_samples(X)
            for given in (name, scaler)
        ]
        np.testing.assert_array_equal(*scores)


@pytest.mark.long
def test_columns_constant_in_fitting_cost_the_same_wherever_they_go(X):
    X = np.column_stack([X, np.full(len(X), 7.0)])
    X[:3, 4] = np.nan
    detector = TNAnomalyDetector(**SMALL).fit(X)
    base, near, far = X[5:8].copy(), X[5:8].copy(), X[5:8].copy()
    near[:, 4] += 1e-3
    far[:, 4] += 1e6
    scores = detector.score_samples(base)
    np.testing.assert_allclose(scores - detector.score_samples(near), 10)
    np.testing.assert_allclose(scores - detector.score_samples(far), 10)
    np.testing.assert_allclose((detector.explain(far) - detector.explain(base))[:, 4], 10)
    assert (detector.predict(far) == -1).any()


def test_unseen_categories_are_anomalous(X):
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["kind"] = np.where(np.arange(len(X)) % 3 > 0, "x", "y")
    frame.loc[4, "kind"] = None
    other, missing = frame.iloc[:5].assign(kind="z"), frame.iloc[:5].assign(kind=None)
    for options in ({}, TNAD):
        detector = TNAnomalyDetector(**SINGLE, **options).fit(frame)
        cost = np.log1p(len(X))
        lost = detector.score_samples(missing) - detector.score_samples(other)
        np.testing.assert_allclose(lost, cost, rtol=1e-5)
        parts = detector.explain(other) - detector.explain(missing)
        np.testing.assert_allclose(parts[:, 4], cost, rtol=1e-5)
        np.testing.assert_allclose(parts[:, :4], 0, atol=1e-5)
        assert detector.feature_names_in_.tolist() == [*"abcd", "kind"]


def test_missing_values_are_traced_out(X, fitted):
    incomplete = X[:6].copy()
    incomplete[0] = np.nan
    incomplete[1, 2] = np.nan
    scores = fitted.score_samples(incomplete)
    assert scores[0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(scores[2:], fitted.score_samples(X)[2:6], rtol=1e-12)
    assert fitted.explain(incomplete)[1, 2] == pytest.approx(-fitted.baseline_[2])
    refitted = TNAnomalyDetector(**SMALL).fit(np.where(np.eye(120, 4) > 0, np.nan, X))
    assert np.isfinite(refitted.score_samples(incomplete)).all()


# Explanations ------------------------------------------------------------------------------------


def without_each(detector, X):
    """Scores with one feature missing after the other, (n_samples, n_features)."""
    holes = [X.copy() for _ in X.T]
    for j, rows in enumerate(holes):
        rows[:, j] = np.nan
    return np.stack([detector.score_samples(rows) for rows in holes], axis=1)


@pytest.mark.parametrize("n_members", [1, 2])
def test_an_explanation_is_the_score_that_a_feature_costs(X, n_members):
    detector = TNAnomalyDetector(**SINGLE, n_members=n_members).fit(X)
    rows = fresh(X)[:30]
    expected = without_each(detector, rows) - detector.score_samples(rows)[:, None]
    np.testing.assert_allclose(
        detector.explain(rows), expected - detector.baseline_, rtol=1e-8, atol=1e-8
    )


def test_densities_of_other_networks_are_explained_by_the_same_integral(X):
    # A chain scored through the route of any network must explain as the exact one does.
    born = TNAnomalyDetector(**SINGLE).fit(X)
    ring = TNAnomalyDetector(**SINGLE, network=SMPOSpec(output_sites=(3,), out_dim=1))
    ring.set_params(embedding=born.views_[0].embedding_).fit(X)
    view = ring.views_[0]
    network = qtn.MatrixProductState(
        [tensor.data.reshape(tensor.shape[:-1]) if "I3" in tensor.tags else tensor.data
         for tensor in view.networks_[0]],
        shape="lrp",
    )  # fmt: skip
    exact = TNAnomalyDetector(
        **SINGLE | {"max_epochs": 1, "learning_rate": 1e-12}, decay=0.0, network=network
    )
    exact.set_params(embedding=view.embedding_).fit(X)
    np.testing.assert_allclose(ring.score_samples(X), exact.score_samples(X), atol=1e-3)
    np.testing.assert_allclose(ring.explain(X), exact.explain(X), atol=1e-3)


def test_explanations_point_at_the_planted_feature(X, fitted):
    rows = fresh(X)[:50]
    rows[:, 1] = -1.5 * np.sign(rows[:, 0])
    assert (fitted.explain(rows).argmax(axis=1) < 2).mean() > 0.9
    rows = fresh(X)[:50]
    rows[:, 2] += 600
    parts = fitted.explain(rows)
    assert (parts.argmax(axis=1) == 2).all()
    # The noise column has nothing to do with any of this.
    assert np.abs(parts[:, 3]).mean() < 0.1 * parts[:, 2].mean()


@pytest.mark.parametrize("options", [{}, TNAD], ids=["born", "smpo"])
def test_explanations_of_training_rows_have_mean_zero(X, options):
    detector = TNAnomalyDetector(**SINGLE, **options).fit(X)
    np.testing.assert_allclose(detector.explain(X).mean(axis=0), 0, atol=1e-5)
    assert (np.abs(detector.baseline_) > 1e-3).any()


def test_rotated_columns_alone_are_not_explained(X):
    detector = TNAnomalyDetector(**SMALL | {"scaler": (Rotated(), "rotated")}).fit(X)
    assert detector.baseline_.tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="add a scaler that keeps columns apart"):
        detector.explain(X)


@pytest.mark.long
def test_the_smpo_explains_what_it_detects(X):
    # The program of the next test.
    detector = TNAnomalyDetector(4, scaler="gaussian_cdf", random_state=0, **TNAD).fit(X)
    assert auroc(detector, fresh(X), fresh(X, 2) * [1, -1, 1, 1]) > 0.8
    rows = fresh(X)[:50]
    rows[:, 2] += 600
    assert (detector.explain(rows).argmax(axis=1) == 2).mean() > 0.8


# Labels ------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "loss",
    [
        SemiSupervisedLogistic() + 0.3 * ReluLogNorm(),
        pytest.param(SemiSupervisedLogQuadratic() + 0.3 * ReluLogNorm(), marks=pytest.mark.long),
    ],
    ids=["logistic", "log_quadratic"],
)
def test_a_few_labelled_anomalies_help(X, loss):
    # Anomalies inside the range of normal values, as frequent there as anything.
    rng = np.random.default_rng(5)
    hidden = fresh(X, 7)
    hidden[:, 3] = 0.3 + 0.05 * rng.normal(size=len(hidden))
    hidden[:, 2] = -30 + 5 * rng.normal(size=len(hidden))
    data = np.concatenate([X, hidden[:15]])
    y = np.repeat([1, -1], [len(X), 15])
    options = {"bond_dim": 4, "network": "smpo", "random_state": 0, "scaler": "gaussian_cdf"}
    blind = TNAnomalyDetector(**options, loss=TNAD["loss"]).fit(X)
    told = TNAnomalyDetector(**options, loss=loss).fit(data, y)
    before, after = (auroc(d, fresh(X), hidden[15:]) for d in (blind, told))
    assert after > max(0.8, before + 0.1)


def test_labels_are_asked_for_and_checked(X):
    detector = TNAnomalyDetector(**SINGLE, network="smpo", loss=SemiSupervisedLogistic())
    with pytest.raises(ValueError, match="SemiSupervisedLogistic learns from labels"):
        detector.fit(X)
    with pytest.raises(ValueError, match="1 for inliers and -1 for outliers"):
        detector.fit(X, np.arange(len(X)) % 2)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        detector.fit(X, [1, -1])


def test_labels_are_ignored_without_a_loss_that_reads_them(X):
    plain = TNAnomalyDetector(**SINGLE).fit(X)
    labelled = TNAnomalyDetector(**SINGLE).fit(X, ["any"] * len(X))
    np.testing.assert_array_equal(plain.score_samples(X), labelled.score_samples(X))


# Networks ----------------------------------------------------------------------------------------


# A MERA goes the way of the ring, an MPO that of the SMPOs above.
@pytest.mark.parametrize(
    "network",
    [
        "ttn", "mps given",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("ring given", "mera", "mpo")),
    ],
)  # fmt: skip
def test_any_network_detects_and_explains(X, network):
    if network == "mps given":
        network = MPS.random(4, bond_dim=2, phys_dim=5, key=jax.random.key(0))
    elif network == "ring given":
        network = qtn.MPS_rand_state(4, 2, 5, cyclic=True, seed=0)
    detector = TNAnomalyDetector(**SINGLE, network=network).fit(X)
    assert auroc(detector, fresh(X), 8 * fresh(X, 2)) > 0.8
    assert np.isfinite(detector.explain(fresh(X)[:20])).all()
    again = clone(detector).fit(X)
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))


def test_options_that_do_not_fit_are_refused_before_training(X):
    with pytest.raises(ValueError, match="take GaussianCDF"):
        TNAnomalyDetector(scaler="quantile_sigmoid").fit(X)
    with pytest.raises(ValueError, match="one or more scalers"):
        TNAnomalyDetector(scaler=()).fit(X)
    with pytest.raises(ValueError, match="classification loss"):
        TNAnomalyDetector(loss="cross_entropy").fit(X)
    with pytest.raises(NotFittedError):
        TNAnomalyDetector().score_samples(X)


@pytest.mark.long
def test_a_given_embedding_is_made_orthonormal_for_likelihoods_only(X):
    options = dict(SINGLE)
    # Its components are linearly dependent but for rounding, which only a density minds.
    options["embedding"] = Trigonometric(3)
    kept = TNAnomalyDetector(**options | TNAD).fit(X).views_[0].embedding_
    assert kept == Trigonometric(3)
    options["embedding"] = Trigonometric(2)
    for network in ("mps", "smpo"):
        detector = TNAnomalyDetector(**options, network=network, loss=NegativeLogLikelihood())
        gram = detector.fit(X).views_[0].embedding_.gram()
        np.testing.assert_allclose(gram, np.eye(4), atol=1e-6)


# Manners -----------------------------------------------------------------------------------------


def test_random_state_repeats_and_parameters_pass_through(X):
    first = TNAnomalyDetector(**SMALL).fit(X)
    again = TNAnomalyDetector().set_params(**SMALL).fit(X)
    np.testing.assert_array_equal(first.score_samples(X), again.score_samples(X))
    other = clone(first).set_params(random_state=1).fit(X)
    assert (first.score_samples(X) != other.score_samples(X)).all()
    assert first.views_[0].random_state != first.views_[1].random_state


# What a committee stores is what its views do.
@pytest.mark.parametrize(
    "options",
    [pytest.param({}, id="born"), pytest.param(TNAD, id="smpo", marks=pytest.mark.long)],
)
def test_saved_detectors_come_back_bit_equal(X, options, tmp_path):
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["kind"] = np.where(np.arange(len(X)) % 3 > 0, "x", "y")
    detector = TNAnomalyDetector(**SMALL, **options).fit(frame)
    detector.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.get_params() == detector.get_params()
    assert loaded.offset_ == detector.offset_
    for method in ("score_samples", "predict", "explain"):
        ours, theirs = (getattr(model, method)(frame) for model in (loaded, detector))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "options", [{}, {"network": "smpo"}, TNAD], ids=["born", "density", "smpo"]
)
def test_a_second_fit_of_the_same_shapes_compiles_nothing(X, compilations, options):
    detector = TNAnomalyDetector(**SINGLE, **options).fit(X)
    detector.explain(X)
    compilations.clear()
    detector.set_params(random_state=3).fit(X[::-1])
    detector.explain(X[::-1])
    assert compilations == []


def test_rows_that_are_mostly_the_same_are_inliers_alone_and_together():
    rows = np.repeat(np.random.default_rng(0).normal(size=(3, 2)), [50, 6, 4], axis=0)
    for seed in range(6):
        detector = TNAnomalyDetector(2, max_epochs=2, random_state=seed).fit(rows)
        assert detector.predict(rows)[0] == detector.predict(rows[:1])[0] == 1
        scores = detector.score_samples(rows)
        # With a share of outliers the threshold is the score of those it would tell apart.
        given = TNAnomalyDetector(2, max_epochs=2, random_state=seed, contamination=0.4).fit(rows)
        np.testing.assert_allclose(given.offset_, np.median(scores), rtol=1e-5, atol=1e-5)
        assert given.predict(rows)[0] == given.predict(rows[:1])[0] == 1
