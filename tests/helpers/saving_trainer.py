"""A trainer that saves after every step."""

import datasets
import torch

from helpers.models import build_model
from helpers.training import arguments
from hf_vub import VUBTrainer

ROWS = 24
POISON = 59  # a token whose embedding is beyond the squares of float32


def rows(poisoned=()):
    """Return rows that each begin with a token of their own, so that a batch shows which rows it holds."""
    return datasets.Dataset.from_dict(
        {
            "input_ids": [[3 + row, POISON if row in poisoned else 40, 41] for row in range(ROWS)],
            "attention_mask": [[1, 1, 1]] * ROWS,
            "labels": [row % 3 for row in range(ROWS)],
        }
    )


def texts(first, last):
    """Tokenised rows that still have their texts, as a data set has after ``map``."""
    numbers = range(first, last)
    return datasets.Dataset.from_dict(
        {
            "text": [f"review number {row}" for row in numbers],
            "input_ids": [[3 + row, 40, 41] for row in numbers],
            "attention_mask": [[1, 1, 1] for _ in numbers],
            "labels": [row % 3 for row in numbers],
        }
    )


class Collator:
    """Remember the rows of the last batch."""

    def __call__(self, features):
        self.rows = [feature["input_ids"][0] - 3 for feature in features]
        return {name: torch.tensor([feature[name] for feature in features]) for name in features[0]}


def trainer(folder, dataset=None, *, eval_dataset=None, callbacks=None, model=None, processing_class=None, **options):
    defaults = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "epoch", "logging_steps": 2, "seed": 42}
    defaults |= {"per_device_train_batch_size": 4}
    return VUBTrainer(
        model=model or build_model("bert"),
        args=arguments(folder, **{**defaults, **options}),
        train_dataset=rows() if dataset is None else dataset,
        eval_dataset=rows() if eval_dataset is None else eval_dataset,
        data_collator=Collator(),
        callbacks=callbacks,
        processing_class=processing_class,
    )
