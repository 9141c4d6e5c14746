"""Arguments of the wrong type or value: ValueErrors that say what is allowed and what was got."""

import dataclasses
import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import tn4ml_plus  # noqa: F401, registers all variants
from tn4ml_plus._checks import (
    check_instance,
    check_int,
    check_number,
    float_tuple,
    function_tuple,
    untold,
    warn,
)
from tn4ml_plus._compiled import on_threads
from tn4ml_plus._registry import lookup, names
from tn4ml_plus.embeddings import Patches
from tn4ml_plus.errors import DivergenceWarning, InformationWarning

KINDS = ("embedding", "initializer", "network", "scaler", "schedule", "stopping", "trainer")
NUMBERS = (int, float, int | None, float | None)
FIELDS = [
    (cls, field)
    for kind in KINDS
    for cls in (lookup(kind, name) for name in names(kind))
    if cls.__module__.startswith("tn4ml_plus.")
    for field in dataclasses.fields(cls)
    if field.type in NUMBERS
]
every_number = pytest.mark.parametrize(
    ("cls", "field"), FIELDS, ids=[f"{cls.__name__}-{field.name}" for cls, field in FIELDS]
)


@every_number
@pytest.mark.parametrize("value", ["foo", [1], True, math.inf, math.nan, 1j, -5], ids=repr)
def test_numbers_of_every_variant_are_checked(cls, field, value):
    if value == -5 and cls is Patches:
        assert getattr(cls(**{field.name: value}), field.name) == value
        return
    with pytest.raises(ValueError, match=rf"^{field.name} must be .*, got ") as info:
        cls(**{field.name: value})
    assert str(info.value).endswith(f"got {value!r}.")


@every_number
def test_numbers_may_be_numpys(cls, field):
    value = 3 if field.default is None else field.default
    number = np.int32(value) if field.type in (int, int | None) else np.float64(value)
    assert cls(**{field.name: number}) == cls(**{field.name: value})


def test_every_kind_has_numbers_to_check():
    assert {cls.__module__.split(".")[1] for cls, _ in FIELDS} == {
        "embeddings", "initializers", "networks", "tables", "training",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_int("n", 1.0, 2), "n must be an integer of at least 2, got 1.0."),
        (lambda: check_int("n", None, 0), "n must be an integer of at least 0, got None."),
        (
            lambda: check_int("n", 0, 1, optional=True),
            "n must be an integer of at least 1, or None, got 0.",
        ),
        (lambda: check_number("r", math.nan), "r must be a finite number, got nan."),
        (lambda: check_number("r", 0, above=0), "r must be a finite number above 0, got 0."),
        (
            lambda: check_number("r", 1.0, at_least=0, below=1, optional=True),
            "r must be a finite number of at least 0 and below 1, or None, got 1.0.",
        ),
        (lambda: check_number("r", -0.5, at_least=0), "a finite number of at least 0, got -0.5."),
        (lambda: check_instance("r", "x", int), "r must be an instance of int, got 'x'."),
        (lambda: float_tuple("r", 3), "r must be a sequence of numbers, got 3."),
        (lambda: float_tuple("r", "12"), "each number in r must be a finite number, got '1'."),
        (lambda: float_tuple("r", (0.0, math.inf)), "each number in r must be .*, got inf."),
        (lambda: float_tuple("r", [[1.0], [1.0, 2.0]]), r"each number in r .*, got \[1.0\]."),
        (lambda: function_tuple("f", abs), "f must be a sequence of functions, got <built-in"),
        (lambda: function_tuple("f", [abs, 1]), "f must be a sequence of functions"),
        (lambda: function_tuple("f", None), "f must be a sequence of functions, got None."),
    ],
)
def test_messages(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_what_is_allowed_passes():
    for value in (2, np.int64(2), np.uint8(200)):
        check_int("n", value, 2)
        check_number("r", value, at_least=2)
    for value in (0.5, np.float32(0.5), np.float64(0.5)):
        check_number("r", value, above=0, below=1)
    check_number("r", 0, at_least=0, below=1)
    check_int("n", None, 2, optional=True)
    check_number("r", None, above=2, optional=True)
    check_instance("r", None, int, optional=True)
    assert function_tuple("f", [abs]) == (abs,)


@pytest.mark.parametrize("make", [list, tuple, np.array, jnp.array, iter])
def test_float_tuple_takes_any_sequence(make):
    values = float_tuple("r", make([1, 0.5]))
    assert values == (1.0, 0.5)
    assert {type(value) for value in values} == {float}


def told(category, thread):
    """Whether a warning of a category is told, here or on a thread of `on_threads`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        on_threads(lambda _: warn("It.", category), [0]) if thread else warn("It.", category)
    return len(caught) == 1


@pytest.mark.parametrize("thread", [False, True])
def test_what_is_untold_is_not_told_and_the_filters_stay(thread):
    with untold(DivergenceWarning):
        before = list(warnings.filters)
        with untold(InformationWarning):
            assert warnings.filters == before
            assert not told(DivergenceWarning, thread)
            assert not told(InformationWarning, thread)
            assert told(UserWarning, thread)
        assert told(InformationWarning, thread)
    assert told(DivergenceWarning, thread)
