"""The coarse-graining tree: what it keeps, what it stacks to, and scikit-learn's manners."""

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from tn4ml_plus import TNClassifier, TNTransformer, load
from tn4ml_plus.contraction import contract, pack
from tn4ml_plus.embeddings import Embedded, Hat, Legendre, Patches, SpinCoherent, Trigonometric
from tn4ml_plus.networks import TTN, Tree, TTNSpec


@parametrize_with_checks([TNTransformer(), TNTransformer(n_layers=1)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def X():
    """Correlated columns, (80, 6)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(80, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(80, 6))


@pytest.fixture(scope="module")
def table():
    frame = load_iris(as_frame=True).data
    frame["shape"] = pd.Categorical(np.where(frame.iloc[:, 0] > 5.5, "long", "short"))
    frame.iloc[3, 1] = np.nan
    frame.loc[5, "shape"] = None
    return frame


def embedded(model, X):
    """Embedded rows in float64, (n_samples, nsites, phys_dim)."""
    with jax.enable_x64(True):
        return np.asarray(model.embedding_.embed(model._reader.transform(model._read(X))))


# What the isometries keep -----------------------------------------------------------------------


@pytest.mark.parametrize("tree", [None, Tree(6, ((5, 0, 2), (1, 3), (7, 4), (8, 6)))])
@pytest.mark.parametrize("cutoff", [0.0, 1e-3, 0.2])
def test_nodes_are_isometries_that_discard_at_most_the_cutoff(X, tree, cutoff):
    model = TNTransformer(max_bond=None, cutoff=cutoff, tree=tree).fit(X)
    for array in model.isometries_:
        flat = array.reshape(-1, array.shape[-1])
        np.testing.assert_allclose(flat.T @ flat, np.eye(flat.shape[1]), atol=1e-12)
    assert model.discarded_weight_.max() <= cutoff + 1e-13
    assert (model.discarded_weight_ >= 0).all()
    if cutoff == 0.2:
        assert model.discarded_weight_.max() > 0.01
        assert max(model.phys_dims_) < 9


def test_a_capped_node_discards_what_it_says(X):
    model = TNTransformer(max_bond=3, n_layers=1).fit(X)
    phi = embedded(model, X)
    pair = np.einsum("bi,bj->bij", phi[:, 0], phi[:, 1])
    kept = np.einsum("bij,ijk->bk", pair, model.isometries_[0])
    np.testing.assert_allclose(1 - np.mean(np.sum(kept**2, axis=1)), model.discarded_weight_[0])
    assert model.discarded_weight_[0] > 1e-3


@pytest.mark.parametrize("embedding", [SpinCoherent(), Legendre(2)])
def test_without_truncation_inner_products_are_kept(X, embedding):
    model = TNTransformer(max_bond=None, cutoff=0, embedding=embedding).fit(X[:20])
    Z = model.transform(X[:20])
    phi = embedded(model, X[:20])
    phi = phi / np.linalg.norm(phi, axis=-1, keepdims=True)
    inner = np.prod(np.einsum("ais,bis->abi", phi, phi), axis=-1)
    np.testing.assert_allclose(Z @ Z.T, inner, atol=1e-11)


def test_no_other_isometry_keeps_more(X):
    model = TNTransformer(max_bond=3, n_layers=1).fit(X)
    phi = embedded(model, X)
    pair = np.einsum("bi,bj->bij", phi[:, 2], phi[:, 3]).reshape(len(X), -1)
    ours = np.mean(np.sum((pair @ model.isometries_[1].reshape(9, -1)) ** 2, axis=1))
    rng = np.random.default_rng(0)
    for _ in range(20):
        other, _ = np.linalg.qr(rng.normal(size=(9, 3)))
        assert ours > np.mean(np.sum((pair @ other) ** 2, axis=1))


def test_a_weight_is_a_number_of_repetitions(X):
    weight = np.arange(len(X)) % 4
    weighted = TNTransformer(max_bond=4).fit(X, sample_weight=weight)
    repeated = TNTransformer(max_bond=4).fit(np.repeat(X, weight, axis=0))
    np.testing.assert_allclose(weighted.transform(X), repeated.transform(X), atol=1e-8)
    assert np.abs(weighted.transform(X) - TNTransformer(max_bond=4).fit_transform(X)).max() > 1e-2


def test_the_same_data_give_the_same_bits(X):
    one, other = (TNTransformer(max_bond=4).fit_transform(X) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_many_sites_stay_finite():
    U = np.random.default_rng(0).uniform(size=(50, 784))
    model = TNTransformer(max_bond=2, scaler="min_max").fit(U)
    Z = model.transform(np.random.default_rng(1).normal(size=(20, 784)) * 1e3)
    np.testing.assert_allclose(np.linalg.norm(Z, axis=1), 1)
    assert -1e4 < model.log_norm_ < -10


def test_samples_of_which_nothing_is_left_become_the_leading_direction():
    # Of three orthogonal vectors one is kept at each site, so that most samples vanish.
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [2, 2]], float)
    model = TNTransformer(max_bond=1, embedding="one_hot", tree=Tree(2, ((0,), (1,), (2, 3))))
    model.set_params(embedding=Hat(3)).fit(codes)
    np.testing.assert_allclose(model.transform(codes), 1)


# Networks ---------------------------------------------------------------------------------------


def test_the_network_gives_the_outputs(X):
    model = TNTransformer(max_bond=4).fit(X)
    assert isinstance(model.network_, TTN)
    assert model.network_.ind_size("out") == model.phys_dim_ == model.transform(X).shape[1]
    for n_layers in (None, 1, 2):
        model = TNTransformer(max_bond=4, n_layers=n_layers).fit(X)
        Z = model.transform(X).reshape(len(X), -1, model.phys_dim_)
        outs = ["out"] if n_layers is None else [f"out{r}" for r in range(Z.shape[1])]
        network = model.network_
        for b in (0, 7):
            filled = network.copy()
            for i, vector in enumerate(embedded(model, X)[b]):
                filled.vector_reduce_(f"k{i}", vector)
            found = filled.contract(output_inds=outs).data
            found /= np.linalg.norm(found)
            expected = Z[b, 0, : model.phys_dims_[0]]
            for z, size in zip(Z[b, 1:], model.phys_dims_[1:], strict=True):
                expected = np.multiply.outer(expected, z[:size])
            np.testing.assert_allclose(found, expected, atol=1e-12)


def test_remaining_leaves_stand_where_the_tree_has_them(X):
    model = TNTransformer(n_layers=1, tree=Tree.balanced(5), max_bond=4).fit(X[:, :5])
    assert model.sites_ == (5, 6, 4)
    assert model.phys_dims_ == (4, 4, 3)
    Z = model.transform(X[:, :5]).reshape(len(X), 3, 4)
    np.testing.assert_array_equal(Z[:, 2, 3], 0)
    np.testing.assert_allclose(Z[:, 2, :3], embedded(model, X[:, :5])[:, 4], atol=1e-12)


@pytest.mark.parametrize("n_layers", [1, 2, None])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("tree", [None, Tree(6, ((5, 0), (1, 3, 2), (7, 4), (6, 8)))])
def test_the_stack_is_the_composition(X, tree, n_layers, padded):
    model = TNTransformer(max_bond=4, n_layers=n_layers, tree=tree).fit(X)
    Z = model.transform(X).reshape(len(X), -1, model.phys_dim_)
    sizes = model.phys_dim_ if padded else model.phys_dims_
    key = jax.random.key(0)
    with jax.enable_x64(True):
        options = {"bond_dim": 3, "phys_dim": sizes, "n_outputs": 2, "key": key}
        top = TTN.random(Z.shape[1], **options)
        stacked = model.stack(top)
        assert stacked.tree.nsites == 6
        above = np.asarray(contract(*pack(top), Z).dense())
        whole = np.asarray(contract(*pack(stacked), embedded(model, X)).dense())
    factor = whole / above
    np.testing.assert_allclose(factor[:, 0], factor[:, 1], rtol=1e-10)
    assert (factor > 0).all()
    np.testing.assert_allclose(np.mean(np.log(factor)), 0, atol=1e-10)
    # The factor is the norm that the projections leave.
    assert factor.std() > 0.01


def test_without_truncation_the_stack_is_the_composition_to_the_number(X):
    model = TNTransformer(max_bond=None, cutoff=0, n_layers=1).fit(X)
    Z = model.transform(X).reshape(len(X), -1, model.phys_dim_)
    with jax.enable_x64(True):
        top = TTN.random(3, phys_dim=model.phys_dim_, n_outputs=2, key=jax.random.key(0))
        whole = contract(*pack(model.stack(top)), embedded(model, X)).dense()
        np.testing.assert_allclose(whole, contract(*pack(top), Z).dense(), atol=1e-12)


@pytest.mark.long
def test_a_classifier_on_top_and_its_stack():
    X, y = load_iris(return_X_y=True)
    options = {"n_members": 1, "random_state": 0, "decay": 0.0, "feature_dropout": 0.0}
    options |= {"learning_rate": 0.05}
    pipeline = make_pipeline(
        TNTransformer(max_bond=3, n_layers=1),
        TNClassifier(embedding=Embedded(3), network="ttn", **options),
    ).fit(X, y)
    assert pipeline.score(X, y) > 0.9
    transformer, classifier = pipeline[0], pipeline[1]
    stacked = transformer.stack(classifier.network_)
    fine = TNClassifier(network=stacked, embedding=SpinCoherent(), **options)
    start = clone(fine).set_params(learning_rate=1e-12, max_epochs=1).fit(X, y)
    np.testing.assert_array_equal(start.predict(X), pipeline.predict(X))
    assert fine.fit(X, y).score(X, y) > 0.94


# Tables, pipelines, files -----------------------------------------------------------------------


def test_frames_with_categories_and_missing_values(table):
    model = TNTransformer(max_bond=4, n_layers=1).set_output(transform="pandas")
    Z = model.fit_transform(table)
    assert list(Z.columns) == [f"site{r}_{j}" for r in range(3) for j in range(4)]
    assert Z.shape == (150, 12)
    assert np.isfinite(Z.to_numpy()).all()
    # A missing category is the mean of the categories.
    counts = table["shape"].value_counts()
    mean = np.array([counts["long"], counts["short"]]) / counts.sum()
    last = Z.iloc[5, 8:].to_numpy()
    np.testing.assert_allclose(np.sort(last[:2]), np.sort(mean) / np.linalg.norm(mean), atol=1e-12)
    with pytest.raises(ValueError, match="feature names"):
        model.transform(table.iloc[:, ::-1])
    with pytest.raises(ValueError, match="input_features"):
        model.get_feature_names_out(["a"])


def test_grid_search_over_the_size():
    X, y = load_digits(n_class=3, return_X_y=True)
    pipeline = make_pipeline(TNTransformer(), LogisticRegression())
    search = GridSearchCV(pipeline, {"tntransformer__max_bond": [1, 8]}, cv=2).fit(X, y)
    assert search.best_params_ == {"tntransformer__max_bond": 8}
    assert search.best_score_ > 0.95


@pytest.mark.parametrize("n_layers", [None, 1])
def test_loaded_transformers_give_the_same_bits(table, tmp_path, n_layers):
    model = TNTransformer(max_bond=4, n_layers=n_layers, tree=Tree.balanced(5, 3)).fit(table)
    expected = model.transform(table)
    model.set_params(n_layers=2)
    np.testing.assert_array_equal(model.transform(table), expected)
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(table), expected)
    assert set(vars(loaded)) == set(vars(model))
    assert loaded.get_params() == model.get_params()
    assert loaded.sites_ == model.sites_
    np.testing.assert_array_equal(loaded.discarded_weight_, model.discarded_weight_)


class Reversed:
    """Gives trees by looking at the columns."""

    def tree(self, X):
        assert 0 <= np.nanmin(X) <= np.nanmax(X) <= 1
        nsites = X.shape[1]
        nodes = Tree.balanced(nsites).nodes
        flip = [*reversed(range(nsites)), *range(nsites, nsites + len(nodes))]
        return Tree(nsites, tuple(tuple(flip[c] for c in children) for children in nodes))


def test_trees_from_the_data(X):
    found = TNTransformer(max_bond=4, tree=Reversed()).fit(X)
    given = TNTransformer(max_bond=4).fit(X[:, ::-1])
    np.testing.assert_allclose(found.transform(X), given.transform(X[:, ::-1]), atol=1e-9)
    assert isinstance(clone(found).tree, Reversed)


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bond": 0}, "max_bond must be an integer of at least 1, or None"),
        ({"cutoff": 1.0}, "cutoff must be a finite number of at least 0 and below 1"),
        ({"n_layers": 0}, "n_layers must be an integer of at least 1, or None"),
        ({"tree": Tree.balanced(5)}, "The tree has 5 leaves, but there are 6 sites"),
        ({"tree": "balanced"}, r"tree must be None, a Tree or an object with a method tree\(X\)"),
        ({"tree": TTNSpec()}, "tree must be None"),
        ({"embedding": "sine"}, "Unknown embedding 'sine'"),
        ({"embedding": Embedded(2), "scaler": "min_max"}, "leave scaler=None"),
        (
            {"max_bond": None, "cutoff": 0, "tree": Tree.balanced(6, 6), "embedding": Hat(5)},
            "joins",
        ),
    ],
)
def test_options_that_do_not_fit(X, options, message):
    with pytest.raises(ValueError, match=message):
        TNTransformer(**options).fit(X)


def test_missing_values_of_sites_with_several_features(X):
    X = np.where(np.arange(6) == 2, np.nan, X)
    with pytest.raises(ValueError, match="sees several features at a site"):
        TNTransformer(embedding=Patches((2, 3), (1, 3))).fit(X)


def test_stacking_what_does_not_fit(X):
    model = TNTransformer(max_bond=4, n_layers=1)
    top = TTN.random(3, phys_dim=5, key=jax.random.key(0))
    with pytest.raises(NotFittedError):
        model.stack(top)
    model.fit(X)
    with pytest.raises(ValueError, match=r"sites of top have the sizes \(5, 5, 5\)"):
        model.stack(top)
    with pytest.raises(ValueError, match="top must be an instance of TTN"):
        model.stack("ttn")


def test_before_fit_there_is_nothing(X, tmp_path):
    model = TNTransformer(embedding=Trigonometric())
    for call in (lambda: model.transform(X), lambda: model.save(tmp_path / "model")):
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(NotFittedError):
        model.get_feature_names_out()
