from .certification import certify, certify_heads
from .pipelines import smoothed_pipeline
from .radii import deletion_radius, gaussian_radius, lower_bound, masking_radius
from .smoothing import Smoothing, store_smoothing

__all__ = [
    "Smoothing",
    "certify",
    "certify_heads",
    "deletion_radius",
    "gaussian_radius",
    "lower_bound",
    "masking_radius",
    "smoothed_pipeline",
    "store_smoothing",
]
