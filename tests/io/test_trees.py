"""Nested values as JSON with their arrays aside."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tn4ml_plus._registry import _CLASSES, register
from tn4ml_plus.embeddings import Legendre, OneHot, PerFeature
from tn4ml_plus.io import from_tree, to_tree


def test_values_come_back():
    value = {
        "arrays": [np.arange(3), {"deep": (jnp.ones(2), np.float32(0.5))}],
        "noise": np.array(0.25),
        "names": np.array(["a", "b"], object),
        "embedding": PerFeature((Legendre(3), OneHot(2))),
        "history": {"loss": [1.0, None, np.nan]},
        3: (None, True, "x"),
    }
    arrays = {}
    tree = json.loads(json.dumps(to_tree(value, "state", arrays)))
    assert set(arrays) == {"state.arrays.0", "state.arrays.1.deep.0", "state.noise"}
    found = from_tree(tree, arrays)
    assert list(found) == list(value)
    np.testing.assert_array_equal(found["arrays"][0], np.arange(3))
    np.testing.assert_array_equal(found["arrays"][1]["deep"][0], np.ones(2))
    assert found["arrays"][1]["deep"][1] == 0.5
    assert found["noise"].shape == ()
    assert found["names"].dtype == object
    assert found["names"].tolist() == ["a", "b"]
    assert found["embedding"] == value["embedding"]
    assert found["history"]["loss"][:2] == [1.0, None]
    assert np.isnan(found["history"]["loss"][2])
    assert found[3] == (None, True, "x")


def test_objects_say_what_they_are_made_of():
    class Pair:
        def __init__(self, a, b):
            self.a, self.b = a, b

        def to_state(self):
            return {"sum": self.a + self.b, "a": self.a}

        @classmethod
        def from_state(cls, state):
            return cls(state["a"], state["sum"] - state["a"])

    register("state", "pair_of_a_test")(Pair)
    try:
        arrays = {}
        tree = to_tree([Pair(np.ones(2), np.arange(2))], "x", arrays)
        assert sorted(arrays) == ["x.0.a", "x.0.sum"]
        found = from_tree(tree, arrays)
        np.testing.assert_array_equal(found[0].b, np.arange(2))
        assert not arrays
    finally:
        _CLASSES["state"].pop("pair_of_a_test")


@pytest.mark.parametrize("value", [object(), {"a": print}, [1j], {1, 2}])
def test_other_objects_are_refused(value):
    with pytest.raises(TypeError, match="cannot be stored without running code"):
        to_tree(value, "x", {})
