"""Public docstrings: sections that tools can read, and words that readers do not stumble over."""

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import get_doc_object, validate

from tn4ml_plus.embeddings import Hat

PACKAGE = Path(__file__).resolve().parents[1] / "tn4ml_plus"
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))

# Summaries with a full stop, no blank lines in a row, known sections in order, all parameters in
# the order of the signature where they have places, each line of them in the form "name : ...".
CODES = {"GL03", "GL05", "GL06", "GL07", "GL08", "SS01", "SS03", "SS04", "PR01", "PR02", "PR03"}
CODES |= {"PR05", "PR10"}

# Wordings that readers stumble over.
WORDINGS = {
    r"\b(?:one|many|vector|tensor|number|array|value|int|feature|output|axis|core|row)s?"
    r" an? (?:site|sample|node|child|layer|output|row|bond)\b": "per",
    r"\bhangs? on\b": "depends on",
    r"\bin vain\b": "rejected",
    r"\bmend": "repair, refit or replace",
    r"\btells? of\b|\btold of\b": "is defined for, shares information with",
    r"\bas they come\b": "in the given order",
    r"\bThose but\b": "all except",
    r"\bleft the floats\b": "overflowed",
    r"\bhands? (?:its|their) \w+ on\b": "passes",
    r"\bone after the other\b": "in sequence",
}


def public(room):
    """Public functions and classes of a room, and methods that these define, by dotted names."""
    module = importlib.import_module(f"tn4ml_plus.{room}")
    for name in module.__all__:
        value = getattr(module, name)
        if not callable(value):
            continue
        yield f"{room}.{name}", value
        if not inspect.isclass(value) or not value.__module__.startswith("tn4ml_plus."):
            continue
        for attribute, member in vars(value).items():
            member = getattr(member, "__func__", member)
            if inspect.isfunction(member) and (attribute[0] != "_" or attribute == "__call__"):
                yield f"{room}.{name}.{attribute}", getattr(value, attribute)


def parameters(value):
    """Names of the parameters of a function or class."""
    try:
        return [name for name in inspect.signature(value).parameters if name not in ("self", "cls")]
    except ValueError:
        return []


def is_inherited(name, value):
    """Whether the parameters are those of a base, which documents them."""
    if inspect.isclass(value):
        return "__init__" not in vars(value) and "__new__" not in vars(value)
    room, cls, attribute = name.split(".")
    bases = getattr(importlib.import_module(f"tn4ml_plus.{room}"), cls).__mro__[1:]
    return any(
        parameters(getattr(base, attribute)) == parameters(value)
        for base in bases
        if attribute in vars(base)
    )


def is_result(value):
    """Whether a class is a named tuple, which functions make and whose fields are attributes."""
    return inspect.isclass(value) and issubclass(value, tuple)


CASES = {name: value for room in ROOMS for name, value in public(room)}


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_in_sections(name):
    value = CASES[name]
    inherited = name.count(".") == 2 - inspect.isclass(value) and is_inherited(name, value)
    refers = re.search(r"[Ss]ee `[\w.]+` for the parameters", value.__doc__ or "")
    if len(parameters(value)) < 2 or inherited or refers:
        return
    if is_result(value):
        documented = NumpyDocString(inspect.getdoc(value))["Attributes"]
        fields = [field for entry in documented for field in entry.name.split(", ")]
        assert sorted(fields) == sorted(value._fields)
        return
    errors = validate(get_doc_object(value))["errors"]
    kinds = {parameter.kind for parameter in inspect.signature(value).parameters.values()}
    codes = CODES - {"PR03"} if inspect.Parameter.KEYWORD_ONLY in kinds else CODES
    assert [error for error in errors if error[0] in codes] == []


def docstrings(source):
    """Docstrings in a module."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


@pytest.mark.parametrize("path", SOURCES)
def test_summaries_are_noun_phrases(path):
    summaries = [text.split("\n")[0] for text in docstrings(SOURCES[path])]
    assert [
        s for s in summaries if re.match(r"(What|Which|How|Of|From|By|With|That|As(?! in `)) ", s)
    ] == []


@pytest.mark.parametrize("wording", WORDINGS)
def test_wordings_that_readers_stumble_over_are_gone(wording):
    found = {path: re.findall(wording, text) for path, text in SOURCES.items()}
    found = {path: phrases for path, phrases in found.items() if phrases}
    assert found == {}, f"write: {WORDINGS[wording]}"


@pytest.mark.parametrize(
    ("text", "found"),
    [("one vector a site", True), ("a site of its own", False), ("it hangs on them", True)],
)
def test_wordings_are_recognised(text, found):
    assert any(re.search(wording, text) for wording in WORDINGS) == found


def test_shapes_are_checked():
    class Wrong(Hat):
        phys_dim = 7

    assert dataclasses.is_dataclass(Wrong)
    with pytest.raises(TypeCheckError, match="phys_dim"):
        Wrong(3)([0.5])
