"""What all tests share: the compile cache, the order of the files, fixtures."""

import gc
import os
import subprocess
import sys
from collections import Counter

import jax
import jaxlib
import pytest
from _pytest.doctest import DoctestItem
from shape_checks import check_shapes

check_shapes()

# Tests compile far more than they compute. A setting of JAX and the first flag divide the time by
# four; one module of LLVM for each program, instead of thirty, takes a quarter of what is left.
SPEED = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
CACHE_BYTES = 1 << 30
# CPU seconds of the slowest files, which are started first so that no worker ends with one alone.
SECONDS = {
    "tests/contraction/test_generic.py": 25,
    "tests/contraction/test_operator.py": 25,
    "tests/embeddings/test_embeddings.py": 25,
    "tests/estimators/test_anomaly.py": 25,
    "tests/estimators/test_born.py": 20,
    "tests/estimators/test_check_estimator.py": 30,
    "tests/estimators/test_clusters.py": 20,
    "tests/estimators/test_estimators.py": 40,
    "tests/estimators/test_image_classifier.py": 30,
    "tests/estimators/test_looking_inside.py": 25,
    "tests/estimators/test_selection.py": 30,
    "tests/generators/test_generators.py": 40,
    "tests/generators/test_models.py": 30,
    "tests/generators/test_parts.py": 25,
    "tests/image/test_dttn.py": 20,
    "tests/tables/test_kinds.py": 35,
    "tests/test_accelerators.py": 45,
    "tests/test_axes.py": 45,
    "tests/test_cartesian.py": 25,
    "tests/training/test_checkpoints.py": 45,
    "tests/training/test_gradient.py": 35,
    "tests/training/test_sweep.py": 60,
}
# Tests whose results the processor rounds, by how they begin: .ci/run all repeats them on others.
NUMERICAL = (
    "tests/contraction",
    "tests/embeddings",
    "tests/losses",
    "tests/training/test_gradient.py",
    "tests/training/test_sweep.py::test_gradients",
    "tests/training/test_sweep.py::test_local_gradients",
    "tests/training/test_sweep.py::test_steps",
    "tests/training/test_sweep.py::test_what_is_above",
)
# Doctests that compile for ten seconds and more; tests of the same room try what they show.
LONG_EXAMPLES = {
    "BrickWallGenerator",
    "CompressionPipeline",
    "Conv2d",
    "DTTNClassifier",
    "MultiheadAttention",
    "TNAnomalyDetector",
    "TNBornMachine",
    "TNClassifier",
    "TNRegressor",
    "TrainingDisplay",
    "compress",
    "grow",
    "inspection",
}
# Estimators that read, check and train much as TNClassifier does, and words of the checks in which
# they differ from it.
DIFFERENT = {
    "DTTNClassifier": ("classifiers_train", "one_label"),
    "TNRegressor": (
        "partial_fit",
        "regressors_train",
        "multioutput",
        "regressors_int",
        "supervised",
    ),
    **dict.fromkeys(("TNAnomalyDetector", "TNBornMachine"), ("outlier", "partial_fit")),
}
# Checks of TNClassifier of which one is known to fail and of which tests of its own ask the others
# more strictly: what balanced weights are, which score has which probability, labels and columns of
# all kinds, and that pickled, cloned and piped models are the same. Each trains on tables of other
# shapes.
ASKED = (
    "class_weight_classifiers", "classifiers_classes", "decision_proba_consistency", "dtype",
    "estimators_pickle", "pipeline_consistency", "sample_weight_equivalence",
)  # fmt: skip
# A program holds some three megabytes, and up to thirty of the memory maps that a process may have:
# how many there may be at all, and when a file begins, whose tests share what they compile.
PROGRAMS, PROGRAMS_OF_OTHERS = 600, 200


def cache_folder():
    """Folder of compiled programs, or None where others could write what would be executed."""
    from tn4ml_plus import _compiled  # only now, as its shapes are to be checked

    try:
        return _compiled.cache_compilations(_compiled.user_folder("tests"), max_bytes=CACHE_BYTES)
    except OSError:
        return None


def known(flag, folder):
    """Whether this jaxlib knows a flag: one that it does not know ends the process."""
    answer = folder and folder / f"flag-{jaxlib.__version__}{flag}"
    if answer and answer.exists():
        return answer.read_text() == "known"
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    probe = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=os.environ | {"XLA_FLAGS": flag},
        check=False,
        **silent,
    )
    if answer:
        answer.write_text("unknown" if probe.returncode else "known")
    return probe.returncode == 0


def share(name, value):
    """Set an option of JAX here, in the workers and in what tests start."""
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)


def set_up():
    """Have JAX be strict, compile quickly unless told otherwise, and keep what is compiled."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # Workers have inherited all of it.
    folder = cache_folder()
    # Nothing is broadcast or promoted that is not said to be.
    share("jax_numpy_rank_promotion", "raise")
    share("jax_numpy_dtype_promotion", "strict")
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        share("jax_disable_most_optimizations", True)
        flags = [os.environ.get("XLA_FLAGS", ""), *(flag for flag in SPEED if known(flag, folder))]
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    # Threads of several workers wait for each other in busy loops: a t-SNE took ten times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


set_up()


def is_repeated(item):
    """Whether scikit-learn asks again: what other tests do, or TNClassifier of what both share."""
    values = item.callspec.params if hasattr(item, "callspec") else {}
    if "check" not in values:
        return False
    estimator = type(values.get("estimator")).__name__
    name = getattr(values["check"], "func", values["check"]).__name__
    if estimator == "TNClassifier":
        return any(word in name for word in ASKED)
    words = DIFFERENT.get(estimator)
    return words is not None and not any(word in name for word in words)


def is_long_example(item):
    """Whether a doctest takes long."""
    return isinstance(item, DoctestItem) and item.name.rpartition(".")[2] in LONG_EXAMPLES


def beyond_some(items):
    """Of tests marked as ``some(n)``, whose parameters are alike, all but each n-th of them."""
    counts = Counter()
    for item in items:
        if mark := item.get_closest_marker("some"):
            counts[item.function] += 1
            if (counts[item.function] - 1) % mark.args[0]:
                yield item


def pytest_collection_modifyitems(items):
    """Mark what is numerical and put the slowest files first."""
    for item in beyond_some(items):
        item.add_marker("long")
    for item in items:
        if item.nodeid.startswith(NUMERICAL):
            item.add_marker("numerical")
        if is_long_example(item) or is_repeated(item):
            item.add_marker("long")
    items.sort(key=lambda item: -SECONDS.get(item.nodeid.partition("::")[0], 0))


def pytest_collection_finish():
    """Look for garbage seldom: what has been collected stays, and JAX clears up at each look."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Programs:
    """Number of programs that were compiled or read since all were dropped."""

    def __init__(self):
        self.count = 0

    def __call__(self, event, duration, **_):
        """Count an event of JAX."""
        del duration
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def drop(self):
        """Drop all programs."""
        jax.clear_caches()
        self.count = 0


programs = Programs()
jax.monitoring.register_event_duration_secs_listener(programs)


@pytest.fixture(autouse=True, scope="module")
def forget_programs_of_others():
    """Drop what other files compiled, rather than half of what this one has compiled."""
    if programs.count > PROGRAMS_OF_OTHERS:
        programs.drop()


@pytest.fixture(autouse=True)
def forget_programs():
    """Drop what tests compiled before it exhausts memory and maps."""
    yield
    if programs.count > PROGRAMS:
        programs.drop()


@pytest.fixture
def quick():
    """For tests in which compiling takes the time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


class Compilations(list):
    """Events of tracing, lowering and compiling, in their order."""

    def __init__(self):
        super().__init__()
        self.functions = Counter()

    def clear(self):
        """Forget all of them."""
        super().clear()
        self.functions.clear()


@pytest.fixture
def compilations():
    """List that grows with every trace and compilation, and counts of programs by function."""
    seen = Compilations()

    def listener(event, duration, fun_name="", **_):
        del duration
        if event.startswith("/jax/core/compile/"):
            seen.append(event)
            if "backend_compile" in event:
                seen.functions[fun_name.removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listener)
