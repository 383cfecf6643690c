"""Data sets as rows that a model can be trained, tested and attacked on.

Start with ``splits`` (which rows are train, validation and test), then ``columns`` (which columns are read),
``preprocessing`` (texts to tokens, images to pixels) and ``record`` (which rows a checkpoint has seen). ``reading``,
``tables`` and ``image_folders`` open the files; ``synthetic`` has data sets that need no download. This wing knows
nothing of training or attacks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
