"""Certificates: no edit of r words, and no image perturbation of L2 norm r, changes a decision.

Start with ``radii``: from a lower bound on a vote to a radius, each with its proof in docs/certify.md. ``tally`` counts
votes in two stages, ``voters`` draws them from a model, ``certification`` does it for a data set and ``pipelines`` for
one input. A certificate is a lower bound on robustness that no attack can break. This wing trains nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
