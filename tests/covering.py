"""Covering arrays: few rows in which the values of any two axes meet."""

import itertools
import random

import pytest


def pairs(*axes, seed=0):
    """Rows that together hold every pair of values of every two axes.

    Where the code behind the axes meets in two places at most, a fault lies in one value or in the
    meeting of two, and the full product finds no more than these rows.
    """
    rng = random.Random(seed)
    sizes = [len(axis) for axis in axes]
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(range(len(axes)), 2)
        for i, j in itertools.product(range(sizes[a]), range(sizes[b]))
    }
    rows = []
    while missing:
        wanted = dict(min(missing))
        tries = [
            [wanted.get(a, rng.randrange(size)) for a, size in enumerate(sizes)] for _ in range(30)
        ]
        held = [missing & set(itertools.combinations(enumerate(row), 2)) for row in tries]
        best = max(range(len(tries)), key=lambda k: len(held[k]))
        missing -= held[best]
        rows.append(tuple(axis[i] for axis, i in zip(axes, tries[best], strict=True)))
    return rows


def mostly_long(rows, seed=0):
    """Parameters of the same rows: those that bring a value not seen before, the others long."""
    parameters, seen = [], set()
    for row in random.Random(seed).sample(rows, len(rows)):
        values = {(axis, str(value)) for axis, value in enumerate(row)}
        parameters.append(pytest.param(*row, marks=[pytest.mark.long] if values <= seen else []))
        seen |= values
    return parameters


def mostly_of(rows, *axes, seed=0):
    """Parameters of the same rows: those that bring values of these axes together, others long."""
    parameters, seen = [], set()
    for row in random.Random(seed).sample(rows, len(rows)):
        values = tuple(str(row[axis]) for axis in axes)
        parameters.append(pytest.param(*row, marks=[pytest.mark.long] if values in seen else []))
        seen.add(values)
    return parameters
