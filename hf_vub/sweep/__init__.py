"""Many heads trained at once on cached features: the grid of objective, beta and seed in one call.

Start with ``heads`` (``train_heads``); ``grid`` divides and resumes the runs, ``stacked_heads`` has the gradients in
closed form, ``seeding`` the random draws, ``baselines`` the classifiers to compare with. A run gives the same head
alone as in a sweep, and the same as the Trainer. This wing never runs a backbone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
