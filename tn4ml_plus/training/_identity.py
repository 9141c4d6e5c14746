"""The identity of a training: digests of all that its course depends on, by names for users."""

import dataclasses
import functools
import hashlib
import platform
import re
import types

import jax
import numpy as np

from .._registry import is_stored
from .._version import __version__

# Fields of problems as users know them.
_WORDS = {
    "params": "start", "anchor": "anchor", "structures": "networks", "objective": "loss",
    "phi": "samples", "X": "samples", "target": "targets", "y": "targets",
    "weight": "sample weights", "neutral": "vectors of dropped features", "orders": "site orders",
    "subsets": "samples of each network", "validation": "validation samples",
    "random_state": "random numbers", "seed": "random numbers", "key": "random numbers",
    "n_seen": "samples seen before", "state": "state of the trainer", "mean": "samples",
    "scale": "samples",
}  # fmt: skip
# Fields that end a training or show it, and do not change its course.
_ASIDE = {"callbacks", "verbose", "time_limit"}


def identity(trainer, problem) -> dict[str, str]:
    """Digests by name of what a training starts from, is told to do and is computed with.

    Parameters
    ----------
    trainer : Trainer
    problem : Trainable
    """
    config = jax.config
    found = {
        "version of tn4ml_plus": [__version__],
        "version of JAX": [jax.__version__],
        # Functions are told apart by their bytecode.
        "version of Python": [platform.python_version_tuple()[:2]],
        "precision": [config.jax_enable_x64, str(config.jax_default_matmul_precision)],
        "kind of device": [jax.default_backend()],
        "trainer": [type(trainer)],
    }
    for name, value in (*_fields(trainer), *_parts_of_problem(problem)):
        if name not in _ASIDE:
            found.setdefault(name, []).append((name, value))
    return {name: digest(values) for name, values in found.items()}


def _parts_of_problem(problem):
    """Names in words and values; those of samples one by one."""
    for name, value in _fields(problem):
        parts = value._asdict() if name == "samples" else {name: value}
        for own, part in parts.items():
            yield _WORDS.get(own, own), part
    if getattr(problem, "windows", None) is not None:
        yield "rows", (problem.windows.identity, problem.windows.lengths())


def _fields(value):
    """Pairs of names and values of a dataclass, without those that no file stores."""
    for field in dataclasses.fields(value):
        if is_stored(field):
            yield field.name, getattr(value, field.name, None)


def digest(value) -> str:
    """The digest of a value, the same in every process.

    Arrays count by their contents, objects by their class and fields, functions by their code and
    what they close over; what functions find in their module is not followed.

    >>> digest({"rate": 0.1}) == digest({"rate": 0.1}) != digest({"rate": 0.2})
    True
    >>> digest(lambda x: x + 1) != digest(lambda x: x + 2)
    True
    """
    return _Digests().of(value).hex()


class _Digests:
    """Digests of values and of those that they are made of, each of which is looked at once."""

    def __init__(self):
        # The values too, so that no other takes their id.
        self.known = {}

    def of(self, value):
        if id(value) not in self.known:
            self.known[id(value)] = value, b"what it is part of"
            self.known[id(value)] = value, self._made(value)
        return self.known[id(value)][1]

    def _made(self, value):
        kind, content, parts = _split(value)
        digests = [self.of(part) for part in parts]
        if isinstance(value, set | frozenset):
            digests.sort()
        found = hashlib.blake2b(kind.encode(), digest_size=16)
        found.update(b"\0%d\0" % len(digests))
        for each in digests:
            found.update(each)
        found.update(content)
        return found.digest()


def _split(value):
    """The kind of a value in words, bytes of its own, and the values that it is made of."""
    kind = _name(type(value))
    if type(value) in (int, float):
        # Alike where they are equal: a schedule of optax closes over an integer of which it makes a
        # float when it is called.
        return "number", _number(value).encode(), ()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return kind, repr(value).encode(), ()
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        return str(value.dtype), b"", (np.asarray(jax.random.key_data(value)),)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject:
            return "objects", b"", (array.tolist(),)
        flat = np.ascontiguousarray(array).reshape(-1)
        return f"{array.dtype}{array.shape}", memoryview(flat.view(np.uint8)), ()
    if isinstance(value, dict):
        return kind, b"", (*value.keys(), *value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return kind, b"", tuple(value)
    if isinstance(value, np.random.RandomState):
        return kind, b"", (value.get_state(legacy=False),)
    if isinstance(value, type | types.ModuleType):
        return kind, _name(value).encode(), ()
    if isinstance(value, functools.partial):
        return kind, b"", (value.func, value.args, value.keywords)
    if isinstance(value, types.MethodType):
        return kind, b"", (value.__func__, value.__self__)
    if isinstance(value, types.CodeType):
        return kind, value.co_code, (value.co_consts, value.co_names)
    if isinstance(value, types.FunctionType):
        closure = [_content(cell) for cell in value.__closure__ or ()]
        parts = value.__code__, value.__defaults__, value.__kwdefaults__, closure
        return kind, _name(value).encode(), parts
    if callable(value) and hasattr(value, "__wrapped__"):  # compiled, or with a rule of its own
        return kind, b"", (value.__wrapped__,)
    if dataclasses.is_dataclass(value):
        return kind, b"", tuple(_fields(value))
    if hasattr(value, "__dict__"):
        # What is computed once and kept is there or not.
        computed = {
            n for n, v in vars(type(value)).items() if isinstance(v, functools.cached_property)
        }
        return kind, b"", tuple(pair for pair in vars(value).items() if pair[0] not in computed)
    return kind, re.sub(r"0x[0-9a-f]+", "", repr(value)).encode(), ()


def _number(value):
    whole = type(value) is int and abs(value) > 2**53
    return repr(value if whole else float(value))


def _name(value):
    """The name of a class, function or module where it was defined."""
    own = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    return f"{getattr(value, '__module__', '')}.{own}"


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # of what is yet to be defined
        return None
