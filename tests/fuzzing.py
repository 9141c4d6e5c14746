"""Files that lie, made by a seeded mutator, and what loading them comes to.

``python tests/fuzzing.py --seconds 60`` loads mutated files of every kind for a minute and fails
where one is neither refused by a `ModelFileError` nor a whole model. Some mutations change bytes,
others what a file says, with a checksum that fits again, as one who means harm would write it.
"""

import argparse
import collections
import dataclasses
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tn4ml_plus
from tn4ml_plus.errors import ModelFileError
from tn4ml_plus.io import read, write

# Values that no field was made for.
STRANGE = (
    None, True, -1, 0, 1, 2, 3, 255, 2**31, 2**63, 10**9, 10**30, 0.5, -0.0, 1e308, -1e-308,
    float("nan"), float("inf"), "", "k", "k{}{}", "{:>1000000000}", "array", "legendre", "\0", "é",
    [], [0], {}, {"tuple": []}, {"list": []}, {"dict": []}, {"dict": [[1, 2]]}, {"array": "none"},
    {"labels": {"dtype": "<U100000000", "values": ["a", "b"]}},
    {"labels": {"dtype": "V8", "values": [1]}}, {"labels": {"dtype": "|O", "values": [[1]]}},
    {"class": "legendre", "kind": "embedding", "fields": {"degree": 10**9}},
    {"class": "one_hot", "kind": "embedding", "fields": {"levels": 10**9}},
    {"class": "tree", "kind": "tree", "fields": {"nsites": 10**9, "nodes": {"tuple": []}}},
    {"class": "aim", "kind": "block", "fields": {}}, {"state": "view", "fields": {}},
    {"state": "os.system", "fields": {"command": "true"}},
)  # fmt: skip
SECONDS_PER_FILE = 15
MEGABYTE = 2**20


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file: its bytes, how it is loaded, and numbers that show that it works."""

    name: str
    data: bytes
    load: Callable
    use: Callable

    @classmethod
    def of(cls, name, save, load, use):
        """The kind of what `save` writes to a path."""
        with tempfile.TemporaryDirectory() as folder:
            save(path := Path(folder, "file"))
            return cls(name, path.read_bytes(), load, use)


def models():
    """Fitted estimators of all kinds, and what is asked of each."""
    import pandas as pd

    from tn4ml_plus.image import Variant

    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = np.array(["cat", "dog"])[(X[:, 0] > 0).astype(int)]
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(
        c=rng.integers(0, 3, 40).astype(str), d=pd.date_range("2020", periods=40, freq="7h")
    )
    frame.loc[::5, "b"] = np.nan
    images = rng.random((40, 4, 4))
    small = {"max_epochs": 1, "random_state": 0}
    classifier = tn4ml_plus.TNClassifier(2, n_members=2, **small)
    dttn = tn4ml_plus.DTTNClassifier(Variant((4,), (1,)), **small).fit(images, y)
    detector = tn4ml_plus.TNAnomalyDetector
    return {
        "classifier of a frame": (classifier.fit(frame, y), "predict_proba", frame),
        "classifier, streamed": (
            tn4ml_plus.TNClassifier(2, n_members=1, network="ttn", **small).partial_fit(
                X, y, np.unique(y)
            ),
            "predict_proba",
            X,
        ),
        "classifier, generic": (
            tn4ml_plus.TNClassifier(2, n_members=1, network="mera", **small).fit(X, y),
            "predict_proba",
            X,
        ),
        "regressor": (tn4ml_plus.TNRegressor(2, n_members=2, **small).fit(X, X), "predict", X),
        "Born machine": (tn4ml_plus.TNBornMachine(2, **small).fit(frame), "score_samples", frame),
        "detector": (detector(2, **small).fit(X), "score_samples", X),
        "detector, operator": (
            detector(2, network="smpo", loss="log_quadratic", **small).fit(X),
            "score_samples",
            X,
        ),
        "transformer": (tn4ml_plus.TNTransformer(2).fit(frame), "transform", frame),
        "image classifier": (dttn, "predict_proba", images),
        "image classifier, folded": (dttn.fold_batchnorm(), "predict_proba", images),
    }


def generators():
    """Generators, and trees like them."""
    import jax

    from tn4ml_plus import generators as g

    def make(seed):
        whole = g.ATTNGenerator((16, 16), key=jax.random.key(seed))
        return {"plain": whole, "small": g.quantise(whole, 4)}

    return make(0), make(1)


def training():
    """Functions that train a network from the start to a checkpoint, and go on from there."""
    import jax

    from tn4ml_plus.contraction import pack
    from tn4ml_plus.losses import CrossEntropy
    from tn4ml_plus.networks import MPS
    from tn4ml_plus.training import Gradient, Problem, Samples

    packed, structure = pack(MPS.random(4, bond_dim=3, n_outputs=2, key=jax.random.key(0)))
    params = jax.tree.map(lambda leaf: leaf[None], packed)
    rng = np.random.default_rng(0)
    phi, target = rng.random((12, 4, 2)).astype("f4"), rng.integers(2, size=12)
    samples = Samples(phi, target, np.ones(12, "f4"))

    def train(path):
        given = (structure,), CrossEntropy(), params, params, samples, 12, np.ones((4, 2), "f4")
        problem = Problem(*given, random_state=np.random.RandomState(0))
        trainer = Gradient(max_epochs=3, batch_size=6, feature_dropout=0.1, checkpoint=path)
        return trainer.train(problem)

    return train


def older():
    """Files of the first format, with what they predict from."""
    import pandas as pd

    folder = Path(__file__).parent / "estimators" / "format_1"
    expected = np.load(folder / "predictions.npz")
    X = expected["X"]
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(c=np.where(X[:, 2] > 0, "u", "v"))
    methods = {
        "tn_classifier": ("predict_proba", frame), "tn_regressor": ("predict", X),
        "tn_born_machine": ("score_samples", frame), "tn_transformer": ("transform", X),
        "tn_anomaly_detector": ("score_samples", X),
        "dttn_classifier": ("predict_proba", expected["images"]),
    }  # fmt: skip
    for name, use in methods.items():
        yield f"{name}, format 1", (folder / f"{name}.safetensors").read_bytes(), use


def kinds():
    """All kinds of files that the library reads."""
    from tn4ml_plus import generators as g

    def using(method, X):
        return lambda loaded: np.asarray(getattr(loaded, method)(X[:5]), float)

    found = []
    for name, (model, *use) in models().items():
        found.append(Kind.of(name, model.save, tn4ml_plus.load, using(*use)))
    for name, data, use in older():
        found.append(Kind(name, data, tn4ml_plus.load, using(*use)))
    from jax.tree import leaves

    saved, like = generators()

    def weights(tree):
        return np.stack([np.asarray(tree[name]()) for name in sorted(tree)])

    def load(path):
        return g.load(path, like)

    found.append(Kind.of("generators", lambda path: g.save(path, saved), load, weights))
    train = training()

    def arrays(result):
        return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in leaves(result.params)])

    found.append(Kind.of("checkpoint", train, train, arrays))
    return found


# Mutations of bytes, which no checksum fits.


def flipped(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def spliced(data, rng):
    start, stop, to = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    parts = (
        data[:start],  # a file cut off
        data[:start] + data[stop:],
        data[:stop] + data[start:],
        data[:start] + bytes(stop - start) + data[stop:],
        data[:start] + rng.randbytes(rng.randrange(64)) + data[stop:],
        data[:start] + data[stop:to] + data[start:stop] + data[to:],
    )
    return rng.choice(parts)


def reheaded(data, rng):
    """The JSON that describes a file's arrays and holds its metadata, changed."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.5:
        header = changed(header, rng)
    else:
        name = rng.choice(sorted(header["__metadata__"]))
        text = header["__metadata__"][name]
        header["__metadata__"][name] = (
            json.dumps(changed(json.loads(text), rng))
            if name == "tn4ml_plus"
            else flipped(text.encode(), rng).decode(errors="replace")
        )
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


# Mutations of what a file says, with a checksum that fits.


def changed(tree, rng):
    """A JSON value with one of its parts changed."""
    tree = {"root": json.loads(json.dumps(tree))}
    places, waiting = [], [tree]
    while waiting:
        container = waiting.pop()
        keys = container if isinstance(container, dict) else range(len(container))
        for key in list(keys):
            places.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    container, key = rng.choice(places)
    value, way = container[key], rng.randrange(6)
    if way == 0 and container is not tree:
        del container[key]
    elif way == 1 and isinstance(container, list):
        container.insert(key, value)
    elif way == 2:
        other, at = rng.choice(places)
        container[key] = json.loads(json.dumps(other.get(at) if isinstance(other, dict) else value))
    elif way == 3 and type(value) in (int, float):
        factor = rng.choice((-1, 0, 2, 10, 10**6))
        container[key] = rng.choice((value + 1, value - 1, value * factor))
    elif way == 4 and isinstance(container, dict) and container is not tree:
        container[rng.choice(("predict", "nsites", "value", str(key) + "_"))] = container.pop(key)
    else:
        container[key] = rng.choice(STRANGE)
    return tree["root"]


def rearranged(arrays, rng):
    """Arrays by name, one of them changed."""
    if not arrays:
        return {"more": np.zeros(2)}
    arrays, name = dict(arrays), rng.choice(sorted(arrays))
    array, other = np.array(arrays[name]), arrays[rng.choice(sorted(arrays))]
    flat = array.reshape(-1)
    if flat.size and array.dtype.kind == "f" and rng.random() < 0.5:
        flat[rng.randrange(flat.size)] = rng.choice(
            (np.nan, np.inf, -np.inf, 0, 1e30, -1e30, 1e300, 5e-324)
        )
        return arrays | {name: array}
    ways = (
        lambda: arrays | {name + "_": arrays.pop(name)},
        lambda: {n: a for n, a in arrays.items() if n != name},
        lambda: arrays | {"more": array},
        lambda: arrays | {name: other},
        lambda: arrays | {name: array.T},
        lambda: arrays | {name: flat},
        lambda: arrays | {name: array[..., :-1] if array.ndim else array[None]},
        lambda: arrays | {name: array[:1] if array.ndim else array},
        lambda: arrays | {name: np.concatenate([flat, flat])},
        lambda: arrays | {name: np.zeros_like(array)},
        lambda: arrays | {name: -array if array.dtype != bool else ~array},
        lambda: arrays | {name: array.astype(rng.choice(("f2", "f8", "i8", "u1", "?")))},
        lambda: arrays | {name: np.zeros((0, *array.shape[1:]))},
        lambda: arrays | {name: np.float64(0.5)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rng.choice(ways)()


def rewritten(data, rng, folder):
    """A file that says something else, of the newest format or, without a checksum, an older."""
    path = folder / "whole"
    path.write_bytes(data)
    arrays, content = read(path)
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.4:
            arrays = rearranged(arrays, rng)
        else:
            content = changed(content, rng)
    write(path, arrays, content)
    data = path.read_bytes()
    if rng.random() < 0.7:
        return data
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]["tn4ml_plus_sha256"]
    document = {"format_version": rng.choice((1, 2)), "content": content}
    header["__metadata__"]["tn4ml_plus"] = json.dumps(document)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


class Hang(BaseException):
    """A file took too long."""


def outcome(kind, data, expected, is_honest, folder):
    """What loading and using a file comes to, in words; those of faults begin with FAULT.

    is_honest: whether a checksum still tells all changes, so that a model must be the whole one.
    """
    path = folder / "file"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(SECONDS_PER_FILE)
    try:
        try:
            loaded = kind.load(path)
        except ModelFileError as error:
            found = "refused"
            if isinstance(error.__cause__, MemoryError):
                found = f"FAULT, memory: {error}"
        else:
            found = used(kind, loaded, expected, is_honest)
    except Hang:
        found = "FAULT, hangs"
    except Exception as error:
        found = f"FAULT at load: {type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"
    finally:
        signal.alarm(0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before * 1024
    if grown > 100 * MEGABYTE + len(data):
        found = f"FAULT, {grown / MEGABYTE:.0f} MB: {found}"
    return found


def used(kind, loaded, expected, is_honest):
    """What using a loaded model comes to, in words."""
    try:
        values = kind.use(loaded)
    except ValueError as error:
        # A model of other columns is none of these.
        return f"FAULT at use: {error}" if is_honest else "refuses these rows"
    except Exception as error:
        text = traceback.format_exc()[-1500:]
        return f"FAULT at use: {type(error).__name__}: {error}\n{text}"
    if values.shape != expected.shape:
        return "FAULT, shape" if is_honest else "another shape"
    if not np.isfinite(values).all():
        # Large weights are weights, and of rows far from all others the density is zero.
        allowed = kind.name == "generators" or (values < np.inf).all()
        return "FAULT, not finite" if is_honest or not allowed else "infinite numbers"
    if np.array_equal(values, expected):
        return "the same"
    return "FAULT, other numbers" if is_honest else "other numbers"


def mutated(kind, rng, folder):
    """A mutated file of a kind, and whether its checksum tells all changes."""
    has_checksum = b"tn4ml_plus_sha256" in kind.data
    way = rng.choice((flipped, spliced, reheaded, rewritten, rewritten, rewritten))
    if way is rewritten:
        return rewritten(kind.data, rng, folder), False
    return way(kind.data, rng), has_checksum


def run(seed, n_files, seconds=float("inf"), every=None, chosen=None):
    """Counts of outcomes by kind, and faults as (kind, number, words).

    Parameters
    ----------
    seed : int
    n_files : int or None, number of mutated files
    seconds : float, after which no more are tried
    every : list of Kind, by default all
    chosen : int, optional, the number of the only file to try
    """

    def stop(*_):
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    every, counts, faults = every or kinds(), collections.Counter(), []
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        expected = []
        for kind in every:
            (folder / "file").write_bytes(kind.data)
            expected.append(kind.use(kind.load(folder / "file")))
        end, number = time.monotonic() + seconds, 0
        numbers = [chosen] if chosen is not None else None
        while (n_files is None or number < n_files) and time.monotonic() < end:
            if numbers is not None and number not in numbers:
                number += 1
                continue
            rng, at = random.Random(f"{seed} {number}"), number % len(every)
            data, is_honest = mutated(every[at], rng, folder)
            words = outcome(every[at], data, expected[at], is_honest, folder)
            counts[every[at].name, words.partition(":")[0].partition("\n")[0]] += 1
            if words.startswith("FAULT"):
                faults.append((every[at].name, number, words))
            number += 1
    return counts, faults


def tabulated(counts):
    """A Markdown table of outcomes by kind."""
    outcomes = sorted({words for _, words in counts}, key=lambda w: -_total(counts, w))
    names = list(dict.fromkeys(name for name, _ in counts))
    rows = [["file", *outcomes], ["---", *["---:"] * len(outcomes)]]
    rows += [[name, *(f"{counts[name, words]:,}" for words in outcomes)] for name in names]
    rows.append(["all", *(f"{_total(counts, words):,}" for words in outcomes)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _total(counts, words):
    return sum(count for (_, other), count in counts.items() if other == words)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, help="number of files; by default as time allows")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", type=int, help="number of the only file to try")
    parser.add_argument("--out", type=Path, help="Markdown file for a table of the outcomes")
    options = parser.parse_args()
    n_files = options.files if options.only is None else options.only + 1
    counts, faults = run(options.seed, n_files, options.seconds, chosen=options.only)
    table = tabulated(counts)
    sys.stdout.write(table)
    if options.out is not None:
        options.out.write_text(
            f"{counts.total():,} mutated files, seed {options.seed}: what loading and predicting "
            f"came to.\n\n{table}"
        )
    for kind, number, words in faults[:20]:
        sys.stdout.write(f"\n{kind}, seed {options.seed}, number {number}\n{words}\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
