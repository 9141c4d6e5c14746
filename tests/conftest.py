"""What all tests share."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_code():
    """Drop what a module compiled: thousands of programs exhaust a process's memory maps."""
    yield
    jax.clear_caches()
