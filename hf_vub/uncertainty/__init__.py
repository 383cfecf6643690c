"""Probabilities one can use: temperature, conformal sets, abstention, and scores for unfamiliar inputs.

Start with the pure functions of arrays: ``conformal`` (sets with a coverage guarantee), ``selective`` (risk against
coverage) and ``ood`` (which inputs are unlike the training data). Then ``calibration`` applies a temperature and such
sets to a checkpoint: ``held_out`` chooses the rows, ``measurement`` compares before and after, ``checkpoint`` stores
the result and ``pipelines`` answers with it. ``study`` measures all of that over seeds and betas; ``regimes`` compares
VUB with its rivals by the number of training rows. This wing attacks nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
