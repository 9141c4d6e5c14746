"""The base of embeddings: the map itself, its domain, unit weights and Gram matrix."""

import abc
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._arrays import namespace
from .._checks import check_int
from .._types import AnyArray, ArrayLike

# Of an embedding, `self`: embedded vectors, and what belongs to the vectors of one or of all sites.
Vectors = Float[AnyArray, "... {self.phys_dim}"]
Weights = Float[np.ndarray, "{self.phys_dim}"]
SiteWeights = Float[np.ndarray, "nsites {self.phys_dim}"]
Gram = Float[np.ndarray, "{self.phys_dim} {self.phys_dim}"]
SiteGrams = Float[np.ndarray, "nsites {self.phys_dim} {self.phys_dim}"]


def as_float(x):
    """Floats of `x`, an array of JAX if it is one, else of NumPy, which cannot be written to.

    Integers and booleans become JAX's default float. ValueError for what is no array of real
    numbers.
    """
    if np.ma.is_masked(x):
        raise ValueError("X is masked: put NaN, or a number, where it hides entries.")
    x = x if isinstance(x, jax.Array) else np.asarray(x).view()
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(
            "Embeddings take real numbers, not complex ones: give real and imaginary parts as "
            "columns."
        )
    if not any(jnp.issubdtype(x.dtype, kind) for kind in (np.floating, np.integer, np.bool_)):
        raise ValueError(f"Embeddings take real numbers, got dtype {x.dtype}: convert them.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.result_type(float))
    if isinstance(x, np.ndarray):
        # An embedding that changes what it is given would change the data of others.
        x.flags.writeable = False
    return x


def along(values, x):
    """`values` along the last axis of x, with its dtype and all of its axes: strict ranks hold."""
    return namespace(x).asarray(values, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def product(x, matrix):
    """x @ matrix in the dtype of x, with nothing rounded on the way."""
    if namespace(x) is np:
        return x @ np.asarray(matrix, x.dtype)
    return jnp.matmul(x, jnp.asarray(matrix, x.dtype), precision="highest")


def gauss_legendre(breakpoints, pieces=64, order=16):
    """Gauss-Legendre nodes and weights on `pieces` equal parts between neighbouring breakpoints."""
    breakpoints = np.asarray(breakpoints, float)
    fractions = np.arange(pieces) / pieces
    starts = (breakpoints[:-1, None] + np.diff(breakpoints)[:, None] * fractions).ravel()
    edges = np.append(starts, breakpoints[-1])
    nodes, weights = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (nodes + 1)).ravel(), (half * weights).ravel()


class Embedding(abc.ABC):
    """Feature map phi from the features of one site to a vector of size `phys_dim`.

    Subclasses are frozen dataclasses with JSON-able fields, hence valid static arguments of jitted
    functions. Inputs are expected inside `domain`; an infinite domain means that columns are not
    scaled.

    >>> from tn4ml_plus.embeddings import LinearComplement
    >>> embedding = LinearComplement()
    >>> embedding.embed([[0.25, 1.0]]).tolist()
    [[[0.25, 0.75], [1.0, 0.0]]]
    >>> embedding.phys_dim, embedding.nsites(2), embedding.unit_weights.tolist()
    (2, 2, [1.0, 1.0])
    """

    #: Range of the inputs.
    domain: tuple[float, float] = (0.0, 1.0)
    #: L2 norm of every embedded vector on the domain, None if it varies.
    norm: float | None = None
    #: Whether columns are independent features that may be scaled one by one.
    columnwise: bool = True
    #: Whether the domain is its integers only, so that integrals over it are sums.
    discrete: bool = False
    #: Whether columns are taken as they are, not scaled.
    as_given = property(lambda self: self.discrete)
    #: Number of consecutive features that one site sees.
    site_features: int = 1
    # Fields that are integers, each with its smallest value; components whose sum is 1 for every x,
    # an index or a slice of them.
    _least = ()
    _unity = None
    # The ends of the domain and the points between them where phi is not smooth.
    _breakpoints = property(lambda self: self.domain)

    def __post_init__(self):
        for name, least in self._least:
            check_int(name, getattr(self, name), least)

    @property
    @abc.abstractmethod
    def phys_dim(self) -> int:
        """Size of an embedded vector."""

    @abc.abstractmethod
    def __call__(self, x: ArrayLike) -> Vectors:
        """Embed floats (...,), or (..., site_features) if that is above 1, into (..., phys_dim)."""

    @property
    def unit_weights(self) -> Weights | None:
        """Float64 w (phys_dim,) with w . phi(x) = 1 for every x of the domain, None without one."""
        if self._unity is None:
            return None
        weights = np.zeros(self.phys_dim)
        weights[self._unity] = 1
        return weights

    @property
    def is_partition_of_unity(self) -> bool:
        """Whether `unit_weights` exist."""
        return self.unit_weights is not None

    def for_data(self, X: AnyArray, weight: AnyArray) -> "Embedding":
        """The embedding with what it learns from data; estimators call it on the outermost one.

        Parameters
        ----------
        X, weight : (n_samples, n_features), inside the domain, and (n_samples,), sample weights
        """
        del X, weight
        return self

    def split(self) -> tuple["Embedding", tuple[np.ndarray, ...]]:
        """The part that is the same for all data, a key of compiled functions, and learned arrays.

        ``part.join(arrays)`` is the whole embedding.
        """
        return self, ()

    def join(self, arrays: Sequence[AnyArray]) -> "Embedding":
        """The embedding with the arrays that `split` separated from it."""
        del arrays
        return self

    def nsites(self, n_features: int) -> int:
        """Number of sites for `n_features` columns; ValueError if they do not fit."""
        if n_features < 1 or n_features % self.site_features:
            raise ValueError(
                f"{type(self).__name__} needs a multiple of {self.site_features} features "
                f"({self.site_features} per site), got {n_features}: add or drop columns."
            )
        return n_features // self.site_features

    def embed(self, X: ArrayLike) -> Vectors:
        """Embed (batch, n_features) into (batch, nsites, phys_dim); ValueError as in `nsites`."""
        X = as_float(X)
        nsites, n = self.nsites(X.shape[-1]), self.site_features
        return self(X if n == 1 else X.reshape(*X.shape[:-1], nsites, n))

    def phys_dims(self, n_features: int) -> tuple[int, ...]:
        """Size of each site's own vector, before any zero-padding to `phys_dim`."""
        return (self.phys_dim,) * self.nsites(n_features)

    def domains(self, n_features: int) -> tuple[tuple[float, float], ...]:
        """Domain of each feature."""
        self.nsites(n_features)
        return (self.domain,) * n_features

    def site_unit_weights(self, n_features: int) -> SiteWeights | None:
        """Unit weights of each site (nsites, phys_dim), None unless every site has them."""
        nsites, weights = self.nsites(n_features), self.unit_weights
        return None if weights is None else np.tile(weights, (nsites, 1))

    def gram(self) -> Gram:
        """Float64 (phys_dim, phys_dim) integral of phi phi^T over the domain of a site's features.

        Composite Gauss-Legendre quadrature, or a sum over the integers of a discrete domain.
        ValueError for several features per site, unless the subclass knows the integral.
        """
        phi, weights = self.quadrature()
        return (phi.T * weights) @ phi

    def quadrature(self) -> tuple[Float[np.ndarray, "points {self.phys_dim}"], np.ndarray]:
        """Float64 phi (points, phys_dim) and weights of an integral over the domain of a site.

        ValueError for several features per site.
        """
        if self.site_features > 1:
            raise ValueError(
                f"{type(self).__name__} has no Gram matrix: its integral over "
                f"{self.site_features} features is not known. Use an embedding of single features."
            )
        if self.discrete:
            phi = self._evaluate(self._grid())
            return phi, np.ones(len(phi))
        points, weights = gauss_legendre(self._breakpoints)
        return self._evaluate(points), weights

    def site_grams(self, n_features: int) -> SiteGrams:
        """Gram matrix of each site (nsites, phys_dim, phys_dim), zero where vectors are padded."""
        return np.tile(self.gram(), (self.nsites(n_features), 1, 1))

    def _grid(self, size=1025):
        """Points that cover the domain: (points,) or (points, site_features)."""
        low, high = self.domain
        if self.discrete:
            return np.arange(low, high + 1)
        line = np.linspace(low, high, size)
        if self.site_features == 1:
            return line
        inside = np.random.default_rng(0).uniform(low, high, (size, self.site_features))
        return np.concatenate([np.repeat(line[:, None], self.site_features, axis=1), inside])

    def _evaluate(self, points):
        """Phi of concrete points in float64, inside a traced function too."""
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            return np.asarray(self(as_float(np.asarray(points, float))))

    def _site_inputs(self, x):
        """Floats (..., site_features), also where that is 1; ValueError for another last axis."""
        x = as_float(x)
        if self.site_features == 1:
            return x[..., None]
        if x.ndim == 0 or x.shape[-1] != self.site_features:
            raise ValueError(
                f"{type(self).__name__} maps (..., {self.site_features}) arrays, got {x.shape}: "
                "use embed for (batch, n_features)."
            )
        return x
