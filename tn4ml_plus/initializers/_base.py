"""What an initializer is, and the identity that all of them can add."""

import abc
import dataclasses

import jax
import jax.numpy as jnp


def identity_core(weights, left, right):
    """weights[s] * eye(left, right) as an array (left, phys_dim, right)."""
    return jnp.asarray(weights)[None, :, None] * jnp.eye(left, right)[:, None, :]


class Initializer(abc.ABC):
    """Fills the cores of a network: called once a site, with that site's own key.

    A core has the shape (left, phys_dim, right); `weights` (phys_dim,) are numbers w with
    w . phi(x) near 1 over the data, so that ``identity_core(weights, ...)`` hands its left state
    on unchanged. `fan` is the number of random steps that a state makes: nsites * bond_dim.
    """

    add_identity: bool

    @abc.abstractmethod
    def noise(self, key, shape, fan):
        """Random core of shape (left, phys_dim, right)."""

    def __call__(self, key, shape, weights, fan):
        """Core of `shape` (left, phys_dim, right) from a JAX key."""
        core = self.noise(key, shape, fan)
        if self.add_identity:
            core = core + identity_core(weights, shape[0], shape[-1])
        return core

    def stack(self, keys, shape, weights, fan):
        """Cores (nsites, *shape), one key and one row of `weights` (nsites, phys_dim) a site."""
        return jax.vmap(lambda key, w: self(key, shape, w, fan))(keys, jnp.asarray(weights))


@dataclasses.dataclass(frozen=True)
class Noiseless(Initializer):
    """What another initializer starts from: its identity, zeros if it adds none.

    Decay pulls toward this network.
    """

    initializer: Initializer

    @property
    def add_identity(self):
        """As the other initializer."""
        return self.initializer.add_identity

    def noise(self, key, shape, fan):
        """Zeros."""
        return jnp.zeros(shape)
