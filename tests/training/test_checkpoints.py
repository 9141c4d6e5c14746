"""Checkpoints: trainings that were cut off go on as if they had not been; others are refused."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tn4ml_plus import TNAnomalyDetector, TNClassifier
from tn4ml_plus._registry import from_json, lookup, names, to_json
from tn4ml_plus.contraction import pack
from tn4ml_plus.errors import DivergenceWarning, ModelFileError, NotFiniteError
from tn4ml_plus.image import DTTN, LayerNormProduct, Variant
from tn4ml_plus.initializers import RandomNormal
from tn4ml_plus.io import read, write
from tn4ml_plus.losses import CrossEntropy
from tn4ml_plus.networks import MPS
from tn4ml_plus.training import (
    LBFGS,
    Checkpoint,
    EarlyStopping,
    Gradient,
    ImageProblem,
    LabelledImages,
    Problem,
    RandomCrop,
    Samples,
    Sequential,
    Step,
    Sweep,
    Trainer,
    _identity,
)
from tn4ml_plus.training._identity import digest

pytestmark = pytest.mark.usefixtures("quick")

NSITES, N_SAMPLES, N_EPOCHS = 4, 12, 4


class Cut(Exception):
    """The end of a training before its time."""


def cut_at(number):
    """A callback that ends training after an epoch."""

    def callback(epoch):
        if epoch.number == number:
            raise Cut

    return callback


def chains(seed=0, **options):
    """Two chains on weighted samples, with others for validation."""
    packs = [
        pack(
            MPS.random(
                NSITES, bond_dim=3, n_outputs=3,
                initializer=RandomNormal(0.6, add_identity=True), key=jax.random.key(m),
            )
        )
        for m in range(2)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    samples, validation = (
        Samples(
            jnp.asarray(rng.normal(size=(N_SAMPLES, NSITES, 2)), jnp.float32),
            jnp.asarray(rng.integers(3, size=N_SAMPLES)),
            jnp.asarray(rng.uniform(0.2, 3, N_SAMPLES), jnp.float32),
        )
        for _ in range(2)
    )
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(packed for packed, _ in packs))
    given = {
        "structures": tuple(structure for _, structure in packs),
        "objective": CrossEntropy(0.1),
        "params": params,
        "anchor": params,
        "samples": samples,
        "n_samples": N_SAMPLES,
        "neutral": jnp.ones((NSITES, 2), jnp.float32),
        "validation": validation,
        "random_state": np.random.RandomState(seed),
    }
    return Problem(**given | options)


def images(**options):
    """A small model on images of noise."""
    rng = np.random.default_rng(0)
    labelled = [
        LabelledImages.padded(
            rng.normal(size=(20, 4, 4, 1)).astype(np.float32),
            rng.integers(2, size=20).astype(np.int32),
            np.ones(20, np.float32), np.zeros(1, np.float32), np.ones(1, np.float32),
        )
        for _ in range(2)
    ]  # fmt: skip
    variant = Variant((4,), (1,), stem=(2,))
    model = DTTN(variant, (4, 4), 2, merge=LayerNormProduct, key=jax.random.key(0))
    return ImageProblem(model, labelled[0], 20, 2, validation=labelled[1], **options)


def ours(kind):
    """The trainers of this library, whatever others tests have registered."""
    found = {lookup(kind, name) for name in names(kind)}
    found = (cls for cls in found if cls.__module__.startswith("tn4ml_plus."))
    return sorted(found, key=lambda cls: cls.__name__)


def made(cls, **options):
    """A trainer that draws random numbers and has a state in all ways that it knows."""
    if cls is Sequential:
        parts = made(Sweep, early_stopping=None), made(Gradient, early_stopping=None)
        path = options.get("checkpoint")
        paths = [path and f"{path}-{i}" for i in range(2)]
        return Sequential(
            tuple(
                dataclasses.replace(part, **options | {"checkpoint": own})
                for part, own in zip(parts, paths, strict=True)
            )
        )
    given = {
        "max_epochs": N_EPOCHS, "early_stopping": EarlyStopping(patience=2), "batch_size": 5,
        "feature_dropout": 0.2, "shrinkage": 0.5, "ema": 0.9, "augmentations": (RandomCrop(1),),
        "optimizer": optax.adamw(1e-2),
    }  # fmt: skip
    known = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in given.items() if name in known} | options)


@functools.cache
def whole(cls):
    """What a training comes to that nobody cuts off."""
    return made(cls).train(task(cls)())


def task(cls):
    """The function that makes the problem of a trainer anew."""
    return images if cls in ours("image_trainer") else chains


def assert_same(result, expected):
    """Results are the same bit for bit, but for the seconds."""
    assert jax.tree.structure(result.params) == jax.tree.structure(expected.params)
    trees = [(r.params, r.anchor, r.state) for r in (result, expected)]
    for ours, theirs in zip(*map(jax.tree.leaves, trees), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    histories = [{**r.history, "seconds": len(r.history["seconds"])} for r in (result, expected)]
    assert histories[0] == histories[1]
    assert result.n_iter == expected.n_iter
    assert result.structures == expected.structures


TRAINERS = [*ours("trainer"), *ours("image_trainer")]


@pytest.mark.parametrize(
    ("cls", "every"),
    [*((cls, 1) for cls in TRAINERS), (Gradient, 3)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_was_cut_off_goes_on_bit_for_bit(cls, every, tmp_path):
    path = tmp_path / "run"
    trainer = made(cls, checkpoint=path if every == 1 else Checkpoint(path, every))
    for number in range(1, N_EPOCHS + 1):
        cut = dataclasses.replace(task(cls)(), callbacks=(cut_at(number),))
        if number > whole(cls).n_iter:
            break
        with pytest.raises(Cut) as error:
            trainer.train(cut)
        assert error.value.result.n_iter == number
    assert_same(trainer.train(task(cls)()), whole(cls))
    # What is complete is read, not trained again, and the last epochs are shown once more.
    before, seen = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}, []
    watched = dataclasses.replace(task(cls)(), callbacks=(lambda e: seen.append(e.number),))
    again = trainer.train(watched)
    assert_same(again, whole(cls))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert seen == ([4, 4] if cls is Sequential else [whole(cls).n_iter])
    assert np.all(np.diff(again.history["seconds"]) >= 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scripted(Trainer):
    """Losses as they are given, and parameters that count the epochs."""

    losses: tuple
    first: float | None = None

    def step(self, problem, params, state, epoch):
        params = jax.tree.map(lambda leaf: jnp.full_like(leaf, epoch), params)
        return Step(params, state, self.losses[epoch], first=self.first)


@pytest.mark.parametrize(("first", "kept"), [(None, 1.0), (0.2, None)])
def test_the_best_epoch_is_kept_beside_the_last(first, kept, tmp_path):
    losses = (1.0, 0.5, 80.0, 2.0)
    trainer = Scripted(losses=losses, first=first, max_epochs=4, checkpoint=tmp_path / "run")
    given = {"validation": None}
    for number in range(1, 5):
        with pytest.raises(Cut):
            trainer.train(chains(**given, callbacks=(cut_at(number),)))
    with pytest.warns(DivergenceWarning, match=f"climbed from {first or 1}"):
        result = trainer.train(chains(**given))
    start = jax.tree.leaves(chains().params)
    for ours, theirs in zip(jax.tree.leaves(result.params), start, strict=True):
        np.testing.assert_array_equal(ours, theirs if kept is None else kept)
    assert result.history["loss"] == list(losses)


def killed(path):
    """Train until the process is killed, as another process does it."""
    callbacks = (lambda epoch: epoch.number == 2 and os.kill(os.getpid(), signal.SIGKILL),)
    made(Gradient, checkpoint=path, callbacks=callbacks).train(chains())


def test_a_killed_process_leaves_a_training_that_goes_on(tmp_path):
    path = tmp_path / "run"
    code = f"import test_checkpoints; test_checkpoints.killed({str(path)!r})"
    folders = str(Path(__file__).parent), *sys.path
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(read(path)[1]["checkpoint"]["history"]["loss"]) == 2
    assert_same(made(Gradient, checkpoint=path).train(chains()), whole(Gradient))


def test_random_numbers_go_on_after_a_training_that_is_read(tmp_path):
    trainer, states = made(Gradient, checkpoint=tmp_path / "run"), []
    for _ in range(2):
        problem = chains()
        trainer.train(problem)
        states.append(problem.random_state.rand(3).tolist())
    assert states[0] == states[1]


def test_time_limits_and_callbacks_end_what_goes_on_as_they_would_have(tmp_path):
    late = made(Gradient, checkpoint=tmp_path / "late", time_limit=1e-9)
    assert [late.train(chains()).n_iter for _ in range(2)] == [1, 1]
    # With more time it is the same training.
    assert_same(dataclasses.replace(late, time_limit=None).train(chains()), whole(Gradient))
    stopped = made(Gradient, checkpoint=Checkpoint(tmp_path / "stopped", 3))
    ends = [lambda epoch: epoch.number == 2]
    for _ in range(2):
        result = dataclasses.replace(stopped, callbacks=ends).train(chains())
        assert (result.n_iter, result.stopped) == (2, True)
    assert_same(stopped.train(chains()), whole(Gradient))


def test_a_sequence_goes_straight_to_the_trainer_that_was_cut_off(tmp_path):
    trainer = made(Sequential, checkpoint=tmp_path / "run")
    first = trainer.trainers[0].max_epochs
    seen = []

    def cut(epoch):
        seen.append(epoch.number)
        if len(seen) == first + 2:
            raise Cut

    with pytest.raises(Cut):
        trainer.train(dataclasses.replace(chains(), callbacks=(cut,)))
    seen.clear()
    watched = dataclasses.replace(chains(), callbacks=(lambda e: seen.append(e.number),))
    assert_same(trainer.train(watched), whole(Sequential))
    assert seen == [first, *range(2, N_EPOCHS + 1)]
    with pytest.raises(ValueError, match="the same file"):
        Sequential((Sweep(checkpoint="a"), Gradient(checkpoint="./a")))


@pytest.fixture
def complete(tmp_path):
    """A trainer whose training is complete, and its file."""
    path = tmp_path / "run"
    trainer = Gradient(max_epochs=2, feature_dropout=0.2, checkpoint=path)
    trainer.train(chains())
    return trainer, path


def other_start():
    return jax.tree.map(lambda leaf: leaf + 1, chains().params)


def changed_samples(name):
    samples = chains().samples
    return samples._replace(**{name: getattr(samples, name).at[-1].add(1)})


@pytest.mark.parametrize(
    ("fields", "options", "names"),
    [
        ({"learning_rate": 1e-3}, dict, "learning_rate"),
        ({"max_epochs": 3}, dict, "max_epochs"),
        ({"decay": 1.0, "clip_norm": 2.0}, dict, "clip_norm and decay"),
        ({"optimizer": optax.sgd(0.1)}, dict, "optimizer"),
        ({}, lambda: {"samples": changed_samples("phi")}, "samples"),
        ({}, lambda: {"samples": changed_samples("target")}, "targets"),
        ({}, lambda: {"samples": changed_samples("weight")}, "sample weights"),
        ({}, lambda: {"validation": None}, "validation samples"),
        ({}, lambda: {"params": other_start()}, "start"),
        ({}, lambda: {"anchor": other_start()}, "anchor"),
        ({}, lambda: {"seed": 1}, "random numbers"),
        ({}, lambda: {"objective": CrossEntropy(0.2)}, "loss"),
        ({}, lambda: {"orders": jnp.array([[0, 1, 2, 3], [2, 0, 3, 1]])}, "site orders"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_training_is_refused_by_what_differs(complete, fields, options, names):
    trainer, path = complete
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match=rf"differs in {names}\. ") as error:
        dataclasses.replace(trainer, **fields).train(chains(**options()))
    assert repr(str(path)) in str(error.value)
    alike = {"start", "anchor", "random numbers", "site orders"}
    assert ("random_state is the same integer" in str(error.value)) == (names in alike)
    assert path.read_bytes() == before


def test_other_trainers_versions_and_precisions_are_refused(complete, monkeypatch):
    trainer, path = complete
    with pytest.raises(ModelFileError, match=r"differs in trainer, "):
        LBFGS(checkpoint=path).train(chains())
    with (
        jax.default_matmul_precision("highest"),
        pytest.raises(ModelFileError, match=r"differs in precision\."),
    ):
        trainer.train(chains())
    monkeypatch.setattr(_identity, "__version__", "9")
    with pytest.raises(ModelFileError, match=r"differs in version of tn4ml_plus\."):
        trainer.train(chains())


def test_what_does_not_change_the_course_may_change(complete):
    trainer, path = complete
    others = {"verbose": True, "callbacks": (lambda _: None,)}
    same = dataclasses.replace(trainer, time_limit=1e6, checkpoint=Checkpoint(path, every=7))
    assert same.train(dataclasses.replace(chains(), **others)).n_iter == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (optax.adam(1e-2), optax.adam(1e-3)),
        (optax.sgd(optax.linear_schedule(1, 0, 5)), optax.sgd(optax.linear_schedule(1, 0, 6))),
        (np.zeros(2, np.float32), np.zeros(2)),
        (np.zeros((2, 1)), np.zeros((1, 2))),
        (jax.random.key(0), jax.random.key(1)),
        ({1, 2}, {1, 3}),
        (jax.nn.relu, jax.nn.gelu),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (CrossEntropy(), CrossEntropy(0.1)),
        (jnp.float32, jnp.float64),
        ([1, [2]], [[1], 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_digests_tell_values_apart(first, second):
    assert digest(first) != digest(second)


def test_digests_are_those_of_contents():
    def function(x):
        return function(x)  # which closes over itself

    class Weighted:
        def __init__(self, weight):
            self.weight = weight

        @functools.cached_property
        def half(self):
            return self.weight / 2

    used = Weighted(2.0)
    assert used.half == 1
    assert digest(used) == digest(Weighted(2.0))
    for make in (
        lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.lion(1e-2)),
        lambda: {"a": [np.arange(3), jnp.ones(2, jnp.bfloat16), np.array(["x", None], object)]},
        lambda: {"one", "two", "three"},
        lambda: Weighted(2.0),
        lambda: np.random.RandomState(3),
        lambda: Gradient(learning_rate=0.1),
        lambda: CrossEntropy(0.1) + 0.3 * lookup("regularizer", "log_norm")(),
        lambda: function,
        lambda: object(),
    ):
        assert digest(make()) == digest(make())
    assert digest(Weighted(1)) != digest(Weighted(2))
    assert digest(2) == digest(2.0) != digest(True)
    assert digest(10**400) != digest(10**400 + 1)
    schedule = optax.cosine_decay_schedule(0.1, 10)
    before = digest(schedule)
    schedule(3)
    # Which has made a float of the ten.
    assert digest(schedule) == before


def changed(**changes):
    """A lie about the content of a file; values may be functions of what is there."""

    def lie(arrays, content):
        for name, value in changes.items():
            content[name] = value(content[name]) if callable(value) else value

    return lie


def changed_array(name, change):
    def lie(arrays, content):
        arrays[name] = change(arrays[name])

    return lie


def with_history(**values):
    return changed(history=lambda history: history | values)


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (lambda arrays, content: arrays.pop("leaf.0"), "arrays"),
        (lambda arrays, content: arrays.update(more=np.zeros(3)), "arrays"),
        (changed_array("leaf.0", lambda a: a[..., None]), "arrays"),
        (changed_array("leaf.0", lambda a: a.astype(np.float64)), "arrays"),
        (changed_array("leaf.0", lambda a: a * np.float32("nan")), "parameters are not finite"),
        (changed_array("random", lambda a: a[:-1]), "arrays"),
        (changed_array("random", lambda a: a.astype(np.int64)), "arrays"),
        (changed(random=[700, 0, 0.0]), "random numbers"),
        (changed(random=[-1, 0, 0.0]), "random numbers"),
        (changed(random=[1, 0, float("nan")]), "random numbers"),
        (changed(random=[1.0, 0, 0.0]), "random numbers"),
        (changed(random=None), "damaged"),
        (changed(random=[1]), "damaged"),
        (changed(start=None), "before all epochs"),
        (changed(start=float("inf")), "before all epochs"),
        (changed(start=10**400), "damaged"),
        (changed(history=[]), "history"),
        (changed(history={}), "history"),
        (with_history(loss=[1.0]), "history"),
        (with_history(loss=[1.0, "low"]), "history of loss"),
        (with_history(loss=[1.0, float("nan")]), "history of loss"),
        (with_history(validation_loss=[1.0, float("nan")]), "history of validation_loss"),
        (with_history(seconds=[2.0, 1.0]), "seconds of the history go back"),
        (with_history(seconds=[-2.0, 1.0]), "seconds of the history go back"),
        (with_history(other=[{}, 1]), "history"),
        (with_history(other="ab"), "history"),
        (changed(history=lambda h: {name: [] for name in h}), "history has 0 epochs"),
        (changed(history=lambda h: {name: 2 * v for name, v in h.items()}), "history has 4 epochs"),
        (changed(begun=[1, 1, 0.5, 0.5]), "epoch that it has begun"),
        (changed(identity=lambda i: i | {"moon": "full"}), "does not know"),
        (changed(identity={}), "differs in version of tn4ml_plus, "),
        (changed(identity=3), "no training in it"),
    ],
)
def test_files_that_lie_are_refused(complete, lie, message):
    trainer, path = complete
    arrays, metadata = read(path)
    lie(arrays, metadata["checkpoint"])
    write(path, arrays, metadata)
    problem = chains()
    before = digest(problem.random_state)
    with pytest.raises(ModelFileError, match=message) as error:
        trainer.train(problem)
    assert repr(str(path)) in str(error.value)
    assert digest(problem.random_state) == before


def test_other_files_are_refused_and_left_alone(complete, tmp_path):
    trainer, path = complete
    for content in (b"", b"my thesis", path.read_bytes()[:-7]):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="cannot be read"):
            trainer.train(chains())
        assert path.read_bytes() == content
    for metadata in ({"estimator": "tn_classifier"}, {"task": {}, "history": {}}, [], None):
        write(path, {}, metadata)
        with pytest.raises(ModelFileError, match="no training in it"):
            trainer.train(chains())
    with pytest.raises(FileNotFoundError, match="make it first"):
        dataclasses.replace(trainer, checkpoint=tmp_path / "no" / "run").train(chains())


def test_checkpoints_are_checked_and_numbered():
    for wrong in ({"path": 3}, {"path": ""}, {"path": b"run"}, {"path": "run", "every": 0}):
        with pytest.raises(ValueError, match=list(wrong)[-1]):
            Checkpoint(**wrong)
    with pytest.raises(ValueError, match="checkpoint must be"):
        Gradient(checkpoint=3)
    assert (
        Gradient(checkpoint="a").checkpoint
        == Checkpoint("a")
        == Sweep(checkpoint=Path("a")).checkpoint
    )
    assert Checkpoint("x/run.tar.gz").numbered(3).path == str(Path("x/run.tar-3.gz"))
    several = Sequential((Sweep(checkpoint="a"), Gradient())).numbered(2)
    assert [part.checkpoint for part in several.trainers] == [Checkpoint("a-2"), None]


@pytest.mark.parametrize("cls", TRAINERS, ids=lambda cls: cls.__name__)
def test_files_of_models_neither_have_nor_give_a_path(cls):
    trainer = made(cls, checkpoint="run")
    parts = trainer.trainers if cls is Sequential else [trainer]
    # Which no file can hold.
    plain = [
        dataclasses.replace(p, optimizer=None) if hasattr(p, "optimizer") else p for p in parts
    ]
    trainer = Sequential(tuple(plain)) if cls is Sequential else plain[0]
    stored = to_json(trainer)
    assert "run" not in str(stored)
    assert from_json(stored) == trainer
    planted = stored["fields"]["trainers"]["tuple"][0] if cls is Sequential else stored
    planted["fields"]["checkpoint"] = "/etc/passwd"
    assert from_json(stored).checkpoints == ()


@dataclasses.dataclass(frozen=True)
class Mixed(Trainer):
    """A trainer of one's own, whose state is of all kinds."""

    grows: bool = False

    def init(self, problem):
        return {
            "half": jnp.zeros(3, jnp.bfloat16), "key": jax.random.key(3), "count": 0,
            "scale": np.float32(1), "name": "mixed", "table": np.zeros((2, 0)), "on": True,
        }  # fmt: skip

    def step(self, problem, params, state, epoch):
        key, own = jax.random.split(state["key"])
        count, half = state["count"] + 1, state["half"] + jnp.asarray(0.3, jnp.bfloat16)
        noise = 0.1 * jax.random.normal(own, (3,)) * count + half.astype(float)
        scale = np.float32(state["scale"] * 1.1)
        params = jax.tree.map(lambda leaf: leaf + noise.sum().astype(leaf.dtype) * scale, params)
        state = state | {"key": key, "count": count, "half": half, "scale": scale}
        if self.grows:
            state["half"] = jnp.zeros(4 + epoch, jnp.bfloat16)
        numbers = {"count": np.int64(count), "pair": (scale, None)}
        return Step(params, state, 1.0 / count, numbers if epoch else {})


def test_states_of_all_kinds_go_on(tmp_path):
    expected = Mixed(max_epochs=3).train(chains()).params
    trainer = Mixed(max_epochs=3, checkpoint=tmp_path / "run")
    with pytest.raises(Cut):
        trainer.train(chains(callbacks=(cut_at(2),)))
    result = trainer.train(chains())
    for ours, theirs in zip(*map(jax.tree.leaves, (result.params, expected)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert result.history["count"] == [None, 2, 3]
    with pytest.raises(ValueError, match="keep their shapes"):
        Mixed(grows=True, checkpoint=tmp_path / "grown").train(chains())
    generator = chains(random_state=np.random.RandomState(np.random.PCG64(0)))
    with pytest.raises(ValueError, match="MT19937"):
        Mixed(checkpoint=tmp_path / "pcg").train(generator)


def test_what_is_not_finite_leaves_the_last_good_epoch(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Fails(Trainer):
        def step(self, problem, params, state, epoch):
            return Step(params, state, np.nan if epoch == 2 else 1.0)

    for _ in range(2):
        with pytest.raises(NotFiniteError, match="epoch 3") as error:
            Fails(max_epochs=4, checkpoint=tmp_path / "run").train(chains())
        assert error.value.result.n_iter == 2


# Estimators ---------------------------------------------------------------------------------------

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
y = (X[:, 0] > 0).astype(int)


def test_an_estimator_goes_on(tmp_path):
    options = {"bond_dim": 2, "n_members": 2, "random_state": 0}
    expected = TNClassifier(trainer=Gradient(max_epochs=3), **options).fit(X, y)
    trainer = Gradient(max_epochs=3, checkpoint=tmp_path / "run")
    model = TNClassifier(trainer=trainer, **options)
    with pytest.raises(Cut):
        TNClassifier(trainer=trainer, callbacks=[cut_at(2)], **options).fit(X, y)
    seen = []
    model.set_params(callbacks=[lambda epoch: seen.append(epoch.number)]).fit(X, y)
    assert seen == [2, 3]
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
    with pytest.raises(ModelFileError, match=r"differs in .*samples"):
        model.fit(2 * X[::-1], y)
    with pytest.raises(ValueError, match="random_state to an integer"):
        model.set_params(random_state=None).fit(X, y)
    with pytest.raises(ValueError, match="partial_fit"):
        TNClassifier(trainer=trainer, **options).partial_fit(X, y)


def test_a_checkpoint_is_made_where_a_link_leads(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    Gradient(max_epochs=1, checkpoint=tmp_path / "link").train(chains())
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").exists()
    with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
        Gradient(max_epochs=1, checkpoint=tmp_path).train(chains())


def test_each_member_of_a_committee_has_a_file(tmp_path):
    trainer = Gradient(max_epochs=1, checkpoint=tmp_path / "run.ckpt")
    options = {"bond_dim": 2, "random_state": 0, "trainer": trainer}
    TNAnomalyDetector(scaler=("gaussian_cdf", "logistic_cdf"), **options).fit(X)
    assert {path.name for path in tmp_path.iterdir()} == {"run-1.ckpt", "run-2.ckpt"}
    TNAnomalyDetector(scaler="gaussian_cdf", **options).fit(X)
    assert (tmp_path / "run.ckpt").exists()
