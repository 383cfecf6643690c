"""A small sweep."""

import torch
from torch.nn import functional as F

from hf_vub.sweep.heads import HeadRun, train_heads

ROWS, SIZE, LABELS, BATCH = 50, 12, 3, 16


RUNS = [
    HeadRun("ce", seed=0),
    HeadRun("vib", beta=1e-2, seed=1),
    HeadRun("vub", beta=1e-3, seed=2),
    HeadRun("vub", beta=1e-1, entropy_weight=0.5, seed=0),
    HeadRun("vub", beta=0.0, seed=3),
]


def problem(rows: int = ROWS, size: int = SIZE, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(LABELS, (rows,), generator=generator)
    features = torch.randn(rows, size, generator=generator) + 2 * F.one_hot(labels, size)
    return features, labels


def train(runs=RUNS, features=None, labels=None, **options):
    if features is None:
        features, labels = problem()
    return train_heads(
        features,
        labels,
        runs,
        **{"num_labels": LABELS, "epochs": 3, "batch_size": BATCH, "learning_rate": 1e-2} | options,
    )


def bits(result) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in result.head.state_dict().values()]
