"""Standard deviations of predictions, from rows that networks have not seen."""

import numpy as np
import pytest

from tn4ml_plus import TNRegressor, load
from tn4ml_plus._amplitude import Amplitude
from tn4ml_plus.embeddings import Legendre
from tn4ml_plus.ensembles import Ensemble
from tn4ml_plus.losses import Quantile

OPTIONS = {"bond_dim": 3, "embedding": Legendre(2), "feature_dropout": 0.0, "random_state": 0}
NOISE = 0.5


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 3))
    y = X[:, 0] - X[:, 1] ** 2 / 2 + NOISE * rng.normal(size=600)
    return X, y


@pytest.fixture(scope="module")
def fitted(data):
    X, y = data
    return TNRegressor(**OPTIONS, max_epochs=250).fit(X[:200], y[:200])


def test_intervals_hold_as_many_targets_as_they_say(data, fitted):
    X, y = data
    mean, std = fitted.predict(X[200:], return_std=True)
    np.testing.assert_array_equal(mean, fitted.predict(X[200:]))
    assert std.shape == mean.shape
    error = np.sqrt(np.mean((y[200:] - mean) ** 2))
    assert NOISE < error < 1.4 * NOISE
    assert 0.9 * error < np.median(std) < 1.4 * error
    assert 0.86 < np.mean(np.abs(y[200:] - mean) < 1.645 * std) < 0.97
    # Where there was little to learn from, networks differ.
    _, far = fitted.predict([[3.0, 3.0, -3.0]], return_std=True)
    assert far > 1.5 * np.median(std)


def test_the_noise_is_that_of_its_definition(data, monkeypatch):
    X, y = data
    weight = np.random.default_rng(1).uniform(0.5, 2.0, 60)
    problems, real = [], Ensemble.problem

    def problem(*args):
        problems.append(real(*args))
        return problems[-1]

    monkeypatch.setattr(Ensemble, "problem", problem)
    model = TNRegressor(**OPTIONS, n_members=3, max_epochs=5).fit(X[:60], y[:60], weight)
    subsets = problems[-1].subsets
    assert subsets.shape == (3, 45)
    values = model._predict(X[:60], Amplitude.dense)[..., 0]
    target = model._target.transform(y[:60, None])[:, 0]
    errors, own, total = 0.0, 0.0, 0.0
    for m in range(3):
        for n in set(range(60)) - set(subsets[m].tolist()):
            others = np.mean([values[k, n] for k in range(3) if k != m])
            errors += weight[n] * (values[m, n] - target[n]) ** 2
            own += weight[n] * (values[m, n] - others) ** 2 * 2 / 3
            total += weight[n]
    noise = (errors - own) / total
    assert model._ensemble.noise == pytest.approx(noise, rel=1e-5)
    _, std = model.predict(X[:60], return_std=True)
    between = values.var(axis=0, ddof=1) * (1 + 1 / 3)
    deviation = np.sqrt(
        np.average((y[:60] - np.average(y[:60], weights=weight)) ** 2, weights=weight)
    )
    np.testing.assert_allclose(std, np.sqrt(noise + between) * deviation, rtol=1e-5)


def test_deviations_are_in_units_of_their_targets(data):
    X, y = data
    Y = np.stack([y, 10 * y + 100], axis=1)
    model = TNRegressor(**OPTIONS, n_members=2, max_epochs=5).fit(X[:60], Y[:60])
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (600, 2)
    np.testing.assert_allclose(std[:, 1], 10 * std[:, 0], rtol=0.2)
    assert model._ensemble.noise.shape == (2,)


def test_they_are_stored(data, fitted, tmp_path):
    fitted.save(tmp_path / "model")
    again = load(tmp_path / "model")
    for ours, theirs in zip(
        *(m.predict(data[0], return_std=True) for m in (fitted, again)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_where_nothing_was_left_out_there_are_none(data, fitted):
    X, y = data[0][:60], data[1][:60]
    quick = OPTIONS | {"max_epochs": 2}
    models = {
        "single": TNRegressor(**quick, n_members=1).fit(X, y),
        "few rows": TNRegressor(**quick).fit(X[:7], y[:7]),
        "stream": TNRegressor(**quick).partial_fit(X, y),
        "compressed": fitted.compress(max_bond=2),
    }
    models["warm"] = TNRegressor(**quick, warm_start=True).fit(X, y)
    assert models["warm"].predict(X, return_std=True)[1].min() > 0
    models["warm"].fit(X, y)
    for name, model in models.items():
        assert model._ensemble.noise is None, name
        with pytest.raises(ValueError, match="All networks were trained on all rows, which say"):
            model.predict(X, return_std=True)
        assert np.isfinite(model.predict(X)).all()
    quantile = TNRegressor(**quick, loss=Quantile(0.9)).fit(X, y)
    with pytest.raises(ValueError, match=r"around a mean, and Quantile\(level=0.9\) predicts none"):
        quantile.predict(X, return_std=True)
