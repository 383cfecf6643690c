"""Features of a frozen backbone, computed once and cached on disk.

Start with ``extraction``: ``extract`` gives memory-mapped features and labels for a data set. ``inputs`` turns rows
into model inputs; ``cache`` holds the files. This wing never trains anything.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
