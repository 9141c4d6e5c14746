"""Densities by the Born rule."""

import dataclasses
from functools import partial

import narwhals.stable.v2 as nw
import numpy as np
from scipy.special import softmax
from sklearn.base import DensityMixin, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._set_output import _get_output_config

from .._checks import check, check_int
from ..deployment import table_tree
from ..tables import Bijection, Table, is_missing, read_columns, read_weight
from ._base import FittedNetworks, TensorNetworkEstimator
from ._densities import BornScore, SiteDensity, born_members, log_densities, log_of_unseen
from ._deployable import Deployable
from ._estimator import as_estimator, by_rows, fits, reads
from ._recipes import DENSITY, Data, of_density
from ._streams import read_rows


class FittedBornMachine(FittedNetworks):
    """Results of fitting a Born machine."""

    unseen_log_density_: float


@as_estimator
class TNBornMachine(
    OneToOneFeatureMixin, TransformerMixin, DensityMixin, Deployable, TensorNetworkEstimator
):
    """Density whose square root is a tensor network, with exact marginals, conditionals, samples.

    p(x) = psi(x)^2 / Z on the embedding's domain, carried over to raw columns by the scaler's
    derivative: it integrates to 1 over them. Categories become one-hot sites, moments seconds.
    Missing values are traced out exactly, except in fitting, which raises a lower bound of the
    likelihood of incomplete rows.
    Han et al. 2018, Phys. Rev. X 8, 031012; Cheng et al. 2019, Phys. Rev. B 99, 155131 for trees.
    See `TNClassifier` for the parameters, attributes and errors that are not described here.

    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> machine = TNBornMachine(random_state=0).fit(X)
    >>> machine.sample(3, random_state=0).shape
    (3, 4)

    Parameters
    ----------
    n_members : int, networks whose densities are averaged, in an orthonormal basis
    embedding : str or Embedding
        None takes Legendre polynomials of degree 8, or of degree 4 for more than 10 features and
        less than 500 samples; any other is made orthonormal. ``"one_hot"``, or ``OneHot(levels)``,
        makes a probability of codes 0, 1, ...
    network : ``"mps"``, ``"ttn"``, their specs, or a network of these kinds without outputs
    loss : NegativeLogLikelihood, also with penalties added, or None for it
    scaler : str or Scaler
        A bijection of the raw columns; None takes ``GaussianCDF()``, which has no edges.
    imputation : str
        What `transform` puts in place of what is missing: ``"mean"``, conditional means and modes,
        or ``"draw"``, samples given the rest of the row, with `random_state`.

    Attributes
    ----------
    history_
        As in `TNClassifier`; the loss is the mean of -log p in nats, on the embedding's domain.
    unseen_log_density_ : log-probability that stands for a category never seen in fitting
        And for those beyond `max_categories`.
    """

    bond_dim: int = 12
    _: dataclasses.KW_ONLY
    n_members: int = 1
    imputation: str = "mean"

    _defaults = DENSITY
    _fitted = FittedBornMachine

    @fits
    def fit(self, X, y=None, sample_weight=None):
        """Train; y is ignored; returns self. See `TNClassifier.fit` for the parameters."""
        self._fit_density(X, sample_weight)

    @fits
    def partial_fit(self, X, y=None, sample_weight=None):
        """One epoch on more samples, the first of which also fit the scaling; returns self.

        See `TNClassifier.fit` for the parameters.
        """
        self._fit_density(X, sample_weight, partial_fit=True)

    def _fit_density(self, X, sample_weight, partial_fit=False):
        self._check_imputation()
        going_on = self._goes_on(partial_fit)
        rows = read_rows(self, X, None, sample_weight, reset=not going_on)

        def encode(table, y, weight):
            weight = read_weight(weight, len(table))
            return Data(table, np.ones(len(weight)), weight).rows(weight > 0)

        data = rows.data(encode)
        if not going_on:
            self.unseen_log_density_ = log_of_unseen(data)
        self._train(data, partial_fit=partial_fit)

    def _recipe(self, shape):
        scalers = Bijection, "GaussianCDF(), LogisticCDF() or MinMax()"
        return of_density(super()._recipe(shape), type(self).__name__, scalers, born=True)

    @reads
    @by_rows
    def score_samples(self, X) -> np.ndarray:
        """Log-densities in nats of the rows of X, (n_samples,), missing values traced out."""
        return self._score.of_rows(self._reader, self._ensemble, self._read(X))

    def _traced(self):
        return self._score.traced(self._reader, self._ensemble)

    def _tree(self):
        views = [self._score.tree(self._reader, self._ensemble)]
        return table_tree(self._reader, "density") | {"views": views}

    def score(self, X, y=None) -> float:
        """Mean log-density of the rows of X, in nats."""
        return float(np.mean(self.score_samples(X)))

    @reads
    def sample(self, n_samples=1, *, given=None, random_state=None):
        """Exact samples, a table of the kind that `fit` was given: a frame, or an array.

        Columns of integers have integers; an array is of objects where there are categories.

        Parameters
        ----------
        n_samples : int
            How many to draw, for each row of `given`.
        given : array or frame of shape (n_rows, n_features), one row of it, or None
            What it holds is kept; the rest, NaN (None for categories), is drawn given that.
        random_state : int, RandomState or None
        """
        check_int("n_samples", n_samples, at_least=1)
        rng = check_random_state(random_state)
        if given is None:
            return self._reader.build(self._drawn(self._nothing(n_samples), rng))
        given = _as_rows(given)
        table = self._read(given)
        repeated = np.repeat(np.arange(len(table)), n_samples)
        table, frame = table.rows(repeated), nw.from_native(given, pass_through=True)
        if isinstance(frame, nw.DataFrame):
            given = nw.maybe_reset_index(frame[repeated.tolist()]).to_native()
        else:
            given = (given if hasattr(given, "__array__") else np.array(given, object))[repeated]
        return self._reader.build(self._drawn(table, rng), like=given, gaps=_gaps(table))

    def _drawn(self, table, rng):
        """Columns of a table whose gaps are drawn, (n_samples, n_features) floats or objects."""
        U = self._reader.encode(table)[0]
        members = born_members(self._reader, self._ensemble, U)
        log = log_densities(members)
        # Which member a row is drawn from, by its share in the density of what is given.
        member = np.argmax(log + rng.gumbel(size=log.shape), axis=0)
        out = U.copy()
        for m, (density, order, phi, missing) in enumerate(members):
            mine = np.flatnonzero(member == m)

            def draw(site, numbers, rho, mine=mine, order=order):
                feature = self._site(order[site])
                values = feature.draw(rho, rng)
                out[mine[numbers], order[site]] = values
                return feature.embed(values)

            density.sample(phi[mine], missing[mine], draw)
        return self._keep_given(self._reader.inverse(out), table)

    @reads
    def impute(self, X):
        """X with missing numbers replaced by their conditional means, categories by their modes.

        Everything that a row holds is conditioned on. Returns a table of the kind that `fit` was
        given, as `sample` does; a frame keeps the index of X.
        """
        return self._filled(self._imputed, X)

    @reads
    def transform(self, X):
        """X with what is missing replaced: by `impute`, or as `sample` draws it.

        Parameters
        ----------
        X : array or frame of shape (n_samples, n_features)
        """
        self._check_imputation()
        draw = partial(self._drawn, rng=check_random_state(self.random_state))
        found = self._filled(self._imputed if self.imputation == "mean" else draw, X)
        wanted = _get_output_config("transform", self)["dense"]
        made = self._reader.make and self._reader.make.library
        if wanted == "default" or made in (None, wanted):
            return found
        found = nw.from_native(found)
        return found.to_pandas() if wanted == "pandas" else found.to_polars()

    def _check_imputation(self):
        valid = self.imputation in ("mean", "draw")
        check("imputation", self.imputation, valid, '"mean" or "draw"')

    def _filled(self, fill, X):
        """X with its gaps filled by a function of its table."""
        table = self._read(X)
        return self._reader.build(fill(table), like=X, gaps=_gaps(table))

    def _imputed(self, table):
        """Columns of a table without gaps, (n_samples, n_features) floats or objects."""
        U = self._reader.encode(table)[0]
        missing, out = np.isnan(U), self._reader.inverse(U)
        chosen = np.flatnonzero(missing.any(axis=1))
        masses, members = {}, born_members(self._reader, self._ensemble, U[chosen])
        weights = softmax(log_densities(members), axis=0)
        for weight, (density, order, *vectors) in zip(weights, members, strict=True):
            rho = density.conditionals(*vectors)
            for site, j in enumerate(order):
                here = missing[chosen, j]
                if here.any():
                    d = density.phys_dims[site]
                    part = self._site(j).masses(rho[here, site, :d, :d]) * weight[here, None]
                    masses[j] = masses.get(j, 0) + part
        for j, mass in masses.items():
            site = self._site(j)
            values = np.tile(site.values[:, None].astype(float), U.shape[1])
            raw = self._reader.inverse(values)[:, j]
            if site.embedding.discrete:
                out[missing[:, j], j] = raw[np.argmax(mass, axis=1)]
            else:
                out[missing[:, j], j] = mass @ raw.astype(float) / mass.sum(axis=1)
        return self._keep_given(out, table)

    @reads
    @by_rows
    def explain(self, X) -> np.ndarray:
        """Log-density of each column given all others, (n_samples, n_features), in nats.

        The log-density falls by this much where the column is traced out; 0 where it is missing.
        """
        return -self._score.surprises(self._reader, self._ensemble, self._read(X))

    @reads
    def marginal(self, features):
        """Density of some of the features, given by number or name, all others traced out.

        Returns a `Marginal` with `score_samples` and `sample`.
        """
        names = list(getattr(self, "feature_names_in_", ()))
        features = [features] if np.ndim(features) == 0 else list(features)
        numbers = [names.index(f) if f in names else f for f in features]
        valid = [isinstance(f, int | np.integer) and 0 <= f < self.n_features_in_ for f in numbers]
        different = numbers and all(valid) and len(set(numbers)) == len(numbers)
        allowed = f"different columns, as numbers below {self.n_features_in_} or names seen in fit"
        check("features", features, different, allowed)
        return Marginal(self, [int(f) for f in numbers])

    _score = property(lambda self: BornScore(self.unseen_log_density_))

    def _nothing(self, n_rows):
        """Table of which nothing is known."""
        levels = self._reader.levels
        empty = tuple(None if lv is None else np.full(n_rows, None, object) for lv in levels)
        return Table(np.full((n_rows, len(levels)), np.nan), empty)

    def _site(self, feature):
        return SiteDensity(self._reader.site_embeddings()[feature])

    def _keep_given(self, out, table):
        """`out` with what the table holds put back as it was."""
        for j, values in enumerate(table.raw):
            if values is None or values.dtype != object:
                known = ~np.isnan(table.floats[:, j])
                out[known, j] = table.floats[known, j]
            else:
                known = np.array([not is_missing(value) for value in values], bool)
                out[known, j] = values[known]
        return out


def _gaps(table):
    """Where entries of a table are missing, (n_samples, n_features)."""
    gaps = [
        np.isnan(column) if values is None else np.array([*map(is_missing, values)], bool)
        for column, values in zip(table.floats.T, table.raw, strict=True)
    ]
    return np.stack(gaps, axis=1)


def _as_rows(given):
    """A table of one row where a row is given, as an array or as a series with the names."""
    if isinstance(given, dict):
        raise ValueError("given is a dict: make a frame of one row of it, or a list of its values.")
    if hasattr(given, "columns") or np.ndim(given) == 2:
        return given
    if np.ma.isMaskedArray(given):
        return given[None]
    named = hasattr(given, "to_frame") and hasattr(given, "index")
    return given.to_frame().T if named else np.array(list(given), object)[None]


class Marginal:
    """Density of some features of a `TNBornMachine`, made by its `marginal`.

    Parameters
    ----------
    machine : TNBornMachine
    features : sequence of int, numbers of the columns in the order of those of samples
    """

    def __init__(self, machine, features):
        self.machine = machine
        self.features = tuple(features)

    def score_samples(self, X):
        """Log-densities in nats of the rows of X (n_samples, len(features)), (n_samples,)."""
        part, reader = read_columns(X, self.machine), self.machine._reader
        names = part.make.names
        expected = tuple(reader.names[j] for j in self.features) if reader.names else ()
        if names and expected and tuple(names) != expected:
            raise ValueError(f"The columns must be {list(expected)} in this order, got {[*names]}.")
        if part.shape[1] != len(self.features):
            raise ValueError(
                f"X must have the shape (n_samples, {len(self.features)}), got {part.shape}."
            )
        if reader.make is not None:
            reader.make.chosen(self.features).check_same(part.make, part.floats)
        table = self.machine._nothing(len(part))
        raw = list(table.raw)
        for j, floats, values in zip(self.features, part.floats.T, part.raw, strict=True):
            table.floats[:, j] = floats
            raw[j] = values
        table = dataclasses.replace(table, raw=tuple(raw))
        return self.machine._score.of_rows(self.machine._reader, self.machine._ensemble, table)

    def sample(self, n_samples=1, *, random_state=None):
        """Exact samples, a table of these features.

        See `TNBornMachine.sample` for the parameters and what comes back.
        """
        check_int("n_samples", n_samples, at_least=1)
        machine = self.machine
        drawn = machine._drawn(machine._nothing(n_samples), check_random_state(random_state))
        return machine._reader.build(drawn[:, list(self.features)], self.features)
