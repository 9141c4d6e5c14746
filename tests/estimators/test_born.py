"""Born machines: true densities, exact marginals, conditionals and samples."""

import dataclasses
import itertools

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from covering import pairs
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

from tn4ml_plus import TNBornMachine, load
from tn4ml_plus.contraction import pack
from tn4ml_plus.embeddings import (
    Embedded,
    Hat,
    Legendre,
    OneHot,
    PerFeature,
    Polynomial,
    Trigonometric,
)
from tn4ml_plus.estimators import LogisticCDF, MinMax, QuantileSigmoid, Rotated
from tn4ml_plus.losses import CrossEntropy, NegativeLogLikelihood, ReluLogNorm, SquaredError
from tn4ml_plus.networks import MPSSpec, Tree, TTNSpec
from tn4ml_plus.training import Gradient, Result

SMALL = {"bond_dim": 3, "max_epochs": 2, "batch_size": 16, "random_state": 0}
LEARN = {"bond_dim": 4, "max_epochs": 60, "batch_size": 16, "random_state": 0}
BASIS = Legendre(4, orthonormal=True)


@dataclasses.dataclass(frozen=True)
class Untrained(Gradient):
    """Networks far from their start, without the time to compile a training."""

    def train(self, problem):
        rng = np.random.default_rng(0)
        noisy = jax.tree.map(
            lambda leaf: np.float32(leaf + 0.5 * rng.normal(size=leaf.shape)), problem.params
        )
        return Result(noisy, [], {}, 0)


WILD = {"bond_dim": 3, "trainer": Untrained(), "random_state": 0}


def two_clusters(n_samples, seed=0):
    """Two clusters on a diagonal and a third column that says which."""
    rng = np.random.default_rng(seed)
    side = rng.integers(0, 2, n_samples) * 2 - 1
    X = np.stack([side, side, -side], axis=1) + 0.3 * rng.normal(size=(n_samples, 3))
    return X * [1.0, 1e3, 1e-2] + [0.0, 1.0, 5.0]


def frame(n_samples, seed=0):
    X = two_clusters(n_samples, seed)
    rng = np.random.default_rng(seed + 1)
    flip = rng.random(n_samples) < 0.1
    return pd.DataFrame(
        {
            "size": X[:, 0],
            "side": np.where((X[:, 0] > 0) ^ flip, "right", "left"),
            "depth": X[:, 1],
            "grade": rng.choice(["a", "b", "c"], n_samples, p=[0.6, 0.3, 0.1]),
        }
    )


@pytest.fixture(scope="module")
def clusters():
    return two_clusters(120)


@pytest.fixture(scope="module")
def machine(clusters):
    return TNBornMachine(embedding=BASIS, **LEARN).fit(clusters)


@pytest.fixture(scope="module")
def mixture(clusters):
    return TNBornMachine(embedding=BASIS, n_members=3, **WILD).fit(clusters)


@pytest.fixture(scope="module")
def categories():
    return TNBornMachine(embedding=BASIS, **LEARN).fit(frame(120))


def gaussian_nodes(column, nodes=24, breaks=(0.0, 1.0)):
    """Nodes of a column and weights of dx, by Gauss-Legendre in its normal distribution function.

    breaks: where, in that function's values, the density is not smooth.
    """
    t, w = np.polynomial.legendre.leggauss(nodes)
    u = np.concatenate([a + (b - a) * (t + 1) / 2 for a, b in itertools.pairwise(breaks)])
    w = np.concatenate([(b - a) * w / 2 for a, b in itertools.pairwise(breaks)])
    mean, spread = np.nanmean(column), 1.2 * np.nanstd(column)
    x = scipy.stats.norm.ppf(u, mean, spread)
    return x, w / scipy.stats.norm.pdf(x, mean, spread)


def product_rule(rules):
    points = np.array(list(itertools.product(*(x for x, _ in rules))))
    return points, np.prod(list(itertools.product(*(w for _, w in rules))), axis=1)


# True densities ---------------------------------------------------------------------------------

BASES = {
    "legendre": (BASIS, (0, 1)),
    "polynomial": (Polynomial(3), (0, 1)),
    "trigonometric": (Trigonometric(), (0, 1)),
    "hat": (Hat(3), (0, 0.5, 1)),
}


# In pairs: a basis acts on one site, whatever network joins how many of them.
@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("basis", "n_features", "network"), pairs(list(BASES), [1, 2, 3], ["mps", "ttn"])
)
def test_density_integrates_to_one(clusters, basis, n_features, network):
    embedding, breaks = BASES[basis]
    X = clusters[:, :n_features]
    machine = TNBornMachine(embedding=embedding, network=network, **WILD).fit(X)
    rules = [gaussian_nodes(column, 12, breaks) for column in X.T]
    points, weights = product_rule(rules)
    p = np.exp(machine.score_samples(points))
    assert weights @ p == pytest.approx(1, abs=1e-6)
    assert np.ptp(p * weights) > 0


@pytest.mark.parametrize("scaler", [MinMax(), LogisticCDF()])
def test_other_scalers_integrate_to_one(clusters, scaler):
    X = clusters[:, :1]
    machine = TNBornMachine(embedding=BASIS, scaler=scaler, **WILD).fit(X)
    low, high = (X.min(), X.max()) if isinstance(scaler, MinMax) else (-60, 60)
    t, w = np.polynomial.legendre.leggauss(400)
    x = low + (high - low) * (t + 1) / 2
    total = (high - low) / 2 * w @ np.exp(machine.score_samples(x[:, None]))
    assert total == pytest.approx(1, abs=1e-6)
    outside = machine.score_samples([[X.min() - 1e-3], [X.max() + 1e-3]])
    assert np.isneginf(outside).all() == isinstance(scaler, MinMax)


def test_a_trained_density_integrates_to_one(machine, clusters):
    points, weights = product_rule([gaussian_nodes(column, 12) for column in clusters.T])
    assert weights @ np.exp(machine.score_samples(points)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("network", ["mps", "ttn"])
def test_probabilities_of_all_states_sum_to_one(network):
    states = np.array(list(itertools.product(range(3), repeat=4)), float)
    machine = TNBornMachine(embedding=OneHot(3), network=network, n_members=2, **WILD).fit(states)
    p = np.exp(machine.score_samples(states))
    assert p.sum() == pytest.approx(1, abs=1e-6)
    assert p.max() > 3 * p.min()


def test_columns_of_both_kinds_sum_and_integrate_to_one(categories):
    rows = frame(120)
    rules = [gaussian_nodes(rows[name], 12) for name in ("size", "depth")]
    points, weights = product_rule(rules)
    total = 0
    for side, grade in itertools.product(["left", "right"], "abc"):
        columns = {"size": points[:, 0], "side": side, "depth": points[:, 1], "grade": grade}
        total += weights @ np.exp(categories.score_samples(pd.DataFrame(columns)))
    assert total == pytest.approx(1, abs=1e-6)


# Marginals and missing values -------------------------------------------------------------------


def test_marginals_are_integrals_over_the_other_features(mixture, clusters):
    rules = [gaussian_nodes(column) for column in clusters.T]
    x = clusters[:5]
    for kept in ([0], [2, 0], [1]):
        others = [j for j in range(3) if j not in kept]
        points, weights = product_rule([rules[j] for j in others])
        expected = []
        for row in x:
            rows = np.tile(row, (len(points), 1))
            rows[:, others] = points
            expected.append(np.log(weights @ np.exp(mixture.score_samples(rows))))
        found = mixture.marginal(kept).score_samples(x[:, kept])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        gone = x.copy()
        gone[:, others] = np.nan
        np.testing.assert_allclose(mixture.score_samples(gone), found, rtol=0, atol=1e-12)


def test_several_members_are_a_mean_of_densities(mixture, clusters):
    alone = []
    for network, order in zip(mixture.networks_, mixture.orders_, strict=True):
        one = clone(mixture)
        vars(one).update(vars(mixture))
        one._ensemble = dataclasses.replace(
            mixture._ensemble, networks=[network], orders=order[None]
        )
        alone.append(np.exp(one.score_samples(clusters)))
    assert np.ptp(alone, axis=0).max() > 0.1 * np.mean(alone)
    np.testing.assert_allclose(np.exp(mixture.score_samples(clusters)), np.mean(alone, axis=0))


def test_marginals_of_categories(categories):
    p = np.exp(categories.marginal("side").score_samples([["left"], ["right"]]))
    assert p.sum() == pytest.approx(1, abs=1e-6)
    both = categories.marginal(["side", "size"])
    by_number = categories.marginal([1, 0])
    rows = [["left", -1.0], ["right", -1.0], [None, -1.0]]
    log = both.score_samples(rows)
    np.testing.assert_array_equal(by_number.score_samples(rows), log)
    assert np.exp(log[2]) == pytest.approx(np.exp(log[:2]).sum(), rel=1e-6)
    assert log[0] > log[1] + 1


def test_categories_never_seen_cost_a_fixed_price(categories):
    rows = frame(120).iloc[:4]
    strange, gone = rows.assign(side="middle"), rows.assign(side=None)
    assert categories.unseen_log_density_ == pytest.approx(-np.log(121))
    np.testing.assert_allclose(
        categories.score_samples(strange),
        categories.score_samples(gone) + categories.unseen_log_density_,
    )
    np.testing.assert_array_equal(
        categories.sample(2, given=strange.assign(size=np.nan))["side"], "middle"
    )


# Samples ----------------------------------------------------------------------------------------


def uniform(density, x, column, nodes=4000):
    """Distribution function of a marginal at x, by a sum over a fine grid in its scale."""
    mean, spread = column.mean(), 1.2 * column.std()
    z = np.linspace(-6, 6, nodes)
    p = np.exp(density.score_samples((mean + spread * z)[:, None])) * spread
    cdf = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2 * np.diff(z))])
    return np.interp((x - mean) / spread, z, cdf)


def test_samples_have_the_marginals(mixture, clusters):
    S = mixture.sample(4000, random_state=0)
    for j in range(3):
        u = uniform(mixture.marginal(j), S[:, j], clusters[:, j])
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
        # Normal samples of the same mean and spread would not pass.
        wrong = np.random.default_rng(0).normal(S[:, j].mean(), S[:, j].std(), 4000)
        wrong = uniform(mixture.marginal(j), wrong, clusters[:, j])
        assert scipy.stats.kstest(wrong, "uniform").pvalue < 1e-6


def conditional_distribution(density, S, columns):
    """Rosenblatt's transform of the second feature of pairs: uniform for true conditionals."""
    mean, spread = columns[:, 1].mean(), 1.2 * columns[:, 1].std()
    z = np.linspace(-6, 6, 600)
    u = []
    for first, second in S:
        pairs = np.stack([np.full(600, first), mean + spread * z], axis=1)
        p = np.exp(density.score_samples(pairs))
        cdf = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2)])
        u.append(np.interp((second - mean) / spread, z, cdf / cdf[-1]))
    return u


@pytest.mark.long
def test_samples_have_the_correlations(machine, clusters):
    pair = machine.marginal([0, 1])
    S = pair.sample(300, random_state=0)
    assert S.shape == (300, 2)
    u = conditional_distribution(pair, S, clusters)
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    # The same samples without their correlation would not pass.
    u = conditional_distribution(pair, np.stack([S[:, 0], S[::-1, 1]], axis=1), clusters)
    assert scipy.stats.kstest(u, "uniform").pvalue < 1e-6


@pytest.mark.parametrize("name", ["machine", "mixture"])
def test_conditional_samples_follow_the_conditional_density(request, name, clusters):
    model = request.getfixturevalue(name)
    given = np.array([clusters[0, 0], np.nan, np.nan])
    S = model.sample(3000, given=given, random_state=0)
    np.testing.assert_array_equal(S[:, 0], given[0])
    pair = model.marginal([0, 1])
    u = conditional_distribution(pair, S[:1, :2], clusters)
    mean, spread = clusters[:, 1].mean(), 1.2 * clusters[:, 1].std()
    z = np.linspace(-6, 6, 4000)
    p = np.exp(pair.score_samples(np.stack([np.full(4000, given[0]), mean + spread * z], axis=1)))
    cdf = np.cumsum(p) / p.sum()
    u = np.interp((S[:, 1] - mean) / spread, z, cdf)
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    forgetful = model.sample(3000, random_state=0)[:, 1]
    u = np.interp((forgetful - mean) / spread, z, cdf)
    assert scipy.stats.kstest(u, "uniform").pvalue < 1e-6


def test_samples_of_categories(categories):
    S = categories.sample(3000, random_state=0)
    for j, values in (("side", ["left", "right"]), ("grade", ["a", "b", "c"])):
        p = np.exp(categories.marginal(j).score_samples([[v] for v in values]))
        counts = [np.sum(S[j] == v) for v in values]
        assert sum(counts) == 3000
        assert scipy.stats.chisquare(counts, 3000 * p / p.sum()).pvalue > 1e-3
        assert (
            scipy.stats.chisquare(counts, np.full(len(p), 3000 / len(p)))[1] < 1e-3 or j == "side"
        )
    given = pd.DataFrame([{"size": np.nan, "side": "left", "depth": np.nan, "grade": None}])
    left = categories.sample(500, given=given, random_state=0)
    assert (left["side"] == "left").all()
    assert np.mean(left["size"] < 0) > 0.7


def test_draws_of_each_given_row(machine):
    given = np.array([[0.5, np.nan, np.nan], [np.nan, 100.0, 5.0]])
    S = machine.sample(3, given=given, random_state=0)
    np.testing.assert_array_equal(S[:3, 0], 0.5)
    np.testing.assert_array_equal(S[3:, 1:], np.tile([100.0, 5.0], (3, 1)))
    assert np.unique(S[:, [0, 2]]).size > 6
    assert np.isfinite(S).all()


def test_random_state_repeats_exactly(mixture, clusters):
    one, two = (mixture.sample(20, random_state=7) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert (mixture.sample(20, random_state=8) != one).all()
    given = np.where(np.arange(3) == 1, np.nan, clusters)
    one, two = (mixture.sample(given=given, random_state=7) for _ in range(2))
    np.testing.assert_array_equal(one, two)


# Imputation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["machine", "mixture"])
def test_imputed_values_are_conditional_means(request, name, clusters):
    model = request.getfixturevalue(name)
    gone = clusters[:4].copy()
    gone[:3, 0] = np.nan
    gone[1, 2] = np.nan
    found = model.impute(gone)
    np.testing.assert_array_equal(found[~np.isnan(gone)], gone[~np.isnan(gone)])
    x, w = gaussian_nodes(clusters[:, 0], 60)
    for row, filled in zip(gone[:3], found[:3], strict=True):
        rows = np.tile(row, (60, 1))
        rows[:, 0] = x
        p = w * np.exp(model.score_samples(rows))
        assert filled[0] == pytest.approx(p @ x / p.sum(), abs=2e-3)
    np.testing.assert_array_equal(model.impute(clusters), clusters)


def test_imputed_categories_are_modes(categories):
    rows = frame(120).iloc[:30]
    gone = rows.assign(side=None)
    gone.loc[3, "size"] = np.nan
    found = categories.impute(gone)
    sides = np.stack(
        [categories.score_samples(gone.assign(side=side)) for side in ("left", "right")]
    )
    np.testing.assert_array_equal(found["side"], np.array(["left", "right"])[sides.argmax(axis=0)])
    assert set(found["side"]) == {"left", "right"}
    assert found.index.equals(gone.index)
    np.testing.assert_array_equal(found["size"].drop(3), gone["size"].drop(3))
    assert np.isfinite(found.loc[3, "size"])


@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_every_kind_of_missing_category(dtype):
    rows = frame(120).astype({"side": dtype})
    rows.loc[[2, 5], "side"] = None
    model = TNBornMachine(embedding=BASIS, **WILD).fit(rows)
    found = model.impute(rows)
    known = ~rows["side"].isna()
    assert (found["side"].dtype == rows["side"].dtype) or dtype == "category"
    np.testing.assert_array_equal(found.loc[known, "side"], rows.loc[known, "side"].astype(object))
    assert set(found["side"]) == {"left", "right"}


@pytest.mark.long
def test_imputed_digits_are_better_than_means():
    X = load_digits().data[:600, 16:48]
    rng = np.random.default_rng(0)
    train, test = X[:500], X[500:]
    gone = rng.random(test.shape) < 0.3
    model = TNBornMachine(
        6, embedding=Legendre(3), scaler="common_min_max", max_epochs=10, random_state=0
    ).fit(train)
    found = model.impute(np.where(gone, np.nan, test))
    error = np.sqrt(np.mean((found - test)[gone] ** 2))
    baseline = np.sqrt(np.mean((train.mean(axis=0) - test)[gone] ** 2))
    assert error < 0.9 * baseline


# Learning ---------------------------------------------------------------------------------------


def test_training_raises_the_likelihood(machine, clusters):
    before = TNBornMachine(embedding=BASIS, **LEARN | {"max_epochs": 1}).fit(clusters)
    assert machine.score(clusters) > before.score(clusters) + 0.5
    test = two_clusters(200, seed=5)
    mean, scale = clusters.mean(axis=0), clusters.std(axis=0)
    normal = scipy.stats.multivariate_normal(cov=np.cov((clusters / scale).T))
    log_normal = normal.logpdf((test - mean) / scale).mean() - np.log(scale).sum()
    assert machine.score(test) > log_normal + 0.1


def test_training_on_missing_values_raises_the_likelihood(machine, clusters):
    gone = np.where(np.random.default_rng(0).random(clusters.shape) < 0.3, np.nan, clusters)
    short = TNBornMachine(embedding=BASIS, **LEARN | {"max_epochs": 1}).fit(gone)
    long = clone(machine).fit(gone)
    assert long.score(gone) > short.score(gone) + 0.2
    assert long.score(two_clusters(200, seed=5)) > short.score(two_clusters(200, seed=5)) + 0.3
    # Training on incomplete rows maximises a lower bound of their likelihood.
    on_domain = long._reader.log_derivatives(gone).sum(axis=1).mean()
    assert -long.history_["loss"][-1] + on_domain < long.score(gone) + 0.02


def test_score_is_the_mean_log_density(machine, clusters):
    log = machine.score_samples(clusters)
    assert log.shape == (120,)
    assert machine.score(clusters) == pytest.approx(log.mean())


def test_validation_loss_is_a_true_likelihood(clusters):
    model = TNBornMachine(embedding=BASIS, **LEARN | {"max_epochs": 6}, early_stopping=True)
    model.fit(clusters)
    rng = np.random.RandomState(model.random_state)
    X = train_test_split(clusters, test_size=0.1, random_state=rng)[1]
    on_domain = -(model.score_samples(X) - model._reader.log_derivatives(X).sum(axis=1))
    assert on_domain.mean() == pytest.approx(min(model.history_["validation_loss"]), abs=1e-4)


def test_weights_and_rows_without_any(clusters):
    weight = np.r_[np.zeros(20), np.ones(100)]
    spoilt = np.r_[1e9 + np.zeros((20, 3)), clusters[20:]]
    model = TNBornMachine(embedding=BASIS, **SMALL)
    one = model.fit(spoilt, sample_weight=weight).score_samples(clusters)
    two = model.fit(clusters[20:]).score_samples(clusters)
    np.testing.assert_array_equal(one, two)
    right = clusters[:, 0] > 0
    learn = TNBornMachine(embedding=BASIS, **LEARN)
    heavy = learn.fit(clusters, sample_weight=np.where(right, 10.0, 0.1))
    mean = heavy.score_samples(clusters)
    assert mean[right].mean() > mean[~right].mean() + 2


def test_partial_fit_and_warm_start_go_on(clusters):
    model = TNBornMachine(embedding=BASIS, **SMALL).partial_fit(clusters)
    scores = [model.score(clusters)]
    for _ in range(6):
        scores.append(model.partial_fit(clusters).score(clusters))
    assert scores[-1] > scores[0] + 0.1
    assert model.n_iter_ == len(model.history_["loss"]) == 7
    warm = TNBornMachine(embedding=BASIS, warm_start=True, **SMALL).fit(clusters)
    first = warm.score(clusters)
    assert warm.fit(clusters).score(clusters) > first
    assert warm.n_iter_ == 4


def test_clone_grid_search_and_penalties(clusters):
    model = TNBornMachine(embedding=BASIS, loss=NegativeLogLikelihood() + 0.1 * ReluLogNorm())
    model.set_params(**SMALL)
    search = GridSearchCV(clone(model), {"max_epochs": [1, 8]}, cv=2, refit=False)
    one, eight = search.fit(clusters).cv_results_["mean_test_score"]
    assert eight > one + 0.1


def test_given_networks_and_trees(clusters):
    spec = TTNSpec(tree=Tree(3, ((2, 0), (3, 1))))
    model = TNBornMachine(embedding=BASIS, network=spec, **SMALL).fit(clusters)
    assert model.network_.tree == spec.tree
    again = TNBornMachine(embedding=BASIS, network=model.network_, **SMALL)
    again.set_params(trainer=Untrained()).fit(clusters)
    assert pack(again.network_)[1] == pack(model.network_)[1]


def test_the_network_is_live(clusters):
    model = TNBornMachine(embedding=BASIS, **SMALL).fit(clusters)
    before = model.score_samples(clusters)
    model.network_.multiply_(3.0)
    np.testing.assert_allclose(model.score_samples(clusters), before, atol=1e-6)
    model.network_.compress(max_bond=1)
    assert np.abs(model.score_samples(clusters) - before).max() > 1e-3


@pytest.mark.parametrize("name", ["mixture", "categories"])
def test_a_stored_machine_is_bit_equal(request, name, tmp_path):
    model = request.getfixturevalue(name)
    if name == "mixture":
        model = clone(model)
        vars(model).update(vars(request.getfixturevalue(name)))
        model.trainer = "gradient"
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    X = model.sample(50, random_state=0)
    np.testing.assert_array_equal(loaded.sample(50, random_state=0), X)
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    assert set(vars(loaded)) == set(vars(model))


def test_a_second_fit_compiles_nothing(clusters):
    seen = []

    def listener(event, duration, **_):
        del duration
        if event.startswith("/jax/core/compile/"):
            seen.append(event)

    def work(X):
        model = TNBornMachine(embedding=BASIS, **SMALL).fit(X)
        model.sample(20, random_state=0)
        model.score_samples(X)
        gone = np.where(np.arange(3) == 1, np.nan, X)
        model.impute(gone)
        model.sample(given=gone, random_state=0)

    work(clusters)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        work(clusters[::-1] * 2)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert seen == []


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": MPSSpec(cyclic=True)}, "cyclic=False"),
        ({"network": "mera"}, "mera network: take an MPS or a TTN"),
        ({"network": "smpo"}, "MPS or a TTN.*b0"),
        ({"scaler": Rotated()}, "Rotated: take GaussianCDF"),
        ({"scaler": QuantileSigmoid()}, "QuantileSigmoid: take GaussianCDF"),
        ({"embedding": Polynomial(2, n=3)}, "single features.*leave embedding=None"),
        ({"embedding": Embedded(1)}, "single features.*domain"),
        ({"embedding": PerFeature((BASIS, BASIS))}, "2 embeddings for 3 features"),
        ({"loss": CrossEntropy()}, "classification loss"),
        ({"loss": SquaredError()}, "regression loss"),
        ({"loss": "log_quadratic"}, "likelihood trains a density.*leave loss=None"),
        ({"bond_dim": 0}, "bond_dim must be"),
    ],
)
def test_bad_options(clusters, options, message):
    machine = TNBornMachine(**WILD | {"embedding": BASIS} | options)
    with pytest.raises(ValueError, match=message):
        machine.fit(clusters)
    with pytest.raises(NotFittedError):
        machine.score_samples(clusters)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.marginal([]), "different columns, as numbers below 3"),
        (lambda m: m.marginal([0, 0]), "different columns"),
        (lambda m: m.marginal(3), "numbers below 3.*got \\[3\\]"),
        (lambda m: m.marginal("size"), "names seen in fit"),
        (lambda m: m.marginal(-1), "different columns"),
        (lambda m: m.marginal([0, 1]).score_samples([[1.0]]), r"\(n_samples, 2\), got \(1, 1\)"),
        (lambda m: m.marginal(0).score_samples([1.0]), "Expected 2D array"),
        (lambda m: m.sample(0), "n_samples must be"),
        (lambda m: m.sample(given=[[1.0, np.nan]]), "2 features, but .* 3 features"),
        (lambda m: m.sample(given=[1.0] * 4), "4 features, but .* 3 features"),
        (lambda m: m.score_samples([[1.0, np.inf, 0.0]]), "infinity"),
        (lambda m: m.impute([["a", "b", "c"]]), "categories"),
    ],
)
def test_bad_questions(machine, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(machine)


def test_before_fit_there_is_nothing():
    for ask in (TNBornMachine().sample, TNBornMachine().marginal, TNBornMachine().impute):
        with pytest.raises(NotFittedError):
            ask([[0.0]])


@parametrize_with_checks([TNBornMachine(max_epochs=2)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)
