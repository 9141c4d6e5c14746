"""What scikit-learn asks of its estimators, of ours with their defaults."""

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
    [TNClassifier(), TNRegressor()], expected_failed_checks=expected_failed_checks
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
