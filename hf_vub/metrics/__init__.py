"""Metrics: accuracy and calibration, robustness, confidence intervals and tests.

Start with ``classification``; ``robustness`` summarises attacks; ``intervals`` says whether a difference is more than
chance. Pure functions of arrays: no model, no file, no random state of their own but a seed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
