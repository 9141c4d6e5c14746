"""Sphinx configuration: ``sphinx-build -W docs docs/_build/html`` with the package installed."""

import re
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path

DOCS = Path(__file__).parent

project = "tn4ml_plus"
release = version = installed_version(project)
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "jupyter_execute", "tables"]
html_theme = "furo"
html_title = project
html_show_copyright = False

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
# Progress bars and the warnings of a build machine say nothing to a reader.
nb_output_stderr = "remove"

default_role = "code"
autodoc_member_order = "groupwise"
autodoc_typehints = "none"
# Parameters are described in words beside their types, which are no references to other names.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]

# The tutorials stand beside the package, where newcomers look; Sphinx reads only below docs/.
shutil.rmtree(DOCS / "tutorials", ignore_errors=True)
(DOCS / "tutorials").mkdir()
for notebook in sorted((DOCS.parent / "tutorials").glob("*.ipynb")):
    shutil.copy2(notebook, DOCS / "tutorials")


def insert_tables(app, docname, source):
    """Replace each ``<!-- table:NAME -->`` by docs/tables/NAME.md."""

    def table(marker):
        path = DOCS / "tables" / f"{marker[1]}.md"
        # The page has headings of its own.
        return re.sub(r"\A# .*\n+", "", path.read_text())

    source[0] = re.sub(r"<!-- table:(\w+) -->", table, source[0])


def escape_prose(app, what, name, obj, options, lines):
    """Let docstrings say ``*outputs``, ``|psi|`` and ``network_`` without reST reading markup."""
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...", ".. ")):
            continue
        parts = re.split(r"(``.*?``|`.*?`)", line)
        parts[::2] = [re.sub(r"(\*(?=\w)|\||(?<=\w)_(?!\w))", r"\\\1", p) for p in parts[::2]]
        lines[i] = "".join(parts)


def setup(app):
    """Connect the two hooks, neither of which keeps anything from page to page."""
    app.connect("source-read", insert_tables)
    app.connect("autodoc-process-docstring", escape_prose)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
