"""Training a classifier with the objective: arguments, Trainer, safeguards, and the library of the scripts.

Start with ``trainer``; ``schedules`` gives beta and the learning rate as functions of the step; ``fine_tuning`` runs
from a data set and a checkpoint to a saved classifier with its card. This wing never attacks a model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
