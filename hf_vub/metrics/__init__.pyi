from .calibration import Estimate, calibration_metrics, classwise_calibration_error
from .classification import (
    accuracy,
    brier_score,
    classification_metrics,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
)
from .intervals import (
    bootstrap_interval,
    cliffs_delta,
    cohens_dz,
    paired_tests,
    rank_sum_test,
    share_interval,
    vargha_delaney,
    wilson_interval,
)
from .paired import Equivalence, PairedDifference, equivalent, holm, mcnemar, paired_bootstrap
from .robustness import (
    attack_summary,
    l2_summary,
)
from .temperature import fit_temperature

__all__ = [
    "Equivalence",
    "Estimate",
    "PairedDifference",
    "accuracy",
    "attack_summary",
    "bootstrap_interval",
    "brier_score",
    "calibration_metrics",
    "classification_metrics",
    "classwise_calibration_error",
    "cliffs_delta",
    "cohens_dz",
    "equivalent",
    "expected_calibration_error",
    "fit_temperature",
    "holm",
    "l2_summary",
    "mcnemar",
    "negative_log_likelihood",
    "paired_bootstrap",
    "paired_tests",
    "rank_sum_test",
    "reliability_bins",
    "share_interval",
    "vargha_delaney",
    "wilson_interval",
]
