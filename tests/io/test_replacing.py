"""Saving: nothing is lost, nothing is left behind, and errors say why."""

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy

from tn4ml_plus.io import _files, _replacing, read, write

OLD, NEW = {"version": "old"}, {"version": "new"}
ARRAYS = {"core": np.arange(6.0)}

posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and locks of POSIX")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model"


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def leftovers(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def run(code, *arguments):
    """What a process of its own prints, in which the functions of this room are imported."""
    lines = "import os\nimport signal\nimport sys\nfrom tn4ml_plus.io import read, write\n"
    command = [sys.executable, "-c", lines + code, *map(str, arguments)]
    result = subprocess.run(command, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


# Contents -----------------------------------------------------------------------------------------


def test_safetensors_reads_what_is_written(path):
    arrays = {"small": np.int8([1, 2, 3]), "ü": np.ones((2, 0, 3)), "wide": np.arange(4.0)}
    write(path, arrays, {})
    found = safetensors.numpy.load(path.read_bytes())
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_every_array_is_aligned(path):
    write(path, {"flag": np.array(True), "half": np.ones(3, "f2"), "double": np.ones(2)}, {})
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 8 == 0
    assert np.frombuffer(data, "f8", 2, start).tolist() == [1, 1]
    assert np.frombuffer(data, "f2", 3, start + 16).tolist() == [1, 1, 1]


def test_the_file_is_not_built_in_memory(path):
    arrays = {"a": np.zeros(1 << 20), "b": np.zeros((1 << 10, 1 << 10))}
    tracemalloc.start()
    try:
        write(path, arrays, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < arrays["a"].nbytes / 4


def test_what_no_reader_would_accept_is_refused(path, monkeypatch):
    with pytest.raises(ValueError, match="'__metadata__', safetensors' own"):
        write(path, {"__metadata__": np.ones(1)}, {})
    with pytest.raises(UnicodeEncodeError):
        write(path, {"\ud800": np.ones(1)}, {})
    monkeypatch.setattr(_files, "_MAX_HEADER", 1000)
    with pytest.raises(ValueError, match=r"take 1\d\d\d bytes, and .* at most 1000: put what is"):
        write(path, {}, "a" * 1000)
    assert os.listdir(path.parent) == []


# Links and modes ----------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("exists", [True, False], ids=["target", "dangling"])
def test_links_stay_links(tmp_path, exists):
    (tmp_path / "elsewhere").mkdir()
    target, first, second = (tmp_path / name for name in ("elsewhere/model", "first", "second"))
    if exists:
        write(target, ARRAYS, OLD)
    first.symlink_to("elsewhere/model")
    second.symlink_to(first)
    write(second, ARRAYS, NEW)
    assert read(target)[1] == NEW
    assert not target.is_symlink()
    assert os.readlink(first) == "elsewhere/model"
    assert second.is_symlink()


@posix
@pytest.mark.parametrize("kept", [0o600, 0o640, 0o664, 0o444])
def test_the_mode_of_an_older_file_is_kept_at_every_moment(path, monkeypatch, kept):
    seen = []

    def watch(function):
        def watched(*arguments):
            seen.extend(mode(path.parent / name) for name in leftovers(path.parent))
            return function(*arguments)

        return watched

    write(path, ARRAYS, OLD)
    path.chmod(kept)
    inode = path.stat().st_ino
    for name in ("fchmod", "fsync", "replace"):
        monkeypatch.setattr(os, name, watch(getattr(os, name)))
    write(path, ARRAYS, NEW)
    assert mode(path) == kept
    assert path.stat().st_ino != inode
    assert len(seen) == 3
    assert not any(found & 0o077 & ~kept for found in seen)


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_any_new_file(path, mask):
    before = os.umask(mask)
    try:
        write(path, {}, {})
    finally:
        os.umask(before)
    assert mode(path) == 0o666 & ~mask


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root gives files to others"
)
def test_owners_are_kept_or_the_group_is_locked_out(path, monkeypatch):
    write(path, ARRAYS, OLD)
    os.chown(path, 12345, 23456)
    path.chmod(0o664)
    write(path, ARRAYS, NEW)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (12345, 23456, 0o664)

    def refuse(*_):
        raise PermissionError(errno.EPERM, "")

    monkeypatch.setattr(os, "fchown", refuse)
    write(path, ARRAYS, NEW)
    assert path.stat().st_gid != 23456
    assert mode(path) == 0o604


# Names --------------------------------------------------------------------------------------------


@posix
def test_names_up_to_the_limit_of_the_system(tmp_path):
    limit = os.pathconf(tmp_path, "PC_NAME_MAX")
    longest = tmp_path / ("n" * limit)
    write(longest, ARRAYS, NEW)
    assert read(longest)[1] == NEW
    with pytest.raises(OSError, match="name is too long; give a shorter") as caught:
        write(tmp_path / ("n" * (limit + 1)), ARRAYS, NEW)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert leftovers(tmp_path) == []


# Errors -------------------------------------------------------------------------------------------


def test_paths_that_cannot_be_saved_to(path):
    write(path, ARRAYS, OLD)
    with pytest.raises(IsADirectoryError, match="it is a folder; give the path of a file"):
        write(path.parent, ARRAYS, NEW)
    with pytest.raises(FileNotFoundError, match=r"folder does not exist; make it.*nowhere"):
        write(path.parent / "nowhere" / "model", ARRAYS, NEW)
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        write(path.parent / "nowhere" / ".." / "other", ARRAYS, NEW)
    with pytest.raises(ValueError, match=r"x\\x00y' holds a NUL"):
        write(path.parent / "x\0y", ARRAYS, NEW)
    assert os.listdir(path.parent) == ["model"]
    assert read(path)[1] == OLD


@posix
def test_paths_that_cannot_be_saved_to_on_posix(path):
    write(path, ARRAYS, OLD)
    with pytest.raises(NotADirectoryError, match="one of its folders is a file"):
        write(path / "below", ARRAYS, NEW)
    loop = path.with_name("loop")
    loop.symlink_to("pool")
    path.with_name("pool").symlink_to("loop")
    with pytest.raises(OSError, match="links lead in a circle") as caught:
        write(loop, ARRAYS, NEW)
    assert caught.value.errno == errno.ELOOP
    assert os.readlink(loop) == "pool"
    assert read(path)[1] == OLD


@posix
def test_only_regular_files_are_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("pipe", "link")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")  # The limit on paths of sockets is low.
    for path in ("pipe", "socket", "link"):
        before = os.stat(path)
        with pytest.raises(OSError, match="a device, a pipe or a socket") as caught:
            write(path, ARRAYS, NEW)
        assert caught.value.filename == os.path.realpath(path)
        assert os.path.samestat(os.stat(path), before)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "subclass", "text"),
    [
        (errno.ENOSPC, OSError, "the disk is full; free"),
        (errno.EDQUOT, OSError, "quota is used up; free"),
        (errno.EFBIG, OSError, "raise the limit"),
        (errno.EROFS, OSError, "read-only; save elsewhere"),
        (errno.EACCES, PermissionError, "may not write to its folder; change the permissions"),
        (errno.EPERM, PermissionError, "may not replace it; change the permissions"),
        (errno.EIO, OSError, os.strerror(errno.EIO)),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
def test_errors_of_the_system_in_words(path, monkeypatch, function, code, subclass, text):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code), "the name of a temporary")

    write(path, ARRAYS, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(subclass, match=f"Not saved: .*{text}.*model") as caught:
            write(path, ARRAYS, NEW)
    assert (caught.value.errno, caught.value.filename) == (code, os.path.realpath(path))
    assert read(path)[1] == OLD
    assert os.listdir(path.parent) == ["model"]


@posix
def test_a_file_above_the_limit_of_the_process(path):
    resource = pytest.importorskip("resource")
    write(path, ARRAYS, OLD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, limits[1]))
    try:
        with pytest.raises(OSError, match="files may not be that large here") as caught:
            write(path, {"a": np.ones(10_000)}, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert read(path)[1] == OLD
    assert os.listdir(path.parent) == ["model"]


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root or Windows"
)
def test_a_folder_that_the_user_may_not_write_to(path):
    write(path, ARRAYS, OLD)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="may not write to its folder"):
            write(path, ARRAYS, NEW)
    finally:
        path.parent.chmod(0o700)
    assert read(path)[1] == OLD


# Killed and living writers ------------------------------------------------------------------------

# Children save in a loop, files of one number each, and are killed: thrice at the end of a save,
# then at random moments. Prints the number of files left by the kills, the old ones aside.
KILLED = """
import random
import time
import numpy
path, kills, rng = sys.argv[1], int(sys.argv[2]), random.Random(0)
folder = os.path.dirname(path)
numbers = lambda i: {"a": numpy.full(40_000, i), "b": numpy.full((100, 100), i, "f4")}
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
last, left = 0, []
write(path, numbers(0), 0)
for place in ["fchmod", "fsync", "replace"] + [None] * kills:
    child = os.fork()
    if not child:
        if place:
            setattr(os, place, die)
        for i in range(last + 1, last + 10_000):
            write(path, numbers(i), i)
    if not place:
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    arrays, i = read(path)
    assert i == last if place else i >= last
    assert all((array == i).all() for array in arrays.values())
    left.append(len(os.listdir(folder)) - 1)
    last = i + 1
    write(path, numbers(last), last)
    assert os.listdir(folder) == [os.path.basename(path)], os.listdir(folder)
print(*left)
"""

SAVED_AT_ONCE = """
children = []
for name in "abc":
    children.append(os.fork())
    if not children[-1]:
        for i in range(60):
            write(os.path.join(sys.argv[1], name), {}, i)
        os._exit(0)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@posix
def test_killed_at_any_moment_a_file_is_old_or_new_and_the_next_save_cleans(path):
    left = [int(word) for word in run(KILLED, path, 12).split()]
    assert left[:3] == [1, 1, 1]
    assert set(left) <= {0, 1}


@posix
def test_temporaries_of_living_writers_stay(path):
    other = path.with_name("other")
    with _replacing.replacing(path) as file:
        file.write(b"whole")
        write(other, ARRAYS, NEW)
        thread = threading.Thread(target=write, args=(other, ARRAYS, OLD))
        thread.start()
        thread.join()
        assert leftovers(path.parent) == [os.path.basename(file.name)]
    assert path.read_bytes() == b"whole"


@posix
def test_processes_save_into_one_folder_at_once(tmp_path):
    run(SAVED_AT_ONCE, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


@posix
def test_a_temporary_that_is_taken_for_abandoned_is_made_again(path, monkeypatch):
    calls = []

    def late(function):
        def lock(file, operation):
            calls.append(file)
            if len(calls) == 1:  # Another writer cleans between creation and lock.
                _replacing._clean(path.parent)
            return function(file, operation)

        return lock

    def busy(function):
        def lock(file, operation):
            calls.append(file)
            if len(calls) == 1:  # Another writer is about to clean.
                raise BlockingIOError(errno.EWOULDBLOCK, "")
            return function(file, operation)

        return lock

    for change in (late, busy):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(_replacing.fcntl, "flock", change(_replacing.fcntl.flock))
            write(path, ARRAYS, NEW)
        assert len(calls) > 1
        write(path, *read(path))
        assert os.listdir(path.parent) == ["model"]


@posix
def test_temporaries_of_other_hosts_stay_for_a_day(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_replacing, "_HOST", "otherone")
        temporary = _replacing._temporary(path.parent, 0o600)
    temporary.close()
    write(path, ARRAYS, OLD)
    assert os.path.exists(temporary.name)
    past = time.time() - 90_000
    os.utime(temporary.name, (past, past))
    with open(temporary.name) as file:
        _replacing.fcntl.flock(file, _replacing.fcntl.LOCK_EX)
        write(path, ARRAYS, OLD)
        assert os.path.exists(temporary.name)
    write(path, ARRAYS, OLD)
    assert os.listdir(path.parent) == ["model"]


@posix
def test_other_files_are_not_cleaned(path):
    others = [".model.0123456789abcdef0123456789abcdef.tmp", ".tmpYyRgAQ", "x.tn4ml_plus-.tmp"]
    for name in others:
        path.with_name(name).touch()
    link = f"{_replacing._STEM}{_replacing._HOST}-link.tmp"
    path.with_name(link).symlink_to(others[0])
    write(path, ARRAYS, NEW)
    assert sorted(os.listdir(path.parent)) == sorted([*others, link, "model"])


@posix
def test_file_systems_without_locks(path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(_replacing.fcntl, "flock", refuse)
    with _replacing.replacing(path) as file:
        write(path.with_name("other"), ARRAYS, NEW)
        assert os.path.exists(file.name)
    assert sorted(os.listdir(path.parent)) == ["model", "other"]


def test_systems_without_locks(path, monkeypatch):
    monkeypatch.setattr(_replacing, "fcntl", None)
    with _replacing.replacing(path) as file:
        file.write(b"old")
        write(path.with_name("other"), ARRAYS, NEW)
    write(path, ARRAYS, NEW)
    assert read(path)[1] == NEW
    assert sorted(os.listdir(path.parent)) == ["model", "other"]


@posix
def test_folders_that_cannot_be_synced(path, monkeypatch):
    fsync, folders = os.fsync, []

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            folders.append(descriptor)
            raise OSError(errno.EINVAL, "")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write(path, ARRAYS, NEW)
    assert read(path)[1] == NEW
    assert len(folders) == 1
