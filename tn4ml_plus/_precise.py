"""Products of floats with all of their digits, for whatever is ill-conditioned.

By default accelerators cut single precision to 8 or 11 significant bits before they multiply:
enough for a step along a gradient or a prediction, too little for effective problems, Gram
matrices, metrics and least squares. Products of those are made here; NumPy has no such default.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

_PRECISION = "highest"
dot_general = partial(lax.dot_general, precision=_PRECISION)
einsum = partial(jnp.einsum, precision=_PRECISION)
tensordot = partial(jnp.tensordot, precision=_PRECISION)
vdot = partial(jnp.vdot, precision=_PRECISION)
#: Context in which products that ask for nothing have all digits too.
everywhere = partial(jax.default_matmul_precision, _PRECISION)


def matmul(*matrices):
    """Product of two matrices or more, from the left.

    >>> import numpy as np
    >>> matmul(2 * np.eye(2), np.eye(2), np.ones(2)).tolist()
    [2.0, 2.0]
    """
    return reduce(partial(jnp.matmul, precision=_PRECISION), matrices)
