"""The one place where the step benchmark meets the library."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _contenders import LEARNING_RATE, SWEEPS

from tn4ml_plus.contraction import contract, log_norm_squared, pack
from tn4ml_plus.embeddings import Trigonometric
from tn4ml_plus.initializers import least_squares_weights
from tn4ml_plus.losses import CrossEntropy, NegativeLogLikelihood, Objective
from tn4ml_plus.networks import MPS, TTN
from tn4ml_plus.training import Problem, Samples, Sweep


def make_step(case, learning_rate=LEARNING_RATE, **options):
    """Build the training step that side_by_side.py times: ``(state, step)``; options: of `random`.

    ``state, loss = step(state, x, y)`` with x (B, n) float32 in [0, 1] and y (B,) int32 labels does
    one trigonometric embedding (d = 2), forward, cross-entropy, backward and Adam step of a chain
    or a balanced binary tree in float32, and leaves `loss` (a scalar) on the device. Without
    classes the loss is the negative log-likelihood.
    """
    kind = TTN if case.tree else MPS
    sizes = {"bond_dim": case.D, "phys_dim": case.d, "n_outputs": case.n_classes}
    # By default outputs begin near one, as in training.
    options.setdefault("weights", least_squares_weights(Trigonometric().embed(case.batch()[0])))
    network = kind.random(case.n, **sizes, **options, key=jax.random.key(0))
    packed, structure = pack(network)
    optimizer = optax.adam(learning_rate)
    return (packed, optimizer.init(packed)), partial(_step, structure, optimizer)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _step(structure, optimizer, state, x, y):
    packed, moments = state

    objective = Objective(CrossEntropy() if structure.output_inds else NegativeLogLikelihood())

    def mean_loss(packed):
        losses = objective.loss(contract(packed, structure, Trigonometric().embed(x)), y)
        if objective.needs_norm:
            losses = objective.with_log_norm(losses, log_norm_squared(packed, structure))
        return jnp.mean(losses)

    loss, gradient = jax.value_and_grad(mean_loss)(packed)
    updates, moments = optimizer.update(gradient, moments, packed)
    return (optax.apply_updates(packed, updates), moments), loss


def make_problem(network, phi, y):
    """The training of one network on all samples, phi (n_samples, nsites, phys_dim), labels y."""
    packed, structure = pack(network)
    params = jax.tree.map(lambda leaf: leaf[None], packed)
    return Problem(
        structures=(structure,),
        objective=CrossEntropy(),
        params=params,
        anchor=params,
        samples=Samples(jnp.asarray(phi), jnp.asarray(y), jnp.ones(len(y))),
        n_samples=len(y),
        neutral=None,
    )


def make_sweeps(case, x, y):
    """``sweeps(k)`` makes `SWEEPS` two-site sweeps over all samples and returns the mean loss.

    ``sweeps.seconds(k)`` is k times the best of these, without what the call prepares.
    """
    network = MPS.random(
        case.n, bond_dim=case.D, phys_dim=case.d, n_outputs=case.n_classes, key=jax.random.key(0)
    )
    problem = make_problem(network, Trigonometric().embed(x), y)
    seconds = []

    def sweeps(k):
        nonlocal problem
        del k
        result = Sweep(max_epochs=SWEEPS).train(problem)
        problem = dataclasses.replace(problem, params=result.params, structures=result.structures)
        seconds[:] = np.diff([0.0, *result.history["seconds"]])
        return result.history["loss"][-1]

    sweeps.seconds = lambda k: k * min(seconds)
    return sweeps
