"""What people read: model cards, tables, plots and attacked examples, all rendered from result JSON.

Start with ``model_cards``; ``tables`` and ``plots`` serve every report. This wing computes no result and loads no
model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
