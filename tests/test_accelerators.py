"""Every program lowers for CUDA, which takes no accelerator."""

import ast
import collections
import dataclasses
import math
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.interpreters import mlir
from short_products import equations

import tn4ml_plus
from tn4ml_plus import (
    TNAnomalyDetector,
    TNBornMachine,
    TNClassifier,
    TNRegressor,
    _registry,
    generators,
    image,
)
from tn4ml_plus._registry import lookup, names
from tn4ml_plus.contraction import Amplitude
from tn4ml_plus.embeddings import Hat, Legendre, OneHot, Trigonometric
from tn4ml_plus.image import Variant
from tn4ml_plus.losses import LogNorm, SquaredError
from tn4ml_plus.networks import MPSSpec
from tn4ml_plus.training import (
    LBFGS,
    CutMix,
    Gradient,
    HorizontalFlip,
    ImageGradient,
    IsometricSweep,
    Mixup,
    RandomCrop,
    Sequential,
    Step,
    Sweep,
    Trainer,
)

SMALL = {"bond_dim": 2, "max_epochs": 1, "random_state": 0}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(310, 4))
Y = RNG.integers(2, size=310)
FEW, LABELS = X[:60], Y[:60]
IMAGES, DIGITS = RNG.random((40, 4, 4)), np.arange(40) % 2
KEY = jax.random.key(0)
PACKAGE = Path(tn4ml_plus.__file__).parent
EQUINOX = str(Path(eqx.__file__).parent / "_jit.py")
PROGRAM = re.compile(r"\b(jit|filter_jit|compiled)\b")


@pytest.fixture(scope="module")
def lowered():
    """The programs made in this file by name and file, all of which are lowered for CUDA, too."""
    found, lower = collections.Counter(), mlir.lower_jaxpr_to_module

    def for_both(name, jaxpr, **options):
        callbacks = [e for e in equations(jaxpr.jaxpr) if "callback" in str(e.primitive)]
        assert not callbacks, f"{name} calls the host back"
        lower(name, jaxpr, **options | {"platforms": ("cuda",)})
        function, _, place = jaxpr.jaxpr.debug_info.func_src_info.partition(" at ")
        found[function, place.rpartition(":")[0]] += 1
        return lower(name, jaxpr, **options)

    jax.clear_caches()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(mlir, "lower_jaxpr_to_module", for_both)
        # Where the library asks, it is on an accelerator.
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        yield found
    jax.clear_caches()


def made(cls, **options):
    """A small estimator of one network, which chooses nothing."""
    return cls(**SMALL | {"n_members": 1, "embedding": Legendre(2)} | options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Trainer):
    """A trainer as others write it."""

    def step(self, problem, params, state, epoch):
        losses, gradient = problem.value_and_grad(params)
        return Step(jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient), state, losses)


def classifier(**options):
    return made(TNClassifier, **options)


def trained(trainer, **options):
    """A classifier that a trainer trains."""
    return classifier(trainer=trainer, max_epochs=None, **options).fit(FEW, LABELS)


# One for each registered name, which are all that there are.
TRAINERS = {
    "gradient": lambda: classifier(n_members=2).fit(FEW, LABELS),
    "sweep": lambda: trained(Sweep(max_epochs=1)),
    "isometric_sweep": lambda: trained(
        IsometricSweep(max_epochs=1), network="ttn", embedding=Trigonometric()
    ),
    "lbfgs": lambda: trained(LBFGS(max_epochs=2)),
    "sequential": lambda: trained(Sequential((Sweep(max_epochs=1), Gradient(max_epochs=1)))),
    "in_turn": lambda: trained([Sweep(max_epochs=1), LBFGS(max_epochs=1)]),
}
IMAGE_TRAINERS = {
    "image_gradient": lambda: tn4ml_plus.DTTNClassifier(
        Variant((4,), (1,)),
        trainer=ImageGradient(
            max_epochs=1, augmentations=(RandomCrop(1), HorizontalFlip(), Mixup(), CutMix())
        ),
        early_stopping=True,
    ).fit(IMAGES, DIGITS),
}
NETWORKS = {
    "mps": lambda: classifier(network=MPSSpec(cyclic=True)).fit(FEW, LABELS),
    **{
        name: lambda name=name: classifier(network=name).fit(FEW, LABELS).predict_proba(X[:5])
        for name in ("mera", "mpo", "smpo", "ttn")
    },
}
ESTIMATORS = {
    "tn_classifier": lambda: TNClassifier(**SMALL).fit(X, Y).predict_proba(X[:5]),
    "tn_regressor": lambda: TNRegressor(**SMALL).fit(X, X[:, 0]).predict(X[:5], return_std=True),
    "tn_born_machine": lambda: born(TNBornMachine(**SMALL).fit(FEW)),
    "tn_anomaly_detector": lambda: TNAnomalyDetector(**SMALL).fit(FEW).explain(X[:5]),
    "tn_transformer": lambda: tn4ml_plus.TNTransformer(2).fit(FEW).transform(X[:5]),
    "dttn_classifier": lambda: images(
        tn4ml_plus.DTTNClassifier(Variant((4,), (1,)), max_epochs=1).fit(IMAGES, DIGITS)
    ),
}


def born(model):
    """What a density is asked."""
    gaps = X[:5].copy()
    gaps[::2, 1] = np.nan
    model.sample(5, random_state=0)
    model.sample(5, given=gaps[:1], random_state=0)
    model.impute(gaps)
    model.marginal([0, 1]).score_samples(X[:5, :2])
    model.explain(gaps)
    model.score(gaps)


def images(model):
    """What a model of images is asked."""
    model.predict_proba(IMAGES[:3])
    model.fold_batchnorm().predict(IMAGES[:3])


def of_ones_own():
    """A classifier that `Own` trains, which others do not find registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_registry._CLASSES["trainer"], "own", Own)
        return trained(Own(max_epochs=1))


def inside(model):
    """What is looked at inside a classifier."""
    model.explain(X[:5])
    model.activations(X[:5])
    network = model.network_.isel({model.network_.output_inds[0]: 0})
    tn4ml_plus.inspection.bond_entropies(network)
    model.compress(1, X=FEW, y=LABELS)
    model.compress(1)


OTHERS = {
    "trainer of one's own": of_ones_own,
    "early stopping": lambda: classifier(early_stopping=True).fit(FEW, LABELS),
    "parts": lambda: classifier().partial_fit(FEW, LABELS, [0, 1]).partial_fit(FEW, LABELS),
    "inside": lambda: inside(classifier().fit(FEW, LABELS)),
    "sweep of a tree": lambda: trained(Sweep(1, max_epochs=1), network="ttn"),
    "sweep of a regressor": lambda: (
        made(TNRegressor, trainer=Sweep(max_epochs=1), max_epochs=None).fit(FEW, X[:60, 0])
    ),
    "sweep of a density": lambda: (
        TNBornMachine(2, n_members=1, trainer=Sweep(max_epochs=1), random_state=0).fit(FEW)
    ),
    "L-BFGS of a density": lambda: (
        TNBornMachine(2, n_members=1, trainer=LBFGS(max_epochs=1), random_state=0).fit(FEW)
    ),
    "sweep of an operator": lambda: (
        TNAnomalyDetector(
            2, n_members=1, network="smpo", loss="log_quadratic", trainer=Sweep(max_epochs=1),
            random_state=0,
        ).fit(FEW).explain(X[:5])
    ),
    "labelled anomalies": lambda: (
        TNAnomalyDetector(
            **SMALL, n_members=1, network="smpo", loss="semi_supervised_log_quadratic"
        ).fit(FEW, np.where(LABELS == 0, 1, -1)).predict(X[:5])
    ),
}  # fmt: skip


def weights():
    """A model of one large weight, and samples."""
    model = eqx.nn.MLP(16, 3, 32, 1, key=KEY)
    return model, RNG.normal(size=(24, 16)).astype("f4"), np.arange(24) % 3


def pipeline():
    """All stages of a compression."""
    model, x, y = weights()
    stages = generators.CompressionPipeline(
        min_size=512, fit_steps=2, n_epochs=1, batch_size=8, bonds=(3,), bits=8,
        isometry_weight=0.1,
    )  # fmt: skip
    stages.run(model, x, y, validation=(x, y), key=KEY)


def distilled():
    """A student of a model, with generators of a kind."""
    model, x, _ = weights()
    where = lambda model: model.layers[0]  # noqa: E731
    student = generators.compress(model, where, generator=generators.MERAGenerator, key=KEY)
    generators.distill(student, model, x, key=KEY, n_epochs=1, batch_size=8)


def fitted(cls):
    """A generator, fitted to a weight and by some of its entries."""
    start = cls((16, 16), key=KEY)
    for n_entries in (None, 8):
        generators.fit(start, np.ones((16, 16), "f4"), n_steps=2, n_entries=n_entries, key=KEY)


GENERATORS = {
    "pipeline": pipeline,
    "distilled": distilled,
    **{
        name: lambda name=name: fitted(getattr(generators, name))
        for name in ("ATTNGenerator", "BrickWallGenerator", "MERAGenerator", "TTNGenerator")
    },
}
FITS = {
    f"{kind} {name}": fit
    for kind, fits in {
        "trainer": TRAINERS, "image_trainer": IMAGE_TRAINERS, "network": NETWORKS,
        "estimator": ESTIMATORS, "other": OTHERS, "generators": GENERATORS,
    }.items()
    for name, fit in fits.items()
}  # fmt: skip
done = set()


@pytest.mark.parametrize("name", FITS)
def test_programs_lower_for_cuda(name, lowered):
    FITS[name]()
    done.add(name)


def decorated():
    """Name and file of each function of the library that is a program by its decorator.

    Of those of equinox JAX does not know the file. What is inlined is part of others, and of one
    the shapes alone are asked.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for decorator in map(ast.unparse, getattr(node, "decorator_list", ())):
                if PROGRAM.search(decorator) and "inline" not in decorator:
                    yield node.name, EQUINOX if "eqx" in decorator else str(path)


def test_every_program_has_been_lowered(lowered):
    if done != set(FITS):
        pytest.skip("not all fits have run")
    programs = set(decorated())
    assert len(programs) > 20
    assert {name for name, _ in programs - set(lowered)} == {"_vectors"}


def ours(kind):
    """Names of what this library registers, whatever tests have registered."""
    return [n for n in names(kind) if lookup(kind, n).__module__.startswith("tn4ml_plus.")]


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        ("trainer", TRAINERS),
        ("image_trainer", IMAGE_TRAINERS),
        ("network", NETWORKS),
        ("estimator", ESTIMATORS),
    ],
)
def test_all_that_is_registered_is_fitted(kind, fits):
    assert sorted(fits) == ours(kind)


def lower_for_cuda(function, *arguments):
    """Lower a function of arrays for CUDA."""
    jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))


EMBEDDINGS = {
    "per_feature": lambda cls: cls((Hat(), OneHot())),
    "principal_patches": lambda cls: cls().for_data(RNG.random((3, 784)), np.ones(3)),
}


@pytest.mark.parametrize("name", ours("embedding"))
def test_every_embedding_lowers(name):
    embedding = EMBEDDINGS.get(name, lambda cls: cls())(lookup("embedding", name))
    n_features = math.prod(getattr(embedding, "image_shape", (2,)))
    lower_for_cuda(embedding.embed, jnp.zeros((3, n_features)))


LOSSES = {
    "callable_loss": lambda cls: cls(lambda outputs, targets: (outputs - targets) ** 2),
    "objective": lambda cls: cls(SquaredError(), ((0.5, LogNorm()),)),
    "optax_loss": lambda cls: cls("log_cosh"),
}


@pytest.mark.parametrize("name", ours("loss"))
def test_every_loss_lowers(name):
    loss = LOSSES.get(name, lambda cls: cls())(lookup("loss", name)).loss
    shape = (3,) if loss.task == "density" else (3, 2)
    target = np.zeros(shape) if loss.task == "regression" else np.ones(3, int)
    amplitude = Amplitude(jnp.ones(shape), jnp.zeros(3, jnp.int32))
    total = lambda amplitude, target: loss(amplitude, target).sum()  # noqa: E731
    lower_for_cuda(jax.grad(total, allow_int=True), amplitude, jnp.asarray(target))


@pytest.mark.parametrize("block", names("block"))
@pytest.mark.parametrize("merge", names("merge"))
def test_every_part_of_image_models_lowers(block, merge, lowered):
    parts = {"block": lookup("block", block), "merge": lookup("merge", merge)}
    model = image.DTTN(Variant((2,), (1,), stem=()), (4, 3, 2), 3, **parts, key=KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    total = lambda params, x: eqx.combine(params, static)(x).sum()  # noqa: E731
    lower_for_cuda(jax.grad(total), params, jnp.zeros((5, 4, 3, 2)))


def test_what_a_processor_alone_can_do_is_found(lowered):
    primitive = jex.core.Primitive("alone")
    primitive.def_impl(lambda x: x)
    primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(primitive, lambda _, x: [x], platform="cpu")
    with pytest.raises(NotImplementedError, match=r"alone.* not found for platform cuda"):
        jax.jit(primitive.bind)(1.0)
    with pytest.raises(AssertionError, match="calls the host back"):
        jax.jit(lambda x: jax.pure_callback(lambda x: x, x, x))(jnp.ones(1))
