"""Training a classifier with the objective: arguments, Trainer, safeguards, and the library of the scripts.

Start with ``trainer``; ``schedules`` gives beta and the learning rate as functions of the step; ``adversary`` and
``robust_trainer`` train against perturbations; ``fine_tuning`` runs from a data set and a checkpoint to a saved
classifier with its card. Attacks on finished models are in ``hf_vub.attacks``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
