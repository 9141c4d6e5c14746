"""Outputs as linear functions of the cores at a bond, in a metric."""

import jax.numpy as jnp

from ...contraction import khatri_rao

# Samples that the metric is made from; any metric is right, more of them make it no better.
METRIC_ROWS = 4096


class EffectiveMap:
    """Outputs, their adjoint and the norm as functions of B, (p, k, m), in an `Environment`.

    k: of the siblings; m: of the upper node's own bond, of the outputs at the root. With a
    shrinkage, as in `Settings`, they are functions of B~, without one of B.
    """

    def __init__(self, fixed, shape, shrinkage=None):
        self.shape = shape
        x, self.o, self.env = fixed.lower, fixed.siblings, fixed.above
        self.n_below, self.batch = x.shape[1:]
        self.x = x.reshape(len(x), -1)
        self.gram_x = self.gram_y = None
        self.root_x = self.inverse_x = self.root_y = self.inverse_y = None
        if fixed.grams is not None:
            self.gram_x, others, above = (gram for gram, _ in fixed.grams)
            self.gram_y = others if above is None else jnp.kron(others, above)
        if shrinkage is None:
            return
        # Samples come in random order.
        n, batch = METRIC_ROWS, fixed.batch
        y, weight = self.o[:, :n], batch.weight[:n] / jnp.sum(batch.weight[:n])
        if self.env is not None:
            signs = batch.signs[:, : self.env.shape[1]]
            # Random signs: an unbiased estimate of the sum over outputs, without their number.
            y = khatri_rao(y, jnp.einsum("nc,ncd->nd", signs, self.env[:n]).T)
        self.root_x, self.inverse_x = _moments_root(fixed.lower[:, :, :n], weight, shrinkage)
        self.root_y, self.inverse_y = _moments_root(y[:, None], weight, shrinkage)
        self.x = self.inverse_x @ self.x
        if self.env is None:
            self.o = self.inverse_y @ self.o
        if fixed.grams is not None:
            self.gram_x = self.inverse_x @ self.gram_x @ self.inverse_x
            self.gram_y = self.inverse_y @ self.gram_y @ self.inverse_y

    def white(self, B):
        """B~ of B."""
        return self.right(left(self.root_x, B), self.root_y)

    def right(self, B, matrix):
        """B times a matrix on the side of y, None standing for one."""
        if matrix is None:
            return B
        if self.env is None:
            return jnp.einsum("pkm,kl->plm", B, matrix)
        return (B.reshape(len(B), -1) @ matrix).reshape(B.shape)

    def outputs(self, B):
        """Outputs (batch, outputs below times outputs)."""
        p, k, m = self.shape
        if self.env is not None:
            B = self.right(B, self.inverse_y)
        z = self.x.T @ B.reshape(p, k * m)
        if self.n_below == 1:
            # Many times faster than the same with an axis of size 1.
            z = jnp.einsum("nkm,kn->nm", z.reshape(self.batch, k, m), self.o)
            return z if self.env is None else jnp.einsum("nd,ncd->nc", z, self.env)
        z = jnp.einsum("ankm,kn->anm", z.reshape(self.n_below, self.batch, k, m), self.o)
        if self.env is not None:
            z = jnp.einsum("and,ncd->anc", z, self.env)
        return z.swapaxes(0, 1).reshape(self.batch, -1)

    def adjoint(self, r):
        """The adjoint of `outputs`, of B's shape."""
        if self.n_below == 1:
            z = r if self.env is None else jnp.einsum("nc,ncd->nd", r, self.env)
        else:
            z = r.reshape(self.batch, self.n_below, -1).swapaxes(0, 1)
            z = z if self.env is None else jnp.einsum("anc,ncd->and", z, self.env)
        o = self.o.T[(None,) * (z.ndim - 2)]
        y = (o[..., None] * z[..., None, :]).reshape(self.x.shape[1], -1)
        B = (self.x @ y).reshape(self.shape)
        return B if self.env is None else self.right(B, self.inverse_y)

    def gram(self, B):
        """G B with <B, G B> the squared norm of the whole network, 0 where no one reads it."""
        if self.gram_x is None:
            return 0.0
        return left(self.gram_x, self.right(B, self.gram_y))

    def inner(self, A, B):
        """<A, G B>."""
        none = jnp.zeros((), A.dtype)
        return none if self.gram_x is None else jnp.vdot(A, self.gram(B))


def _moments_root(x, weight, shrinkage):
    """S and S^-1, S^2 being second moments of x (p, ..., batch), weighted, shrunk to their mean."""
    moments = (x * weight[None, None]).reshape(len(x), -1) @ x.reshape(len(x), -1).T
    # What pads a bond has no moments and takes no part in the mean.
    present = jnp.maximum(jnp.sum(jnp.diagonal(moments) > 0), 1)
    mean = jnp.maximum(jnp.trace(moments) / present.astype(x.dtype), jnp.finfo(x.dtype).tiny)
    moments = (1 - shrinkage) * moments + shrinkage * mean * jnp.eye(len(x), dtype=x.dtype)
    values, vectors = jnp.linalg.eigh(moments)
    root = jnp.sqrt(jnp.maximum(values, 1e-7 * values[-1]))
    return (vectors * root[None]) @ vectors.T, (vectors / root[None]) @ vectors.T


def left(matrix, B):
    """A matrix times B on the side of x, None standing for one."""
    if matrix is None:
        return B
    return (matrix @ B.reshape(len(B), -1)).reshape(B.shape)
