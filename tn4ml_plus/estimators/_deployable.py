"""Fitted estimators taken to where this package is not."""

import abc

from ..deployment import Predictor, predictor, write_program
from ._estimator import reads

_REMEDY = "which a program of numbers cannot read: encode it before, with scikit-learn's {}."


class Deployable(abc.ABC):
    """Mixin of estimators that can be exported: what they compute of numbers alone."""

    #: The readers of tables, a list.
    _readers = property(lambda self: [self._reader])

    @abc.abstractmethod
    def _traced(self):
        """The function to export, from float64 rows to outputs, arrays of JAX."""

    @abc.abstractmethod
    def _tree(self):
        """What a predictor by NumPy needs, see `tn4ml_plus.deployment.Predictor`."""

    @reads
    def export(self, path):
        """Write a StableHLO program that computes the same without this package, atomically.

        From raw columns of numbers, NaN where they are missing: scaling, embedding and networks in
        one file, for processors and NVIDIA's accelerators, and for any number of rows. It needs
        nothing but JAX, and double precision::

            program = jax.export.deserialize(Path(path).read_bytes())
            with jax.enable_x64(True):
                outputs = program.call(X)  # float64, (n_samples, n_features)

        A program is that of `predict_proba` of classifiers, `predict` of regressors, and
        `score_samples` of densities and detectors. It checks nothing: what the estimator would
        refuse, such as infinities, gives some number or NaN.

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
            reader.check_numbers(_REMEDY.format("OneHotEncoder or TargetEncoder"))
        write_program(path, self._traced(), self.n_features_in_)

    @reads
    def to_numpy(self) -> Predictor:
        """A predictor of the same that needs NumPy only; its `save` writes it with its own code.

        It has `predict_proba` and `predict`, `predict`, or `score_samples`, computes in double
        precision, and agrees with this estimator to some 1e-6. Arrays of numbers and categories
        alone, and chains, trees and operators.

        Raises
        ------
        ValueError
            For other networks, columns of dates, embeddings of several columns or without a
            domain, and for scalers and losses of one's own.
        """
        return predictor(self._tree())
