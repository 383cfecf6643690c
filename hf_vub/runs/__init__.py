"""What a run leaves on disk: atomic files, records that a killed run resumes from, and where numbers come from.

Start with ``files`` (JSON and JSON lines), then ``run_log`` (one record per example) and ``provenance`` (versions,
commit and the command with its secrets masked). This wing never computes a metric.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
