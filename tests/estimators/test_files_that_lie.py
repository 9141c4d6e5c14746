"""Model files that contradict themselves are refused before anything is built of them."""

import json
import tracemalloc

import numpy as np
import pytest

from tn4ml_plus import DTTNClassifier, TNBornMachine, TNClassifier, TNTransformer, _registry, load
from tn4ml_plus.errors import ModelFileError
from tn4ml_plus.image import Variant
from tn4ml_plus.io import read, write

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
Y = np.array(["cat", "dog"])[(X[:, 0] > 0).astype(int)]


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Arrays and metadata of fitted models by name."""
    small = {"max_epochs": 1, "random_state": 0}
    models = {
        "classifier": TNClassifier(2, n_members=2, **small).fit(X, Y),
        "tree": TNClassifier(2, n_members=1, network="ttn", **small).fit(X, Y),
        "transformer": TNTransformer(2).fit(X),
        "density": TNBornMachine(2, **small).fit(X),
        "image": DTTNClassifier(Variant((4,), (1,)), **small).fit(rng.random((40, 4, 4)), Y),
    }
    found = {}
    for name, model in models.items():
        model.save(path := tmp_path_factory.mktemp("models") / name)
        found[name] = read(path)
    return found


def lie(contents, path, place, value):
    """Write a file with a part of its metadata, or an array, replaced; its checksum fits.

    place: dotted, numbers for lists; the first "arrays" or a part of the metadata. A function as
    the value gets the old one; None removes it.
    """
    arrays, content = contents
    parts = {"arrays": dict(arrays), **json.loads(json.dumps(content))}
    *above, last = [int(part) if part.isdigit() else part for part in place.split("/")]
    at = parts
    for part in above:
        at = at[part]
    value = value(at.get(last)) if callable(value) else value
    if value is None:
        del at[last]
    else:
        at[last] = value
    write(path, parts.pop("arrays"), parts)


ENSEMBLE, READER = "state/_ensemble/fields", "state/_reader/fields"
CHAIN = f"{ENSEMBLE}/structures/list/0/fields"
LEFT, ORDERS = "arrays/_ensemble.networks.0.left", "arrays/_ensemble.orders"
LABELS = "state/classes_/labels"
VARIANT = {"kind": "variant", "class": "variant"}


def with_nan(array):
    array = array.copy()
    array.flat[0] = np.nan
    return array


LIES = {
    "attributes of other names": ("classifier", "state/predict", 3, "has no predict"),
    "a missing attribute": ("classifier", "state/n_iter_", None, "lacks n_iter_"),
    "an attribute of another kind": ("classifier", "state/n_iter_", "two", "n_iter_ of"),
    "no estimator": ("classifier", "estimator", "os.system", "Unknown estimator"),
    "an unknown parameter": ("classifier", "parameters/path", "/etc", "unexpected keyword"),
    "labels without end": ("classifier", f"{LABELS}/dtype", "<U100000000", "far longer"),
    "a third label": ("classifier", f"{LABELS}/values", ["cat", "dog", "eel"], "outputs are not 3"),
    "labels in another order": ("classifier", f"{LABELS}/values", ["dog", "cat"], "not sorted"),
    "labels of two kinds": ("classifier", f"{LABELS}/values", ["cat", 1], "none of the kind"),
    "epochs that were not": ("classifier", "state/n_iter_", 7, "n_iter_ epochs"),
    "NaN in a core": ("classifier", LEFT, with_nan, "not all finite"),
    "a core cut off": ("classifier", LEFT, lambda a: a[..., :1], "share a bond"),
    "integers for a core": ("classifier", LEFT, lambda a: a.astype(int), "not all finite floats"),
    "no core": ("classifier", LEFT, None, "there is no array"),
    "an array of nobody": ("classifier", "arrays/more", lambda _: np.zeros(2), "nothing holds"),
    "a site read twice": ("classifier", ORDERS, np.zeros_like, "every site once"),
    "fewer samples than none": ("classifier", f"{ENSEMBLE}/n_seen", -1, "cannot have seen -1"),
    "a category twice": (
        "classifier", f"{READER}/levels/tuple/0", {"tuple": ["a", "a"]}, "categories occur twice"
    ),
    "fewer networks": ("classifier", ORDERS, lambda a: a[:1], "of which there are others"),
    "bonds of another size": (
        "classifier", f"{CHAIN}/bond_dims/tuple/1", 10**9, "do not fit its structure"
    ),
    "names without end": (
        "classifier", f"{CHAIN}/site_ind_id", "{:>1000000000}", "site_ind_id must be like"
    ),
    "squares of outputs": ("classifier", f"{ENSEMBLE}/squared", True, "not of a classification"),
    "a loss of another task": (
        "classifier", f"{ENSEMBLE}/loss/class", "squared_error", "SquaredError has no"
    ),
    "vectors of another size": (
        "classifier", f"{READER}/embedding/fields/degree", 10**9, "not of the shape"
    ),
    "an embedding that is none": (
        "classifier", f"{READER}/embedding",
        {"kind": "scaler", "class": "min_max", "fields": {}}, "embedding of TableReader must be",
    ),
    "a scaler without numbers": (
        "classifier", f"{READER}/scaler_state", {"dict": []}, "quantiles"
    ),
    "no deviation of a column": (
        "density", "arrays/_reader.scaler_state.deviation", np.zeros_like, "state of GaussianCDF"
    ),
    "vectors beyond single precision": (
        "classifier", "arrays/_reader.neutral", lambda a: a * 1e300, "are not finite"
    ),
    "cores beyond single precision": (
        "classifier", LEFT, lambda a: a.astype(float) * 1e300, "too large for the present precision"
    ),
    "columns of other kinds": (
        "classifier", f"{READER}/kinds/tuple/0", "categories", "column 0 holds categories"
    ),
    "a reader past its checks": (
        "classifier", "state/_reader",
        {"kind": "state", "class": "table_reader", "fields": {}}, "stands where none can be",
    ),
    "more columns": ("classifier", "state/n_features_in_", 4, "not those of the reader"),
    "leaves without end": (
        "tree", f"{CHAIN}/tree/fields/nsites", 10**9, "must be a child of exactly one node"
    ),
    "a node of other sizes": (
        "transformer", "arrays/isometries_.0", lambda a: a[:1], "does not join vectors"
    ),
    "sites that do not remain": ("transformer", "state/phys_dims_/tuple", [3], "sites_ and their"),
    "channels without end": (
        "image", "parameters/variant/fields/channels/tuple", [20_000], "are not Variant"
    ),
    "blocks without end": (
        "image", "parameters/variant/fields/layers/tuple", [10**9], "are not Variant"
    ),
    "another image": ("image", "state/image_shape_/tuple", [10**6, 9, 1], "images of the shape"),
    "no deviation": ("image", "arrays/scale_", np.zeros_like, "must be positive"),
}  # fmt: skip


@pytest.mark.parametrize("lied", LIES)
def test_lies_are_refused_in_words(lied, contents, tmp_path):
    model, place, value, words = LIES[lied]
    lie(contents[model], tmp_path / "file", place, value)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=words) as refused:
            load(tmp_path / "file")
        assert str(refused.value).startswith(f"'{tmp_path / 'file'}' cannot be loaded: ")
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_truth_is_loaded(contents, tmp_path):
    for name, (arrays, content) in contents.items():
        write(tmp_path / name, arrays, content)
        assert load(tmp_path / name).get_params() is not None


def test_every_flipped_bit_is_told(contents, tmp_path):
    path = tmp_path / "file"
    write(path, *contents["classifier"])
    data = path.read_bytes()
    places = np.random.default_rng(1).integers(len(data), size=200)
    places[:50] = len(data) - 1 - np.arange(50)
    told = 0
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(place % 8)
        path.write_bytes(changed)
        try:
            load(path)
        except ModelFileError:
            told += 1
    # Blanks and the order of names in JSON say nothing.
    assert told >= len(places) - 3


def test_an_older_file_has_no_checksum_and_a_newer_one_must(contents, tmp_path):
    path = tmp_path / "file"
    write(path, *contents["classifier"])
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]["tn4ml_plus_sha256"]
    document = json.loads(header["__metadata__"]["tn4ml_plus"])
    for version, refused in ((2, False), (3, True)):
        document["format_version"] = version
        header["__metadata__"]["tn4ml_plus"] = json.dumps(document)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        if refused:
            with pytest.raises(ModelFileError, match="checksum differs"):
                load(path)
        else:
            assert load(path).classes_.tolist() == ["cat", "dog"]


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    model = TNClassifier(2, n_members=1, max_epochs=1, random_state=0).fit(X, Y)
    model.network_["I0"].modify(data=np.full_like(model.network_["I0"].data, np.inf))
    with pytest.raises(ValueError, match=r"cannot be saved.*not all finite floats\.$"):
        model.save(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_class_of_ones_own_is_saved_once_it_is_registered(tmp_path, monkeypatch):
    class Own(TNClassifier):
        pass

    model = Own(2, n_members=1, max_epochs=1, random_state=0).fit(X, Y)
    with pytest.raises(ValueError, match=r"does not know Own: .*register\(\"estimator\"\)\.$"):
        model.save(tmp_path / "file")
    monkeypatch.setitem(_registry._CLASSES["estimator"], "own", Own)
    model.save(tmp_path / "file")
    assert type(load(tmp_path / "file")) is Own
