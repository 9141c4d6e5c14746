"""An epoch of two-site sweeps beside tn4ml's, in interleaved rounds.

    python tests/benchmarks/sweeps_side_by_side.py --peers-python PATH --out docs/tables

As side_by_side.py, whose workers it shares: 30 sites, d = 2, bonds of 10, 384 samples of 10
classes, all of them one batch. tn4ml compiles anew in each call of `train`: of either library the
best of three epochs counts, without what the call prepares. On one core and on two, which tasks as
small as these cannot use.
"""

import argparse
import logging
import sys
from pathlib import Path

from _contenders import Case
from quality import machine
from side_by_side import OURS, Contender, Worker, best, judged, measure, ratio, table

CASE = Case(30, 2, 10, 384)
GOAL = 100


def main():
    """Time both and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers-python", required=True, help="of the peers' environment")
    parser.add_argument("--out", type=Path, required=True, help="folder of the markdown table")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = (
        (Contender(OURS, "our_sweeps", (), (CASE,)), sys.executable),
        (Contender("tn4ml", "tn4ml_sweeps", (), (CASE,), ("tn4ml",), True), arguments.peers_python),
    )
    rows = []
    for threads in (1, 2):
        workers = []
        try:
            for contender, python in chosen:
                workers.append(Worker(contender, python, threads, {}))
            timings = measure(workers, CASE, arguments.rounds)
        finally:
            for worker in workers:
                worker.close()
        ours = best(timings, OURS)
        for contender, timing in timings.items():
            times = ratio(timing, ours)
            goal = None if contender.group == OURS else GOAL
            rows.append(
                [
                    contender.group,
                    str(threads),
                    timing.error or f"{1e3 * timing.median:.3g}",
                    judged(times, f"{times:.3g}x", goal),
                    f"{timing.first:.1f}",
                    f"{timing.loss:.3g}",
                ]
            )
    head = ["library", "cores", "a sweep, ms", "times ours", "first sweeps, s", "last loss"]
    text = f"Two-site sweeps: {CASE.n} sites, d = {CASE.d}, D = {CASE.D}, {CASE.B} samples."
    path = arguments.out / "sweeps_side_by_side.md"
    path.write_text(f"{text}\n\n{table(head, rows)}\n\n{machine()}\n")


if __name__ == "__main__":
    main()
