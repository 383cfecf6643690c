"""The bottleneck and everything that a checkpoint carries.

Start with ``information`` and ``objectives`` (the formulas), then ``head``, ``configuration_vub`` and ``modeling_vub``.
transformers copies the siblings of ``modeling_vub`` into a checkpoint for ``trust_remote_code=True``, so this wing
imports nothing of hf_vub from outside, and its modules import each other by single-level relative imports only.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
