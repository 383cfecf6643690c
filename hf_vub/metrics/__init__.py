"""Metrics: accuracy and calibration, robustness, confidence intervals and tests.

Start with ``classification``; ``robustness`` summarises attacks; ``intervals`` says if a difference is more than
chance. These are pure functions of arrays: they load no model, write no file and draw nothing without a seed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
