"""What estimators with trained networks share: options, start, training, prediction."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import quimb.tensor as qtn
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._arrays import evenly_spaced
from .._checks import check_int, function_tuple
from .._registry import names, resolve
from ..contraction import calibrate, pack, unpack
from ..initializers import Noiseless, least_squares_weights
from ..io import write
from ..losses import CallableLoss, Loss, Objective, OptaxLoss
from ..networks import NetworkSpec, from_quimb
from ..training import EarlyStopping, Gradient, InTurn, Problem, Samples, outputs
from ..training._members import members, stacked, trimmed
from ..training._problem import extend_history
from ._columns import read_table
from ._inside import LookedInto
from ._state import to_state
from ._tables import BLOCK, TableEstimator, padded_length

# Rows that the least-squares start and the calibration look at.
_START_ROWS = 4096

# Parameters that training on from earlier networks cannot change.
_FIXED = ("bond_dim", "n_members", "embedding", "network", "scaler")


class TensorNetworkEstimator(LookedInto, TableEstimator):
    """Base of the estimators: `__init__` stores, `_fit` and `_predict` do the work."""

    #: The trainer that "gradient" stands for here.
    _default_trainer = Gradient()
    #: Fields of trainers that are parameters here, too.
    _flat = ("learning_rate", "max_epochs", "batch_size", "feature_dropout", "decay")
    #: Standard deviation of the outputs before training.
    _output_std = 0.1

    @property
    def network_(self):
        """The network of a model with one member, live: what is done to it shows in predictions."""
        check_is_fitted(self, "networks_")
        if len(self.networks_) > 1:
            raise AttributeError(
                f"This {type(self).__name__} averages {len(self.networks_)} networks: see "
                "networks_, or fit with n_members=1 for a single one."
            )
        return self.networks_[0]

    def save(self, path):
        """Write the fitted model to one safetensors file, atomically; `tn4ml_plus.load` reads it.

        Raises NotFittedError before fit, ValueError for parameters that only code could rebuild
        (functions, foreign objects), naming the parameter.
        """
        check_is_fitted(self, "networks_")
        write(path, *to_state(self))

    # Strings to objects -------------------------------------------------------------------------

    def _resolve(self, n_samples, n_features):
        """Objects for all options that may be strings; raises before anything is trained."""
        for name in ("bond_dim", "n_members"):
            check_int(name, getattr(self, name), at_least=1)
        for name in ("early_stopping", "warm_start", "verbose"):
            if not isinstance(getattr(self, name), bool | int | np.bool_):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        function_tuple("callbacks", () if self.callbacks is None else self.callbacks)
        network = self.network
        if not isinstance(network, qtn.TensorNetwork):
            network = resolve("network", network)
        return (
            *self._resolve_columns(n_samples, n_features),
            network,
            resolve("initializer", self.initializer),
            self._resolve_objective(),
            self._resolve_trainer(),
        )

    def _structure(self, structure):
        """What is trained: the structure of a packed network, or one that wraps it."""
        return structure

    def _resolve_objective(self):
        loss = self._default_loss if self.loss is None else self.loss
        if isinstance(loss, str) and loss not in names("loss") and hasattr(optax.losses, loss):
            loss = OptaxLoss(loss)
        if callable(loss) and not isinstance(loss, Loss | Objective | type):
            loss = CallableLoss(loss, self._task)
        loss = resolve("loss", loss)
        if loss.loss.task not in (self._task, None):
            raise ValueError(
                f"{type(loss.loss).__name__} is a {loss.loss.task} loss, which "
                f"{type(self).__name__} cannot train on: leave loss=None or choose another."
            )
        return loss

    def _resolve_trainer(self):
        several = isinstance(self.trainer, tuple | list)
        trainers = [
            self._default_trainer if trainer == "gradient" else resolve("trainer", trainer)
            for trainer in (self.trainer if several else [self.trainer])
        ]
        if several or isinstance(trainers[0], InTurn):
            # In turn or one by one, each takes the options that it has.
            several, trainers = True, InTurn(trainers).trainers
        changes = {
            name: getattr(self, name) for name in self._flat if getattr(self, name) is not None
        }
        stops = [getattr(trainer, "early_stopping", None) for trainer in trainers]
        if self.early_stopping and not any(stops):
            changes["early_stopping"] = EarlyStopping()
        fields = [{field.name for field in dataclasses.fields(trainer)} for trainer in trainers]
        unknown = sorted(set(changes).difference(*fields))
        if unknown:
            called = " or ".join(type(trainer).__name__ for trainer in trainers)
            raise ValueError(f"{called} has no {', '.join(unknown)}: leave it at its default.")
        trainers = [
            dataclasses.replace(trainer, **{n: v for n, v in changes.items() if n in known})
            for trainer, known in zip(trainers, fields, strict=True)
        ]
        return InTurn(trainers) if several else trainers[0]

    # Fitting ------------------------------------------------------------------------------------

    def _fit(self, table, target, weight, n_outputs, bias, partial_fit=False):
        """Train on a table read by `read_table`; target is encoded, weight has no zeros."""
        embedding, scaler, network, initializer, objective, trainer = self._resolve(*table[0].shape)
        going_on = partial_fit or self.warm_start
        rng = check_random_state(self.random_state)
        if partial_fit and not hasattr(trainer, "partial_train"):
            raise ValueError(
                f"{type(trainer).__name__} cannot train on part of the samples: use one trainer "
                'that can for partial_fit, such as "gradient" or "sweep".'
            )
        if going_on and hasattr(self, "networks_"):
            self._check_unchanged()
            U = self._transform(table)
        else:
            for name in ("networks_", "_divisors"):
                vars(self).pop(name, None)
            self._trainer_state = {}
            self._fixed = self._present_fixed()
            U = self._fit_columns(table, weight, embedding, scaler)
            self.history_ = {}
            self.n_iter_ = self._n_seen = 0
        self._loss = objective.loss
        fitting, validation = self._split(trainer, target, rng)
        if not hasattr(self, "networks_"):
            self._start(U[fitting], weight[fitting], network, initializer, n_outputs, bias, rng)
        samples = self._samples(U[fitting], target[fitting], weight[fitting])
        if validation is not None:
            validation = self._samples(U[validation], target[validation], weight[validation])
        packs = [pack(member) for member in self.networks_]
        structures = [self._structure(structure) for _, structure in packs]
        # In the precision of now, whichever the networks were trained in.
        params = jax.tree.map(
            lambda leaf: leaf.astype(samples.phi.dtype), stacked(p for p, _ in packs)
        )
        if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, self._anchor):
            # The networks were changed by hand: the start is no longer theirs to be pulled toward.
            self._anchor = params
            self._trainer_state = {}
        # What another trainer has left means nothing to this one.
        state = self._trainer_state.get(type(trainer).__name__)
        problem = Problem(
            structures=tuple(structures),
            objective=objective,
            params=params,
            anchor=self._anchor,
            samples=samples,
            n_samples=len(fitting),
            neutral=jnp.asarray(self._neutral),
            orders=self._orders(),
            validation=validation,
            random_state=rng,
            state=state if partial_fit else None,
            n_seen=self._n_seen,
            callbacks=tuple(self.callbacks or ()),
            verbose=bool(self.verbose),
        )
        run = trainer.partial_train if partial_fit else trainer.train
        try:
            result = run(problem)
        except (Exception, KeyboardInterrupt) as error:
            if hasattr(error, "result") and error.result.n_iter:
                self._keep(error.result, problem, trainer, partial_fit)
            elif self.n_iter_ == 0:
                # Nobody shall take the start for something that was trained.
                del self.networks_
            raise
        self._keep(result, problem, trainer, partial_fit)
        return self

    def _keep(self, result, problem, trainer, partial_fit):
        structures = result.structures or problem.structures
        self.networks_ = [unpack(*pair[::-1]) for pair in members(structures, result.params)]
        if result.anchor is not None and result.anchor is not self._anchor:
            self._anchor = trimmed(structures, result.anchor)
        # Of networks that `fit` or another trainer has changed, a state says nothing.
        leaves = [np.asarray(leaf) for leaf in result.state] if partial_fit else []
        self._trainer_state = {type(trainer).__name__: leaves} if leaves else {}
        self._n_seen += result.n_iter * problem.n_samples
        extend_history(self.history_, result.history)
        self.n_iter_ += result.n_iter

    def _present_fixed(self):
        return {name: getattr(self, name) for name in _FIXED}

    def _stored_loss(self):
        """The loss that predictions use, or the present one if that is a function."""
        given = isinstance(self._loss, CallableLoss)
        return self._resolve_objective().loss if given else self._loss

    def _check_unchanged(self):
        for name, first in self._fixed.items():
            value = getattr(self, name)
            if value is not first and (isinstance(value, qtn.TensorNetwork) or value != first):
                raise ValueError(
                    f"{name} was {first!r} when the networks were made and is {value!r} now: set "
                    "it back, or fit anew with warm_start=False."
                )

    def _split(self, trainer, target, rng):
        """Row numbers to fit on and to validate on (None without early stopping)."""
        rows = np.arange(len(target))
        stopping = getattr(trainer, "early_stopping", None)
        if stopping is None:
            return rows, None
        stratify = target if self._task == "classification" else None
        try:
            return train_test_split(
                rows, test_size=stopping.validation_fraction, random_state=rng, stratify=stratify
            )
        except ValueError as error:
            raise ValueError(
                f"Early stopping cannot set aside a validation set: {error} Give more samples or "
                "set early_stopping=False."
            ) from error

    def _start(self, U, weight, network, initializer, n_outputs, bias, rng):
        """Networks before training, the neutral vectors and what decay pulls toward."""
        n_features = U.shape[1]
        nsites = self.embedding_.nsites(n_features)
        phys_dims = self.embedding_.phys_dims(n_features)
        rows = evenly_spaced(len(U), _START_ROWS)
        self._neutral = None
        self._divisors = None
        phi = np.asarray(self._embed(U[rows]))[: len(rows)]
        unit = self.embedding_.site_unit_weights(n_features)
        if unit is None:
            unit = least_squares_weights(phi, sample_weight=weight[rows])
            self._divisors = self._divisors_of(unit)
            phi = np.asarray(self._embed(U[rows]))[: len(rows)]
        self._neutral = self._neutral_of(phi, np.isnan(U[rows]), weight[rows])
        phi = np.asarray(self._embed(U[rows]))[: len(rows)]
        given = isinstance(network, qtn.TensorNetwork)
        spec = NetworkSpec() if given else network.for_data(U[rows], nsites)
        self.orders_ = orders = spec.orders(nsites, self.n_members, rng)
        if given:
            member = _checked(from_quimb(network), phys_dims, n_outputs)
            if len(orders) > 1 and len(set(phys_dims)) > 1:
                raise ValueError(
                    "The sites have different phys_dims, so the given network cannot read them in "
                    "another order: set n_members=1."
                )
            self.networks_ = [member] * len(orders)
            packed, _ = pack(member)
            self._anchor = stacked([packed] * len(orders))
            return
        # A power of two of rows, so that nearby sizes share compiled code.
        padding = (0, (1 << (len(phi) - 1).bit_length()) - len(phi))
        batch = np.pad(phi, [padding, (0, 0), (0, 0)], mode="edge")
        batch_weight = np.pad(weight[rows], padding)
        members, anchors = [], []
        for order in orders:
            options = {
                "bond_dim": int(self.bond_dim),
                "phys_dim": [phys_dims[i] for i in order],
                "n_outputs": n_outputs,
                "weights": unit[order],
                "key": jax.random.key(rng.randint(2**31 - 1)),
            }
            member = spec.random(nsites, initializer=initializer, **options)
            anchor = spec.random(
                nsites,
                initializer=Noiseless(initializer),
                output_std=0.0,
                output_bias=bias,
                **options,
            )
            packed, structure = pack(member)
            trained = self._structure(structure).padded()
            packed = calibrate(packed, trained, batch[:, order], self._output_std, batch_weight)
            anchor, _ = pack(anchor)
            if n_outputs is not None:
                # Only the core with the outputs is zero in the anchor but for the bias.
                packed = structure.with_bias(packed, anchor)
            members.append(unpack(packed, structure))
            anchors.append(anchor)
        self.networks_ = members
        self._anchor = stacked(anchors)

    def _orders(self):
        """Site orders of the members on the device, None where one member has the given order."""
        if len(self.orders_) == 1 and (np.diff(self.orders_) == 1).all():
            return None
        return jnp.asarray(self.orders_, jnp.int32)

    def _divisors_of(self, weights):
        """Weights w of each site by which vectors phi are divided, as phi / (w . phi), or None."""
        return weights

    def _samples(self, U, target, weight):
        length = padded_length(len(U))
        padding = [(0, length - len(U))]
        return Samples(
            self._embed(U),
            jnp.asarray(np.pad(target, padding + [(0, 0)] * (target.ndim - 1))),
            jnp.asarray(np.pad(weight, padding), float),
        )

    # Prediction ---------------------------------------------------------------------------------

    def _predict(self, X, function, *arguments):
        """function(*arguments, amplitude) of every member on the rows of X, as float64 arrays.

        Compiled code is keyed by the function and its arguments, so they must compare by value.
        """
        check_is_fitted(self, "networks_")
        U = self._transform(read_table(self, X, reset=False))
        return self._evaluate(self._embed(U), len(U), function, *arguments)

    def _evaluate(self, phi, n_samples, function, *arguments):
        """function(*arguments, amplitude) of every member on embedded rows, as float64 arrays."""
        block = min(BLOCK, len(phi))
        phi = phi.astype(jax.tree.leaves(pack(self.networks_[0])[0])[0].dtype)
        packs = [(p, self._structure(s)) for p, s in map(pack, self.networks_)]
        if len({structure.padded() for _, structure in packs}) == 1:
            groups = [(stacked(p for p, _ in packs), packs[0][1].padded(), self._orders())]
        else:
            groups = [
                (stacked([packed]), structure.padded(), jnp.asarray(order[None], jnp.int32))
                for (packed, structure), order in zip(packs, self.orders_, strict=True)
            ]
        parts = []
        for params, structure, orders in groups:
            amplitude = outputs(structure, params, phi, orders, block)
            parts.extend(
                np.asarray(_by_member(function, arguments, amplitude), float)[:, :n_samples]
            )
        return parts


@partial(jax.jit, static_argnums=(0, 1))
def _by_member(function, arguments, amplitude):
    return jax.vmap(partial(function, *arguments))(amplitude)


def _checked(network, phys_dims, n_outputs):
    """The network itself if its sites and outputs fit; ValueError otherwise."""
    structure = pack(network)[1]
    if structure.phys_dims != phys_dims:
        raise ValueError(
            f"The network has {structure.nsites} sites of phys_dim {structure.phys_dims}, but the "
            f"embedded features need {len(phys_dims)} sites of phys_dim {phys_dims}: give a "
            "network with the indices k0, k1, ... of these sizes, or another embedding."
        )
    if n_outputs is not None and structure.output_dims != (n_outputs,):
        raise ValueError(
            f"The network's outputs have the shape {structure.output_dims}, but ({n_outputs},) is "
            "needed: give it one output index of that size."
        )
    return network
