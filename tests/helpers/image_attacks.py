"""Images to attack and a small model of them."""

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow
from transformers import ViTConfig, ViTForImageClassification

from hf_vub import VUBConfig, VUBForImageClassification


def dataset_of(pixels, labels, names=None):
    label = ClassLabel(names=names) if names else Value("int64")
    bytes_ = [(image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for image in pixels]
    pictures = [Pillow.fromarray(image.repeat(3, axis=2) if image.shape[2] == 1 else image) for image in bytes_]
    return Dataset.from_dict(
        {"image": pictures, "label": [int(k) for k in labels]}, features=Features({"image": Image(), "label": label})
    )


def vit(num_labels=3, seed=0):
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=num_labels, initializer_range=1.0,
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


def vub(num_labels=3):
    torch.manual_seed(0)
    backbone = vit(num_labels).config
    return VUBForImageClassification(VUBConfig(backbone_config=backbone, num_labels=num_labels)).eval()
