"""A training step of DTTN on a CPU: formulations, and PyTorch, in interleaved rounds of one run.

    python tests/benchmarks/images_step.py --peers-python PATH --out docs/tables/images_step.md

See side_by_side.py for how rounds work; PATH is an interpreter with torch, which is left out
without it.
"""

import argparse
import logging
import os
import platform
import sys
from pathlib import Path

from _contenders import SGEMM_SIZE
from _image_contenders import Case
from side_by_side import SGEMM, Contender, Worker, judged, measure, processor, ratio, table

logger = logging.getLogger("images_step")

CASES = {
    "Fashion-MNIST, DTTN-dagger": Case(28, 4, 48, 4, 128),
    "Fashion-MNIST, DTTN": Case(28, 4, 48, 4, 128, dagger=False),
    "digits, DTTN": Case(8, 1, 32, 4, 128, dagger=False),
    "32 x 32, patch 2, DTTN-dagger": Case(32, 2, 48, 4, 64),
}
# Our step over that of the fastest formulation, at most.
GOAL = 1.3
OURS = "ours"
LABELS = {
    OURS: "ours",
    "banded": "depthwise maps as matrices of all pixels",
    "shifted": "depthwise maps as nine shifts",
    "convolved": "depthwise maps as XLA's convolution",
    "last shifts": "channels last, nine shifts",
    "last convolution": "channels last, XLA's convolution",
    "torch contiguous": "PyTorch",
    "torch channels_last": "PyTorch, channels last",
}


def contenders(cases):
    """All of them; a group holds one."""

    def made(group, function, packages=("jax",), needs_peers=False, **options):
        name = f"_image_contenders:{function}"
        return Contender(group, name, tuple(options.items()), cases, packages, needs_peers)

    yield made(SGEMM, "sgemm", library="numpy")
    yield made(OURS, "ours")
    for form in ("banded", "shifted", "convolved"):
        yield made(form, "ours", form=form)
    for form in ("shifts", "convolution"):
        yield made(f"last {form}", "channels_last", form=form)
    for memory in ("contiguous", "channels_last"):
        yield made(f"torch {memory}", "torch_network", ("torch",), True, memory=memory)


def report(results, versions, arguments):
    rows = []
    for name, timings in results.items():
        by_group = {c.group: t for c, t in timings.items() if t.median > 0}
        sgemm, ours = by_group[SGEMM], by_group[OURS]
        case = CASES[name]
        jax_only = [t for g, t in by_group.items() if g != SGEMM and not g.startswith("torch")]
        fastest = min(jax_only, key=lambda timing: timing.median)
        for group, label in LABELS.items():
            if group not in by_group:
                continue
            timing = by_group[group]
            share = case.flops / (2 * SGEMM_SIZE**3) * ratio(sgemm, timing)
            relative = ratio(timing, ours)
            text = f"{relative:.2f}"
            if group == OURS:
                against = ratio(ours, fastest)
                text = "1, of the fastest in JAX " + judged(against, f"{against:.2f}", GOAL, True)
            cells = [label, f"{1e3 * timing.median:.1f}", f"{share:.0%}", text]
            rows.append([name if group == OURS else "", *cells, f"{timing.first:.1f}"])
    head = ["network", "formulation", "step, ms", "share of sgemm", "over ours", "first step, s"]
    sizes = "; ".join(
        f"{name}: {case.side} x {case.side} pixels, patches of {case.patch}, {case.n_layers} "
        f"blocks of {case.channels} channels, batches of {case.B}"
        for name, case in CASES.items()
    )
    return f"""\
Forward pass, cross-entropy, backward pass, clipping and AdamW on one batch; medians over
{arguments.rounds} interleaved rounds. Ours is the compiled loop of `ImageGradient`; the first rows
below it are the same with one form of the depthwise maps everywhere.

{table(head, rows)}

- {sizes}.
- Share of sgemm: 6 flops for each weight of the linear maps and pixel over the step's time, over
  the rate of a float32 {SGEMM_SIZE} x {SGEMM_SIZE} x {SGEMM_SIZE} product in the same round.
- {processor()}, {os.cpu_count()} cores, {arguments.threads} threads each (PyTorch one where that is
  faster); Python {platform.python_version()};
  {", ".join(f"{name} {version}" for name, version in sorted(versions.items()))}.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="markdown file to write")
    parser.add_argument("--peers-python", help="interpreter of an environment with torch")
    parser.add_argument("--quick", action="store_true", help="the first case only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    cases = dict(list(CASES.items())[:1]) if arguments.quick else CASES
    workers, versions, results = [], {}, {}
    try:
        for contender in contenders(tuple(cases.values())):
            python = arguments.peers_python if contender.needs_peers else sys.executable
            if python:
                workers.append(Worker(contender, python, arguments.threads, {}))
                versions |= workers[-1].ask(versions=contender.packages)
        for name, case in cases.items():
            logger.info("%s", name)
            results[name] = measure(workers, case, arguments.rounds)
            arguments.out.write_text(report(results, versions, arguments))
    finally:
        for worker in workers:
            worker.close()
    logger.info("wrote %s", arguments.out)


if __name__ == "__main__":
    main()
