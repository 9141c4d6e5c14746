"""Every program lowers for CUDA, which takes no accelerator."""

import collections

import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir

import tn4ml_plus
from tn4ml_plus.embeddings import Legendre
from tn4ml_plus.image import Variant
from tn4ml_plus.training import LBFGS, Sweep

SMALL = {"bond_dim": 2, "max_epochs": 1, "random_state": 0}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(310, 4))
Y = RNG.integers(2, size=310)


@pytest.fixture
def lowered(monkeypatch):
    """Counts by name of the programs made, all of which are lowered for CUDA, too."""
    found, lower = collections.Counter(), mlir.lower_jaxpr_to_module

    def for_both(name, jaxpr, **options):
        lower(name, jaxpr, **options | {"platforms": ("cuda",)})
        found[name] += 1
        return lower(name, jaxpr, **options)

    jax.clear_caches()
    monkeypatch.setattr(mlir, "lower_jaxpr_to_module", for_both)
    # Where the library asks, it is on an accelerator.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield found
    jax.clear_caches()


def classifier(**options):
    return tn4ml_plus.TNClassifier(**SMALL | {"embedding": Legendre(2), "n_members": 2} | options)


FITS = {
    "classifier": lambda: tn4ml_plus.TNClassifier(**SMALL).fit(X, Y).predict_proba(X[:5]),
    "tree": lambda: classifier(network="ttn").fit(X, Y).predict_proba(X[:5]),
    "ring": lambda: classifier(network=tn4ml_plus.networks.MPSSpec(cyclic=True)).fit(X, Y),
    "operator": lambda: classifier(network="smpo").fit(X, Y),
    "mera": lambda: classifier(network="mera").fit(X, Y),
    "regressor": lambda: tn4ml_plus.TNRegressor(**SMALL).fit(X, X[:, 0]).predict(X[:5]),
    "part": lambda: classifier().partial_fit(X, Y, [0, 1]),
    "explained": lambda: classifier().fit(X, Y).explain(X[:5]),
    "Born machine": lambda: tn4ml_plus.TNBornMachine(**SMALL).fit(X).sample(5),
    "detector": lambda: tn4ml_plus.TNAnomalyDetector(**SMALL).fit(X).score_samples(X[:5]),
    "L-BFGS": lambda: classifier(trainer=LBFGS(max_epochs=2), max_epochs=None).fit(X, Y),
    "sweep": lambda: classifier(trainer=Sweep(max_epochs=1), max_epochs=None).fit(X, Y),
    "sweep of a tree": lambda: classifier(network="ttn", trainer="sweep").fit(X, Y),
    "images": lambda: (
        tn4ml_plus.DTTNClassifier(Variant((4,), (1,)), max_epochs=1)
        .fit(RNG.random((40, 4, 4)), np.arange(40) % 2)
        .predict_proba(RNG.random((3, 4, 4)))
    ),
}


@pytest.mark.parametrize("name", FITS)
def test_programs_lower_for_cuda(name, lowered):
    FITS[name]()
    assert sum(lowered.values()) > 0
