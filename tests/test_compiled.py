"""Compiled programs: the folder that keeps them, who may write to it, what frees their memory."""

import functools
import importlib
import os
import pkgutil
import stat
import threading
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

import tn4ml_plus
from tn4ml_plus import TNClassifier, _compiled, cache_compilations, clear_compiled
from tn4ml_plus._compiled import on_threads

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_compilation_cache_max_size",
)
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")


@pytest.fixture(autouse=True)
def options(monkeypatch):
    """Leave JAX with the folder of all tests."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    for name in OPTIONS:
        monkeypatch.setenv(name.upper(), "")  # so that it is restored
        monkeypatch.delenv(name.upper())
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def hits():
    """List that grows with every program that is read from the folder."""
    seen = []

    def listener(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            seen.append(event)

    jax.monitoring.register_event_listener(listener)
    yield seen
    jax.monitoring.unregister_event_listener(listener)


def entries(folder):
    return sorted(folder.glob("*-cache"))


def compute(n=3):
    """A number from a small program, compiled anew or read, once for each n."""
    jax.clear_caches()
    return float(jax.jit(lambda x: x @ x)(np.arange(n, dtype=np.float32)))


def test_programs_are_written_and_read(tmp_path, hits):
    compute()  # wherever JAX has kept it until now
    folder = cache_compilations(tmp_path / "a" / "b")
    assert folder == tmp_path.resolve() / "a" / "b"
    hits.clear()
    first = compute()
    assert len(entries(folder)) == 1
    assert not hits
    assert compute() == first
    assert len(hits) == 1


def test_another_call_takes_another_folder(tmp_path):
    for name in "ab":
        folder = cache_compilations(tmp_path / name)
        compute()
        assert len(entries(folder)) == 1


@posix
@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_folders_are_made_for_the_user_alone(tmp_path, umask):
    before = os.umask(umask)
    try:
        folder = cache_compilations(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)]
    assert modes == [0o700, 0o700]


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_the_default_is_in_the_caches_of_the_user(tmp_path, monkeypatch, variable):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    caches = tmp_path.resolve() / (".cache" if variable == "HOME" else "")
    assert cache_compilations() == caches / "tn4ml_plus" / "compiled"


def test_the_home_of_the_user_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_compilations("~/kept") == tmp_path.resolve() / "kept"


@posix
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o702, 0o1777])
def test_a_folder_in_which_others_can_write_is_refused(tmp_path, mode):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    before = jax.config.jax_compilation_cache_dir
    with pytest.raises(PermissionError, match=r"open can be written .*rm -r '.*open'"):
        cache_compilations(folder)
    assert jax.config.jax_compilation_cache_dir == before


@posix
def test_a_parent_in_which_others_can_write_is_refused_unless_it_is_sticky(tmp_path):
    parent = tmp_path / "open"
    (parent / "between").mkdir(parents=True)
    parent.chmod(0o777)
    with pytest.raises(PermissionError, match=r"open can be written .*chmod go-w '.*open'"):
        cache_compilations(parent / "between" / "own")
    assert not (parent / "between" / "own").exists()
    parent.chmod(0o1777)
    assert cache_compilations(parent / "between" / "own").is_dir()


@posix
def test_a_link_among_the_parents_is_followed_and_one_in_place_of_the_folder_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert cache_compilations(tmp_path / "link" / "own") == tmp_path.resolve() / "real" / "own"
    with pytest.raises(PermissionError, match=r"link is a symbolic link: .* target, .*real"):
        cache_compilations(tmp_path / "link")
    (tmp_path / "real").chmod(0o777)
    with pytest.raises(PermissionError, match="real can be written"):
        cache_compilations(tmp_path / "link" / "own")


@posix
@pytest.mark.parametrize("strangers", ["own", "parent"])
def test_what_belongs_to_another_user_is_refused(tmp_path, monkeypatch, strangers):
    folder = tmp_path / "parent" / "own"
    folder.mkdir(parents=True, mode=0o700)
    its = Path.stat

    def stat_of_others(path, **options):
        found = list(its(path, **options))
        found[stat.ST_UID] += 1000 * (path.name == strangers)
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", stat_of_others)
    with pytest.raises(PermissionError, match=f"{strangers} belongs to another user"):
        cache_compilations(folder)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is no folder"):
        cache_compilations(tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"folder": "gs://bucket/programs"}, "folder"), ({"max_bytes": -1}, "max_bytes")],
)
def test_arguments_are_checked(arguments, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        cache_compilations(**arguments)


def test_what_was_unused_for_longest_is_removed(tmp_path):
    folder = cache_compilations(tmp_path / "own")
    for age, name in enumerate(("new-cache", "used-cache", "old-cache", "other.txt")):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1000 - 10 * age, 1000 - 10 * age))
    os.utime(folder / "used-cache", (1100, 0))
    cache_compilations(folder, max_bytes=200)
    assert {path.name for path in folder.iterdir()} == {"new-cache", "used-cache", "other.txt"}
    cache_compilations(folder, max_bytes=199)
    assert {path.name for path in folder.iterdir()} == {"used-cache", "other.txt"}
    cache_compilations(folder, max_bytes=0)
    assert {path.name for path in folder.iterdir()} == {"other.txt"}


def garbled(whole):
    packed = zlib.compress(b"no program" * 100)
    return {"empty": b"", "half": whole[: len(whole) // 2], "noise": b"\0\1" * 99, "packed": packed}


@pytest.mark.parametrize("how", garbled(b""))
def test_a_broken_entry_costs_a_warning_and_is_read_again_once_removed(tmp_path, hits, how):
    folder = cache_compilations(tmp_path / "own")
    expected = compute()
    (entry,) = entries(folder)
    entry.write_bytes(garbled(entry.read_bytes())[how])
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache"):
        assert compute() == expected
    assert not hits
    entry.unlink()
    assert [compute(), compute()] == [expected] * 2
    assert len(hits) == 1


def test_where_nothing_can_be_written_programs_are_compiled(tmp_path):
    folder = cache_compilations(tmp_path / "own")
    expected = compute()
    (entry,) = entries(folder)
    entry.unlink()
    folder.rmdir()
    with pytest.warns(UserWarning, match="Error writing persistent compilation cache"):
        assert compute() == expected


@pytest.mark.long
def test_workers_share_the_folder(tmp_path):
    get_reusable_executor().shutdown(wait=True)  # Those at work already know of no folder.
    folder = cache_compilations(tmp_path / "own")
    Parallel(n_jobs=2, backend="loky")([delayed(jax.numpy.sum)(np.ones(3, np.float32))])
    get_reusable_executor().shutdown(wait=True)
    assert entries(folder)


def test_after_all_is_cleared_a_fit_gives_the_same(compilations):
    X, y = np.random.default_rng(0).normal(size=(24, 3)), np.arange(24) % 2
    model = TNClassifier(2, n_members=1, max_epochs=1, random_state=0).fit(X, y)
    before = model.predict_proba(X)
    compilations.clear()
    clear_compiled()
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert compilations
    np.testing.assert_array_equal(model.fit(X, y).predict_proba(X), before)


def test_caches_of_the_library_are_bounded_and_cleared():
    names = [m.name for m in pkgutil.walk_packages(tn4ml_plus.__path__, "tn4ml_plus.")]
    found = {
        id(value): value
        for name in names
        if not name.endswith("__main__")
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, functools._lru_cache_wrapper)
        and value.__module__.startswith("tn4ml_plus.")
    }
    assert len(found) >= 7
    assert found.keys() <= set(map(id, _compiled._bounded))
    assert all(each.cache_parameters()["maxsize"] for each in found.values())

    from tn4ml_plus.contraction._tree import _layers

    tree = tn4ml_plus.networks.Tree.balanced(4)
    assert _layers(tree) is _layers(tree)
    clear_compiled()
    assert _layers.cache_info().currsize == 0


def test_options_that_this_version_refuses_are_left_out(monkeypatch):
    options = {"xla_no_such_option": 1, "xla_backend_optimization_level": "much"}
    monkeypatch.setattr(_compiled, "_COMPILER_OPTIONS", options)
    monkeypatch.setattr(_compiled.jax, "default_backend", lambda: "cpu")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        double = _compiled.compiled(lambda x: 2 * x)
        assert double(np.float32(3)) == 6
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    assert not options


def test_options_of_processors_are_not_for_accelerators(monkeypatch, quick):
    options = {"xla_no_such_option": 1}
    monkeypatch.setattr(_compiled, "_COMPILER_OPTIONS", options)
    monkeypatch.setattr(_compiled.jax, "default_backend", lambda: "gpu")
    jax.config.update("jax_disable_most_optimizations", False)
    assert _compiled.compiled(lambda x: 2 * x)(np.float32(3)) == 6
    assert options  # It would have been refused, and left out.


def test_what_is_cleared(monkeypatch):
    kept = _compiled.cleared({1: 2})
    monkeypatch.setattr(_compiled, "_bounded", _compiled._bounded[-1:])
    clear_compiled()
    assert not kept


def test_threads_have_the_options_of_the_one_that_asks():
    def of_thread(_):
        return (
            threading.current_thread() is not threading.main_thread(),
            jax.config.jax_enable_x64,
            jax.config.jax_default_matmul_precision,
            jnp.zeros(1, float).dtype,
        )

    for is_double in (True, False):
        with jax.enable_x64(is_double), jax.default_matmul_precision("highest"):
            found = on_threads(of_thread, range(3))
        assert found == [(True, is_double, "highest", "f8" if is_double else "f4")] * 3


@pytest.mark.parametrize(("asked", "most"), [("1", 1), ("2", 2), ("4,2", 3), ("many", 3), ("", 3)])
def test_there_are_no_more_threads_than_asked_for(monkeypatch, asked, most):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    running, peak, lock = [0], [0], threading.Lock()

    def work(_):
        with lock:
            running[0] += 1
            peak[0] = max(peak[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    on_threads(work, range(9))
    assert peak[0] == most


def test_the_error_of_a_thread_is_that_of_the_caller(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    stop = threading.Event()

    def call(x):
        return 1 / x if x < 2 else stop.wait()  # for ever, were it not for the event

    with pytest.raises(ZeroDivisionError):
        on_threads(call, (0, 2), stop)
