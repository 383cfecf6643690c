"""The paper's section 4 from one call: embed, sweep, evaluate, attack, statistics, tables, figures and cards.

Start with ``experiments`` (the settings) and ``reproduction`` (the run); ``claims`` holds the results against the
paper. Nothing else in hf_vub imports this wing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
