"""Generated layers beside the dense product of the same size, in interleaved rounds of one process.

    GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296 \\
        python tests/benchmarks/generators_speed.py --out docs/tables

How fast a dense gradient is depends on the allocator: with the default one, every large array costs
its page faults. The variable lets the C library keep what it freed; it is for whoever starts a
process to set. All forms take turns in one process, since processes differ in the pages that they
got by more than the forms do.
"""

import argparse
import itertools
import logging
import os
import random
import statistics
import time
from pathlib import Path

from _generator_contenders import DECODERS, Case, dense, layer, weight
from images import write
from side_by_side import judged, table

logger = logging.getLogger("generators_speed")

CASE = Case()
# Form, tensorisation: the function and its options, and the goal over the dense product.
FORMS = {
    ("W", "RowMajor"): (weight, {}, 1.0),
    ("W", "Paired"): (weight, {}, None),
    ("W, then x W", "RowMajor"): (layer, {"formed": True, "gradient": False}, None),
    ("its gradient", "RowMajor"): (layer, {"formed": True, "gradient": True}, 5.0),
    ("W, then x W", "Paired"): (layer, {"formed": True, "gradient": False}, None),
    ("its gradient", "Paired"): (layer, {"formed": True, "gradient": True}, None),
    ("x W without W", "RowMajor"): (layer, {"formed": False, "gradient": False}, 0.25),
    ("its gradient without W", "RowMajor"): (layer, {"formed": False, "gradient": True}, 0.8),
    ("x W without W", "Paired"): (layer, {"formed": False, "gradient": False}, 1.4),
    ("its gradient without W", "Paired"): (layer, {"formed": False, "gradient": True}, 4.5),
}
COMPILE_SECONDS, TEMPORARY_MEGABYTES = 3.5, 100


def prepared(function, arguments):
    """A call of the compiled function, seconds of the first one, and bytes of temporaries."""
    import jax

    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()

    def call():
        jax.block_until_ready(compiled(*arguments))

    call()
    return call, time.perf_counter() - start, compiled.memory_analysis().temp_size_in_bytes


def measured(calls, rounds):
    """Seconds of each call in each round, by its name."""
    seconds = {name: [] for name in calls}
    for number in range(rounds):
        order = list(calls)
        random.Random(number).shuffle(order)
        for name in order:
            calls[name]()  # once more, so that no other's arrays are in the caches
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds, first, arguments):
    reference = seconds["dense"]

    def ratio(name):
        return statistics.median(a / b for a, b in zip(seconds[name], reference))

    def text(name, goal):
        found, median = ratio(name), statistics.median(seconds[name])
        return f"{judged(found, f'{found:.2f}', goal, at_most=True)}; {1e3 * median:.1f} ms"

    rows = [["dense x W", "", *[f"{1e3 * statistics.median(reference):.1f} ms"] * len(DECODERS)]]
    for form, (_, _, goal) in FORMS.items():
        rows.append([*form, *(text((*form, decoder), goal) for decoder in DECODERS)])
    for form in FORMS:
        if "gradient" not in form[0]:
            continue
        # A paired weight has to be put in order, which takes its size once more: no goal.
        most = None if form == ("its gradient", "Paired") else TEMPORARY_MEGABYTES
        found = [first[*form, decoder] for decoder in DECODERS]
        cells = [judged(s, f"{s:.1f}", COMPILE_SECONDS, True) for s, _ in found]
        rows.append([f"{form[0]}, first call, s", form[1], *cells])
        cells = [judged(b / 1e6, f"{b / 1e6:.0f}", most, True) for _, b in found]
        rows.append([f"{form[0]}, temporaries, MB", form[1], *cells])
    return f"""\
Times over that of one dense product x W forward, W {CASE.n} x {CASE.n}, batches of {CASE.B},
float32; medians over {arguments.rounds} interleaved rounds of one process on {arguments.threads} of
{os.cpu_count()} cores. Gradients are by the generator's numbers; the first call compiles.
`GLIBC_TUNABLES={os.environ.get("GLIBC_TUNABLES", "")}`

{table(["", "tensorisation", *DECODERS], rows)}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the table")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])

    calls, first = {"dense": prepared(*dense(CASE))[0]}, {}
    for (form, tensorisation), decoder in itertools.product(FORMS, DECODERS):
        function, options, _ = FORMS[form, tensorisation]
        made = function(CASE, decoder=decoder, tensorisation=tensorisation, **options)
        name = form, tensorisation, decoder
        calls[name], *first[name] = prepared(*made)
        logger.info("%s: first call %.1f s", ", ".join(name), first[name][0])
    write(
        arguments, "generators_speed", report(measured(calls, arguments.rounds), first, arguments)
    )


if __name__ == "__main__":
    main()
