"""One contender in a process of its own: JSON lines in on stdin, JSON lines out on stdout.

    {"setup": {"n": 30, "d": 2, "D": 10, "B": 64}}  ->  {"first": seconds, "loss": ...}
    {"run": 5}                                      ->  {"seconds": seconds, "loss": ...}
    {"versions": ["jax"]}                           ->  {"jax": "0.10.2"}

Started as ``_worker.py CONTENDER OPTIONS THREADS`` with OPTIONS a JSON object of its arguments; a
contender is a function of _contenders.py, or MODULE:FUNCTION of another file beside it.
An exception is answered as ``{"error": message}`` and ends nothing.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import time


def main():
    contender, options, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not enter the protocol
    if hasattr(os, "sched_setaffinity"):
        # XLA sizes its thread pool by the cores that the process may use, not by variables.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    module, _, function = contender.rpartition(":")
    contenders = importlib.import_module(module or "_contenders")

    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "setup" in request:
                run = None  # frees the previous case first
                start = time.perf_counter()
                case = contenders.Case(**request["setup"])
                run = getattr(contenders, function)(case, **options)
                loss = run(1)
                reply = {"first": time.perf_counter() - start, "loss": loss}
            elif "run" in request:
                start = time.perf_counter()
                loss = run(request["run"])
                seconds = time.perf_counter() - start
                if hasattr(run, "seconds"):
                    seconds = run.seconds(request["run"])
                reply = {"seconds": seconds, "loss": loss}
            else:
                reply = {name: importlib.metadata.version(name) for name in request["versions"]}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
