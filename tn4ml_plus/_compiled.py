"""Compiled programs: made in less time, kept in a folder for later processes, and dropped."""

import contextlib
import contextvars
import functools
import os
import re
import stat
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import joblib
from jax.experimental.compilation_cache import compilation_cache

from ._checks import check, check_int
from ._forks import unforked

# A container that knows the user alone shows root as nobody.
_ROOT = 0, 65534
_bounded = []
# What programs for processors take half as long to compile with, and no longer to run: measured at
# 30 to 784 sites, chains and trees, of bonds 8 to 50.
_COMPILER_OPTIONS = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
# Options of JAX that `with` sets for one thread.
_OF_THREADS = (
    "enable_x64", "default_matmul_precision", "numpy_dtype_promotion", "numpy_rank_promotion",
    "default_device", "debug_nans", "debug_infs", "disable_jit", "log_compiles",
)  # fmt: skip


def cache_compilations(folder: str | os.PathLike | None = None, *, max_bytes: int = 2**28) -> Path:
    """Folder in which JAX keeps compiled programs from now on, for other processes and later ones.

    A program that is found there is read, which takes a fraction of the time of compiling it; those
    that are in memory already are not written. This sets options of JAX for the whole process, and
    the environment variables of the same names, so that processes started later share the folder.
    Workers of ``n_jobs`` do unless they have been started before.

    Whoever can write to the folder can run code as the user. It is made for the user alone and
    refused where others could write to it or replace it. On Windows, that is left to the
    permissions of the folder in which it is made.

    Where a program cannot be written or read, JAX warns and compiles it. A full disk or a process
    killed while it writes may leave half a program, which JAX reports in every process and does not
    replace: remove the folder then, the next call makes it anew.

    Parameters
    ----------
    folder : str or path, optional
        A local folder, made if need be. By default ``tn4ml_plus/compiled`` where the user's caches
        are: ``$XDG_CACHE_HOME`` or ``~/.cache``, on macOS ``~/Library/Caches``, on Windows
        ``%LOCALAPPDATA%``.
    max_bytes : int, at least 0
        Size of what is kept, by default 256 MiB. This call removes the programs unused for longest
        until the others fit; from then on the folder grows until the next call. The programs of a
        first `TNClassifier`, fit and predictions, take some 220 kB.

    Returns
    -------
    pathlib.Path
        The folder, absolute and without symbolic links.

    Raises
    ------
    PermissionError
        If others can write to the folder or replace it, or it is a symbolic link.
    OSError
        If it cannot be made.

    Examples
    --------
    >>> import tn4ml_plus
    >>> folder = tn4ml_plus.cache_compilations()  # doctest: +SKIP
    """
    check("folder", folder, "://" not in str(folder), "a local folder", optional=True)
    check_int("max_bytes", max_bytes, 0)
    folder = _private(user_folder("compiled") if folder is None else Path(folder).expanduser())
    _trim(folder, max_bytes)
    # Most programs compile in less than the second that JAX asks for. Its own bound needs a package
    # more, and gives up writing once an entry lacks its time of access.
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_compilation_cache_max_size": -1,
    }
    for name, value in options.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    compilation_cache.reset_cache()  # It may have been opened elsewhere.
    return folder


def clear_compiled() -> None:
    """Free the memory of all compiled programs, those of other libraries that use JAX included.

    Programs stay in memory for as long as the process runs. For each new number of columns, a
    `TNClassifier` of one small network leaves some 12 MB, one that chooses its embedding 30 MB; and
    90 and 220 of the memory maps of which Linux grants a process 65,530 unless told otherwise.
    Where this is called between such fits both stay level. What is used again is compiled again, or
    read from where `cache_compilations` has kept it; models and their results stay as they are.

    >>> import tn4ml_plus
    >>> tn4ml_plus.clear_compiled()
    """
    for cached in _bounded:
        cached.cache_clear()
    jax.clear_caches()


def compiled(function, **options):
    """`jax.jit` for large programs, compiled in less time; JAX refuses it inside another one.

    Parameters
    ----------
    function : callable
    **options : those of `jax.jit`
    """

    @functools.cache
    def jitted(compiler_options):
        return jax.jit(function, compiler_options=dict(compiler_options) or None, **options)

    @unforked
    @functools.wraps(function)
    def call(*args, **kwargs):
        unasked = not jax.config.read("jax_disable_most_optimizations")
        quickly = jax.default_backend() == "cpu" and unasked
        given = tuple(_COMPILER_OPTIONS.items()) if quickly else ()
        try:
            return jitted(given)(*args, **kwargs)
        except jax.errors.JaxRuntimeError as error:
            # Other versions may not know an option, or not this value of it.
            refused = re.search(r"(?:No such compile option:|setting option) '?(\w+)", str(error))
            if not refused or refused[1] not in dict(given):
                raise
            _COMPILER_OPTIONS.pop(refused[1], None)
            return call(*args, **kwargs)

    return call


@contextlib.contextmanager
def interruptible():
    """Context, or decorator, in which an interrupt stays one.

    JAX makes an error of values of one that comes while it compares the static fields of arguments.
    """
    try:
        yield
    except ValueError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        interrupt = KeyboardInterrupt()
        vars(interrupt).update(vars(error))  # the result of training so far
        raise interrupt from error


def on_threads(function, items, stop=None):
    """List of a function's values, computed on as many threads as there are cores.

    Of the options of JAX that a thread has of its own, all get those of the calling one, and its
    context variables. There are no more threads than the environment variable OMP_NUM_THREADS has.

    stop: an event, set where one of the calls fails or the caller is interrupted, which waits for
    the others that have begun. Those that take long look at it and end.

    >>> on_threads(abs, (-1, -2))
    [1, 2]
    """
    options = {name: getattr(jax.config, f"jax_{name}") for name in _OF_THREADS}
    context = contextvars.copy_context()

    def call(item):
        with contextlib.ExitStack() as stack:
            for name, value in options.items():
                stack.enter_context(getattr(jax, name)(value))
            return function(item)

    asked = os.environ.get("OMP_NUM_THREADS", "")
    n_threads = min(joblib.cpu_count(), int(asked) if asked.isdecimal() else sys.maxsize)
    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        try:
            return list(pool.map(lambda item: context.copy().run(call, item), items))
        except BaseException:
            if stop is not None:
                stop.set()
            raise


def ahead(items):
    """Items of an iterator, each made on another thread while the one before is in use.

    >>> list(ahead(iter((1, 2))))
    [1, 2]
    """
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item


def bounded_cache(maxsize):
    """Decorator: `functools.lru_cache` that `clear_compiled` clears.

    >>> @bounded_cache(2)
    ... def square(x):
    ...     return x * x
    >>> square(3), square.cache_info().currsize
    (9, 1)
    """

    def decorator(function):
        _bounded.append(functools.lru_cache(maxsize)(function))
        return _bounded[-1]

    return decorator


def cleared(mapping):
    """The mapping, which `clear_compiled` empties from now on."""
    _bounded.append(types.SimpleNamespace(cache_clear=mapping.clear))
    return mapping


def user_folder(name):
    """Folder of this library in the user's folder of caches."""
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        caches = "~/Library/Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "tn4ml_plus" / name


def _private(folder):
    """The real path of a folder that is the user's alone, made if need be."""
    folder = Path(os.path.abspath(folder))
    folder = folder.parent.resolve() / folder.name
    for parent in filter(Path.exists, folder.parents):
        _refuse_if_open(parent, f"Change that (chmod go-w '{parent}')", others=_ROOT, sticky=True)
    for path in reversed([folder, *folder.parents]):
        if not os.path.lexists(path):
            path.mkdir(mode=0o700, exist_ok=True)  # Another process makes it, too.
    if folder.is_symlink():
        _refuse(folder, "is a symbolic link", f"Give its target, {folder.resolve()}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder: remove it or give another folder.")
    _refuse_if_open(folder, f"Remove it with what others may have left there (rm -r '{folder}')")
    return folder


def _refuse_if_open(folder, remedy, others=(), sticky=False):
    """PermissionError where another user can change what is in a folder.

    others: users who may own it, too. sticky: whether a sticky folder will do, such as /tmp, where
    none but the owner of an entry replaces it.
    """
    if os.name != "posix":
        return
    status = folder.stat()
    if status.st_uid not in (os.getuid(), *others):
        _refuse(folder, "belongs to another user", "Give a folder of your own")
    is_open = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if is_open and not (sticky and status.st_mode & stat.S_ISVTX):
        _refuse(folder, "can be written to by others", remedy)


def _refuse(folder, fault, remedy):
    raise PermissionError(
        f"{folder} {fault}: whoever can change compiled programs runs code as you. {remedy}, or "
        "give another folder."
    )


def _trim(folder, max_bytes):
    """Remove the programs unused for longest from a folder that holds more bytes than allowed."""
    # JAX's programs and what XLA has learned of those of GPUs; nothing else that may lie there.
    files = []
    for path in [*folder.glob("*-cache"), *folder.glob("xla_gpu_*/*")]:
        with contextlib.suppress(FileNotFoundError):  # Another process trims the folder, too.
            status = path.stat()
            files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    excess = sum(size for _, size, _ in files) - max_bytes
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size
