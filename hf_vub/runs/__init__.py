"""The files of a run: atomic JSON and records that a killed run resumes from, typed results, and provenance.

Start with ``schema`` (a dataclass per kind of result), then ``files`` (JSON, JSON lines, the lock of a folder),
``run_log`` (one record per example) and ``provenance`` (versions, commit and the command with its secrets masked).
This wing never computes a metric.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
