from .calibration import calibrate, fit_temperature
from .conformal import ConformalThreshold, conformal_threshold, prediction_sets
from .ood import Detection, detection_metrics, feature_distances, ood_scores
from .pipelines import classifier_pipeline
from .selective import RiskCoverage, risk_coverage

__all__ = [
    "ConformalThreshold",
    "Detection",
    "RiskCoverage",
    "calibrate",
    "classifier_pipeline",
    "conformal_threshold",
    "detection_metrics",
    "feature_distances",
    "fit_temperature",
    "ood_scores",
    "prediction_sets",
    "risk_coverage",
]
