"""Declared bounds are those that the oldest environment is built from."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What builds, checks and documents the project, but is not imported by it.
TOOLS = {"beartype", "distributed", "furo", "ipykernel", "myst-nb", "numpydoc", "onnx", "pytest"}
TOOLS |= {"pytest-xdist", "ruff", "sphinx"}


def declared():
    """Lower bounds of setup.cfg as (name, version) pairs."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    for extra in config["options.extras_require"].values():
        lines += extra.splitlines()
    # The name may have extras, as jax[cuda] has.
    bound = re.compile(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)")
    return {tuple(bound.fullmatch(line).groups()) for line in lines if line}


def oldest():
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    return {tuple(line.split("==")) for line in lines if not line.startswith("#")}


def short(version):
    """A version without zeros at its end."""
    return re.sub(r"(\.0)+$", "", version)


def test_each_bound_is_tried_in_the_oldest_environment():
    needed = {(name, short(version)) for name, version in declared() if name not in TOOLS}
    assert {(name, short(version)) for name, version in oldest()} == needed
