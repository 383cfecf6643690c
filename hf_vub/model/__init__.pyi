from .configuration_vub import Objective, VUBConfig
from .modeling_vub import VUBForImageClassification, VUBForSequenceClassification, VUBOutput

__all__ = ["Objective", "VUBConfig", "VUBForImageClassification", "VUBForSequenceClassification", "VUBOutput"]
