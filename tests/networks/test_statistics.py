"""Mutual information between features, and the trees and orders made of it."""

import jax
import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from tn4ml_plus import TNClassifier, TNRegressor, load
from tn4ml_plus._registry import from_json, to_json
from tn4ml_plus.embeddings import Embedded, Legendre
from tn4ml_plus.networks import MPSSpec, MutualInformation, Tree, TTNSpec, _arrangements

# Features by the group whose hidden variable they show.
GROUPS = np.array([0, 1, 2, 0, 1, 2, 2, 0, 1, 0])


@pytest.fixture(scope="module")
def grouped():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 3))
    return hidden[:, GROUPS] + 0.3 * rng.normal(size=(400, len(GROUPS)))


def mixed(n_samples=300):
    """Continuous, discrete, constant and tied columns."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=n_samples)
    columns = [
        x,
        x**2,
        np.round(2 * x),
        rng.integers(0, 16, n_samples),
        np.zeros(n_samples),
        np.maximum(x, 0),
        rng.normal(size=n_samples),
    ]
    return np.stack(columns, axis=1)


def codes(column, bins):
    """Ranks in parts of equal frequency, or the values themselves where they are few."""
    if len(np.unique(column)) <= 16:
        return column
    return np.digitize(column, np.quantile(column, np.linspace(0, 1, bins + 1)[1:-1]))


@pytest.mark.parametrize("bins", [2, 8, 11])
@pytest.mark.parametrize("block", [1, 2**24])
def test_information_is_that_of_scikit_learn(monkeypatch, bins, block):
    monkeypatch.setattr(_arrangements, "_BLOCK", block)
    X = mixed()
    found = MutualInformation(bins).matrix(X)
    for i in range(X.shape[1]):
        for j in range(X.shape[1]):
            expected = mutual_info_score(codes(X[:, i], bins), codes(X[:, j], bins))
            np.testing.assert_allclose(found[i, j], expected, atol=1e-12)
    assert found[0, 0] == pytest.approx(np.log(bins), rel=1e-2)


def test_bins_have_equal_frequencies():
    counts = np.bincount(MutualInformation(bins=7)._codes(np.exp(np.arange(700.0) / 100)))
    assert counts.tolist() == [100] * 7


def test_missing_entries_leave_their_pairs_only():
    X = mixed()
    X[::3, 0] = np.nan
    X[1::3, 2] = np.nan
    found = MutualInformation().matrix(X)
    column = codes(X[:, 0][~np.isnan(X[:, 0])], 8)
    full = np.full(len(X), -1)
    full[~np.isnan(X[:, 0])] = column
    both = ~np.isnan(X[:, 0]) & ~np.isnan(X[:, 2])
    expected = mutual_info_score(full[both], X[both, 2])
    np.testing.assert_allclose(found[0, 2], expected, atol=1e-12)
    untouched = MutualInformation().matrix(mixed())
    np.testing.assert_allclose(found[3:, 3:], untouched[3:, 3:], atol=1e-12)
    X[:, 1] = np.nan
    found = MutualInformation().matrix(X)
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_array_equal(MutualInformation().matrix(np.full((3, 2), np.nan)), 0)


def test_independent_features_share_nothing_and_functions_everything():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20000))
    found = MutualInformation().matrix(np.stack([x, y, np.exp(x)], axis=1))
    # The estimate is too large by (bins - 1)^2 / (2 n_samples) on average.
    assert 0 <= found[0, 1] < 3 * 49 / 40000
    np.testing.assert_allclose(found[0, 2], np.log(8), rtol=1e-6)


def test_orders_put_planted_groups_together(grouped):
    order = MutualInformation().order(grouped)
    assert sorted(order) == list(range(len(GROUPS)))
    assert np.count_nonzero(np.diff(GROUPS[list(order)])) == 2


@pytest.mark.parametrize("n_features", [4, 7, 10])
def test_trees_pair_planted_groups_and_stay_flat(grouped, n_features):
    tree = MutualInformation().tree(grouped[:, :n_features])
    assert max(tree.heights) == int(np.ceil(np.log2(n_features)))
    assert {len(children) for children in tree.nodes} == {2}
    sizes = np.bincount(GROUPS[:n_features])
    pure = [set(GROUPS[list(pair)]) for pair in tree.nodes if max(pair) < n_features]
    assert sum(len(groups) == 1 for groups in pure) == sum(sizes // 2)


def test_the_most_telling_pairs_come_first():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 2000))
    weak = np.stack([x + 2 * rng.normal(size=2000), x, y, y + 0.1 * x], axis=1)
    assert MutualInformation().tree(weak).nodes == ((2, 3), (0, 1), (4, 5))


@pytest.mark.parametrize("n_features", [1, 2])
def test_few_features(n_features):
    X = np.random.default_rng(0).normal(size=(9, n_features))
    assert sorted(MutualInformation().order(X)) == list(range(n_features))
    assert MutualInformation().tree(X) == Tree.balanced(n_features)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MutualInformation(bins=1), "bins must be an integer of at least 2"),
        (lambda: MutualInformation(levels=-1), "levels must be an integer of at least 0"),
        (lambda: MutualInformation().matrix(np.ones(3)), r"\(n_samples, n_features\)"),
        (lambda: MPSSpec(order=(0, 2)), "permutation of 0, 1, ..., got"),
        (lambda: MPSSpec(order=(1, 0)).orders(3, 1, np.random.RandomState()), "2 entries for 3"),
        (lambda: TTNSpec(MutualInformation()).random(3, key=None), "call for_data"),
        (lambda: TTNSpec(MutualInformation()).for_data(np.ones((5, 6)), 3), "3 sites read 6"),
        (lambda: MPSSpec(order=MutualInformation()).for_data(np.ones((5, 6)), 3), "3 sites read 6"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_specs_settle_on_data_and_are_stored(grouped):
    wanted = MutualInformation(bins=5)
    mps = MPSSpec(cyclic=True, order=wanted)
    ttn = TTNSpec(wanted)
    for spec in (mps, ttn, MPSSpec(order=np.array([1, 0, 2]))):
        assert from_json(to_json(spec)) == spec
        assert hash(spec) == hash(from_json(to_json(spec)))
    n = grouped.shape[1]
    assert mps.for_data(grouped, n) == MPSSpec(cyclic=True, order=wanted.order(grouped))
    assert ttn.for_data(grouped, n) == TTNSpec(wanted.tree(grouped))
    for spec in (MPSSpec(), TTNSpec(), TTNSpec(arity=3)):
        assert spec.for_data(grouped, n) is spec


def test_orders_of_members():
    def orders(spec):
        return spec.orders(4, 3, np.random.RandomState(0)).tolist()

    plain = orders(MPSSpec())
    assert plain[0] == [0, 1, 2, 3]
    assert plain == orders(TTNSpec(arity=3))
    assert plain[1] != plain[2]
    assert orders(MPSSpec(order=(3, 1, 0, 2))) == [[3, 1, 0, 2], *plain[1:]]
    assert orders(TTNSpec(Tree.balanced(4))) == [[0, 1, 2, 3]] * 3


SMALL = {"bond_dim": 2, "max_epochs": 4, "feature_dropout": 0.0, "random_state": 0}
SMALL |= {"embedding": Legendre(2)}


@pytest.mark.long
@pytest.mark.parametrize("n_members", [2, pytest.param(1, marks=pytest.mark.long)])
def test_estimators_arrange_features_by_their_data(grouped, n_members, tmp_path):
    X = grouped.copy()
    X[::7, 3] = np.nan
    y = (grouped[:, 0] > 0).astype(int)
    options = SMALL | {"n_members": n_members}
    by_order = TNClassifier(network=MPSSpec(order=MutualInformation()), **options).fit(X, y)
    order = by_order.orders_[0]
    assert np.count_nonzero(np.diff(GROUPS[order])) == 2
    # A model of the columns as they then come is the same one.
    plain = TNClassifier(**options).fit(X[:, order], y)
    if n_members == 1:
        np.testing.assert_allclose(
            by_order.predict_proba(X), plain.predict_proba(X[:, order]), atol=1e-4
        )
    by_tree = TNClassifier(network=TTNSpec(MutualInformation()), **options).fit(X, y)
    assert (by_tree.orders_ == np.arange(len(GROUPS))).all()
    trees = {member.tree for member in by_tree.networks_}
    assert len(trees) == 1
    pairs = [c for c in trees.pop().nodes if max(c) < len(GROUPS)]
    assert sum(GROUPS[a] == GROUPS[b] for a, b in pairs) == 4
    for model in (by_order, by_tree):
        model.save(tmp_path / "model")
        again = load(tmp_path / "model")
        assert again.get_params() == model.get_params()
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
        model.set_params(warm_start=True).fit(X, y)


def test_sites_of_several_features_are_refused(grouped):
    spec = MPSSpec(order=MutualInformation())
    model = TNRegressor(network=spec, **SMALL | {"embedding": Embedded(5)})
    with pytest.raises(ValueError, match="2 sites read 10 of them: give an order or a tree"):
        model.fit(np.abs(grouped), grouped[:, 0])


def test_a_given_order_is_the_order_of_the_sites():
    spec = MPSSpec(order=(2, 0, 1), output_site=0)
    X = np.random.default_rng(0).normal(size=(30, 3))
    model = TNRegressor(network=spec, n_members=1, **SMALL).fit(X, X[:, 2])
    assert model.orders_.tolist() == [[2, 0, 1]]
    assert model.network_.output_site == 0
    assert spec.random(3, bond_dim=2, key=jax.random.key(0)).L == 3
