from .arguments import VUBTrainingArguments
from .fine_tuning import DataArguments, ModelArguments, fine_tune
from .trainer import VUBTrainer

__all__ = ["DataArguments", "ModelArguments", "VUBTrainer", "VUBTrainingArguments", "fine_tune"]
