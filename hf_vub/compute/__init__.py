"""Arithmetic: faster kernels, the cores of the machine, precision, memory, and frozen or seeded blocks.

Start with ``contexts``. Nothing here changes what is computed, only how fast and in which state of the generators.
This wing knows nothing of data sets, results or attacks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
