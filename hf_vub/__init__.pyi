from .model.configuration_vub import Objective, VUBConfig
from .model.modeling_vub import VUBForImageClassification, VUBForSequenceClassification, VUBOutput
from .training.arguments import VUBTrainingArguments
from .training.trainer import VUBTrainer
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
