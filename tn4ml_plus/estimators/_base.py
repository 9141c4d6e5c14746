"""Base of the estimators with trained networks."""

import copy
import dataclasses
from typing import NotRequired

import numpy as np
from sklearn.utils import check_random_state

from .._checks import check_index
from ..ensembles import Ensemble, resolve_objective
from ..inspection import activations
from ..losses import CallableLoss
from ..tables import TableReader, read_table
from ..training import Sweep
from ._estimator import FittedInEpochs, NetworkOptions, ResumableOptions, extended, reads
from ._recipes import FLAT, Data, filled, prepared
from ._selection import Selection, select


class TakesTables:
    """Mixin of what takes tables with gaps."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _read(self, X):
        """The table X, with the columns of fitting."""
        return read_table(self, X, reset=False)


class ReadsTables(TakesTables):
    """Mixin of what has read a table: `_reader`, a `TableReader`, and what it says."""

    def __sklearn_is_fitted__(self):
        return "_reader" in vars(self)

    def _restore(self, state):
        super()._restore(state)
        if self._reader.n_columns != self.n_features_in_:
            raise ValueError(f"{self.n_features_in_} columns are not those of the reader")

    @property
    def embedding_(self):
        """The embedding in use, with what it learned from data."""
        return self._reader.embedding

    @reads
    def embed(self, X) -> np.ndarray:
        """Vectors that the networks read, (n_samples, nsites, phys_dim), sites as columns.

        Member m has site orders_[m, i] of them as its own site i.
        """
        return self._reader.embed(self._reader.transform(self._read(X)))

    @reads
    def site_names(self) -> list[str]:
        """Name of the column that each site of `embed` reads, or "site 0", "component 0", ..."""
        return self._reader.site_names()

    @reads
    def grams(self, X=None) -> np.ndarray:
        """Inner products of the functions that a site's entries are, (nsites, d, d) float64.

        Integrals over the domain of the embedding, or, with X, means over its rows. Raises
        ValueError where the former are not known.
        """
        if X is None:
            return self._reader.grams()
        phi = np.asarray(self.embed(X), float).transpose(1, 2, 0)
        return phi @ phi.swapaxes(1, 2) / phi.shape[2]


class FittedNetworks(FittedInEpochs):
    """Results of training networks on tables."""

    _reader: TableReader
    _ensemble: Ensemble
    # Earlier versions did not store it.
    selection_: NotRequired[Selection | None]


class HoldsNetworks(ReadsTables):
    """Mixin of what has trained networks: `_reader` and `_ensemble`, and what they say."""

    @property
    def networks_(self) -> list:
        """The quimb networks, live: changes of them show in predictions."""
        return self._ensemble.networks

    @property
    def orders_(self) -> np.ndarray:
        """Numbers of the sites that each network's sites read, (n_members, nsites)."""
        return self._ensemble.orders

    @property
    @reads
    def network_(self):
        """The network of a model with one member, live: changes of it show in predictions."""
        if len(self.networks_) > 1:
            raise AttributeError(
                f"This {type(self).__name__} averages {len(self.networks_)} networks: see "
                "networks_, or fit with n_members=1 for a single one."
            )
        return self.networks_[0]

    @reads
    def activations(self, X, *, member: int = 0, shape=None) -> list:
        """States of every layer of a network for the rows of X, a list of arrays.

        As `tn4ml_plus.inspection.activations` gives them: for a tree the nodes' vectors, height by
        height; for a chain the boundary vectors at each bond.

        Parameters
        ----------
        X : array or frame of shape (n_samples, n_features)
        member : int, number of the network
        shape : (int, int) or None
            Rows and columns of pixels; layers then have (n_samples, rows, columns, chi).
        """
        check_index("member", member, len(self.networks_), "a network")
        phi = self.embed(X)[:, self.orders_[member]]
        return activations(self.networks_[member], phi, shape)

    def _compressed(self, max_bond, cutoff, X):
        """The ensemble with smaller bonds, in the measure of the domain, or of X."""
        try:
            grams = self.grams()
        except ValueError:
            grams = self.grams(X)
        return self._ensemble.compress(max_bond, cutoff, grams)


def refitting(ensemble, cutoff) -> Sweep:
    """The sweeps that refit an ensemble after truncation, without growing its bonds."""
    largest = max((max(net.bond_sizes(), default=1) for net in ensemble.networks), default=1)
    # Less ridge than where sweeps start from nothing: 98.4 instead of 98.1 % on digits cut from
    # 20 to 10, validation.
    return Sweep(max_bond=largest, cutoff=cutoff, max_epochs=2, ridge=1e-3)


@dataclasses.dataclass(eq=False, repr=False)
class TensorNetworkEstimator(HoldsNetworks, NetworkOptions, ResumableOptions):
    """Base of the estimators that train networks: a `TableReader` and an `Ensemble`."""

    #: A `Recipe` of what options of None stand for.
    _defaults = None
    _fitted = FittedNetworks
    _unchangeable = ("bond_dim", "n_members", "embedding", "network", "scaler", "max_categories")

    @reads
    def compress(self, max_bond=None, cutoff=1e-6, *, X=None, y=None, sample_weight=None):
        """A new estimator with smaller bonds; this one stays as it is.

        Networks are cut by `tn4ml_plus.inspection.compress`, in the measure of the embedding's
        domain, or of X where that has none. With X two sweeps then refit them: slower, and much
        better where bonds become much smaller. ``fit`` with warm_start goes on from the smaller
        networks. ValueError for networks other than open chains and trees.

        >>> from sklearn.datasets import load_iris
        >>> from tn4ml_plus import TNClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = TNClassifier(n_members=1, random_state=0).fit(X, y)
        >>> smaller = clf.compress(max_bond=2)
        >>> max(clf.network_.bond_sizes()), max(smaller.network_.bond_sizes())
        (8, 2)

        Parameters
        ----------
        max_bond : int or None, largest size of a bond
        cutoff : float, share of the square that each bond may leave out, in [0, 1)
        X, y, sample_weight : those that `fit` was given
        """
        if X is None and not (y is None and sample_weight is None):
            raise ValueError("y and sample_weight are those of samples: give X, too.")
        if X is not None and y is None and self.__sklearn_tags__().target_tags.required:
            raise ValueError("Refitting after truncation needs y: give it beside X.")
        smaller = copy.copy(self)
        smaller._ensemble = self._compressed(max_bond, cutoff, X)
        if X is None:
            return smaller
        given = smaller.get_params(deep=False)
        others = dict.fromkeys((*FLAT, "callbacks")) | {"warm_start": True, "early_stopping": False}
        smaller.set_params(**others, trainer=refitting(smaller._ensemble, cutoff))
        try:
            smaller.fit(X, *([] if y is None else [y]), sample_weight=sample_weight)
        finally:
            smaller.set_params(**given)
        return smaller

    def _recipe(self, shape):
        return filled(self._defaults, self, shape, type(self).__name__)

    def _train(self, data: Data, outputs=(None, None), partial_fit=False):
        """Train on encoded data, from the present networks or from new ones."""
        recipe = self._recipe(data.shape)
        if partial_fit:
            recipe = dataclasses.replace(recipe, leaves_out=False)
        before, history, n_iter = None, {}, 0
        if self._goes_on(partial_fit):
            self._check_unchanged("the networks were made")
            before, history, n_iter = (self._reader, self._ensemble), self.history_, self.n_iter_

        rng = check_random_state(self.random_state)
        if before is None:
            chosen = recipe.candidates and not partial_fit
            self.selection_ = select(recipe, data, outputs, rng) if chosen else None
        selection = getattr(self, "selection_", None)  # which earlier versions did not store
        own = before is not None and self.feature_dropout is not None
        if selection and self.trainer == "gradient" and not own:
            best = selection.best
            best = best if self.decay is None else dataclasses.replace(best, decay=None)
            recipe = best.of(recipe)
        reader, ensemble, arguments = prepared(recipe, data, rng, before, outputs)
        temperature = selection.temperature if selection and before is None else 1.0

        def keep(ensemble, new, epochs):
            ensemble = ensemble.rescaled(-np.log(temperature))
            self.history_, self.n_iter_ = extended(history, new), n_iter + epochs
            self._reader, self._ensemble, self._fixed = reader, ensemble, self._present_fixed()

        trained = None
        try:
            trained = ensemble.train(*arguments, partial_fit)
            keep(*trained)
        except (Exception, KeyboardInterrupt) as error:
            trained = getattr(error, "trained", trained)
            if trained is not None:
                keep(*trained)
            raise

    def _predict(self, X, function, *arguments):
        """function(*arguments, amplitude) of every member on the rows of X, as float64 arrays."""
        reader = self._reader
        blocks = reader.blocks(reader.transform(self._read(X)))
        return self._ensemble.evaluate(reader.vector_map, blocks, function, *arguments)

    def _without(self, X):
        """Outputs of every member and those without each site, in the order of `embed`."""
        return self._ensemble.without_sites(self.embed(X), self._reader.neutral)

    def _state(self):
        state, ensemble = super()._state(), self._ensemble
        if isinstance(ensemble.loss, CallableLoss):
            # A function cannot be stored, but what has taken its place since can.
            defaults, owner = self._defaults, type(self).__name__
            objective = resolve_objective(self.loss, defaults.objective, defaults.task, owner)
            state["_ensemble"] = dataclasses.replace(ensemble, loss=objective.loss)
        return state

    def _restore(self, state):
        super()._restore(state)
        self._ensemble.check_reads(self._reader, self._defaults.task, self._n_outputs)

    #: Size of the networks' index of outputs, None for none.
    _n_outputs = None
