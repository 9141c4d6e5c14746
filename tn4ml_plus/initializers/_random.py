"""Random cores: independent entries, orthonormal rows, Haar-distributed isometries."""

import dataclasses

import numpy as np

from .._checks import check_number
from .._registry import register
from ._base import Initializer


@register("initializer")
@dataclasses.dataclass(frozen=True)
class RandomNormal(Initializer):
    """Independent normal entries of standard deviation `std`.

    Without the identity an amplitude over many sites is far below every float; training then
    relies on calibration (`tn4ml_plus.contraction.calibrate`).

    >>> import numpy as np
    >>> RandomNormal(std=0.5)(np.random.default_rng(0), (3, 2, 3), (0.5, 0.5), fan=30).shape
    (3, 2, 3)
    """

    std: float = 1e-2
    add_identity: bool = False

    def __post_init__(self):
        check_number("std", self.std, at_least=0)

    def noise(self, rng, shape, fan):
        """Normal entries."""
        return self.std * rng.normal(size=shape)


@register("initializer")
@dataclasses.dataclass(frozen=True)
class GramSchmidt(Initializer):
    """Uniform entries on [0, 1), their rows (phys_dim * right of them a row) orthonormalised.

    Where there are more rows than columns the columns are orthonormal instead.

    >>> import numpy as np
    >>> core = GramSchmidt()(np.random.default_rng(0), (3, 2, 3), (0.5, 0.5), fan=30)
    >>> rows = core.reshape(3, 6)
    >>> bool(np.allclose(rows @ rows.T, np.eye(3), atol=1e-6))
    True
    """

    add_identity: bool = False

    def noise(self, rng, shape, fan):
        """Orthonormalised uniform entries."""
        return _orthonormal(rng.uniform(size=shape))


@register("initializer")
@dataclasses.dataclass(frozen=True)
class HaarUnitary(Initializer):
    """Isometries from the Haar measure, left -> (phys_dim, right), or adjoint if left is larger.

    Mezzadri, Notices of the AMS 54 (2007) 592: QR of a normal matrix, signs fixed by R's diagonal.

    >>> import numpy as np
    >>> HaarUnitary()(np.random.default_rng(0), (4, 2, 4), (0.5, 0.5), fan=40).shape
    (4, 2, 4)
    """

    add_identity: bool = False

    def noise(self, rng, shape, fan):
        """Haar-distributed isometry."""
        return _orthonormal(rng.normal(size=shape))


def _orthonormal(core):
    """Nearest row-by-row orthonormalisation of a core seen as a (left, phys_dim * right) matrix."""
    matrix = core.reshape(core.shape[0], -1)
    tall = matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix
    q, r = np.linalg.qr(tall)
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return (q.T if tall is not matrix else q).reshape(core.shape)
