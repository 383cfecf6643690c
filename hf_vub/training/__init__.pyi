from .arguments import DataArguments, ModelArguments, VUBTrainingArguments
from .fine_tuning import fine_tune
from .rows import FeatureRows, feature_rows
from .trainer import VUBTrainer

__all__ = [
    "DataArguments",
    "FeatureRows",
    "ModelArguments",
    "VUBTrainer",
    "VUBTrainingArguments",
    "feature_rows",
    "fine_tune",
]
