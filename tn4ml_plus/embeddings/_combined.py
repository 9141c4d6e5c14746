"""Embeddings made of other embeddings."""

import abc
import dataclasses
import functools
import operator

import numpy as np

from .._arrays import namespace
from .._checks import float_tuple
from .._registry import variant
from .._types import AnyArray, ArrayLike
from ._base import (
    Embedding,
    Gram,
    SiteGrams,
    SiteWeights,
    Vectors,
    Weights,
    along,
    as_float,
    product,
)
from ._polynomial import LinearComplement
from ._waves import Trigonometric


@variant("embedding")
class PerFeature(Embedding):
    """Another embedding for each feature, vectors zero-padded to the largest phys_dim.

    `domains`, `phys_dims`, `site_unit_weights` and `site_grams` are those of each site; `domain`
    (the hull), `unit_weights` and `norm` are common to all sites. ValueError unless embeddings are
    one or more of single features.

    >>> from tn4ml_plus.embeddings import LinearComplement, OneHot
    >>> mixed = PerFeature((LinearComplement(), OneHot(3)))
    >>> mixed.embed([[0.25, 2]]).tolist()
    [[[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]]
    >>> mixed.phys_dims(2), mixed.domains(2)
    ((2, 3), ((0.0, 1.0), (0.0, 2.0)))
    """

    embeddings: tuple[Embedding, ...] = ()
    phys_dim = property(lambda self: max(embedding.phys_dim for embedding in self.embeddings))

    def __post_init__(self):
        if not isinstance(self.embeddings, list | tuple) or not self.embeddings:
            raise ValueError(
                "embeddings must be a tuple with one embedding for each feature, such as "
                f"PerFeature((Legendre(), OneHot(3))), got {self.embeddings!r}."
            )
        for embedding in self.embeddings:
            if not isinstance(embedding, Embedding) or isinstance(embedding, PerFeature):
                raise ValueError(f"PerFeature takes embedding objects, got {embedding!r}.")
            if embedding.site_features > 1 or not embedding.columnwise:
                raise ValueError(
                    f"PerFeature takes embeddings of single features; {embedding!r} mixes several."
                )
        object.__setattr__(self, "embeddings", tuple(self.embeddings))

    @property
    def domain(self) -> tuple[float, float]:
        lows, highs = zip(*(embedding.domain for embedding in self.embeddings))
        return min(lows), max(highs)

    @property
    def norm(self) -> float | None:
        norms = {embedding.norm for embedding in self.embeddings}
        return norms.pop() if len(norms) == 1 else None

    @property
    def unit_weights(self) -> Weights | None:
        weights = self.site_unit_weights(len(self.embeddings))
        return weights[0] if weights is not None and (weights == weights[0]).all() else None

    @property
    def is_partition_of_unity(self) -> bool:
        return all(embedding.is_partition_of_unity for embedding in self.embeddings)

    def nsites(self, n_features: int) -> int:
        if n_features != len(self.embeddings):
            raise ValueError(
                f"PerFeature has {len(self.embeddings)} embeddings for {n_features} features: "
                "give one for each feature."
            )
        return n_features

    def phys_dims(self, n_features: int) -> tuple[int, ...]:
        self.nsites(n_features)
        return tuple(embedding.phys_dim for embedding in self.embeddings)

    def domains(self, n_features: int) -> tuple[tuple[float, float], ...]:
        self.nsites(n_features)
        return tuple(embedding.domain for embedding in self.embeddings)

    def site_unit_weights(self, n_features: int) -> SiteWeights | None:
        self.nsites(n_features)
        if not self.is_partition_of_unity:
            return None
        return self._padded(embedding.unit_weights for embedding in self.embeddings)

    def gram(self) -> Gram:
        if len(set(self.embeddings)) > 1:
            raise ValueError("The sites of PerFeature have different Gram matrices: site_grams.")
        return self.embeddings[0].gram()

    def site_grams(self, n_features: int) -> SiteGrams:
        self.nsites(n_features)
        return self._padded(embedding.gram() for embedding in self.embeddings)

    def _padded(self, arrays):
        """One array per site, zero-padded to the largest phys_dim on every axis."""
        return np.stack([np.pad(array, (0, self.phys_dim - len(array))) for array in arrays])

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)
        self.nsites(x.shape[-1])
        xp, columns = namespace(x), {}
        for column, embedding in enumerate(self.embeddings):
            columns.setdefault(embedding, []).append(column)
        # One call for each distinct embedding keeps the compiled program small.
        parts = []
        for embedding, indices in columns.items():
            phi = embedding(x[..., np.array(indices, np.int32)])
            padding = self.phys_dim - embedding.phys_dim
            parts.append(xp.pad(phi, [(0, 0)] * x.ndim + [(0, padding)]))
        order = np.argsort(np.concatenate(list(columns.values()))).astype(np.int32)
        return xp.concatenate(parts, axis=-2)[..., order, :]


def _inner(name):
    """An attribute of the embedding inside."""
    return property(operator.attrgetter(f"embedding.{name}"))


@dataclasses.dataclass(frozen=True)
class _Wrapper(Embedding):
    """Another embedding with its vectors changed."""

    embedding: Embedding

    def __post_init__(self):
        if not isinstance(self.embedding, Embedding) or isinstance(self.embedding, PerFeature):
            raise ValueError(
                f"embedding must be an embedding object, got {self.embedding!r}; "
                "inside PerFeature, wrap each embedding by itself."
            )

    @abc.abstractmethod
    def _change(self, phi):
        """The changed vectors (..., phys_dim) of embedded vectors of the same shape."""

    phys_dim, domain = _inner("phys_dim"), _inner("domain")
    columnwise, discrete = _inner("columnwise"), _inner("discrete")
    as_given = _inner("as_given")
    site_features, _breakpoints = _inner("site_features"), _inner("_breakpoints")
    nsites = _inner("nsites")

    def __call__(self, x: ArrayLike) -> Vectors:
        return self._change(self.embedding(x))

    def embed(self, X: ArrayLike) -> Vectors:
        return self._change(self.embedding.embed(X))


@dataclasses.dataclass(frozen=True)
class _Rescaled(_Wrapper):
    """An embedding divided by a positive number that depends on the embedded vector."""

    def __post_init__(self):
        super().__post_init__()
        if not np.isfinite(self.embedding.domain).all():
            raise ValueError(f"{self.embedding!r} has no finite domain: rescale its vectors.")
        divisors = self._divisor(self.embedding._evaluate(self.embedding._grid()))
        if not divisors.min() > 0:
            raise ValueError(
                f"{type(self).__name__} divides by a number that must be positive on the domain "
                f"of {self.embedding!r}, but reaches {divisors.min():.3g}: choose other weights "
                "or another embedding."
            )

    @abc.abstractmethod
    def _divisor(self, phi):
        """Positive divisors (...,) of embedded vectors (..., phys_dim)."""

    def _change(self, phi):
        return phi / self._divisor(phi)[..., None]


@variant("embedding")
class UnitNorm(_Rescaled):
    """phi / |phi|_2 of another embedding, whose phi must not vanish on a grid over its domain.

    >>> from tn4ml_plus.embeddings import LinearComplement
    >>> UnitNorm(LinearComplement())(0.5).round(3).tolist()
    [0.707..., 0.707...]
    """

    embedding: Embedding = dataclasses.field(default=LinearComplement())
    norm = 1.0

    @property
    def unit_weights(self) -> Weights | None:
        weights, norm = self.embedding.unit_weights, self.embedding.norm
        return None if weights is None or norm is None else weights * norm

    def _divisor(self, phi):
        return (phi**2).sum(axis=-1) ** 0.5


@variant("embedding")
class UnitSum(_Rescaled):
    """phi / (w . phi) of another embedding: a partition of unity with unit weights w.

    >>> from tn4ml_plus.embeddings import Trigonometric
    >>> UnitSum(Trigonometric(), (1.0, 1.0))(0.5).round(3).tolist()
    [0.5, 0.5]

    Parameters
    ----------
    embedding : Embedding, the other embedding
    weights : tuple of float, w (phys_dim,), with w . phi > 0 on a grid over the domain
    """

    embedding: Embedding = dataclasses.field(default=Trigonometric())
    weights: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self):
        object.__setattr__(self, "weights", float_tuple("weights", self.weights))
        phys_dim = getattr(self.embedding, "phys_dim", len(self.weights))
        if len(self.weights) != phys_dim:
            raise ValueError(f"weights must be {phys_dim} numbers, got {len(self.weights)}.")
        super().__post_init__()

    @property
    def unit_weights(self) -> Weights | None:
        return np.array(self.weights)

    def _divisor(self, phi):
        return (phi * along(self.weights, phi)).sum(axis=-1)


@variant("embedding")
class Orthonormal(_Wrapper):
    """L^-1 phi of another embedding, with L L^T its Gram matrix: an orthonormal basis.

    In this basis the squared norm of a network is the integral of its squared value over the
    domain, so that entropies and densities need no metric. Its span is that of the other embedding,
    whose components must be linearly independent on the domain.

    >>> from tn4ml_plus.embeddings import Legendre
    >>> Orthonormal(Legendre(1)).gram().round(12).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    embedding: Embedding = dataclasses.field(default=LinearComplement())

    def __post_init__(self):
        super().__post_init__()
        gram = self.embedding.gram()
        spectrum = np.linalg.eigvalsh(gram)
        if not spectrum[0] > 1e-9 * spectrum[-1]:
            raise ValueError(
                f"The components of {self.embedding!r} are linearly dependent on its domain: take "
                "fewer of them, or another embedding."
            )

    @functools.cached_property
    def _factor(self):
        return np.linalg.cholesky(self.embedding.gram())

    @property
    def unit_weights(self) -> Weights | None:
        weights = self.embedding.unit_weights
        return None if weights is None else self._factor.T @ weights

    def _change(self, phi):
        return product(phi, np.linalg.inv(self._factor).T)

    def gram(self) -> Gram:
        return np.eye(self.phys_dim)


@variant("embedding")
class WithMissing(_Wrapper):
    """Another embedding of single features with one more basis vector, that of a missing feature.

    So that a network can learn from what is missing. Unit weights are those of the other embedding
    and 1; in integrals, missing is one more point of weight 1.

    >>> from tn4ml_plus.embeddings import LinearComplement
    >>> WithMissing(LinearComplement())([0.25, float("nan")]).tolist()
    [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]
    """

    embedding: Embedding = dataclasses.field(default=LinearComplement())
    phys_dim = property(lambda self: self.embedding.phys_dim + 1)
    norm = property(lambda self: 1.0 if self.embedding.norm == 1 else None)

    def __post_init__(self):
        super().__post_init__()
        if self.embedding.site_features > 1:
            raise ValueError(
                f"{self.embedding!r} sees several features, of which some may be missing and some "
                "not: take an embedding of single features."
            )

    @property
    def unit_weights(self) -> Weights | None:
        weights = self.embedding.unit_weights
        return None if weights is None else np.append(weights, 1)

    def for_data(self, X: AnyArray, weight: AnyArray) -> Embedding:
        inner = self.embedding.for_data(X, weight)
        return dataclasses.replace(self, embedding=inner)

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)
        xp = namespace(x)
        missing = xp.isnan(x)
        middle = np.clip(self.domain, -1e6, 1e6).mean()
        phi = self.embedding(xp.where(missing, x.dtype.type(middle), x))
        own = missing[..., None]
        return xp.concatenate([xp.where(own, 0, phi), own.astype(phi.dtype)], axis=-1)

    def embed(self, X: ArrayLike) -> Vectors:
        return self(X)

    def _change(self, phi):
        raise NotImplementedError  # What is missing shows before it is embedded only.

    def gram(self) -> Gram:
        gram = np.pad(self.embedding.gram(), (0, 1))
        gram[-1, -1] = 1
        return gram

    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        phi, weights = self.embedding.quadrature()
        phi = np.pad(phi, (0, 1))
        phi[-1, -1] = 1
        return phi, np.append(weights, 1)
