"""What the documents say of GPUs, measured on one in minutes, beside the processor of its machine.

    python tests/benchmarks/accelerator.py --out docs/tables

Each part runs in processes of its own, one on the GPU and one on the processor, as the library
chooses by JAX's default backend. They take turns, each with its share of the time that is left, so
that delays make later parts shorter. What fails or is out of time says so in the table. Without a
GPU the tables are logged, not written; --small tries everything out in a minute or two.
"""

import argparse
import dataclasses
import json
import logging
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from _contenders import Case
from side_by_side import REPOSITORY, processor, size, table

logger = logging.getLogger("accelerator")


# The parts ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Part:
    """A table with a row for each setting.

    measure: function of _accelerator.py; weights: shares of the time on the GPU and beside.
    """

    caption: str
    head: str
    measure: str
    settings: list
    weights: tuple

    def named(self, small):
        """The settings by name, or small ones, as far as they differ."""
        settings = map(shrunk, self.settings) if small else self.settings
        return {", ".join(map(label, setting)): setting for setting in settings}


def label(value):
    """A part of a setting in a table."""
    if isinstance(value, Case):
        return f"{'tree ' * value.tree}{size(value)}"
    return f"{value:,}" if isinstance(value, int) else value.replace("_", " ")


def shrunk(value):
    """A setting, or a part of it, for a trial."""
    if isinstance(value, tuple):
        return tuple(map(shrunk, value))
    if isinstance(value, Case):
        least = {"n": 8, "D": 4, "B": 32}
        sizes = {field: min(getattr(value, field), most) for field, most in least.items()}
        return dataclasses.replace(value, **sizes)
    return min(value, 128) if isinstance(value, int) else {"base": "tiny"}.get(value, value)


EPOCHS = "n, d, D, B, rows | first epoch, s | later epochs, s | MB to the device an epoch"
STEP = "step, ms | share of the product | product, TFLOP/s | first step, s | loss after five"
RATES = "first epoch, s | images/s, training | images/s, inference | MB to the device an epoch"
CHAINS = [Case(196, 2, 50, 128), Case(196, 2, 50, 1024), Case(30, 2, 400, 1024)]
TREES = [Case(784, 2, 32, B, tree=True) for B in (128, 1024, 4096)]
SWEPT = [Case(30, 2, 10, 384), Case(196, 2, 16, 10_000)]
FASHION = [(196, 20, 128), (196, 50, 128), (784, 20, 128), (784, 50, 128), (784, 50, 1024)]
PARTS = {
    "bonds": Part(
        "Epochs of `Gradient` of the size of breast cancer, as in tn4ml's paper: 569 rows of 30 "
        "columns, polynomial embedding, two classes.",
        EPOCHS,
        "gradients",
        [(Case(30, 3, D, 32, 2), 569) for D in (2, 50, 200, 400)],
        (4, 3),
    ),
    "digits": Part(
        "Relative errors in the 2-norm of float32 results: of products and norms against double "
        "precision, of outputs against precision highest. Own: that of sweeps, metrics and Gram "
        "matrices. Rounding both factors to 11 significant bits leaves 3e-4, to 8 bits 2e-3.",
        "what | relative error",
        "digits",
        [
            *(("product", 2048, precision) for precision in ("default", "highest", "own")),
            *(("squared_norm", CHAINS[0]), ("outputs", CHAINS[0], "default")),
        ],
        (2, 1),
    ),
    "steps": Part(
        "Training steps; their useful flops over the rate of a large float32 product in the same "
        "rounds, both at the device's default precision or both at the highest.",
        f"n, d, D, B, precision | {STEP}",
        "steps",
        [(case, how) for case in CHAINS + TREES for how in ("default", "highest")],
        (5, 2),
    ),
    "sweeps": Part(
        "Two-site sweeps over a chain and back, all rows one batch.",
        "n, d, D, B, rows | first sweep, s | later sweeps, s",
        "sweeps",
        [(case, case.B) for case in SWEPT],
        (3, 1),
    ),
    "images": Part(
        "`DTTNClassifier` on images of 32 x 32 pixels and three channels, bytes, batches of 128.",
        f"variant, images, dtype | maps in training | weights | {RATES}",
        "images",
        [(variant, 49_920, d) for variant in ("tiny", "base") for d in ("default", "float32")],
        (4, 2),
    ),
    "fashion_mnist": Part(
        "Epochs of `Gradient` of the size of Fashion-MNIST, ten classes.",
        EPOCHS,
        "gradients",
        [(Case(n, 2, D, B), 60_000) for n, D, B in FASHION],
        (6, 3),
    ),
}


def measure(part, settings, seconds):
    """Write a line of JSON on the device and one on each setting."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # as in _worker.py
    end, programs = time.perf_counter() + seconds, []
    import _accelerator
    import jax

    def listener(event, duration, **_):
        if "backend_compile" in event:
            programs.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    gpu, kind = jax.default_backend() == "gpu", jax.devices()[0].device_kind
    replies.write(json.dumps({"gpu": gpu, "kind": kind if gpu else "processor"}) + "\n")
    for i, (name, setting) in enumerate(settings.items()):
        programs.clear()
        left = (end - time.perf_counter()) / (len(settings) - i)
        if left <= 0:
            break
        try:
            cells = [*getattr(_accelerator, part.measure)(setting, left), str(len(programs))]
        except Exception as error:
            logger.exception(name)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            cells = [f"left out: {reason[:120]}"]
        replies.write(json.dumps({"name": name, "cells": cells}) + "\n")


# The process that starts them ---------------------------------------------------------------------


def run(name, settings, options, cpu, seconds):
    """What a part's process says of its device, None where it says nothing, and rows of a table."""
    command = [sys.executable, __file__, name, "--here", str(0.9 * seconds), *options]
    kept = {key: v for key, v in os.environ.items() if not key.startswith("JAX_COMPILATION")}
    paths = filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])
    kept |= {"PYTHONPATH": os.pathsep.join(paths)} | ({"JAX_PLATFORMS": "cpu"} if cpu else {})
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, env=kept, timeout=seconds)
        why = f"the process ended with {done.returncode}" if done.returncode else "out of time"
        output = done.stdout
    except subprocess.TimeoutExpired as expired:
        output, why = expired.stdout or b"", "out of time"
    # A process that was stopped may have begun a line.
    lines = [json.loads(line) for line in output.splitlines(True) if line.endswith(b"\n")]
    device, *replies = lines or [None]
    cells = {reply["name"]: reply["cells"] for reply in replies}
    kind = device["kind"] if device else "processor" if cpu else "default"
    return device, [[s, kind, *cells.get(s, [f"left out: {why}"])] for s in settings]


def table_of(name, of_devices):
    """A part's table, devices beside each other; of_devices: rows of each."""
    first, *others = PARTS[name].head.split(" | ")
    head = [first, "device", *others, "programs"]
    rows = [row + [""] * (len(head) - len(row)) for beside in zip(*of_devices) for row in beside]
    return f"{PARTS[name].caption}\n\n{table(head, rows)}"


def report(tables, minutes):
    """All tables, and what they share."""
    packages = ("jax", "quimb", "numpy", "optax")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    notes = f"""\
- n sites, physical dimension d, bond dimension D, batches of B, random rows; medians, all within
  {minutes:g} minutes. First epochs, sweeps and steps compile. Of more than 10,000 rows or images
  the processor is timed on a tenth, which counts ten times.
- Programs: all that were compiled, small ones and those of preparations included. Megabytes: of
  NumPy's arrays that the compiled epoch is given.
- {processor()}, {os.cpu_count()} cores; Python {platform.python_version()}; {versions}.
"""
    return "\n\n".join([*tables, notes])


def main():
    """Measure, and write the tables where a GPU took part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="folder of the markdown table")
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--small", action="store_true", help="smallest sizes")
    parser.add_argument("--here", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = arguments.names or list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)}; choose from {sorted(PARTS)}")
    settings = {name: PARTS[name].named(arguments.small) for name in names}
    options = ["--small"] * arguments.small
    if arguments.here is not None:
        return measure(PARTS[names[0]], settings[names[0]], arguments.here)

    end = time.perf_counter() + 60 * arguments.minutes
    jobs = [(name, cpu) for cpu in (False, True) for name in names]
    rows, gpu = {name: [] for name in names}, False
    while jobs:
        weights = [PARTS[name].weights[cpu] for name, cpu in jobs]
        seconds = (end - time.perf_counter()) * weights[0] / sum(weights)
        (name, cpu), *jobs = jobs
        device, found = run(name, settings[name], options, cpu, seconds)
        if device and not cpu:
            gpu |= device["gpu"]
            jobs = [job for job in jobs if gpu or not job[1]]
        rows[name].append(found)
        logger.info("%s\n", table_of(name, [found]))
        if gpu and arguments.out is not None:
            tables = [table_of(*part) for part in rows.items() if part[1]]
            (arguments.out / "accelerator.md").write_text(report(tables, arguments.minutes))
    if not gpu:
        logger.info("No GPU took part: nothing is written.")


if __name__ == "__main__":
    main()
