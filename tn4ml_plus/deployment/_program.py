"""Fitted estimators as programs that run without this package: StableHLO, by `jax.export`."""

import contextlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._arrays import rounded
from ..io._replacing import replacing

#: What exported programs run on.
PLATFORMS = "cpu", "cuda"
# Lengths of blocks of rows, those of predictions. XLA sums in another order for another length.
_FEW, _MANY = (64, 128, 256, 512), 1024


def write_program(path: str | Path, function, n_columns: int) -> None:
    """Write a function of rows as a program of any number of them, complete or not at all.

    ``jax.export.deserialize(Path(path).read_bytes()).call(X)`` runs it, in double precision. Rows
    are padded to blocks of 64 to 1024, as estimators do it, so that floats are rounded alike. See
    `tn4ml_plus.io.write` for links, modes and errors.

    Parameters
    ----------
    path : str or Path, where to
    function : callable
        From float64 rows (length, n_columns), an array of JAX, to outputs (length, ...).
    n_columns : int
    """
    with as_numpy():
        (n_rows,) = jax.export.symbolic_shape("rows")
        rows = jax.ShapeDtypeStruct((n_rows, n_columns), np.float64)
        program = jax.export.export(jax.jit(partial(_by_blocks, function)), platforms=PLATFORMS)
        try:
            content = program(rows).serialize()
        except ImportError as error:
            raise ImportError(
                "Programs are written with flatbuffers, the extra export: "
                "pip install 'tn4ml_plus[export]'."
            ) from error
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def as_numpy():
    """Context in which functions of arrays of NumPy take those of JAX: double precision, by its
    rules of promotion, whatever those of the user."""
    standard = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with jax.enable_x64(True), standard[0], standard[1]:
        yield


def _by_blocks(function, X):
    """function(X), block by block of a length that is known, whatever that of X."""
    n_rows, n_columns = X.shape
    length = -(-n_rows // _MANY) * _MANY
    padded = lax.dynamic_update_slice(jnp.zeros((length, n_columns), X.dtype), X, (0, 0))

    def few(size, rows):
        found = function(rows[:size])
        whole = jnp.zeros((length, *found.shape[1:]), found.dtype)
        return lax.dynamic_update_slice(whole, found, (0,) * found.ndim)

    def many(rows):
        found = lax.map(function, rows.reshape(-1, _MANY, n_columns))
        return found.reshape(length, *found.shape[2:])

    # A constant once the number of rows is known, so that one of the branches is compiled.
    branch = sum((jnp.asarray(n_rows) > size).astype(np.int32) for size in _FEW)
    branches = [*(partial(few, size) for size in _FEW), many]
    return lax.switch(branch, branches, padded)[:n_rows]


def traced_members(reader, ensemble, function, *arguments):
    """Traceable function from raw numbers to the values of `Ensemble.evaluate`, in float64.

    Values (n_members, length, ...) of float64 rows (length, n_columns), with the networks, and in
    the precision, of now.

    Parameters
    ----------
    reader : TableReader, of numbers alone
    ensemble : Ensemble
    function, *arguments : as of `Ensemble.evaluate`
    """
    embed, x64 = reader.vector_map, jax.config.jax_enable_x64
    of_block = ensemble.values_of(embed, function, *arguments)

    def values(X):
        rows = rounded(reader.encode_numbers(X)[0].astype(embed.middle.dtype))
        with jax.enable_x64(x64):
            found = rounded(of_block(rows))
        return found.astype(np.float64)

    return values
