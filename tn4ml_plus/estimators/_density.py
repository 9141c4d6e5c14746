"""What estimators that learn where samples lie share."""

import numpy as np

from ..contraction import SquaredNorm
from ..embeddings import Legendre
from ..losses import NegativeLogLikelihood
from ..training import Gradient
from ._base import TensorNetworkEstimator
from ._columns import read_table, rows
from ._scalers import Bijection
from ._sites import orthonormal
from ._tables import present_weight, read_weight


class DensityEstimator(TensorNetworkEstimator):
    """Base of the estimators that learn where samples lie, from squared norms of outputs."""

    _task = "density"
    _default_loss = NegativeLogLikelihood()
    _default_trainer = Gradient(learning_rate=1e-2, decay=1.0, clip_norm=10.0, max_steps=1000)
    _default_scaler = "gaussian_cdf"
    _output_std = 1.0
    #: What scalers must be, and which are.
    _scalers = Bijection, "GaussianCDF(), LogisticCDF() or MinMax()"

    def __init__(
        self,
        bond_dim=12,
        *,
        n_members=1,
        embedding=None,
        network="mps",
        initializer="least_squares_identity",
        loss=None,
        trainer="gradient",
        scaler=None,
        learning_rate=None,
        max_epochs=None,
        batch_size=None,
        feature_dropout=None,
        decay=None,
        early_stopping=False,
        warm_start=False,
        callbacks=None,
        random_state=None,
        verbose=False,
    ):
        self.bond_dim = bond_dim
        self.n_members = n_members
        self.embedding = embedding
        self.network = network
        self.initializer = initializer
        self.loss = loss
        self.trainer = trainer
        self.scaler = scaler
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.feature_dropout = feature_dropout
        self.decay = decay
        self.early_stopping = early_stopping
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def _default_embedding(self, n_samples, n_features):
        many = n_samples >= 500 or n_features <= 10
        return Legendre(8 if many else 4, orthonormal=True)

    def _resolve(self, n_samples, n_features):
        embedding, scaler, *others = super()._resolve(n_samples, n_features)
        kind, names = self._scalers
        if not isinstance(scaler, kind):
            raise ValueError(
                f"{type(self).__name__} cannot carry densities over to raw columns with "
                f"{type(scaler).__name__}: take {names}."
            )
        # Single columns are drawn, and left out, at sites of their own.
        if not embedding.columnwise or embedding.site_features > 1:
            raise ValueError(
                "Densities take embeddings of single features, with a domain to integrate over; "
                f"{embedding!r} is none: leave embedding=None."
            )
        return self._basis(embedding, others[2].loss), scaler, *others

    def _basis(self, embedding, loss):
        """The embedding that is trained with, from the one that was asked for."""
        del loss
        return orthonormal(embedding)

    def _structure(self, structure):
        return SquaredNorm(structure)

    def _divisors_of(self, weights):
        # Divided vectors would no longer be an orthonormal basis.
        return None

    def _neutral_of(self, phi, missing, weight):
        """First principal axis of each site's vectors.

        The squared value on a unit vector is at most the marginal density, so that training on
        rows with missing values raises a lower bound of their likelihood.
        """
        present = present_weight(phi, missing, weight)
        weighted = (phi * (present / present.sum(axis=0))[..., None]).transpose(1, 2, 0)
        self.second_moments_ = weighted @ phi.transpose(1, 0, 2)
        return np.linalg.eigh(self.second_moments_)[1][..., -1]

    def _transform(self, table):
        return self._encode(table)[0]

    def _encode(self, table):
        """Numbers as in `_transform`, categories never seen as missing, and which these are."""
        U = super()._transform(table)
        embeddings = self._site_embeddings(U.shape[1])
        discrete = np.array([embedding.discrete for embedding in embeddings])
        low, high = np.array(self.embedding_.domains(U.shape[1])).T
        unseen = discrete & ((low > U) | (high < U) | (U % 1 > 0))
        return np.where(unseen, np.nan, U), unseen

    def _site_embeddings(self, n_features):
        return getattr(self.embedding_, "embeddings", (self.embedding_,) * n_features)

    def _fit_density(self, X, target, sample_weight, partial_fit=False):
        going_on = (partial_fit or self.warm_start) and hasattr(self, "networks_")
        table = read_table(self, X, reset=not going_on)
        weight = read_weight(sample_weight, table[0])
        kept = weight > 0
        target = np.ones(len(kept)) if target is None else target
        if not going_on:
            self.unseen_log_density_ = -float(np.log1p(weight.sum()))
        return self._fit(rows(table, kept), target[kept], weight[kept], None, None, partial_fit)
