"""Data sets as rows that a model can be trained, tested and attacked on.

Start with ``splits`` (which rows are train, validation and test), then ``preprocessing`` (texts to tokens, images to
pixels) and ``synthetic`` (data sets that need no download). This wing knows nothing of models, training or attacks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
