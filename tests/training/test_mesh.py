"""Training on several devices and processes: the result of one device, to rounding."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tn4ml_plus import TNBornMachine, TNClassifier, TNRegressor
from tn4ml_plus.embeddings import Legendre
from tn4ml_plus.io import read
from tn4ml_plus.tables import Blocks
from tn4ml_plus.training import Checkpoint, Gradient, IsometricSweep, Sweep

RNG = np.random.default_rng(0)
X = RNG.normal(size=(260, 4))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
SMALL = {"bond_dim": 4, "n_members": 2, "random_state": 0, "embedding": Legendre(2)}
DROPPING = {"max_epochs": 5, "feature_dropout": 0.1, "decay": 1.0, "clip_norm": 1.0}


def classifier(mesh, X=X, **options):
    trainer = Gradient(**DROPPING, mesh=mesh)
    return TNClassifier(**SMALL | {"trainer": trainer, "early_stopping": True} | options).fit(X, Y)


def streamed(mesh):
    from tn4ml_plus.estimators import _streams

    _streams._MOST_KEPT = _streams._FEWEST_KEPT = 100
    trainer = Gradient(max_epochs=2, mesh=mesh)
    return TNClassifier(**SMALL, trainer=trainer).fit(Blocks(lambda: [(X, Y)]))


FITS = {
    "classifier": classifier,
    "one network": lambda mesh: classifier(mesh, n_members=1),
    "regressor": lambda mesh: TNRegressor(
        **SMALL, trainer=Gradient(max_epochs=5, mesh=mesh, batch_size=16)
    ).fit(X, X[:, 0] * X[:, 1]),
    "Born machine": lambda mesh: TNBornMachine(
        bond_dim=3, random_state=0, trainer=Gradient(max_epochs=5, mesh=mesh)
    ).fit(X),
    "sweep": lambda mesh: TNClassifier(**SMALL, trainer=Sweep(max_epochs=1, mesh=mesh)).fit(X, Y),
    "isometric sweep": lambda mesh: TNClassifier(
        **SMALL, network="ttn", trainer=IsometricSweep(max_epochs=2, mesh=mesh)
    ).fit(X, Y),
    "streamed": streamed,
}


def outcome(model):
    """What a model predicts, and its losses."""
    names = "predict_proba", "score_samples", "predict"
    predicted = next(getattr(model, name) for name in names if hasattr(model, name))(X)
    history = model.history_
    return [predicted.tolist(), history["loss"], history.get("validation_loss", [])]


def on_eight(path):
    """Outcomes with meshes of one axis and of two, written by a process with eight devices."""
    jax.config.update("jax_num_cpu_devices", 8)
    meshes = jax.make_mesh((8,), ("batch",)), jax.make_mesh((4, 2), ("batch", "bond"))
    found = {name: [outcome(fit(mesh)) for mesh in meshes[:1]] for name, fit in FITS.items()}
    found["classifier"].append(outcome(classifier(meshes[1])))
    # A checkpoint of one device goes on with eight, and the other way round.
    for first, second in ((None, meshes[0]), (meshes[0], None)):
        ends = []
        for mesh, max_epochs in ((first, 2), (second, 5)):
            options = DROPPING | {"mesh": mesh, "checkpoint": f"{path}-{first is None}"}

            def cut(epoch, last=max_epochs):
                if epoch.number == last < 5:
                    raise KeyboardInterrupt

            model = TNClassifier(**SMALL, trainer=Gradient(**options), callbacks=[cut])
            with contextlib.suppress(KeyboardInterrupt):
                ends.append(outcome(model.fit(X, Y)))
        found[f"resumed {first is None}"] = ends
    Path(path).write_text(json.dumps(found))


def of_two(path, process, port, case):
    """Outcomes of one of two processes that train together."""
    process = int(process)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    mesh, given = jax.make_mesh((2,), ("batch",)), X
    if case == "other rows":
        given = X if process == 0 else X + 0.1 * Y[:, None]
    trainer = Gradient(**DROPPING, mesh=mesh, checkpoint=Checkpoint(f"{path}-checkpoint"))
    if case == "other trainers" and process:
        trainer = Gradient(max_epochs=3, mesh=mesh)
    try:
        model = classifier(mesh, given, trainer=trainer)
        found = outcome(model)
    except ValueError as error:
        found = str(error)
    Path(f"{path}-{process}").write_text(json.dumps(found))


def run(name, *arguments):
    """A process that calls a function of this file."""
    code = f"import test_mesh; test_mesh.{name}(*{tuple(map(str, arguments))!r})"
    folders = str(Path(__file__).parent), *sys.path
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


@pytest.fixture(scope="module")
def of_eight(tmp_path_factory):
    path = tmp_path_factory.mktemp("mesh") / "found"
    assert run("on_eight", path).wait() == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", FITS)
def test_eight_devices_train_as_one(name, of_eight, monkeypatch):
    if name == "streamed":
        for each in ("_MOST_KEPT", "_FEWEST_KEPT"):
            monkeypatch.setattr(f"tn4ml_plus.estimators._streams.{each}", 100)
    expected = outcome(FITS[name](None))
    for found in of_eight[name]:
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("first", [True, False])
def test_checkpoints_go_on_with_other_devices(first, of_eight):
    (found,) = of_eight[f"resumed {first}"]
    expected = outcome(TNClassifier(**SMALL, trainer=Gradient(**DROPPING)).fit(X, Y))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    assert len(found[1]) == 5


def together(path, case):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [run("of_two", path, process, port, case) for process in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    return [json.loads(Path(f"{path}-{process}").read_text()) for process in range(2)]


def test_two_processes_train_as_one(tmp_path):
    found = together(tmp_path / "found", "alike")
    expected = outcome(classifier(None))
    for each in found:
        for ours, theirs in zip(each, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    # One of them has written it.
    assert len(read(tmp_path / "found-checkpoint")[1]["checkpoint"]["history"]["loss"]) == 5


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("other rows", "Process 1 of the mesh differs from process 0 in .*samples"),
        ("other trainers", "Process(es| 1) of the mesh"),
    ],
)
def test_processes_that_differ_are_told_apart(case, words, tmp_path):
    for found in together(tmp_path / "found", case):
        assert re.match(words, found)


def test_meshes_must_divide_the_samples():
    mesh = jax.make_mesh((1,), ("batch",))
    assert Gradient(mesh=mesh).mesh.axis_names == ("batch",)
    assert Gradient(mesh=mesh) == Gradient()
    for wrong in (8, jax.make_mesh((1,), ("samples",)), jax.make_mesh((1, 1), ("bond", "batch"))):
        with pytest.raises(ValueError, match=r"mesh must be a .* with the axis"):
            Gradient(mesh=wrong)
    devices = np.array(jax.devices() * 3)
    three = Gradient(mesh=jax.sharding.Mesh(devices, ("batch",)), max_epochs=1)
    with pytest.raises(ValueError, match=r"3 devices cannot share 64 samples.* such as 66"):
        TNClassifier(**SMALL, trainer=three).fit(X, Y)
