from .certification import certify, certify_heads
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
    "store_smoothing",
]
