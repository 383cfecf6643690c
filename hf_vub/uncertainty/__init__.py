"""Probabilities one can use: temperature, conformal sets, abstention, and scores for unfamiliar inputs.

Start with the pure functions of arrays: ``temperature`` (calibration on held-out rows), ``conformal`` (sets with a
coverage guarantee), ``selective`` (risk against coverage) and ``ood`` (which inputs are unlike the training data). Then
``calibration`` applies the first two to a checkpoint: ``held_out`` chooses the rows, ``measurement`` compares before
and after, ``checkpoint`` stores the result and ``pipelines`` answers with it. This wing trains and attacks nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
