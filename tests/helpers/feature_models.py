"""Models whose features are cheap to extract."""

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel

VOCABULARY = 50


class TextModel(nn.Module):
    """A BERT of one layer with the interface that ``extract`` asks for."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
        )
        self.backbone = BertModel(self.config)
        self.head = nn.Linear(16, 2)
        self.calls: list[tuple[int, ...]] = []

    def features(self, **inputs: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(inputs["input_ids"].shape))
        return self.backbone(**inputs).pooler_output


class PixelModel(nn.Module):
    def __init__(self, feature_size: int = 6):
        super().__init__()
        self.backbone = nn.Linear(3 * 2 * 2, feature_size)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.backbone(pixel_values.flatten(1))


def token_rows(rows: int = 40, longest: int = 12, seed: int = 0) -> dict[str, list]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, longest + 1, rows)
    ids = [generator.integers(1, VOCABULARY, length).tolist() for length in lengths]
    return {
        "input_ids": ids,
        "attention_mask": [[1] * len(row) for row in ids],
        "labels": generator.integers(0, 2, rows).tolist(),
    }
