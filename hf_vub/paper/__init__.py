"""The paper's section 4 from one call, and the same comparison on one's own data.

Start with ``experiments`` (the settings), ``reproduction`` (the calls) and ``pipeline`` (the stages). ``claims`` holds
the results against the paper; ``comparison`` recommends a setting for one's own data. Nothing imports this wing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
