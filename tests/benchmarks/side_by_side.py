"""The training step of chains beside the same step in other libraries, in interleaved rounds.

    python tests/benchmarks/side_by_side.py --peers-python PATH --out docs/tables/side_by_side.md

and of balanced binary trees beside quimb, of densities beside PyTorch::

    python tests/benchmarks/side_by_side.py trees --out docs/tables/side_by_side_trees.md
    python tests/benchmarks/side_by_side.py densities --peers-python PATH \
        --out docs/tables/side_by_side_densities.md

Every contender (_contenders.py, _density_contenders.py) lives in a process of its own, since no
environment has them all, and waits while another computes. A round runs each of them once and a
float32 matrix product too; ratios and shares are taken within a round and their medians reported,
because a shared machine's speed wanders more than the contenders differ. Without --peers-python the
peers are left out; TorchMPS, which is on no index, takes part when --torchmps names a clone of its
repository. run.py says how to make the peers' environment.
"""

import argparse
import dataclasses
import json
import logging
import math
import os
import platform
import queue
import random
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import _density_contenders
from _contenders import SGEMM_SIZE, TN4ML_FLOAT32_SITES, Case

logger = logging.getLogger("side_by_side")

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

CASES = (
    Case(30, 2, 10, 64),
    Case(196, 2, 10, 128),
    Case(196, 2, 20, 128),
    Case(196, 2, 50, 128),
    Case(196, 2, 100, 128),
    Case(784, 2, 20, 128),
)
QUICK_CASES = (CASES[0], CASES[2])
TREES = tuple(
    Case(*size, tree=True)
    for size in ((256, 2, 10, 128), (784, 2, 10, 128), (784, 2, 20, 128), (784, 2, 32, 128))
)
DENSITIES = tuple(
    _density_contenders.Case(*size)
    for size in ((100, 2, 32, 32), (100, 2, 32, 128), (100, 2, 32, 512), (784, 2, 20, 128))
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a table compares: its cases, the loss and the useful operations of a step."""

    cases: tuple
    quick: tuple
    loss: str
    flops: str
    peers: tuple = ()


KINDS = {
    "chains": Kind(
        CASES,
        QUICK_CASES,
        "cross-entropy of 10 classes",
        "6 n d D^2 B flops",
        ("tn4ml bare", "TensorKrowch", "TorchMPS", "quimb"),
    ),
    "trees": Kind(
        TREES, TREES[:1], "cross-entropy of 10 classes", "6 B flops for each entry of the tree"
    ),
    "densities": Kind(
        DENSITIES,
        DENSITIES[:1],
        "-log of |psi|^2 / <psi|psi>",
        "6 n d D^2 B + 10 n d D^3 flops",
        ("TensorKrowch", "PyTorch"),
    ),
}

# Goals: peer / ours, at least.
RATIO_GOALS = {
    ("tn4ml bare", CASES[0]): 20,
    ("tn4ml bare", CASES[2]): 50,
    ("tn4ml bare", CASES[5]): 50,
    ("TensorKrowch", CASES[2]): 25,
    ("TensorKrowch", CASES[3]): 35,
    ("TorchMPS", CASES[2]): 20,
    ("TorchMPS", CASES[3]): 35,
    ("quimb", CASES[2]): 3,
    **{("PyTorch", case): 10 for case in DENSITIES[:3]},
}
# Share of the same round's matrix product, at least.
SHARE_GOALS = {CASES[2]: 0.12, CASES[3]: 0.25, CASES[4]: 0.22, TREES[3]: 0.2}
# d log(time) / d log(n), at most.
EXPONENT_CASES, EXPONENT_GOAL = (CASES[2], CASES[5]), 1.15

ROUND_SECONDS = 0.2
SLOW_STEP, SLOW_ROUNDS = 5.0, 3
REPLY_TIMEOUT = 600


@dataclasses.dataclass(frozen=True)
class Contender:
    """A function of _contenders.py; the fastest variant of a group stands for the group."""

    group: str
    function: str
    options: tuple = ()
    cases: tuple = CASES
    packages: tuple = ("jax", "optax")
    needs_peers: bool = False

    @property
    def name(self):
        shown = [f"{key}={value}" for key, value in self.options if key != "repository"]
        return ", ".join([self.group, *shown])


SGEMM, OURS = "sgemm", "ours"
EVERY = CASES + TREES + DENSITIES
TN4ML_PACKAGES = ("tn4ml", "jax", "quimb")


def contenders(torchmps):
    """All contenders; where a peer takes minutes to compile, only the cases that matter."""
    yield Contender(SGEMM, "sgemm", (("library", "numpy"),), EVERY, ("numpy",))
    yield Contender(SGEMM, "sgemm", (("library", "jax"),), EVERY)
    yield Contender(OURS, "ours", (), CASES + TREES)
    yield Contender(OURS, "_density_contenders:ours", (), DENSITIES)
    yield Contender("tn4ml bare", "tn4ml_bare", (), CASES[:4] + CASES[5:], TN4ML_PACKAGES, True)
    yield Contender("tn4ml train", "tn4ml_train", (), QUICK_CASES, TN4ML_PACKAGES, True)
    for inline_mats in (False, True):
        options = (("inline_mats", inline_mats),)
        packages = ("tensorkrowch", "torch")
        yield Contender("TensorKrowch", "tensorkrowch", options, CASES, packages, True)
        function = "_density_contenders:tensorkrowch"
        # Its amplitudes overflow at more sites.
        yield Contender("TensorKrowch", function, options, DENSITIES[:3], packages, True)
    yield Contender("PyTorch", "_density_contenders:pytorch", (), DENSITIES, ("torch",), True)
    for parallel_eval in (False, True) if torchmps else ():
        options = (("parallel_eval", parallel_eval), ("repository", torchmps))
        yield Contender("TorchMPS", "torchmps", options, CASES, ("torch",), True)
    for batch, path in (("vmap", "auto-hq"), ("vmap", "hyper"), ("index", "auto-hq")):
        options = (("batch", batch), ("path", path))
        cases = (*QUICK_CASES, TREES[0])
        yield Contender("quimb", "quimb", options, cases, ("quimb", "cotengra", "jax"))


class Worker:
    """A contender's process, asked one request at a time."""

    def __init__(self, contender, python, threads, variables):
        self.contender = contender
        limits = ("OMP", "MKL", "OPENBLAS")
        environment = {
            **os.environ,
            **{f"{library}_NUM_THREADS": str(threads) for library in limits},
            "JAX_PLATFORMS": "cpu",
            "PYTHONWARNINGS": "ignore",
            **variables,
        }
        if not contender.needs_peers:
            environment["PYTHONPATH"] = str(REPOSITORY)
        self.process = subprocess.Popen(
            [
                *(python, HERE / "_worker.py", contender.function),
                *(json.dumps(dict(contender.options)), str(threads)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.replies = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            self.replies.put(json.loads(line))
        self.replies.put({"error": "the process ended"})

    def ask(self, **request):
        """The reply to a request; an "error" in it if there is none in time."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return self.replies.get(timeout=REPLY_TIMEOUT)
        except OSError:
            return {"error": "the process ended"}
        except queue.Empty:
            self.close()
            return {"error": f"no reply in {REPLY_TIMEOUT} s"}

    def close(self):
        self.process.kill()
        self.process.wait()


@dataclasses.dataclass
class Timing:
    """What one contender did on one case; seconds[i] is a step's time in round i, or None."""

    first: float = math.nan
    loss: float = math.nan
    steps: int = 0
    seconds: list = dataclasses.field(default_factory=list)
    error: str = ""

    @property
    def median(self):
        seconds = [s for s in self.seconds if s is not None]
        return statistics.median(seconds) if seconds else math.nan


def set_up(worker, case):
    """Compile a case and choose its number of steps a round."""
    reply = worker.ask(setup=dataclasses.asdict(case))
    if "error" in reply:
        return Timing(error=reply["error"])
    timing = Timing(first=reply["first"], loss=reply["loss"])
    for steps in (1, 3):  # the second run is past lazy initialisation, so its time decides
        reply = worker.ask(run=steps)
        if "error" in reply:
            return Timing(first=timing.first, error=reply["error"])
        if reply["seconds"] > SLOW_STEP:
            break
    step = reply["seconds"] / steps
    timing.steps = max(1 if step > ROUND_SECONDS else 3, math.ceil(ROUND_SECONDS / step))
    return timing


def measure(workers, case, rounds):
    """Timings by contender of one case, in rounds that run every contender once."""
    present = [worker for worker in workers if case in worker.contender.cases]
    timings = {}
    for worker in present:
        timing = timings[worker.contender] = set_up(worker, case)
        logger.info("  %s: first step %.1f s %s", worker.contender.name, timing.first, timing.error)
    order = random.Random(0)
    for i in range(rounds):
        for worker in order.sample(present, len(present)):
            timing = timings[worker.contender]
            slow = i >= SLOW_ROUNDS and timing.seconds and timing.median > SLOW_STEP
            if timing.error or slow:
                timing.seconds.append(None)
                continue
            reply = worker.ask(run=timing.steps)
            timing.error = reply.get("error", "")
            timing.loss = reply.get("loss", timing.loss)
            timing.seconds.append(None if timing.error else reply["seconds"] / timing.steps)
    return timings


def best(timings, group):
    """The timing with the smallest median of a group, None if none ran."""
    ran = [t for c, t in timings.items() if c.group == group and t.median > 0]
    return min(ran, key=lambda t: t.median, default=None)


def ratio(timing, reference):
    """Median over the rounds that both took part in of timing / reference."""
    pairs = zip(timing.seconds, reference.seconds)
    ratios = [a / b for a, b in pairs if a is not None and b is not None]
    return statistics.median(ratios) if ratios else math.nan


def judged(value, text, goal, at_most=False):
    """`text`, with the goal and whether `value` meets it."""
    if goal is None:
        return text
    passed = value <= goal if at_most else value >= goal
    bound = f"{'<=' if at_most else '>='} {goal:{'.0%' if text.endswith('%') else 'g'}}"
    return f"{text} ({bound}: {'pass' if passed else '**fail**'})"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def size(case):
    return f"{case.n}, {case.d}, {case.D}, {case.B}"


def ratios_table(results, groups):
    rows = []
    for case, timings in results.items():
        ours, sgemm = best(timings, OURS), best(timings, SGEMM)
        row = [size(case), "", ""]
        if ours:
            sgemm_per_step = case.flops / (2 * SGEMM_SIZE**3)
            share = sgemm_per_step * ratio(sgemm, ours)
            row[1:] = [
                f"{1e3 * ours.median:.2f}",
                judged(share, f"{share:.0%}", SHARE_GOALS.get(case)),
            ]
        for group in groups:
            variants = [t for c, t in timings.items() if c.group == group and t.median > 0]
            if variants and ours:
                r = min(ratio(timing, ours) for timing in variants)
                row.append(judged(r, f"{r:.3g}x", RATIO_GOALS.get((group, case))))
            else:
                row.append("")
        rows.append(row)
    return table(["n, d, D, B", "ours, ms", "share of sgemm", *groups], rows)


def medians_table(results):
    rows = []
    for case, timings in results.items():
        sgemm = best(timings, SGEMM)
        for contender, timing in timings.items():
            if contender.group == SGEMM:
                continue
            if timing.error:
                rows.append([size(case), contender.name, timing.error[:120], "", "", "", ""])
                continue
            share = case.flops / (2 * SGEMM_SIZE**3) * ratio(sgemm, timing)
            rounds = sum(s is not None for s in timing.seconds)
            rows.append(
                [
                    *(size(case), contender.name, f"{1e3 * timing.median:.3g}", f"{share:.2%}"),
                    *(f"{timing.first:.1f}", f"{timing.loss:.3g}", f"{rounds} x {timing.steps}"),
                ]
            )
    head = ["n, d, D, B", "contender", "step, ms", "share of sgemm"]
    return table([*head, "first step, s", "last loss", "rounds x steps"], rows)


def exponent_line(results):
    """The exponent in n of our time, in units of the same rounds' matrix product."""
    relative = []
    for case in EXPONENT_CASES:
        ours, sgemm = (best(results.get(case, {}), group) for group in (OURS, SGEMM))
        if not ours:
            return ""
        relative.append(ratio(ours, sgemm))
    small, large = EXPONENT_CASES
    exponent = math.log(relative[1] / relative[0]) / math.log(large.n / small.n)
    text = judged(exponent, f"{exponent:.2f}", EXPONENT_GOAL, at_most=True)
    return f"Exponent of our time in n, from {small.n} to {large.n} at D = {small.D}: {text}.\n"


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def notes_on_peers(absent):
    return f"""- tn4ml's float32 gives NaN from {TN4ML_FLOAT32_SITES + 1} sites on,
  so it runs in float64 there; all others run in float32. "bare" compiles its network, embedding and
  loss whole; "train" is the step of its `train` method.
- Left out: {", ".join(absent) or "nothing"}.
"""


def report(kind, results, workers, versions, arguments, load):
    rates = [2 * SGEMM_SIZE**3 / best(t, SGEMM).median / 1e9 for t in results.values()]
    groups = list(dict.fromkeys(w.contender.group for w in workers))
    absent = [g for g in kind.peers if g not in groups]
    variables = ", ".join(f"`{v}`" for v in arguments.env) or "none"
    notes = notes_on_peers(absent) if arguments.kind == "chains" else ""
    return f"""# The training step of {arguments.kind}, side by side

Trigonometric embedding of raw features, forward pass, {kind.loss}, backward pass and Adam on one
batch: n sites, physical dimension d, bond dimension D, batch size B. Ratios are peer / ours, so
larger is better for us; a goal and its verdict stand in brackets. Of a peer's variants the fastest
counts. Medians over interleaved rounds; the first step, with compilation, is timed apart.

{ratios_table(results, [g for g in groups if g not in (SGEMM, OURS)])}

{exponent_line(results)}
{medians_table(results)}

- Share of sgemm: {kind.flops} over the step's time, over the rate of a float32
  {SGEMM_SIZE} x {SGEMM_SIZE} x {SGEMM_SIZE} product in the same round (numpy's or jax's, the
  faster; {min(rates):.0f} to {max(rates):.0f} GFLOP/s by case).
{notes}- {processor()}, {os.cpu_count()} cores, {arguments.threads} threads each (one for a PyTorch
  peer that is faster so); load average before the run {load:.1f}; environment variables:
  {variables}.
- Python {platform.python_version()}; {", ".join(f"{k} {v}" for k, v in sorted(versions.items()))}.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=KINDS, default="chains")
    parser.add_argument("--out", type=Path, required=True, help="markdown file to write")
    parser.add_argument("--peers-python", help="interpreter of the peers' environment")
    parser.add_argument("--torchmps", help="clone of the TorchMPS repository")
    parser.add_argument("--quick", action="store_true", help="the smallest cases only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--groups", help="comma-separated groups to time; default all")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for every process"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    variables = dict(item.split("=", 1) for item in arguments.env)
    chosen = arguments.groups and {SGEMM, *arguments.groups.split(",")}
    workers, versions = [], {}
    try:
        kind = KINDS[arguments.kind]
        cases = kind.quick if arguments.quick else kind.cases
        for contender in contenders(arguments.torchmps):
            if not set(cases) & set(contender.cases):
                continue
            python = arguments.peers_python if contender.needs_peers else sys.executable
            if python and (not chosen or contender.group in chosen):
                workers.append(Worker(contender, python, arguments.threads, variables))
                versions |= workers[-1].ask(versions=contender.packages)
        results = {}
        for case in cases:
            logger.info("n, d, D, B = %s", size(case))
            results[case] = measure(workers, case, arguments.rounds)
            arguments.out.write_text(report(kind, results, workers, versions, arguments, load))
    finally:
        for worker in workers:
            worker.close()
    logger.info("wrote %s", arguments.out)


if __name__ == "__main__":
    main()
