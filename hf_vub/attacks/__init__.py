"""Attacks on text and image classifiers, and the report card that tells robustness from masked gradients.

Start with ``text.attack`` and ``image.attack``: one call per attack, one JSON per run, one record per example,
resumable. ``runner`` runs them, ``victim`` says what is attacked, ``cards`` makes the report card of either medium.
Attacks see [0, 1] pixels or plain texts. Nothing here changes a model or trains one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
