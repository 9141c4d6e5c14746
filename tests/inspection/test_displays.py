"""Displays: what they hold, that they draw without a screen, and what they refuse."""

import sys

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tn4ml_plus import TNAnomalyDetector, TNBornMachine, TNClassifier, TNRegressor
from tn4ml_plus.embeddings import Legendre, Patches
from tn4ml_plus.estimators import Rotated
from tn4ml_plus.inspection import (
    AttributionDisplay,
    CoarseGrainDisplay,
    CompressionDisplay,
    EntanglementDisplay,
    InteractionDisplay,
    LayerDisplay,
    MutualInformationDisplay,
    NetworkDisplay,
    SampleDisplay,
    TrainingDisplay,
    bond_entropies,
    interaction_orders,
    mutual_information,
    separability_by_layer,
)
from tn4ml_plus.networks import MERA, MPS, SMPO, TTN, Tree, TTNSpec
from tn4ml_plus.training import Gradient, Sweep

mpl.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def iris():
    data = load_iris(as_frame=True)
    return data.data, data.target_names[data.target]


@pytest.fixture(scope="module")
def images():
    X, y = load_digits(return_X_y=True)
    X = X[y < 3].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    return X[:300], y[y < 3][:300]


@pytest.fixture(scope="module")
def classifier(iris):
    return TNClassifier(4, n_members=2, max_epochs=10, random_state=0).fit(*iris)


# Nothing is chosen from the data.
GIVEN = {"embedding": Legendre(2), "feature_dropout": 0.0}


@pytest.fixture(scope="module")
def tree(images):
    spec = TTNSpec(tree=Tree.image(4, 4))
    options = {"n_members": 1, "max_epochs": 5, "random_state": 0, **GIVEN}
    return TNClassifier(4, network=spec, **options).fit(*images)


@pytest.fixture(scope="module")
def machine(iris):
    return TNBornMachine(4, max_epochs=10, random_state=0).fit(iris[0])


@pytest.fixture(scope="module")
def detector(iris):
    return TNAnomalyDetector(4, max_epochs=3, random_state=0).fit(iris[0][:50])


def texts(figure):
    figure.canvas.draw()
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def test_entanglement(classifier, tree, detector):
    display = EntanglementDisplay.from_estimator(classifier, member=1)
    order = classifier.orders_[1]
    expected = bond_entropies(classifier.networks_[1], classifier.grams()[order])
    np.testing.assert_array_equal(display.entropies, expected)
    assert display.plot() is display
    assert len(display.ax_.lines) == 4
    shown = texts(display.figure_)
    assert "virginica" in shown
    assert "bits" in shown
    of_tree = EntanglementDisplay.from_estimator(tree, base=np.e).plot()
    assert of_tree.heights.tolist() == [1, 1, 1, 1]
    assert "nats" in texts(of_tree.figure_)
    # Committees have one network after another.
    names = [
        EntanglementDisplay.from_estimator(detector, member=m).entropies.shape for m in range(3)
    ]
    assert names == [(1, 3)] * 3
    with pytest.raises(
        ValueError, match="member must be the number of a network, from 0 to 2, got 3"
    ):
        EntanglementDisplay.from_estimator(detector, member=3)


def test_entropies_in_the_measure_of_the_data(classifier, iris):
    of_domain = EntanglementDisplay.from_estimator(classifier).entropies
    of_data = EntanglementDisplay.from_estimator(classifier, iris[0]).entropies
    assert (of_domain > 1.5 * of_data).all()
    same = bond_entropies(classifier.networks_[0], classifier.grams(iris[0]))
    np.testing.assert_array_equal(of_data, same)


def test_mutual_information_is_in_the_order_of_the_columns(classifier, detector):
    parts = []
    for network, order in zip(classifier.networks_, classifier.orders_, strict=True):
        own = mutual_information(network, classifier.grams()[order], output=2)
        back = np.argsort(order)
        parts.append(own[np.ix_(back, back)])
    display = MutualInformationDisplay.from_estimator(classifier, output=2)
    np.testing.assert_allclose(display.information, np.mean(parts, axis=0))
    assert display.names[0] == "sepal length (cm)"
    assert "petal width" in texts(display.plot().figure_)
    assert "with petal length" in texts(display.plot(site=2).figure_)
    # The rotated member of the committee reads no columns.
    assert MutualInformationDisplay.from_estimator(detector).names == display.names
    with pytest.raises(ValueError, match="site must be the number of a site, from 0 to 3"):
        display.plot(site=4)
    for shape in ((3, 3), (-2, -2), 4, (2, 2, 1), (2.0, 2.0)):
        with pytest.raises(ValueError, match=r"shape must be \(rows, columns\) of the 4 sites"):
            MutualInformationDisplay.from_estimator(classifier, shape=shape)


def test_mutual_information_of_pixels(tree):
    display = MutualInformationDisplay.from_estimator(tree, shape=(4, 4)).plot(site=5)
    shown = display.ax_.images[0].get_array()
    expected = display.information[5].copy()
    expected[5] = np.nan
    np.testing.assert_array_equal(shown.filled(np.nan).ravel(), expected)


@pytest.mark.parametrize("kind", ["chain", "long", "ring", "tree", "mera", "smpo"])
def test_networks_are_drawn_as_they_are_joined(kind):
    key, sizes = jax.random.key(0), {"bond_dim": 3, "n_outputs": 2}
    network = {
        "chain": lambda: MPS.random(5, key=key, **sizes),
        "long": lambda: MPS.random(70, key=key, **sizes),
        "ring": lambda: MPS.random(6, key=key, cyclic=True, **sizes),
        "tree": lambda: TTN.random(9, key=key, **sizes),
        "mera": lambda: MERA.random(8, bond_dim=2, n_outputs=2, key=key),
        "smpo": lambda: SMPO.random(6, spacing=2, bond_dim=3, key=key),
    }[kind]()
    display = NetworkDisplay.from_network(network)
    assert len(display.positions) == network.num_tensors
    assert len(set(map(tuple, display.positions.round(6)))) == network.num_tensors
    assert sorted(size for *_, size in display.bonds) == sorted(
        network.ind_size(ind) for ind in network.inner_inds()
    )
    assert {name for _, name, _ in display.open_inds} == set(network.outer_inds())
    assert set(display.output_inds) == set(network.output_inds)
    display.plot()
    assert len(display.ax_.lines) == len(display.bonds) + len(display.open_inds)
    assert ("3" in texts(display.figure_)) == (kind in ("chain", "ring", "tree", "smpo"))


@pytest.mark.long
def test_attributions_of_all_estimators(classifier, machine, detector, iris, images):
    X, y = iris
    display = AttributionDisplay.from_estimator(classifier, X)
    np.testing.assert_array_equal(display.values, classifier.explain(X))
    chosen = AttributionDisplay.from_estimator(classifier, X, y)
    np.testing.assert_array_equal(chosen.values, classifier.explain(X, y))
    assert "log-probability" in texts(display.plot(sample=100).figure_)
    assert len(display.plot(n_names=2).ax_.patches) == 2
    of_density = AttributionDisplay.from_estimator(machine, X).plot(sample=0)
    assert "log-density" in texts(of_density.figure_)
    of_anomaly = AttributionDisplay.from_estimator(detector, X).plot(sample=100)
    np.testing.assert_array_equal(of_anomaly.values, detector.explain(X))
    assert "anomaly score" in texts(of_anomaly.figure_)
    regressor = TNRegressor(4, n_members=1, max_epochs=2, random_state=0, **GIVEN)
    regressor.fit(images[0], images[0][:, :2])
    several = AttributionDisplay.from_estimator(regressor, images[0], target=1, shape=(4, 4))
    np.testing.assert_array_equal(several.values, regressor.explain(images[0])[..., 1])
    assert several.plot(sample=3).ax_.images[0].get_array().shape == (4, 4)
    with pytest.raises(
        ValueError, match="target must be the number of a target, from 0 to 1, got 2"
    ):
        AttributionDisplay.from_estimator(regressor, images[0], target=2)


def test_interactions(classifier, iris):
    display = InteractionDisplay.from_estimator(classifier, iris[0], max_order=2)
    assert display.shares.shape == (3, 4)
    np.testing.assert_allclose(display.shares.sum(axis=1), 1)
    np.testing.assert_allclose(display.variance_shares.sum(axis=1), 1)
    shown = texts(display.plot().figure_)
    assert "order 2" in shown
    assert "setosa" in shown
    assert "constant" not in shown
    assert "constant" in texts(display.plot(constant=True).figure_)


def test_training(images, detector):
    model = TNClassifier(
        4, n_members=2, trainer=[Sweep(max_epochs=2)], early_stopping=True, random_state=0
    ).fit(*images)
    display = TrainingDisplay.from_estimator(model).plot()
    assert display.history is model.history_
    assert len(display.axes_) == 3
    shown = texts(display.figure_)
    assert "validation" in shown
    assert "sizes of bonds" in shown
    assert "discarded" in shown
    of_detector = TrainingDisplay.from_estimator(detector, member=2).plot()
    assert "learning rate" in texts(of_detector.figure_)
    with pytest.raises(ValueError, match="axes must be 3"):
        display.plot(axes=plt.subplots(1, 2)[1])


def test_what_trainers_tell_stands_at_its_epochs(images):
    trainer = [Gradient(max_epochs=3), Sweep(max_epochs=2)]
    model = TNClassifier(4, n_members=1, trainer=trainer, warm_start=True, random_state=0)
    model.fit(*images)
    assert model.history_["bond_dims"][:3] == [None] * 3
    assert model.history_["learning_rate"][3:] == [None] * 2
    model.set_params(trainer=Gradient(max_epochs=1)).fit(*images)
    assert {len(values) for values in model.history_.values()} == {6}
    axes = TrainingDisplay.from_estimator(model).plot().axes_
    drawn = {ax.get_ylabel(): ax.lines[0].get_xdata() for ax in axes}
    assert list(drawn["sizes of bonds"]) == [4, 5]
    assert list(drawn["learning rate"]) == [1, 2, 3, 6]
    assert list(drawn["loss"]) == [1, 2, 3, 4, 5, 6]


@pytest.mark.long
def test_layers_and_scales(tree, images):
    X, y = images
    display = LayerDisplay.from_estimator(tree, X, y, perplexity=10)
    layers = tree.activations(X)
    for found, expected in zip(display.separability, separability_by_layer(layers, y), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [points.shape for points in display.points] == [(len(X), 2)] * 3
    assert "neighbours" in texts(display.plot().figure_)
    scales = CoarseGrainDisplay.from_estimator(tree, X, (4, 4)).plot(samples=(0, 7))
    assert [images.shape[1:] for images in scales.images] == [(4, 4), (2, 2), (1, 1)]
    assert scales.axes_.shape == (2, 3)
    np.testing.assert_array_equal(scales.images[0], X.reshape(-1, 4, 4))
    # A principal component has the variance that no other direction exceeds, node by node.
    layer, brightness = tree.activations(X, shape=(4, 4))[1], X.reshape(-1, 2, 2, 2, 2)
    for row, column in np.ndindex(2, 2):
        found = scales.images[1][:, row, column]
        variance = np.linalg.eigvalsh(np.cov(layer[:, row, column].T, bias=True))[-1]
        assert found.var() == pytest.approx(variance)
        assert np.corrcoef(found, brightness.mean(axis=(2, 4))[:, row, column])[0, 1] > 0
    layers = tree.activations(X, shape=(4, 4))
    assert (
        np.abs(
            np.corrcoef(CoarseGrainDisplay.from_layers(layers).images[0].ravel(), X.ravel())[0, 1]
        )
        > 0.5
    )
    layers = tree.activations(X)
    with pytest.raises(ValueError, match="give the shape of the images"):
        CoarseGrainDisplay.from_layers(layers)
    with pytest.raises(ValueError, match="names must be 3"):
        LayerDisplay.from_layers(layers, y, names=["one"])


def test_samples(machine, tree, iris, images):
    X, _ = iris
    display = SampleDisplay.from_estimator(machine, 30, X=X, random_state=0)
    np.testing.assert_array_equal(display.samples, machine.sample(30, random_state=0))
    assert display.plot().axes_.shape == (4, 4)
    assert display.plot(features=(0, 3)).axes_.shape == (2, 2)
    dreams = TNBornMachine(4, max_epochs=2, scaler="min_max", random_state=0).fit(images[0])
    display = SampleDisplay.from_estimator(dreams, 5, shape=(4, 4), random_state=0).plot()
    assert display.axes_.shape == (2, 3)
    with pytest.raises(ValueError, match="features are for tables"):
        display.plot(features=(0, 1))
    with pytest.raises(ValueError, match="X must have 4 columns"):
        SampleDisplay.from_estimator(machine, X=X.iloc[:, :2])
    with pytest.raises(ValueError, match="draws no samples"):
        SampleDisplay.from_estimator(tree)


def test_samples_of_tables_with_categories(iris):
    X = iris[0].iloc[:, :2].set_axis(["width", "length"], axis=1).assign(kind=iris[1])
    X.loc[::7, "length"] = np.nan
    machine = TNBornMachine(3, max_epochs=3, random_state=0).fit(X)
    display = SampleDisplay.from_estimator(machine, 20, X=X, random_state=0).plot()
    assert display.axes_.shape == (2, 2)
    assert display.plot(features=["length"]).axes_.shape == (1, 1)
    with pytest.raises(ValueError, match="The column kind has categories"):
        display.plot(features=["kind"])
    with pytest.raises(ValueError, match="each of features must be the number of a column"):
        display.plot(features=[3])


@pytest.mark.long
def test_compression(classifier, iris):
    X, y = iris
    display = CompressionDisplay.from_estimator(classifier, X, y, bond_dims=(1, 2))
    assert display.scores[1] == classifier.compress(2, 0.0).score(X, y)
    assert display.n_parameters[0] < display.n_parameters[1] < display.original[0]
    assert display.original[1] == classifier.score(X, y)
    mended = CompressionDisplay.from_estimator(
        classifier, X, y, bond_dims=(2,), training=(X, y), scoring="neg_log_loss"
    )
    assert mended.scores[0] > -1
    assert "as trained" in texts(display.plot().figure_)


def test_layers_that_say_nothing_are_points(iris):
    X, y = iris
    display = LayerDisplay.from_layers([X, np.ones((150, 3))], y)
    assert not display.points[1].any()
    display.plot()
    for options, message in (
        ({"n_folds": 60}, "fewer than the 60 folds"),
        ({"n_neighbors": 120}, "120 neighbours are more than 5 folds of 150"),
    ):
        with pytest.raises(ValueError, match=message):
            LayerDisplay.from_layers([X], y, **options)
    with pytest.raises(ValueError, match="samples of two classes or more"):
        separability_by_layer([X[:50]], y[:50])


@pytest.mark.long
def test_pipelines_and_searches(iris):
    X, y = iris
    model = TNClassifier(3, n_members=1, max_epochs=3, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model).fit(X, y)
    inside = pipeline[-1]
    found = AttributionDisplay.from_estimator(pipeline, X)
    expected = inside.explain(StandardScaler().fit_transform(X))
    np.testing.assert_allclose(found.values, expected)
    mended = CompressionDisplay.from_estimator(
        pipeline, X, y, bond_dims=(2,), training=(X, y), scoring="accuracy"
    )
    scaled = StandardScaler().fit_transform(X)
    assert mended.scores[0] == inside.compress(2, 0.0, X=scaled, y=y).score(scaled, y)
    search = GridSearchCV(pipeline, {"tnclassifier__bond_dim": [2]}, cv=2).fit(X, y)
    assert EntanglementDisplay.from_estimator(search).bond_dims.max() == 2


def test_what_has_no_networks_is_refused(iris):
    with pytest.raises(NotFittedError):
        EntanglementDisplay.from_estimator(TNClassifier())
    with pytest.raises(ValueError, match="A LogisticRegression has no trained networks"):
        EntanglementDisplay.from_estimator(LogisticRegression(max_iter=1000).fit(*iris))
    with pytest.raises(ValueError, match="use from_network"):
        EntanglementDisplay.from_estimator(MPS.random(3, bond_dim=2, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="has no method explain"):
        AttributionDisplay.from_estimator(LogisticRegression(max_iter=1000).fit(*iris), iris[0])


def test_labels_are_for_classifiers(machine, iris):
    with pytest.raises(ValueError, match="which only classifiers have"):
        AttributionDisplay.from_estimator(machine, *iris)


def test_interactions_of_a_committee_are_those_of_columns(detector, iris):
    found = InteractionDisplay.from_estimator(detector, iris[0][:50])
    parts = []
    for view in detector.views_[:2]:
        means = view.embed(iris[0][:50]).mean(axis=0, dtype=float)
        covariances = view.grams(iris[0][:50]) - means[:, :, None] * means[:, None]
        parts.append(interaction_orders(view.network_, means, covariances))
    np.testing.assert_allclose(found.shares, np.mean(parts, axis=0), atol=1e-6)


@pytest.mark.parametrize("package", ["matplotlib", "networkx"])
def test_pictures_are_optional(package, classifier, monkeypatch):
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    mera = MERA.random(8, bond_dim=2, n_outputs=2, key=jax.random.key(0))
    with pytest.raises(ImportError, match=rf"need {package}: pip install 'tn4ml_plus\[plot\]'"):
        NetworkDisplay.from_network(mera).plot()


@pytest.mark.long
def test_names_of_sites(iris, images):
    X, y = iris
    fitted = {"max_epochs": 1, "n_members": 1, "random_state": 0, "feature_dropout": 0.0}
    assert TNClassifier(**fitted).fit(X, y).site_names() == list(X.columns)
    assert TNClassifier(**fitted).fit(X.to_numpy(), y).site_names() == ["x0", "x1", "x2", "x3"]
    patches = TNClassifier(embedding=Patches((4, 4), (2, 2)), **fitted).fit(*images)
    assert patches.site_names() == [f"site {i}" for i in range(4)]
    assert patches.explain(images[0]).shape == (300, 4)
    rotated = TNClassifier(scaler=Rotated(), **fitted).fit(X, y)
    assert rotated.site_names()[0] == "component 0"
