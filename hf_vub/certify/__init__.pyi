from .radii import deletion_radius, gaussian_radius, lower_bound, masking_radius

__all__ = ["deletion_radius", "gaussian_radius", "lower_bound", "masking_radius"]
