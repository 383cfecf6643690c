"""Small data sets and trainers."""

import numpy as np
import torch
from torch.utils.data import Dataset

from helpers.models import build_model
from hf_vub import VUBTrainer, VUBTrainingArguments


class Features(Dataset):
    """Separable features with labels: training on them needs no backbone."""

    def __init__(self, rows=64, size=32, classes=3):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(classes, (rows,), generator=generator)
        centres = torch.randn(classes, size, generator=generator)
        self.features = centres[self.labels] + 0.5 * torch.randn(rows, size, generator=generator)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return {"features": self.features[row], "labels": self.labels[row]}


class Tokens(Dataset):
    """Token sequences of different lengths; the label is the parity of the first token."""

    def __init__(self, rows=48):
        generator = np.random.default_rng(0)
        self.rows = [generator.integers(3, 60, generator.integers(4, 12)).tolist() for _ in range(rows)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        ids = self.rows[row]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids[0] % 2}


def pad(rows):
    length = max(len(row["input_ids"]) for row in rows)
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * (length - len(row["input_ids"])) for row in rows]),
        "attention_mask": torch.tensor(
            [row["attention_mask"] + [0] * (length - len(row["attention_mask"])) for row in rows]
        ),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def arguments(folder, **options):
    defaults = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_steps": 4,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return VUBTrainingArguments(**{**defaults, **options})


def trainer(folder, model=None, dataset=None, callbacks=None, collator=None, **options):
    dataset = Features() if dataset is None else dataset
    return VUBTrainer(
        model=build_model("bert", beta=0.01) if model is None else model,
        args=arguments(folder, **options),
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=collator,
        callbacks=callbacks,
    )
