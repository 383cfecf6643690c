"""Robust Hugging Face classifiers with the variational information bottleneck (VIB and VUB)."""

from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from .configuration_vub import Objective, VUBConfig
from .modeling_vub import VUBForImageClassification, VUBForSequenceClassification, VUBOutput
from .trainer import VUBTrainer, VUBTrainingArguments
from .version import __version__

__all__ = [
    "Objective",
    "VUBConfig",
    "VUBForImageClassification",
    "VUBForSequenceClassification",
    "VUBOutput",
    "VUBTrainer",
    "VUBTrainingArguments",
    "__version__",
]

AutoConfig.register(VUBConfig.model_type, VUBConfig, exist_ok=True)
AutoModelForSequenceClassification.register(VUBConfig, VUBForSequenceClassification, exist_ok=True)
AutoModelForImageClassification.register(VUBConfig, VUBForImageClassification, exist_ok=True)

# A saved checkpoint carries the modelling code, so that trust_remote_code=True loads it without this package.
VUBConfig.register_for_auto_class()
VUBForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
VUBForImageClassification.register_for_auto_class("AutoModelForImageClassification")
