"""Fitted estimators taken to where this package is not."""

import abc

from ..deployment import Classifier, Density, Regressor, predictor, write_program
from ._estimator import reads

_REMEDY = (
    "which a program of numbers cannot read: encode it before, such as by scikit-learn's "
    "OneHotEncoder or TargetEncoder in a pipeline, and export the estimator that follows."
)


class Exportable(abc.ABC):
    """Mixin of estimators that can be exported as programs of numbers."""

    #: The readers of tables, a list.
    _readers = property(lambda self: [self._reader])

    @abc.abstractmethod
    def _traced(self):
        """The function to export, from float64 rows to outputs, arrays of JAX."""

    @reads
    def export(self, path):
        """Write a program that computes the same where this package is not, atomically.

        It is one file of StableHLO, from raw columns of numbers, NaN where they are missing, to
        what `predict_proba` of a classifier gives, `predict` of a regressor, or `score_samples` of
        a density or a detector: scaling, embedding and networks, for any number of rows, on
        processors and on NVIDIA's accelerators. It needs JAX only, and double precision::

            program = jax.export.deserialize(Path(path).read_bytes())
            with jax.enable_x64(True):
                outputs = program.call(X)  # (n_samples, n_features), float64

        On a processor it gives bit by bit what classifiers and regressors of tables give, up to
        some 2**21 numbers at once, if XLA compiles it as it does these, by
        ``jax.jit(program.call, compiler_options={"xla_backend_optimization_level": 1})``. It
        refuses nothing: of infinities and other rows that the estimator refuses, outputs are some
        numbers or NaN. Networks are those of now, in the precision of now.

        Parameters
        ----------
        path : str or Path, where to

        Raises
        ------
        ValueError : for columns of categories or dates, naming the first
        ImportError : without flatbuffers, the extra ``export``
        OSError : where the file cannot be written
        """
        for reader in self._readers:
            reader.check_numbers(_REMEDY)
        write_program(path, self._traced(), self.n_features_in_)


class Deployable(Exportable):
    """Mixin of estimators of tables, which NumPy alone can evaluate, too."""

    @abc.abstractmethod
    def _tree(self):
        """Fields of the predictor, see `tn4ml_plus.deployment.Predictor`."""

    @reads
    def to_numpy(self) -> Classifier | Regressor | Density:
        """A predictor of the same that needs NumPy only; its `save` writes it with its own code.

        For open chains, trees and operators; in double precision, within some 1e-6 of what the
        estimator computes in single precision. It reads arrays of numbers and of categories.

        >>> from sklearn.datasets import load_iris
        >>> from tn4ml_plus import TNClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = TNClassifier(n_members=1, random_state=0).fit(X, y)
        >>> predictor = clf.to_numpy()
        >>> bool(abs(predictor.predict_proba(X) - clf.predict_proba(X)).max() < 1e-5)
        True

        Raises
        ------
        ValueError
            For other networks, columns of dates, embeddings of several columns or without a
            domain, and scalers and losses of one's own.
        """
        return predictor(self._tree())
