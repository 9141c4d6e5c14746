"""Training by sweeps: bond after bond, each a small problem solved for all samples."""

import dataclasses

import jax

from .._checks import check_int, check_number
from .._registry import register
from ._stopping import EarlyStopping
from ._sweeper import STEPS, Sweeper, largest_rank
from ._sweeping import Sweeping


@register("trainer")
@dataclasses.dataclass(frozen=True)
class Sweep(Sweeping):
    """Sweeps over open chains and trees, with bonds that grow and shrink as the data need.

    At each bond the product of the two cores is improved by conjugate gradients on the Gauss-Newton
    model of the objective, cut to the rank that `cutoff` asks for, and improved again within it; a
    step that ends above where it began, by more than a millionth or what the cutoff allows, is
    rejected unless the bond is larger than max_bond. There is no learning rate. The outputs stay at
    their core, so that a bond needs no room for them. Of operators the squared norm can be trained,
    as losses of densities read it.

    n_sites: cores that are improved together, 2, or 1 for cheaper steps and slower growth;
    max_bond: cap on the bonds and size of all arrays, None for the largest that the network has
    when training begins; cutoff: share of the square of two cores' product that a truncation may
    discard, in [0, 1), in the metric that shrinkage names; expansion: directions that single cores
    add to a bond before it is cut; max_epochs: passes over the samples, None for 4; batch_size:
    samples seen at a time, all bonds once for each batch; ridge: weight of half that square, in
    units in which it is the outputs' mean square when training begins, chosen once more after the
    first sweep; damping: of half the squared steps, in units in which it is that before the step,
    grows in proportion to the batches seen where there are several; shrinkage: in [0, 1], from the
    metric of the samples, where steps, ridge and cutoff count outputs, to one where all directions
    count alike, which fits slower and generalises better; steps, steps_after: of conjugate
    gradients before and after the truncation; feature_dropout: share of the features that each
    sample loses, in [0, 1), drawn anew for every batch; cache_bytes: memory for what the rest of
    the network makes of a batch at each bond, about that of batch_size times the outputs times the
    bond, beyond which it is made again instead of kept; early_stopping, time_limit, callbacks: as
    in `Gradient`. The history has the mean loss of all batches, each after its own sweep, and of
    the last the "bond_dims" and the shares discarded there, "truncation", both in the order of the
    sites, or of the tree's nodes.
    Raises ValueError for networks with other geometries, NotFiniteError as `Gradient` does.
    After White 1992, Phys. Rev. Lett. 69, 2863, and Stoudenmire and Schwab 2016, arXiv:1605.05775.

    >>> Sweep(max_bond=32, cutoff=1e-4).max_bond
    32
    """

    n_sites: int = 2
    max_bond: int | None = None
    cutoff: float = 1e-6
    max_epochs: int | None = None
    batch_size: int = 10_000
    ridge: float = 1e-2
    damping: float = 0.1
    shrinkage: float = 1.0
    steps: int = 2
    steps_after: int = 1
    expansion: int = 4
    feature_dropout: float = 0.0
    cache_bytes: int = 2_000_000_000
    early_stopping: EarlyStopping | None = None
    time_limit: float | None = None
    callbacks: tuple = ()

    def __post_init__(self):
        self._check()
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
        # The last visit of a bond counts, that on the way back.
        last = member.plan(STEPS[self.n_sites]).last[list(member.form.bonds)]
        numbers = {
            "bond_dims": reports.rank[last],
            "truncation": reports.truncation[last],
        }
        return reports.loss[-1], numbers
