"""Annotations that several rooms share."""

from collections.abc import Sequence

import jax
import numpy as np

#: Arrays of JAX, traced ones among them, or of NumPy: ``Float[AnyArray, "batch nsites"]``.
AnyArray = jax.Array | np.ndarray
#: What `jax.numpy.asarray` takes: arrays, numbers, nested sequences of numbers.
ArrayLike = jax.typing.ArrayLike | Sequence
