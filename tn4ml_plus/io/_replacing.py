"""Files that are replaced whole or not at all, with errors in words."""

import contextlib
import errno
import glob
import hashlib
import os
import platform
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: nothing tells whether a writer lives, so nothing is cleaned.
    fcntl = None

# Names of temporaries are short, for names have a limit, and tell the host, for some network file
# systems (BeeGFS, sshfs) show each host its own locks only.
_STEM = ".tn4ml_plus-"
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_DAY = 86_400

_REASONS = {
    errno.EACCES: "this user may not write to its folder; change the permissions or save elsewhere",
    errno.EPERM: "this user may not replace it; change the permissions or save elsewhere",
    errno.EROFS: "its file system is read-only; save elsewhere",
    errno.ENOSPC: "the disk is full; free some space or save elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space or save elsewhere",
    errno.EFBIG: "files may not be that large here; raise the limit (ulimit -f) or save elsewhere",
    errno.ENOENT: "its folder does not exist; make it first",
    errno.ENOTDIR: "one of its folders is a file; give another path",
    errno.EISDIR: "it is a folder; give the path of a file",
    errno.ENXIO: "it is a device, a pipe or a socket; give the path of a file",
    errno.ENAMETOOLONG: "its name is too long; give a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle; give the path of a file",
}


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A new file, which takes the place of another once the block has ended without an error.

    Until then an older file stays as it is, and an error leaves no trace; what a killed process
    left is removed by the next to replace a file of the folder. Symbolic links are followed. Mode,
    owner and group of an older file are kept, as far as the user may set them. OSError of the
    subclass and errno that the system gave, with the reason in words; ValueError for a path with a
    NUL character.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, replacing(f"{folder}/new") as file:
    ...     _ = file.write(b"all of it")
    ...     os.path.exists(f"{folder}/new")
    False
    """
    path = Path(path)
    if "\0" in str(path):
        raise ValueError(f"The path {str(path)!r} holds a NUL character: give one without.")
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    with _reasons(target):
        old = _stat(path)
        _clean(folder)
        file = _temporary(folder, 0o666 if old is None else 0o600)
        try:
            with file:
                yield file
                file.flush()
                if old is not None and fcntl is not None:
                    _make_like(file, old)
                os.fsync(file.fileno())
                if fcntl is None:  # Windows moves no open file; elsewhere the lock holds on.
                    file.close()
                os.replace(file.name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise
    # The new name too, where the system opens folders and the file system syncs them.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _reasons(path):
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        reason = _REASONS.get(error.errno, error.strerror)
        raise OSError(error.errno, f"Not saved: {reason}", path) from error


def _stat(path):
    """Status of a regular file; None where there is no file, in a folder that exists."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        os.stat(path.parent)
        return None
    if stat.S_ISDIR(old.st_mode):
        raise OSError(errno.EISDIR, "a folder")
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.ENXIO, "not a regular file")
    return old


def _temporary(folder, mode):
    """A new file in a folder, so that replacing is a rename; locked while its writer lives."""
    while True:
        name = os.path.join(folder, f"{_STEM}{_HOST}-{secrets.token_hex(8)}.tmp")
        file = open(name, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        if _locked(file):
            return file
        file.close()


def _locked(file):
    """Whether a new file is locked before another writer took it for abandoned."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # Without locks there is no cleaning either.
        return True
    return os.path.exists(file.name)


def _clean(folder):
    """Remove temporaries of writers that were killed, those of other hosts a day later."""
    if fcntl is None:
        return
    for name in glob.glob(f"{_STEM}*.tmp", root_dir=folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):  # Locked, gone or another user's.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                age = time.time() - os.fstat(descriptor).st_mtime
                if name.startswith(_STEM + _HOST) or age > _DAY:
                    # Shared, for NFS locks what is open for reading only in this way.
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    os.unlink(path)
            finally:
                os.close(descriptor)


def _make_like(file, old):
    """Give a file owner, group and mode of another; what the user may not give stays narrower."""
    descriptor, mode = file.fileno(), stat.S_IMODE(old.st_mode)
    for owner in ((old.st_uid, -1), (-1, old.st_gid)):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, *owner)
    if os.fstat(descriptor).st_gid != old.st_gid:
        mode &= ~stat.S_IRWXG
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, mode)
