"""Generated layers beside the dense product of the same size, in interleaved rounds of one run.

    python tests/benchmarks/generators_speed.py --out docs/tables/generators_speed.md \\
        --env GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296

See side_by_side.py for how rounds work. How fast a dense gradient is depends on the allocator: with
the default one, every large array costs its page faults. The variable above lets the C library
keep what it freed; it is for whoever starts a process to set.
"""

import argparse
import itertools
import logging
import os
import platform
import sys
from pathlib import Path

from _generator_contenders import DECODERS, Case, compiling
from side_by_side import Contender, Worker, judged, measure, processor, ratio, table

logger = logging.getLogger("generators_speed")

CASE = Case()
DENSE = "dense"
# Form, tensorisation: the function's options, and the goal over the dense product.
FORMS = {
    ("W", "RowMajor"): ("weight", {}, 1.0),
    ("W", "Paired"): ("weight", {}, None),
    ("W, then x W", "RowMajor"): ("layer", {"formed": True, "gradient": False}, None),
    ("its gradient", "RowMajor"): ("layer", {"formed": True, "gradient": True}, 5.0),
    ("W, then x W", "Paired"): ("layer", {"formed": True, "gradient": False}, None),
    ("its gradient", "Paired"): ("layer", {"formed": True, "gradient": True}, None),
    ("x W without W", "RowMajor"): ("layer", {"formed": False, "gradient": False}, 0.25),
    ("its gradient without W", "RowMajor"): ("layer", {"formed": False, "gradient": True}, 0.8),
    ("x W without W", "Paired"): ("layer", {"formed": False, "gradient": False}, 1.4),
    ("its gradient without W", "Paired"): ("layer", {"formed": False, "gradient": True}, 4.5),
}
COMPILE_SECONDS, TEMPORARY_MEGABYTES = 3.5, 100


def contenders():
    """The dense product, and every form of every decoder."""
    yield _contender(DENSE, {"function": "dense"})
    for (form, tensorisation), decoder in itertools.product(FORMS, DECODERS):
        function, options, _ = FORMS[form, tensorisation]
        chosen = {"decoder": decoder, "tensorisation": tensorisation, **options}
        yield _contender(f"{form}, {tensorisation}, {decoder}", {"function": function, **chosen})


def _contender(group, options):
    return Contender(
        group, "_generator_contenders:timed", tuple(options.items()), (CASE,), ("jax",)
    )


def report(timings, compiled, versions, arguments):
    by_group = {contender.group: timing for contender, timing in timings.items()}
    dense = by_group[DENSE]
    rows = [["dense x W", "", *[f"{1e3 * dense.median:.1f} ms"] * len(DECODERS)]]
    for (form, tensorisation), (_, _, goal) in FORMS.items():
        cells = []
        for decoder in DECODERS:
            timing = by_group[f"{form}, {tensorisation}, {decoder}"]
            found = ratio(timing, dense)
            text = judged(found, f"{found:.2f}", goal, at_most=True)
            cells.append(f"{text}; {1e3 * timing.median:.1f} ms")
        rows.append([form, tensorisation, *cells])
    for tensorisation, formed in itertools.product(("RowMajor", "Paired"), (True, False)):
        found = [compiled[decoder, tensorisation, formed] for decoder in DECODERS]
        form = "its gradient" if formed else "its gradient without W"
        # A paired weight has to be put in order, which takes its size once more: no goal.
        most = None if (formed and tensorisation == "Paired") else TEMPORARY_MEGABYTES
        cells = [judged(s, f"{s:.1f}", COMPILE_SECONDS, True) for s, _ in found]
        rows.append([f"{form}, first call, s", tensorisation, *cells])
        cells = [judged(b / 1e6, f"{b / 1e6:.0f}", most, True) for _, b in found]
        rows.append([f"{form}, temporaries, MB", tensorisation, *cells])
    variables = ", ".join(f"`{v}`" for v in arguments.env) or "none, the default allocator"
    return f"""\
Times over that of one dense product x W forward, W {CASE.n} x {CASE.n}, batches of {CASE.B},
float32; medians over {arguments.rounds} interleaved rounds. Gradients are by the generator's
numbers. The first call of a gradient compiles it.

{table(["", "tensorisation", *DECODERS], rows)}

- {processor()}, {arguments.threads} of {os.cpu_count()} cores; Python {platform.python_version()};
  {", ".join(f"{name} {version}" for name, version in sorted(versions.items()))}; variables:
  {variables}.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="markdown file to write")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for every process"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])

    pairs = itertools.product(DECODERS, ("RowMajor", "Paired"), (True, False))
    compiling(CASE, decoder=DECODERS[0], tensorisation="RowMajor", formed=True)  # JAX wakes up
    compiled = {
        (decoder, tensorisation, formed): compiling(
            CASE, decoder=decoder, tensorisation=tensorisation, formed=formed
        )
        for decoder, tensorisation, formed in pairs
    }
    variables = dict(item.split("=", 1) for item in arguments.env)
    workers, versions = [], {}
    try:
        for contender in contenders():
            workers.append(Worker(contender, sys.executable, arguments.threads, variables))
        versions = workers[0].ask(versions=workers[0].contender.packages)
        timings = measure(workers, CASE, arguments.rounds)
    finally:
        for worker in workers:
            worker.close()
    arguments.out.write_text(report(timings, compiled, versions, arguments))
    logger.info("wrote %s", arguments.out)


if __name__ == "__main__":
    main()
