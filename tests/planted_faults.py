"""Faults planted one by one into a copy of a checkout, to see which test notices each.

``python tests/planted_faults.py`` runs every fault of planted_faults.toml against the tests that
are likely to kill it, and writes a table. A fault is found by its text in the whole package, so
that it follows code that moves; where the text itself changes, list the new one beside the old.
"""

import argparse
import ast
import compileall
import concurrent.futures
import contextlib
import importlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path

PACKAGE = "tn4ml_plus"
HERE = Path(__file__).resolve()
PYTEST = ["-n", "0", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
PYTEST += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
# Longer than any test selection takes: what is still running then hangs because of the fault.
SECONDS = 3600
# Imported once and not for every fault.
THIRD_PARTY = ["equinox", "jax", "optax", "pandas", "pytest", "quimb.tensor", "scipy.stats"]
THIRD_PARTY += ["sklearn.model_selection", "sklearn.utils.estimator_checks"]


def read_faults(path):
    """{name: fault} of a file of faults, each with its room and one or more texts and changes."""
    faults = {}
    for room, rows in tomllib.loads(path.read_text()).items():
        for row in rows:
            old, new = ([x] if isinstance(x, str) else x for x in (row["old"], row["new"]))
            changes = list(zip(old, new, strict=True))
            likely = [row["likely"]] if isinstance(row["likely"], str) else row["likely"]
            if row["name"] in faults:
                raise ValueError(f"Two faults are called {row['name']}: rename one.")
            faults[row["name"]] = row | {"room": room, "changes": changes, "likely": likely}
    return faults


def find(sources, name, changes):
    """File and span of the text to replace, and what replaces it, for the first text that occurs.

    Words are compared and not their layout; what old and new text share at both ends stays as it
    is in the file.
    """
    counts = []
    for old, new in changes:
        old, new = old.split(), new.split()
        pattern = re.compile(r"\s+".join(f"({re.escape(word)})" for word in old))
        found = [
            (path, match) for path, text in sources.items() for match in pattern.finditer(text)
        ]
        counts.append(len(found))
        if len(found) != 1:
            continue
        shortest = min(len(old), len(new))
        head = next((i for i in range(shortest) if old[i] != new[i]), shortest)
        rest = shortest - head
        tail = next((i for i in range(rest) if old[-1 - i] != new[-1 - i]), rest)
        (path, match), last = found[0], len(old) - tail
        middle = " ".join(new[head : len(new) - tail])
        if head == last:
            return path, match.end(head), match.end(head), f" {middle}"
        # With a statement its line goes.
        end = match.start(last + 1) if not middle and tail else match.end(last)
        return path, match.start(head + 1), end, middle
    raise ValueError(f"The text of the fault {name} occurs {counts} times, not once: update it.")


def plant(tree, name, changes):
    """Plant a fault into the package of a checkout; the changed file and line."""
    paths = sorted((tree / PACKAGE).rglob("*.py"))
    path, start, end, middle = find({path: path.read_text() for path in paths}, name, changes)
    text = path.read_text()
    line = text.count("\n", 0, start) + 1
    text = text[:start] + middle + text[end:]
    ast.parse(text)
    path.write_text(text)
    return f"{path.relative_to(tree)}:{line}"


def copied(tree, folder):
    """Copy of what tests need of a checkout, with what Python has compiled of it."""
    copy = Path(folder) / "tree"
    unwanted = shutil.ignore_patterns(".git", "shared", ".*_cache", "_build")
    shutil.copytree(tree, copy, ignore=unwanted, symlinks=True)
    return copy


def selected(tree, likely):
    """Paths for pytest of FILE, FOLDER or FILE::FUNCTION in tests/, wherever a function is now.

    What this version of the tests does not have is left out, unless nothing remains.
    """
    found = []
    for each in likely:
        file, _, function = each.partition("::")
        path = tree / "tests" / file
        places = [path] if path.exists() else []
        if function:
            places = [*places, *sorted((tree / "tests").rglob("test_*.py"))]
            places = [p for p in places if re.search(rf"\bdef {function}\(", p.read_text())]
        for place in places[:1]:
            found.append(str(place.relative_to(tree)) + (f"::{function}" if function else ""))
    if not found:
        raise ValueError(f"{tree} has no {', '.join(likely)}: update the likely tests.")
    return list(dict.fromkeys(found))


def run_pytest(tree, arguments, output):
    """Run pytest in a process of its own that has third-party packages and none of ours."""
    os.chdir(tree)
    sys.path[:] = [str(tree), *(p for p in sys.path if p and Path(p).resolve() != HERE.parent)]
    with open(output, "w") as file, contextlib.redirect_stdout(file):
        status = importlib.import_module("pytest").main([*PYTEST, *arguments])
    sys.exit(status)


def tested(tree, arguments):
    """Exit status, output and seconds of pytest in a checkout; no status if it hangs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(THIRD_PARTY)
    started, output = time.perf_counter(), tree.parent / "output"
    process = context.Process(target=run_pytest, args=(tree, arguments, output))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None, "", time.perf_counter() - started
    text = output.read_text() if output.exists() else ""
    return process.exitcode, text, time.perf_counter() - started


def killer(status, output):
    """Name of the first test that failed, None if all passed or none was to be run."""
    if status in (0, 5):
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    if failed:
        return failed[1].removeprefix("tests/")
    if status is None:
        return f"more than {SECONDS} seconds"
    if status < 0:
        return f"signal {-status}"
    raise RuntimeError(f"pytest ended with {status} and no test that failed:\n{output[-3000:]}")


def tried(tree, fault, whole):
    """Result of one fault: where it was planted, by which test it was killed, and the seconds."""
    with tempfile.TemporaryDirectory(prefix="planted_") as folder:
        copy = copied(tree, folder)
        place = plant(copy, fault["name"], fault["changes"])
        status, output, seconds = tested(copy, ["-x", *selected(copy, fault["likely"])])
        by, stage = killer(status, output), "likely"
        if by is None and whole:
            status, output, more = tested(copy, ["-x"])
            by, stage, seconds = killer(status, output), "whole", seconds + more
    return {"place": place, "by": by, "stage": stage, "seconds": round(seconds, 1)}


def check_likely(tree, faults):
    """Refuse to go on unless all likely tests pass without a fault."""
    likely = [each for fault in faults for each in fault["likely"]]
    status, output, seconds = tested(tree, selected(tree, likely))
    if status != 0:
        raise RuntimeError(f"Tests fail without any fault:\n{output[-3000:]}")
    return seconds


def table(faults, columns):
    """Markdown table of faults and, for each column {title: results}, what killed them."""
    titles = " | ".join(columns)
    lines = [f"| fault | room | kind | {titles} |", "|" + " --- |" * (3 + len(columns))]
    for name, fault in faults.items():
        cells = [name, fault["room"], fault["kind"]]
        for results in columns.values():
            result = results.get(name)
            if result is None:
                cells.append("")
            else:
                by = f"`{result['by']}`" if result["by"] else f"**survived** ({result['stage']})"
                cells.append(f"{by}, {result['seconds']:.0f} s")
        lines.append(f"| {' | '.join(cells)} |")
    for title, results in columns.items():
        known = [results[name] for name in faults if name in results]
        killed = sum(result["by"] is not None for result in known)
        lines.append(f"\n{title}: {killed} of {len(known)} faults killed.")
    return "\n".join(lines) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--tree", type=Path, default=HERE.parents[1], help="checkout to plant in")
    parser.add_argument("--faults", type=Path, default=HERE.with_suffix(".toml"))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults only")
    parser.add_argument("--likely", dest="whole", action="store_false", help="likely tests only")
    parser.add_argument("--whole", action="store_true", help="then the whole suite (default)")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--resume", type=Path, metavar="FILE.json", help="results to go on from")
    parser.add_argument("--beside", type=Path, metavar="FILE.json", help="results to compare with")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="else to the output")
    parser.add_argument("--check", action="store_true", help="only look for the texts")
    parser.add_argument("--unchecked", action="store_true", help="no run without a fault before")
    parser.set_defaults(whole=True)
    options = parser.parse_args(argv)
    faults = read_faults(options.faults)
    if unknown := set(options.only or ()) - set(faults):
        parser.error(f"There are no faults called {', '.join(sorted(unknown))}.")
    chosen = {name: faults[name] for name in options.only or faults}
    tree = options.tree.resolve()
    sources = {p: p.read_text() for p in sorted((tree / PACKAGE).rglob("*.py"))}
    problems = []
    for name, fault in chosen.items():
        try:
            find(sources, name, fault["changes"])
            selected(tree, fault["likely"])
        except ValueError as error:
            problems.append(str(error))
    if problems:
        parser.error("\n".join(problems))
    if options.check:
        return
    results = {}
    if options.resume is not None and options.resume.exists():
        results = json.loads(options.resume.read_text())
    open_ones = [
        fault
        for name, fault in chosen.items()
        if name not in results
        or (options.whole and results[name]["by"] is None and results[name]["stage"] == "likely")
    ]
    with (
        tempfile.TemporaryDirectory(prefix="planted_") as folder,
        concurrent.futures.ThreadPoolExecutor(options.jobs) as pool,
    ):
        # What is compiled of this copy is compiled for all.
        tree = copied(tree, folder)
        compileall.compile_dir(tree / PACKAGE, quiet=1)
        if open_ones and not options.unchecked:
            sys.stderr.write(f"without a fault: {check_likely(tree, open_ones):.0f} s\n")
        futures = {pool.submit(tried, tree, f, options.whole): f["name"] for f in open_ones}
        for future in concurrent.futures.as_completed(futures):
            name = futures[future]
            results[name] = result = future.result()
            sys.stderr.write(f"{name}: {result['by'] or 'SURVIVED'}, {result['seconds']} s\n")
            if options.resume is not None:
                options.resume.write_text(json.dumps(results, indent=1))
    columns = {}
    if options.beside is not None:
        columns[options.beside.stem] = json.loads(options.beside.read_text())
    columns["this one" if options.resume is None else options.resume.stem] = results
    text = table(chosen, columns)
    if options.table is None:
        sys.stdout.write(text)
    else:
        options.table.write_text(text)


if __name__ == "__main__":
    main()
