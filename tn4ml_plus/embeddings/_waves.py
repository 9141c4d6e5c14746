"""Embeddings made of sines and cosines."""

import dataclasses
import math

import numpy as np

from .._arrays import namespace
from .._registry import variant
from .._types import ArrayLike
from ._base import Embedding, Gram, Vectors, Weights, along, as_float


def _frequencies(k):
    """pi / 2**i for i = 1..k."""
    return np.pi / 2.0 ** np.arange(1, k + 1)


def _interleave(cos, sin):
    """(..., k) pairs to (..., 2k): cos, sin, cos, sin, ..."""
    return np.stack([cos, sin], axis=-1).reshape(*cos.shape[:-1], -1)


def _cos_sin(angles):
    """Cosines and sines along a new last axis."""
    xp = namespace(angles)
    return xp.stack([xp.cos(angles), xp.sin(angles)], axis=-1)


def trigonometric_moments(k, group=1):
    """Integrals of phi (2k,) and phi phi^T (2k, 2k) of `Trigonometric` at the mean of `group`
    variables uniform on [0, 1], from the characteristic function of that mean."""

    def characteristic(t):
        return np.exp(0.5j * t) * np.sinc(t / (2 * np.pi * group)) ** group

    a = _frequencies(k)
    mean = characteristic(a)
    difference = characteristic(a[:, None] - a)
    total = characteristic(a[:, None] + a)
    cos_cos, sin_sin = (difference + total).real / 2, (difference - total).real / 2
    cos_sin = (total - difference).imag / 2
    rows_cos, rows_sin = _interleave(cos_cos, cos_sin), _interleave(cos_sin.T, sin_sin)
    gram = np.stack([rows_cos, rows_sin], axis=1).reshape(2 * k, 2 * k)
    return _interleave(mean.real, mean.imag) / math.sqrt(k), gram / k


@variant("embedding")
class Trigonometric(Embedding):
    """phi(x) = k^-1/2 [cos(pi x / 2^i), sin(pi x / 2^i)] for i = 1..k, x in [0, 1].

    Unit norm, no unit weights (`UnitSum` adds them). ValueError unless k >= 1.
    k = 1 is the map of Stoudenmire and Schwab, arXiv:1605.05775.

    >>> Trigonometric()([0.0, 1.0]).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    k: int = 1
    norm = 1.0
    phys_dim = property(lambda self: 2 * self.k)
    _least = (("k", 1),)

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)
        angles = x[..., None] * along(_frequencies(self.k), x[..., None])
        phi = _cos_sin(angles)
        return phi.reshape(*x.shape, self.phys_dim) / math.sqrt(self.k)

    def gram(self) -> Gram:
        return trigonometric_moments(self.k)[1]


@dataclasses.dataclass(frozen=True)
class _Grouped(Embedding):
    """One site for each group of consecutive features."""

    k: int = 1
    group: int = 2
    site_features = property(lambda self: self.group)
    _least = (("k", 1), ("group", 1))


@variant("embedding")
class TrigonometricChain(_Grouped):
    """The `Trigonometric` vectors of `group` consecutive features in [0, 1], concatenated.

    One site for each group, phys_dim 2 k group, norm sqrt(group).

    >>> TrigonometricChain(group=2).embed([[0.0, 1.0, 0.0, 0.0]]).round(3).tolist()
    [[[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]]]

    Parameters
    ----------
    k, group : int, frequencies, and features per site, at least 1
    """

    phys_dim = property(lambda self: 2 * self.k * self.group)
    norm = property(lambda self: math.sqrt(self.group))

    def __call__(self, x: ArrayLike) -> Vectors:
        x = self._site_inputs(x)
        return Trigonometric(self.k)(x).reshape(*x.shape[:-1], self.phys_dim)

    def gram(self) -> Gram:
        mean, gram = trigonometric_moments(self.k)
        product = np.outer(mean, mean)
        ones, eye = np.ones((self.group, self.group)), np.eye(self.group)
        return np.kron(ones, product) + np.kron(eye, gram - product)


@variant("embedding")
class TrigonometricAverage(_Grouped):
    """The `Trigonometric` vector of the mean of `group` consecutive features in [0, 1].

    One site for each group, phys_dim 2 k, unit norm. See `TrigonometricChain` for the parameters.

    >>> TrigonometricAverage(group=2).embed([[0.0, 1.0]]).round(3).tolist()
    [[[0.707..., 0.707...]]]
    """

    norm = 1.0
    phys_dim = property(lambda self: 2 * self.k)

    def __call__(self, x: ArrayLike) -> Vectors:
        return Trigonometric(self.k)(self._site_inputs(x).mean(axis=-1))

    def gram(self) -> Gram:
        return trigonometric_moments(self.k, self.group)[1]


@variant("embedding")
class Fourier(Embedding):
    """phi_j(x) = |sum_k exp(2 pi i k ((p - 1) x - j) / p)| / p for j, k = 0..p-1, x in [0, 1].

    Unit norm; x = j / (p - 1) gives the j-th basis vector. ValueError unless p >= 1.

    >>> Fourier(3)([0.0, 0.5]).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """

    p: int = 2
    norm = 1.0
    phys_dim = property(lambda self: self.p)
    _breakpoints = property(lambda self: np.linspace(0.0, 1.0, max(self.p, 2)))
    _least = (("p", 1),)
    _unity = property(lambda self: slice(None) if self.p == 1 else None)

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)[..., None]
        offsets = ((self.p - 1) * x - along(np.arange(self.p), x))[..., None]
        # Centred frequencies make the sum real, so that the modulus has a bounded gradient.
        frequencies = 2 * np.pi / self.p * (np.arange(self.p) - (self.p - 1) / 2)
        angles = offsets * along(frequencies, offsets)
        return abs(namespace(x).cos(angles).mean(axis=-1))


@variant("embedding")
class SpinCoherent(Embedding):
    """phi_s(x) = sqrt(binom(d-1, s)) cos(pi x/2)^(d-1-s) sin(pi x/2)^s, s = 0..d-1, x in [0, 1].

    Unit norm; unit weights for odd d = phys_dim, from (cos^2 + sin^2)^((d-1)/2) = 1.
    ValueError unless phys_dim >= 2. Source: Stoudenmire and Schwab, arXiv:1605.05775.

    >>> SpinCoherent(3)(0.5).round(3).tolist()
    [0.5, 0.707..., 0.5]
    >>> SpinCoherent(3).unit_weights.tolist()
    [1.0, 0.0, 1.0]
    """

    phys_dim: int = 3
    norm = 1.0
    _least = (("phys_dim", 2),)

    @property
    def unit_weights(self) -> Weights | None:
        k, odd = divmod(self.phys_dim - 1, 2)
        if odd:
            return None
        weights = np.zeros(self.phys_dim)
        weights[::2] = [math.comb(k, m) / math.sqrt(math.comb(2 * k, 2 * m)) for m in range(k + 1)]
        return weights

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)
        xp = namespace(x)
        cos, sin = xp.cos(np.pi / 2 * x), xp.sin(np.pi / 2 * x)
        top = self.phys_dim - 1
        parts = [math.sqrt(math.comb(top, s)) * cos ** (top - s) * sin**s for s in range(top + 1)]
        return xp.stack(parts, axis=-1)


@variant("embedding")
class Periodic(Embedding):
    """phi(x) = [1, sqrt(2) cos(2 pi k x), sqrt(2) sin(2 pi k x)] for k = 1..harmonics, of period 1.

    An orthonormal basis for phases, such as the time of day in days; columns are not scaled.
    ValueError unless harmonics >= 1.

    >>> Periodic()([0.0, 0.5]).round(3).tolist()
    [[1.0, 1.414..., 0.0], [1.0, -1.414..., ...0.0]]
    """

    harmonics: int = 1
    as_given = True
    phys_dim = property(lambda self: 2 * self.harmonics + 1)
    norm = property(lambda self: math.sqrt(self.phys_dim))
    _least = (("harmonics", 1),)
    _unity = 0

    def __call__(self, x: ArrayLike) -> Vectors:
        x = as_float(x)[..., None]
        angles = 2 * np.pi * x * along(np.arange(1, self.harmonics + 1), x)
        waves = math.sqrt(2) * _cos_sin(angles)
        waves = waves.reshape(*x.shape[:-1], 2 * self.harmonics)
        xp = namespace(x)
        return xp.concatenate([xp.ones_like(x), waves], axis=-1)

    def gram(self) -> Gram:
        return np.eye(self.phys_dim)
