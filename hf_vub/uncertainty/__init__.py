"""Probabilities one can use: temperature, conformal sets, abstention, and scores for unfamiliar inputs.

Start with ``temperature`` (calibration on held-out rows), then ``conformal`` (sets with a coverage guarantee),
``selective`` (risk against coverage) and ``ood`` (which inputs are unlike the training data). Pure functions of arrays:
this wing trains nothing and attacks nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
