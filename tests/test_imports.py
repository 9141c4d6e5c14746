"""Rooms import downward only, and importing the package stays light and without side effects."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tn4ml_plus"

LEVELS = {
    "_arrays": 0,
    "_checks": 0,
    "_compiled": 0,
    "_forks": 0,
    "_precise": 0,
    "_schema": 0,
    "errors": 0,
    "_registry": 0,
    "_amplitude": 0,
    "_types": 0,
    "_version": 0,
    "datasets": 1,
    "embeddings": 1,
    "initializers": 1,
    "io": 1,
    "losses": 1,
    "networks": 1,
    "contraction": 2,
    "generators": 3,
    "image": 3,
    "inspection": 3,
    "training": 3,
    "ensembles": 4,
    "tables": 4,
    "deployment": 5,
    "estimators": 6,
    "__init__": 7,
    "__main__": 7,
}
# Models with generators are trained by the same loop as networks; amplitudes are arrays; arguments
# are checked, and what is built from files, too.
ALLOWED_SIDEWAYS = {
    ("networks", "initializers"),
    ("generators", "training"),
    ("_amplitude", "_arrays"),
    ("_arrays", "_forks"),
    ("_compiled", "_checks"),
    ("_compiled", "_forks"),
    ("_forks", "errors"),
    ("_registry", "_schema"),
}
OPTIONAL = {"matplotlib", "pandas", "polars", "pyarrow", "torch", "equinox"}


def imports(source, module):
    """Absolute dotted names that `source` imports, each with whether it runs at import time.

    module: dotted path of the source file; an __init__ ends in ".__init__".
    """
    tree = ast.parse(source)
    in_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            found = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            yield name, id(node) not in in_functions


def room(name):
    """Room of a dotted name, "__init__" for a name of the package itself, None for another's."""
    package, *rest = name.split(".")
    if package != PACKAGE.name:
        return None
    return rest[0] if rest and rest[0] in LEVELS else "__init__"


def upward(source, module):
    """Imports in `source` that the levels do not allow."""
    here = room(module)
    return [
        name
        for name, _ in imports(source, module)
        if (there := room(name)) not in (None, here)
        and LEVELS[there] >= LEVELS[here]
        and (here, there) not in ALLOWED_SIDEWAYS
    ]


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    assert module.split(".")[1] in LEVELS, "give the new room its level here"
    assert upward(MODULES[module], module) == []


@pytest.mark.parametrize("module", MODULES)
def test_optional_packages_are_imported_inside_functions_only(module):
    at_import = {name.split(".")[0] for name, runs in imports(MODULES[module], module) if runs}
    # Rooms of equinox modules, which no other imports before they are asked for.
    allowed = {"equinox"} if room(module) in ("image", "generators") else set()
    assert not at_import & (OPTIONAL - allowed)


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("contraction._a", "from ..networks import MPS", True),
        ("contraction._a", "from tn4ml_plus import _checks", True),
        ("contraction._a", "from . import _chain", True),
        ("networks._a", "from ..initializers import Identity", True),
        ("initializers._a", "from ..networks import MPS", False),
        ("losses._a", "from tn4ml_plus.embeddings import Hat", False),
        ("losses._a", "import tn4ml_plus.training", False),
        ("losses._a", "def f():\n    from ..image import AIM", False),
        ("losses.__init__", "from ..contraction import pack", False),
        ("losses.__init__", "from ._base import Loss", True),
        ("losses._a", "from .. import __version__", False),
        ("losses._a", "import tn4ml_plus", False),
        ("__init__", "from .estimators import TNClassifier", True),
    ],
)
def test_the_rule_itself(module, source, allowed):
    assert (upward(source, f"tn4ml_plus.{module}") == []) is allowed


def test_importing_adds_no_optional_package_and_no_environment_variable():
    # What the dependencies themselves import or set is theirs, so they come first.
    code = f"""
import json, os, sys
import autoray, cotengra, jax, numpy, optax, quimb.tensor, safetensors.numpy, sklearn.base, tqdm
modules, environment = set(sys.modules), dict(os.environ)
flags = dict(jax.config.values)
import tn4ml_plus
print(json.dumps({{
    "optional": sorted({OPTIONAL!r} & (set(sys.modules) - modules)),
    "environment": dict(os.environ) != environment,
    "jax flags": dict(jax.config.values) != flags,
}}))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    expected = {"optional": [], "environment": False, "jax flags": False}
    assert json.loads(run.stdout) == expected
