"""What all tests share."""

import os
from pathlib import Path

import jax
import pytest

# Tests compile far more than they compute, and this halves the time of it. Another version of XLA
# might not know the flags, which would end the process.
if jax.__version__.startswith("0.10.") and "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = (
        "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    )


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_code_of_a_module():
    """Drop what a module compiled: thousands of programs exhaust a process's memory maps."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def forget_compiled_code():
    """Drop what tests compiled before a long module exhausts the maps: Linux allows 65530."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def share_compiled_code(tmp_path_factory):
    """Let the workers of a run share what they compile, which is most of what tests do."""
    folder = tmp_path_factory.getbasetemp()
    # With several workers each has a folder of its own below that of the run.
    folder = folder.parent if folder.name.startswith("popen") else folder
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def quick():
    """For tests in which compiling takes the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def compilations():
    """List that grows with every trace and every compilation of JAX."""
    seen = []

    def listener(event, duration, **_):
        del duration
        if event.startswith("/jax/core/compile/"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listener)
