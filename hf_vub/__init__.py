"""Measure, calibrate, certify and train the robustness of Hugging Face classifiers.

Built around the variational information bottleneck: the objectives VIB and VUB, models that carry them, and a Trainer.
Each subpackage is a wing with one job; read ``model`` first (information, objectives, head, modeling_vub), then
``training``. Names load when first used, so that ``import hf_vub`` costs little.
"""

import lazy_loader

from .model.registration import register_with_transformers

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_with_transformers()
