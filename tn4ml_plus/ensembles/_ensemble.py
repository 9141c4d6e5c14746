"""Networks that are trained and averaged together."""

import dataclasses
import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import quimb.tensor as qtn
from jaxtyping import Float, Int

from .._amplitude import Amplitude
from .._arrays import key_of, on_device
from .._checks import check_instance
from .._compiled import cleared, compiled, on_threads
from .._registry import variant
from .._schema import check_fields
from ..contraction import SquaredNorm, Structure, calibrate, pack, unpack
from ..initializers import Noiseless
from ..inspection import compress
from ..inspection._attribution import outputs_and_falls
from ..losses import Loss
from ..networks import NetworkSpec, from_quimb
from ..training import Problem, Samples, Windows, members, outputs, stacked, trimmed
from ._choice import chosen_members
from ._recipe import Recipe

# Rows that are evaluated together.
_BLOCK = 1024
# Noise of targets in squared errors, of which few samples may show less.
_LEAST_NOISE = 0.1
# By ensemble, `Ensemble._groups` and the contents of the networks that they are of.
_GROUPS = cleared(weakref.WeakKeyDictionary())


class Batch(NamedTuple):
    """Rows that networks start from.

    Attributes
    ----------
    U, phi, weight, unit_weights : ndarray
        Columns, their vectors, weights of the rows, and unit weights of the sites.
    """

    U: np.ndarray
    phi: np.ndarray
    weight: np.ndarray
    unit_weights: np.ndarray


class Fitting(NamedTuple):
    """Samples that networks are trained on.

    Attributes
    ----------
    samples : Samples, padded
    n_samples : int, how many there are
    subsets, windows : as in `Problem`
    """

    samples: Samples
    n_samples: int
    subsets: Any = None
    windows: Windows | None = None


@variant("state", eq=False)
class Ensemble:
    """Networks of one kind and what their training goes on from; training makes a new one.

    Parameters
    ----------
    networks : list of quimb TensorNetwork, live: changes of them show in `evaluate`
    orders : ndarray of shape (n_members, nsites), the samples' site that each network's sites read
    anchor : pytree, packed networks that decay pulls toward, leaves (n_members, ...)
    loss : Loss that the outputs were trained on
    squared : bool, whether the squared norms of outputs are trained, instead of the outputs
    trainer_state : dict, leaves of a trainer's state by its name, of at most one
    n_seen : int, number of samples that trainers have seen, epochs added up
    noise : ndarray of shape (n_outputs,) or None
        Variance of targets around what all networks agree on, by the samples that some have not
        seen; None where all have seen all.
    """

    networks: list
    orders: Int[np.ndarray, "n_members nsites"]
    anchor: Any
    loss: Loss
    squared: bool = False
    trainer_state: dict[str, list] = dataclasses.field(default_factory=dict)
    n_seen: int = 0
    noise: Float[np.ndarray, " n_outputs"] | None = None

    @classmethod
    def start(cls, recipe: Recipe, batch: Batch, phys_dims, n_outputs, bias, rng) -> "Ensemble":
        """Networks before training; ValueError for a network that does not fit.

        Parameters
        ----------
        recipe : Recipe
        batch : Batch
        phys_dims : tuple of int, size of each site's vectors
        n_outputs : int or None, size of the index of outputs, None for scalars
        bias : ndarray of shape (n_outputs,) or None, the outputs without noise
        rng : RandomState
        """
        network, nsites = recipe.network, len(phys_dims)
        given = isinstance(network, qtn.TensorNetwork)
        spec = NetworkSpec() if given else network.for_data(batch.U, nsites)
        orders = spec.orders(nsites, recipe.n_members, rng)
        if given:
            member = _checked(from_quimb(network), phys_dims, n_outputs)
            if len(orders) > 1 and len(set(phys_dims)) > 1:
                raise ValueError(
                    "The sites have different phys_dims, so the given network cannot read them in "
                    "another order: set n_members=1."
                )
            started = [(member, pack(member)[0])] * len(orders)
        else:
            # A power of two of rows, so that nearby sizes share compiled code.
            padding = (0, (1 << (len(batch.phi) - 1).bit_length()) - len(batch.phi))
            batch = batch._replace(
                phi=np.pad(batch.phi, [padding, (0, 0), (0, 0)], mode="edge"),
                weight=np.pad(batch.weight, padding),
            )
            shape = phys_dims, n_outputs
            started = [_started(recipe, spec, batch, order, shape, bias, rng) for order in orders]
        networks, anchors = map(list, zip(*started, strict=True))
        for member in networks:
            recipe.accepts(member)
        squared = recipe.task == "density"
        return cls(networks, orders, stacked(anchors), recipe.objective.loss, squared)

    def with_members(self, chosen) -> "Ensemble":
        """Ensemble of copies of the networks of these numbers, of which some may be repeated.

        Parameters
        ----------
        chosen : int array
        """
        return dataclasses.replace(
            self,
            networks=[self.networks[m].copy() for m in chosen],
            orders=self.orders[chosen],
            anchor=jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], self.anchor),
        )

    def train(self, recipe: Recipe, fitting: Fitting, validation, neutral, rng, partial_fit=False):
        """Ensemble after training, its history and the number of its epochs.

        Where an epoch was completed before an error, ``error.trained`` is what would have been
        returned.

        Parameters
        ----------
        recipe : Recipe
        fitting : Fitting
        validation : Samples or None
        neutral : ndarray of shape (nsites, phys_dim), vector of a dropped feature
        rng : RandomState
        partial_fit : bool, whether to train for one epoch, with the state that a trainer has left
        """
        trainer = recipe.trainer
        name = type(trainer).__name__
        problem = self.problem(recipe, fitting, validation, neutral, rng)
        if not partial_fit:
            problem = dataclasses.replace(problem, state=None)

        def after(result):
            structures = result.structures or problem.structures
            kept = result.anchor is None or result.anchor is problem.anchor
            # Of networks that `train` or another trainer has changed, a state says nothing.
            leaves = [np.asarray(leaf) for leaf in result.state] if partial_fit else []
            trained = dataclasses.replace(
                self,
                networks=[unpack(*pair[::-1]) for pair in members(structures, result.params)],
                anchor=problem.anchor if kept else trimmed(structures, result.anchor),
                loss=recipe.objective.loss,
                trainer_state={name: leaves} if leaves else {},
                n_seen=self.n_seen + result.n_iter * problem.n_samples,
                noise=None,
            )
            if problem.windows is not None and problem.n_members > 1 and not partial_fit:
                # Of so many rows, those set aside cost nothing.
                chosen = chosen_members(*problem.validation_losses(result.params))
                trained = trained.with_members(chosen)
            if unseen := _unseen(problem, recipe.leaves_out):
                trained = dataclasses.replace(trained, noise=trained._noise(*unseen))
            return trained, result.history, result.n_iter

        result = None
        try:
            result = (trainer.partial_train if partial_fit else trainer.train)(problem)
            return after(result)
        except (Exception, KeyboardInterrupt) as error:
            result = getattr(error, "result", result)
            if result is not None and result.n_iter:
                error.trained = after(result)
            raise

    def problem(self, recipe: Recipe, fitting: Fitting, validation, neutral, rng) -> Problem:
        """The networks' training on samples, see `Ensemble.train` for the parameters."""
        samples, n_samples, subsets, windows = fitting
        packs = [pack(member) for member in self.networks]
        # In the precision of now, whichever the networks were trained in.
        params = jax.tree.map(
            partial(on_device, dtype=samples.phi.dtype), stacked(p for p, _ in packs)
        )
        anchor, state = self.anchor, self.trainer_state
        if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, anchor):
            # The networks were changed by hand: the start is no longer theirs to be pulled toward.
            anchor, state = params, {}
        return Problem(
            structures=tuple(self._trained(structure) for _, structure in packs),
            objective=recipe.objective,
            params=params,
            anchor=anchor,
            samples=samples,
            n_samples=n_samples,
            neutral=on_device(neutral),
            orders=self._orders(),
            validation=validation,
            subsets=subsets,
            random_state=rng,
            # What another trainer has left means nothing to this one.
            state=state.get(type(recipe.trainer).__name__),
            n_seen=self.n_seen,
            callbacks=recipe.callbacks,
            verbose=recipe.verbose,
            windows=windows,
            mean_weight=None if windows is None else windows.mean_weight,
        )

    def evaluate(self, embed, blocks: Iterable, function, *arguments) -> np.ndarray:
        """Values of function(*arguments, amplitude), (n_members, n_samples, ...) float64.

        Compiled code is keyed by the function and its arguments, so they must compare by value.

        Parameters
        ----------
        embed : callable pytree or None
            Map of rows to their vectors (n_samples, nsites, phys_dim); None: they are vectors.
        blocks : iterable of (Array of shape (length, ...), int)
            Rows, padded, and how many of them are real.
        function : callable
        *arguments : hashable
        """
        groups, blocks = self._groups(), list(blocks)

        def evaluated(block):
            rows, n_samples = block
            found = [
                _evaluated(function, arguments, structure, params, embed, rows, orders)
                for params, structure, orders in groups
            ]
            return np.concatenate([np.asarray(f, float)[:, :n_samples] for f in found])

        # On processors XLA divides none of these small steps among cores.
        each = on_threads if len(blocks) > 1 and jax.default_backend() == "cpu" else map
        return np.concatenate(list(each(evaluated, blocks)), axis=1)

    def values_of(self, embed, function, *arguments):
        """Traceable function of the rows of one block that computes `evaluate` of them.

        Of the networks as they are now. See `evaluate` for the parameters.
        """
        groups = self._groups()

        def values(rows):
            found = []
            for params, structure, orders in groups:
                # As the arguments that they are there: constants would be folded, and round anew.
                given = jax.lax.optimization_barrier((params, embed, rows, orders))
                found.append(_values(function, arguments, structure, *given))
            return jnp.concatenate(found)

        return values

    def without_sites(self, phi, neutral):
        """Pairs of each member's outputs and those with a site averaged out, all float64.

        The latter (n_samples, nsites, ...), sites in the order of phi.

        Parameters
        ----------
        phi, neutral : ndarrays of shape (n_samples, nsites, phys_dim) and (nsites, phys_dim)
        """
        for network, order in zip(self.networks, self.orders, strict=True):
            values, falls = outputs_and_falls(network, phi[:, order], neutral[order])
            yield values, values[:, None] - falls[:, np.argsort(order)]

    def compress(self, max_bond, cutoff, grams) -> "Ensemble":
        """Ensemble with smaller bonds; see `tn4ml_plus.inspection.compress` for the parameters."""
        networks = [
            compress(network, max_bond, cutoff, grams[order])
            for network, order in zip(self.networks, self.orders, strict=True)
        ]
        return dataclasses.replace(self, networks=networks, trainer_state={}, noise=None)

    def rescaled(self, log_factor) -> "Ensemble":
        """Ensemble whose outputs are multiplied by exp(log_factor)."""
        if not log_factor:
            return self
        packs = map(pack, self.networks)
        networks = [unpack(structure.rescale(p, log_factor), structure) for p, structure in packs]
        return dataclasses.replace(self, networks=networks)

    def to_state(self) -> dict:
        """Arrays and values that the registry can store, as `from_state` takes them."""
        networks, structures = map(list, zip(*map(pack, self.networks), strict=True))
        return vars(self) | {"networks": networks, "structures": structures}

    @classmethod
    def from_state(cls, state: dict) -> "Ensemble":
        """The ensemble that `to_state` described; ValueError where it contradicts itself."""
        state = dict(state)
        structures = list(state.pop("structures"))
        check_fields(cls, state)
        n_members, nsites = state["orders"].shape
        if not len(structures) == len(state["networks"]) == n_members > 0:
            raise ValueError(f"orders are those of {n_members} networks, of which there are others")
        if (np.sort(state["orders"], axis=1) != np.arange(nsites)).any():
            raise ValueError("orders do not name every site once")
        if state.get("n_seen", 0) < 0:
            raise ValueError(f"networks cannot have seen {state['n_seen']} samples")
        for leaf in jax.tree.leaves((state["networks"], state["anchor"])):
            floats = isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"
            if not (floats and np.isfinite(leaf).all()):
                raise ValueError("the arrays of networks are not all finite floats")
        networks = [
            _restored(packed, structure, nsites)
            for packed, structure in zip(state["networks"], structures, strict=True)
        ]
        anchor = jax.tree.map(on_device, state["anchor"])
        return cls(**state | {"networks": networks, "anchor": anchor})

    def check_reads(self, reader, task: str, n_outputs: int | None = None) -> None:
        """ValueError unless the networks read what a reader embeds, for a task.

        Parameters
        ----------
        reader : TableReader
        task : str, as in `Recipe`
        n_outputs : int, optional, size of the only index of outputs
        """
        if self.loss.task not in (task, None) or self.squared != (task == "density"):
            raise ValueError(f"the networks are not of a {task}, trained on {self.loss}")
        nsites, phys_dim = reader.nsites, reader.embedding.phys_dim
        for _, structure, _ in self._groups():
            found = structure.nsites, structure.phys_dim
            if found != (nsites, phys_dim):
                raise ValueError(
                    f"the networks read vectors of the shape {found}, not those of the embedding, "
                    f"{nsites, phys_dim}"
                )
            if n_outputs is not None and structure.output_dims != (n_outputs,):
                raise ValueError(f"{structure.output_dims} outputs are not {n_outputs}")

    def __getstate__(self):
        # No arrays of JAX, which cannot be made where it cannot run.
        state = self.to_state()
        return state | jax.device_get({name: state[name] for name in ("networks", "anchor")})

    def __setstate__(self, state):
        networks = list(map(unpack, state["networks"], state["structures"]))
        kept = {name: value for name, value in state.items() if name != "structures"}
        vars(self).update(kept | {"networks": networks})

    def _noise(self, samples, unseen):
        """The `noise` of networks, by samples some of which each has not seen, (n_members, n)."""
        n_members, n_samples = unseen.shape
        values = self.evaluate(None, [(samples.phi, n_samples)], Amplitude.dense)
        target, weight = (np.asarray(a, float)[:n_samples] for a in samples[1:])
        unseen = unseen * weight / (unseen @ weight).sum()
        # The square of a network's error, and its share that differs from network to network.
        errors = np.einsum("mn,mnk->k", unseen, (values - target) ** 2)
        others = (values.sum(axis=0) - values) / (n_members - 1)
        own = np.einsum("mn,mnk->k", unseen, (values - others) ** 2) * (1 - 1 / n_members)
        return np.maximum(errors - own, _LEAST_NOISE * errors)

    def _groups(self):
        """Arrays, structure and site orders of networks that are evaluated together, a list.

        They are kept for the next time, unless a network has changed by then.
        """
        contents = self._contents()
        kept, groups = _GROUPS.get(self, (None, None))
        if kept == contents:
            return groups
        packs = [(p, self._trained(s)) for p, s in map(pack, self.networks)]
        if len({structure.padded() for _, structure in packs}) == 1:
            groups = [(stacked(p for p, _ in packs), packs[0][1].padded(), self._orders())]
        else:
            groups = [
                (stacked([packed]), structure.padded(), on_device(order[None], np.int32))
                for (packed, structure), order in zip(packs, self.orders, strict=True)
            ]
        # Another thread may have changed one meanwhile.
        if contents == self._contents():
            _GROUPS[self] = contents, groups
        return groups

    def _contents(self):
        """All that `_groups` depend on."""
        precision = jnp.result_type(float), self.orders.tobytes()
        return [precision, *map(_contents, self.networks)]

    def _trained(self, structure):
        """Structure to be trained: that of a packed network, or one that wraps it."""
        return SquaredNorm(structure) if self.squared else structure

    def _orders(self):
        """Site orders on the device, None where a single member has the given order."""
        if len(self.orders) == 1 and (np.diff(self.orders) == 1).all():
            return None
        return on_device(self.orders, np.int32)


def _unseen(problem, leaves_out):
    """Samples, and of which of them each network has seen nothing; None where it has of all."""
    if problem.subsets is not None:
        unseen = np.ones((problem.n_members, problem.n_samples))
        np.put_along_axis(unseen, problem.subsets, 0.0, axis=1)
        return problem.samples, unseen
    if problem.windows is None or not leaves_out or problem.n_members == 1:
        return None
    n_samples = int(np.sum(np.asarray(problem.validation.weight) > 0))
    return problem.validation, np.ones((problem.n_members, n_samples))


def _restored(packed, structure, nsites):
    """The network of stored arrays; ValueError where these are not of the structure."""
    check_instance("structure", structure, Structure)
    # Sites are gone through one by one.
    if structure.nsites == nsites:
        network = unpack(packed, structure)
        with np.errstate(over="ignore"):
            again, found = pack(network)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(again)):
            raise ValueError("the arrays of a network are too large for the present precision")
        if found == structure and jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, packed):
            return network
    raise ValueError("the arrays of a network do not fit its structure")


def _contents(network):
    """All that `pack` reads of a network, its arrays by their hashes."""
    tensors = []
    for tensor in network.tensors:
        data = np.asarray(tensor.data)
        tensors.append((tensor.inds, data.shape, data.dtype, hash(data.tobytes())))
    names = (getattr(network, name) for name in network._EXTRA_PROPS)
    return type(network), network.exponent, *names, tensors


def _started(recipe, spec, batch, order, shape, bias, rng):
    """A network before training, and packed what decay pulls it toward."""
    phys_dims, n_outputs = shape
    random = partial(
        spec.random,
        len(order),
        bond_dim=int(recipe.bond_dim),
        phys_dim=[phys_dims[i] for i in order],
        n_outputs=n_outputs,
        weights=batch.unit_weights[order],
        key=key_of(rng.randint(2**31 - 1)),
    )
    member = random(initializer=recipe.initializer)
    anchor = random(initializer=Noiseless(recipe.initializer), output_std=0.0, output_bias=bias)
    spread, at_outputs = recipe.initializer.spread(len(order)), 2.0**10
    if spread < 1:
        mean = np.average(batch.phi, axis=0, weights=batch.weight)
        _draw_together(member, recipe.initializer, mean[order], batch.unit_weights[order])
        # No core is the identity, which other factors would spoil: one rate shall suit all of them.
        at_outputs = 1.0
    packed, structure = pack(member)
    trained = (SquaredNorm(structure) if recipe.task == "density" else structure).padded()
    given = batch.phi[:, order], recipe.output_std, batch.weight
    packed = calibrate(packed, trained, *given, at_outputs)
    anchor, _ = pack(anchor)
    if n_outputs is not None:
        # Only the core with the outputs is zero in the anchor but for the bias.
        packed = structure.with_bias(packed, anchor)
    # Without noise those starts would be zero, where no gradient leads away, or of any size.
    return unpack(packed, structure), packed if spread < 1 else anchor


def _draw_together(network, initializer, mean, weights):
    """Bring samples nearer to each other in what a network sees, by the initializer's `spread`.

    It sees (1 - spread) (w . phi) c + spread phi in place of phi, with w . phi near 1 and c the
    vector next to the mean that the initializer's unit vector takes to 1. Where a core with c is a
    square matrix from bond to bond, the nearest orthogonal one of its size takes its place: of a
    state, a product of many random matrices keeps a single direction, one of orthogonal all.
    mean, weights: (nsites, largest phys_dim), mean vectors and weights w.
    """
    spread, outer = initializer.spread(len(mean)), set(network.outer_inds())
    for i, (c, w) in enumerate(zip(mean, weights, strict=True)):
        ind = network.site_ind(i)
        (tid,) = network.ind_map[ind]
        tensor = network.tensor_map[tid]
        others = [other for other in tensor.inds if other != ind]
        core = tensor.transpose(ind, *others).data
        c, w = c[: len(core)], w[: len(core)]
        unit = initializer.unit(w)
        c = c + (1 - unit @ c) / max(unit @ unit, np.finfo(float).tiny) * unit
        present = middle = np.tensordot(c, core, 1)
        if outer.isdisjoint(others) and middle.ndim == 2 and len({*middle.shape}) == 1:
            left, sizes, right = np.linalg.svd(middle)
            middle = left @ right * np.sqrt(np.mean(sizes**2))
        seen = spread * core + np.multiply.outer(w, middle - spread * present)
        tensor.modify(data=seen.astype(core.dtype), inds=(ind, *others))


def _values(function, arguments, structure, params, embed, rows, orders):
    dtype = jax.tree.leaves(params)[0].dtype

    def part(rows):
        phi = (rows if embed is None else embed(rows)).astype(dtype)
        amplitude = outputs(structure, params, phi, orders)
        return jax.vmap(partial(function, *arguments))(amplitude)

    # Of few rows in memory at a time.
    blocks = rows.reshape(-1, min(_BLOCK, len(rows)), *rows.shape[1:])
    found = jax.lax.map(part, blocks).swapaxes(0, 1)
    return found.reshape(len(found), -1, *found.shape[3:])


_evaluated = partial(compiled, static_argnums=(0, 1, 2))(_values)


def _checked(network, phys_dims, n_outputs):
    """The network itself if its sites and outputs fit; ValueError otherwise."""
    structure = pack(network)[1]
    if structure.phys_dims != phys_dims:
        raise ValueError(
            f"The network has {structure.nsites} sites of phys_dim {structure.phys_dims}, but the "
            f"embedded features need {len(phys_dims)} sites of phys_dim {phys_dims}: give a "
            "network with the indices k0, k1, ... of these sizes, or another embedding; or "
            "missing='averaged', where a column with gaps has one more."
        )
    if n_outputs is not None and structure.output_dims != (n_outputs,):
        raise ValueError(
            f"The network's outputs have the shape {structure.output_dims}, but ({n_outputs},) is "
            "needed: give it one output index of that size."
        )
    return network
