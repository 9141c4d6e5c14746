"""Values that are held to annotations."""

import dataclasses
import typing
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NewType,
    NotRequired,
    Protocol,
    TypedDict,
)

import numpy as np
import pytest
from jaxtyping import Float, Int

from tn4ml_plus._schema import UNBOUNDED, check_fields
from tn4ml_plus.embeddings import Embedding, Legendre
from tn4ml_plus.tables import MinMax


@dataclasses.dataclass
class Fields:
    number: int
    numbers: tuple[int | None, ...] = ()
    pair: tuple[int, str] = (0, "")
    names: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    orders: Int[np.ndarray, "n_members nsites"] | None = None
    vectors: Float[np.ndarray, "nsites phys_dim"] | None = None
    values: Annotated[Float[np.ndarray, " n"], UNBOUNDED] | None = None
    embedding: Embedding | None = None
    way: Literal["up", "down"] = "up"
    function: Callable | None = None
    flag: bool = False
    anything: Any = None
    derived: int = dataclasses.field(default=0, init=False)


GOOD = [
    {"numbers": (1, None)},
    {"pair": (1, "a")},
    {"names": {"loss": [1.0, 2]}},
    {"orders": np.zeros((2, 3), int), "vectors": np.zeros((3, 4))},
    {"values": np.array([np.nan, np.inf])},
    {"embedding": Legendre(2)},
    {"flag": 1},
    {"way": "down", "function": len, "anything": object()},
]
BAD = [
    ({"number": True}, "number of Fields must be int, got True"),
    ({"number": 1.0}, "must be int, got 1.0"),
    ({"number": 10**30}, "must be int, got 1000"),
    ({"names": {"loss": [float("nan")]}}, "names of Fields"),
    ({"number": None}, "must be int, got None"),
    ({"numbers": [1]}, r"numbers of Fields must be tuple\[int"),
    ({"numbers": (1, "a")}, r"got \(1, 'a'\)"),
    ({"pair": (1,)}, r"pair of Fields must be tuple\[int, str\]"),
    ({"names": {"loss": [None]}}, "names of Fields"),
    ({"names": {1: [1.0]}}, "names of Fields"),
    ({"orders": np.zeros((2, 3))}, "orders of Fields .*an array of float64 of shape"),
    ({"orders": np.zeros((2, 3), int), "vectors": np.zeros((2, 4))}, "vectors of Fields"),
    ({"vectors": np.full((3, 4), np.nan)}, "not finite"),
    ({"values": np.zeros((2, 2))}, "values of Fields"),
    ({"embedding": MinMax()}, "embedding of Fields"),
    ({"way": "left"}, "way of Fields"),
    ({"flag": 2}, "flag of Fields must be bool, got 2"),
    ({"function": 3}, "function of Fields"),
    ({"derived": 1}, "Fields has no derived"),
    ({"other": 1, "more": 2}, "Fields has no more, other"),
]


LOOSE = typing.Tuple  # noqa: UP006, as others may write
Count = NewType("Count", int)


class Sized(Protocol):
    size: int


@pytest.mark.parametrize("hint", [LOOSE, Count, Sized, Final[tuple]])
def test_annotations_that_no_object_can_be_held_to_say_nothing(hint):
    cls = dataclasses.make_dataclass("Loose", [("field", hint)])
    check_fields(cls, {"field": (1, "a")})


def test_bare_generics_state_a_kind():
    cls = dataclasses.make_dataclass("Loose", [("pair", LOOSE), ("none", tuple[()])])
    with pytest.raises(ValueError, match="pair of Loose must be Tuple"):
        check_fields(cls, {"pair": [1], "none": ()})
    with pytest.raises(ValueError, match="none of Loose"):
        check_fields(cls, {"pair": (1,), "none": (1,)})


@pytest.mark.parametrize("values", GOOD, ids=lambda values: ", ".join(values))
def test_values_of_the_kind_pass(values):
    check_fields(Fields, {"number": 1} | values)


@pytest.mark.parametrize(("values", "words"), BAD)
def test_others_are_named(values, words):
    with pytest.raises(ValueError, match=words):
        check_fields(Fields, {"number": 1} | values)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="My model lacks number"):
        check_fields(Fields, {}, "My model")


def test_dicts_of_types_have_optional_names():
    class Result(TypedDict):
        loss: float
        noise: NotRequired[Float[np.ndarray, " n"]]

    check_fields(Result, {"loss": 1.0})
    check_fields(Result, {"loss": 1.0, "noise": np.zeros(2)})
    with pytest.raises(ValueError, match="Result lacks loss"):
        check_fields(Result, {})
    with pytest.raises(ValueError, match="noise of Result"):
        check_fields(Result, {"loss": 1.0, "noise": 2.0})


def test_annotations_that_cannot_be_read_say_nothing():
    @dataclasses.dataclass
    class Local:
        rate: "NameOfNobody"  # noqa: F821

    check_fields(Local, {"rate": object()})
    with pytest.raises(ValueError, match="Local has no more"):
        check_fields(Local, {"rate": 1, "more": 2})
