"""What scikit-learn asks of its estimators, of ours with defaults but a shorter training."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from tn4ml_plus import TNClassifier, TNRegressor


def expected_failed_checks(estimator):
    """Training draws batches of samples, so that a weight is not a number of repetitions."""
    del estimator
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "sample_weight is not equivalent to removing/repeating samples"
        )
    }


@parametrize_with_checks(
    [cls(bond_dim=3, n_members=2, max_epochs=30) for cls in (TNClassifier, TNRegressor)],
    expected_failed_checks=expected_failed_checks,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
