"""Many trainings, one core each, whose results outlive an interruption."""

import json
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed

logger = logging.getLogger("runs")


def run_all(function, jobs, path=None):
    """What a function gives for each job, a tuple of its arguments, as a dictionary by jobs.

    As many run at a time as there are cores. path: a file of JSON lines that keeps what is
    finished, so that it is not done again.
    """
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    found = {tuple(job): result for job, result in map(json.loads, lines)}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for core in cores:
        free.put(core)
    with ProcessPoolExecutor(len(cores), context, _one_core, (free,)) as pool:
        tasks = {pool.submit(function, *job): job for job in jobs if job not in found}
        for task in as_completed(tasks):
            job, result = tasks[task], task.result()
            found[job] = result
            logger.info("%s: %s", ", ".join(map(str, job)), result)
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps([job, result]) + "\n")
    return {job: found[job] for job in jobs}


def _one_core(free):
    """Keep this process to one core, before JAX looks for them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {free.get()})
