"""Cores that hand their state on: amplitudes start at order one for any number of sites."""

import dataclasses

import numpy as np

from .._checks import check_number
from .._registry import register
from ._base import Initializer


@register("initializer")
@dataclasses.dataclass(frozen=True)
class LeastSquaresIdentity(Initializer):
    """Identity weighted by the least-squares solution of w . phi(x) = 1 over the data, plus noise.

    Exact for an embedding that is a partition of unity. `std` is the noise's standard deviation;
    None takes sqrt(0.5 / (nsites * bond_dim)), with which the random part of a state grows to about
    its identity part.

    >>> import numpy as np
    >>> core = LeastSquaresIdentity(std=0.0)(np.random.default_rng(0), (2, 2, 2), (1.0, 1.0), fan=8)
    >>> np.asarray(core)[:, 0]
    array([[1., 0.],
           [0., 1.]])
    """

    std: float | None = 1e-2
    add_identity: bool = True

    def __post_init__(self):
        check_number("std", self.std, at_least=0, optional=True)

    def noise(self, rng, shape, fan):
        """Normal entries."""
        std = np.sqrt(0.5 / fan) if self.std is None else self.std
        return std * rng.normal(size=shape)


@register("initializer")
@dataclasses.dataclass(frozen=True)
class Identity(Initializer):
    """The identity on every component of the embedding, plus noise, as tn4ml's "bond" eye.

    It ignores the data: the state grows by sum_s phi_s a site, so use it with few sites or with an
    embedding whose components sum to one.

    >>> import numpy as np
    >>> float(Identity(std=0.0)(np.random.default_rng(0), (2, 3, 2), (1.0, 0, 0), fan=8).sum())
    6.0
    """

    std: float = 1e-2
    add_identity: bool = True

    def __post_init__(self):
        check_number("std", self.std, at_least=0)

    def noise(self, rng, shape, fan):
        """Normal entries."""
        return self.std * rng.normal(size=shape)

    def unit(self, weights):
        """Ones, whatever the weights."""
        return np.ones_like(weights, float)


def least_squares_weights(phi, ridge=1e-3, sample_weight=None):
    """Weights w (nsites, phys_dim) that make w_i . phi_i(x) nearest to 1 over the data.

    phi: (n_samples, nsites, phys_dim); ridge: added to the second moments, relative to their mean
    diagonal, so that components which the data never excite get weight 0.
    w_i = (E[phi phi^T] + ridge)^-1 E[phi].

    >>> import numpy as np
    >>> x = np.linspace(0, 1, 11)[:, None]
    >>> w = least_squares_weights(np.stack([x, 1 - x], -1), ridge=0)
    >>> bool(np.allclose(w, 1))
    True
    """
    phi = np.asarray(phi)
    weight = np.ones(len(phi)) if sample_weight is None else np.asarray(sample_weight, float)
    weight = (weight / weight.sum()).astype(phi.dtype)
    mean = np.einsum("b,bis->is", weight, phi).astype(float)
    by_site = phi.transpose(1, 2, 0)
    moment = (by_site @ (by_site * weight).transpose(0, 2, 1)).astype(float)
    diagonal = np.trace(moment, axis1=1, axis2=2) / phi.shape[-1]
    moment = moment + ridge * diagonal[:, None, None] * np.eye(phi.shape[-1])
    # Components that are padding have neither moment nor mean; a unit diagonal leaves them at 0.
    silent = np.arange(phi.shape[-1])
    moment[:, silent, silent] += np.where(moment[:, silent, silent] == 0, 1.0, 0.0)
    return np.linalg.solve(moment, mean[..., None])[..., 0]
