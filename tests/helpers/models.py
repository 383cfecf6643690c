"""Tiny models of every kind of backbone, and inputs for them."""

from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from hf_vub import VUBConfig, VUBForImageClassification, VUBForSequenceClassification

TEXT_BACKBONES = {
    "bert": {"model_type": "bert", "intermediate_size": 48},
    "roberta": {"model_type": "roberta", "intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 1},
    "mpnet": {"model_type": "mpnet", "intermediate_size": 48, "pad_token_id": 0},
    "distilbert": {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "electra": {"model_type": "electra", "intermediate_size": 48, "embedding_size": 32},
    "deberta-v2": {
        "model_type": "deberta-v2",
        "intermediate_size": 48,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
    },
    "modernbert": {
        "model_type": "modernbert",
        "intermediate_size": 48,
        "reference_compile": False,
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "pad_token_id": 0, "eos_token_id": 0},
    "qwen2": {"model_type": "qwen2", "intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0},
}


_TEXT_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
}


IMAGE_BACKBONES = {
    "vit": {
        "model_type": "vit",
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    },
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    },
    "swin": {
        "model_type": "swin",
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "timm-resnet": {
        "model_type": "timm_wrapper",
        "architecture": "resnet10t",
        "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.25] * 3},
    },
    "timm-vit": {
        "model_type": "timm_wrapper",
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": 32, "depth": 2},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    },
}


def backbone_config(name: str, num_labels: int = 3, vocab_size: int = 60) -> PretrainedConfig:
    """Return the configuration of a tiny backbone of each kind."""
    from transformers import AutoConfig

    if name in TEXT_BACKBONES:
        options = {**_TEXT_COMMON, "vocab_size": vocab_size, **TEXT_BACKBONES[name]}
    else:
        options = dict(IMAGE_BACKBONES[name])
        if options["model_type"] == "timm_wrapper":
            pytest.importorskip("timm")
    return AutoConfig.for_model(options.pop("model_type"), num_labels=num_labels, **options)


def model_inputs(name: str, batch: int = 3) -> dict[str, torch.Tensor]:
    """Return random inputs for the backbone of that name; texts of different lengths, padded on the right."""
    if name in IMAGE_BACKBONES:
        return {"pixel_values": torch.randn(batch, 3, 32, 32)}
    lengths = torch.arange(8, 8 + batch).flip(0)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return {"input_ids": torch.where(mask.bool(), torch.randint(3, 60, mask.shape), 0), "attention_mask": mask}


def build_model(
    name: str, vocab_size: int = 60, **options: Any
) -> VUBForSequenceClassification | VUBForImageClassification:
    """Return a tiny VUB classifier in evaluation mode over the backbone of that name."""
    torch.manual_seed(0)
    options = {"num_labels": 3, **options}
    cls = VUBForSequenceClassification if name in TEXT_BACKBONES else VUBForImageClassification
    return cls(VUBConfig(backbone_config(name, vocab_size=vocab_size), **options)).eval()
