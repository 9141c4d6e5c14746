"""Saving and loading: bit-equal predictions, nothing executed, clear refusals."""

import subprocess
import sys

import numpy as np
import optax
import pandas as pd
import pytest
import quimb.tensor as qtn
from sklearn import config_context
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError

from tn4ml_plus import TNClassifier, TNRegressor, load
from tn4ml_plus.embeddings import Hat, PrincipalPatches
from tn4ml_plus.io import read, write
from tn4ml_plus.networks import Tree, TTNSpec
from tn4ml_plus.training import Gradient

SMALL = {"bond_dim": 2, "n_members": 2, "max_epochs": 2, "random_state": 0}


@pytest.fixture(scope="module")
def table():
    X, y = load_iris(return_X_y=True, as_frame=True)
    X["shape"] = pd.Categorical(np.where(X.iloc[:, 0] > 5.5, "long", "short"))
    X.iloc[3, 1] = np.nan
    X.loc[5, "shape"] = None
    return X, np.array(["setosa", "versicolor", "virginica"])[y]


@pytest.fixture(scope="module")
def fitted(table):
    return TNClassifier(**SMALL).fit(*table)


def test_another_process_predicts_bit_equally(fitted, table, tmp_path):
    X, _ = table
    fitted.save(tmp_path / "model")
    X.to_pickle(tmp_path / "X")
    code = """
import sys
import numpy as np, pandas as pd, tn4ml_plus
model = tn4ml_plus.load(sys.argv[1] + "/model")
np.save(sys.argv[1] + "/p.npy", model.predict_proba(pd.read_pickle(sys.argv[1] + "/X")))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), fitted.predict_proba(X))


def test_everything_fitted_comes_back(fitted, table, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.get_params() == fitted.get_params()
    assert loaded.classes_.tolist() == fitted.classes_.tolist()
    assert loaded.feature_names_in_.tolist() == fitted.feature_names_in_.tolist()
    assert loaded.history_ == fitted.history_
    assert loaded.embedding_ == fitted.embedding_
    assert loaded.n_iter_ == fitted.n_iter_
    assert set(vars(loaded)) == set(vars(fitted))
    for ours, theirs in zip(loaded.networks_, fitted.networks_, strict=True):
        assert isinstance(ours, qtn.MatrixProductState)
        assert ours.output_site == theirs.output_site


def test_partial_fit_goes_on_as_if_never_stored(table, tmp_path):
    X, y = table
    model = TNClassifier(**SMALL).partial_fit(X, y, classes=np.unique(y))
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    model.partial_fit(X, y)
    loaded.partial_fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), loaded.predict_proba(X))


def test_compressed_networks_and_generic_networks_are_stored(table, tmp_path):
    X, y = table
    X = X.drop(columns="shape")
    model = TNClassifier(**(SMALL | {"n_members": 1, "bond_dim": 4})).fit(X, y)
    model.network_.compress(max_bond=2)
    model.save(tmp_path / "model")
    assert max(load(tmp_path / "model").network_.bond_sizes()) == 2

    ring = qtn.TN_from_edges_rand([(0, 1), (1, 2), (2, 3), (3, 0)], D=2, phys_dim=3, seed=0)
    ring = ring.reindex({ring.site_ind(i): f"k{i}" for i in range(4)})
    ring[ring.site_tag(0)].new_ind("out", size=3)
    model = TNRegressor(network=ring, missing="averaged", **(SMALL | {"n_members": 1}))
    model.fit(X, np.random.RandomState(0).rand(len(X), 3))
    with pytest.raises(ValueError, match=r"parameter network .*set_params\(network="):
        model.save(tmp_path / "ring")
    model.set_params(network="mps").save(tmp_path / "ring")
    np.testing.assert_array_equal(load(tmp_path / "ring").predict(X), model.predict(X))


def test_trees_are_stored(table, tmp_path):
    X, y = table
    spec = TTNSpec(Tree(5, ((4, 0), (1, 5), (6, 2, 3))))
    model = TNClassifier(network=spec, **SMALL).fit(X, y)
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.get_params() == model.get_params()
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.networks_[1].tree == spec.tree
    assert [t.shape for t in loaded.networks_[1]] == [t.shape for t in model.networks_[1]]


def test_what_an_embedding_learned_is_stored(tmp_path):
    X, y = (rows[:256] for rows in load_digits(return_X_y=True))
    embedding = PrincipalPatches((8, 8), (4, 4), (2, 2), padding=1, n_components=6)
    tree = TTNSpec(Tree.image(*embedding.grid))
    model = TNClassifier(4, n_members=1, embedding=embedding, network=tree, random_state=0)
    model.set_params(max_epochs=6, feature_dropout=0.0).fit(X, y)
    assert model.score(X, y) > 0.7
    expected = embedding.for_data(X / 16, np.ones(len(X)))
    np.testing.assert_allclose(model.embedding_.components, expected.components, rtol=1e-9)
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.embedding_ == model.embedding_
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    model.warm_start = True
    assert model.fit(X, y).embedding_ == loaded.embedding_


def test_objects_as_parameters_come_back(table, tmp_path):
    X, y = table
    X = X.drop(columns="shape")
    options = SMALL | {"embedding": Hat(4), "trainer": Gradient(clip_norm=1.0)}
    model = TNClassifier(class_weight={"setosa": 2, "versicolor": 1, "virginica": 1}, **options)
    model.fit(X, y).save(tmp_path / "model")
    assert load(tmp_path / "model").get_params() == model.get_params()


def test_what_only_code_could_rebuild_is_refused_by_name(table, tmp_path):
    model = TNClassifier(trainer=Gradient(optimizer=optax.sgd(0.1)), **SMALL).fit(*table)
    with pytest.raises(ValueError, match="parameter trainer cannot be saved"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_fit_did_not_set_is_left_out(table, tmp_path):
    with config_context(enable_metadata_routing=True):
        model = TNClassifier(**SMALL).set_fit_request(sample_weight=True).fit(*table)
    model.notes = object()
    model.save(tmp_path / "model")
    assert not hasattr(load(tmp_path / "model"), "notes")


def test_a_replaced_loss_is_what_is_stored(table, tmp_path):
    X, y = table
    loss = optax.softmax_cross_entropy_with_integer_labels
    model = TNClassifier(loss=lambda p, t: loss(p, t), **SMALL).fit(X, y)
    with pytest.raises(ValueError, match=r"loss.*set_params\(loss="):
        model.save(tmp_path / "model")
    model.set_params(loss="cross_entropy").save(tmp_path / "model")
    np.testing.assert_allclose(
        load(tmp_path / "model").predict_proba(X), model.predict_proba(X), rtol=1e-6
    )


def test_paths_that_are_no_files(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder does not exist.*nowhere"):
        fitted.save(tmp_path / "nowhere" / "model")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load(tmp_path)


def test_before_fit_there_is_nothing_to_save(tmp_path):
    with pytest.raises(NotFittedError):
        TNClassifier().save(tmp_path / "model")


def test_foreign_and_incomplete_files_are_refused(fitted, tmp_path):
    write(tmp_path / "other", {"a": np.zeros(2)}, {"what": "not an estimator"})
    with pytest.raises(ValueError, match="holds no estimator"):
        load(tmp_path / "other")
    fitted.save(tmp_path / "model")
    arrays, metadata = read(tmp_path / "model")
    write(tmp_path / "model", arrays, metadata | {"estimator": "os.system"})
    with pytest.raises(ValueError, match="Unknown estimator"):
        load(tmp_path / "model")
