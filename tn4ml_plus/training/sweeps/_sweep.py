"""Sweeps over open chains and trees by one-site and two-site updates."""

from typing import ClassVar

import jax

from ..._checks import check_int, check_number
from ..._registry import variant
from ._sweep_trainer import SweepTrainer
from ._sweeper import Sweeper, largest_rank
from ._updates import SCHEMES


@variant("trainer")
class Sweep(SweepTrainer):
    """Sweeps over open chains and trees, with bonds that grow and shrink as the data need.

    At each bond the product of the two cores is improved by conjugate gradients on the Gauss-Newton
    model of the objective, cut to the rank that `cutoff` asks for, and improved again within it; a
    step that ends above where it began, by more than a millionth or what the cutoff allows, is
    rejected unless the bond is larger than max_bond. There is no learning rate. The outputs stay at
    their core, so that bonds need not carry them. Operators are trained on their squared norm, as
    losses of densities read it.

    The history has the mean loss of all batches, each after its own sweep, and of the last the
    "bond_dims" and the shares discarded there, "truncation", both in the order of the sites, or of
    the tree's nodes. An epoch is a pass over the samples, of which there are 4 by default.

    >>> Sweep(max_bond=32, cutoff=1e-4).max_bond
    32

    Parameters
    ----------
    n_sites : int, cores that are improved together, 2, or 1 for cheaper steps and slower growth
    max_bond : int, optional
        Cap on the bonds and size of all arrays; None: the largest that the network has when
        training begins.
    cutoff : float
        Share of the square of two cores' product that a truncation may discard, in [0, 1), in the
        metric that shrinkage names.
    steps_after : int, steps of conjugate gradients after the truncation
    expansion : int, directions that single cores add to a bond before it is cut
    max_epochs, early_stopping, time_limit, callbacks : as in `Trainer`
    batch_size : int, samples seen at a time, all bonds once for each batch
    ridge : float
        Weight of half the product's square, in units of the outputs' mean square when training
        begins, chosen once more after the first sweep.
    damping : float
        Weight of half the squared steps, in units in which it is that before the step; grows in
        proportion to the batches seen where there are several.
    shrinkage : float
        In [0, 1], from the metric of the samples, where steps, ridge and cutoff count outputs, to
        one where all directions count alike, which fits slower and generalises better.
    steps : int, steps of conjugate gradients before the truncation
    feature_dropout : float, share of the features that each sample loses in each batch, in [0, 1)
    cache_bytes : int
        Memory for the environments of bonds, each about batch_size times the outputs times the
        bond; those beyond it are made again instead of kept.

    References
    ----------
    White 1992, Phys. Rev. Lett. 69, 2863; Stoudenmire and Schwab 2016, arXiv:1605.05775.
    """

    n_sites: int = 2
    max_bond: int | None = None
    cutoff: float = 1e-6
    steps_after: int = 1
    expansion: int = 4

    default_epochs: ClassVar[int] = 4

    def __post_init__(self):
        super().__post_init__()
        check_int("n_sites", self.n_sites, 1)
        if self.n_sites > 2:
            raise ValueError(f"n_sites must be 1 or 2, got {self.n_sites}.")
        check_int("max_bond", self.max_bond, 1, optional=True)
        for name in ("steps_after", "expansion"):
            check_int(name, getattr(self, name), 0)
        check_number("cutoff", self.cutoff, at_least=0, below=1)

    def _sweeper(self, network, objective, size):
        size = max(size, min(self.max_bond or 1, largest_rank(*network)))
        return Sweeper(*network, objective, size, self.cache_bytes)

    def _sweep(self, member, damping):
        settings = self._settings(
            damping,
            steps_after=self.steps_after,
            cutoff=self.cutoff,
            max_bond=self.max_bond or member.size,
            forced=True,
            expansion=self.expansion,
        )
        if not member.form.bonds:
            return member.improve_root(settings), {"bond_dims": [], "truncation": []}
        reports = jax.device_get(member.sweep(settings, self.n_sites))
        # The last update of a bond counts, that on the way back.
        last = member.plan(SCHEMES[self.n_sites]).last[list(member.form.bonds)]
        numbers = {"bond_dims": reports.rank[last], "truncation": reports.truncation[last]}
        return reports.loss[-1], numbers
