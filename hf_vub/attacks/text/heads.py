"""Checkpoints that share one frozen backbone: the backbone once, and the head of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from ...data.labels import class_names, has_names
from ...data.record import TrainingRecord
from ...model.loading import backbone_of
from ...model.modeling_vub import VUBForSequenceClassification, replace_classifier
from ...model.trust import load
from ...runs.digests import digest, weights_digest
from ...runs.processes import processes


def shared_heads(
    models: Sequence[str | Path], *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Return the one backbone and the heads of checkpoints that were trained on it frozen, for `attack_text_heads`.

    Args:
        models: folders or Hub ids of our checkpoints, or of the stock classifier, whose head is its last layer.
        revision: revision on the Hub, of all of them.
        trust_remote_code: run code that comes with them.

    Returns:
        A model with ``features``, and the heads by the last part of the checkpoints' names. A head's ``name_or_path``
        is its checkpoint.

    Raises:
        ValueError: two checkpoints have different backbones, number their classes differently, or have the same name.

    Example:
        >>> model, heads = shared_heads(["user/bert-imdb", "user/vib-bert-imdb"])  # doctest: +SKIP
        >>> attack_text_heads(model, heads, "imdb", "pwws")  # doctest: +SKIP
    """
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"models must have different names, but they end in {', '.join(names)}")
    heads: dict[str, nn.Module] = {}
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code, "dtype": torch.float32}
    shared = VUBForSequenceClassification.from_pretrained(str(models[0]), **options)
    backbone, classes = backbone_digest(shared), _classes(shared)
    for name, model in zip(names, map(str, models), strict=True):
        network = load(AutoModelForSequenceClassification, model, **options)
        if _classes(network) != classes:
            raise ValueError(f"{models[0]} and {model} name their classes differently: attack them one by one")
        head, _ = split(network)
        if backbone_digest(network) != backbone:
            raise ValueError(f"{models[0]} and {model} have different backbones: attack them one by one")
        head.name_or_path = model
        head.training_record = TrainingRecord.load(model, revision)
        heads[name] = head
    return shared.to(processes().device), heads


def split(network: Any) -> tuple[Any, nn.Module]:
    """Return the head and the backbone of a classifier; a stock one, whose head is its last layer, is left without it.

    Raises:
        ValueError: the logits of a stock classifier do not come from exactly one linear layer.
    """
    if hasattr(network, "features"):
        return network.head, network.backbone
    return replace_classifier(network), network


def backbone_digest(network: Any) -> str:
    """Return what identifies the features of a classifier that was `split`: its backbone's weights and the pooling."""
    pooling = getattr(network.config, "pooling", "stock") if hasattr(network, "features") else "stock"
    return digest(weights_digest(backbone_of(network)), pooling)


def _classes(network: Any) -> list[str]:
    """Return the class names of a checkpoint in one spelling; none where it has no names."""
    names = class_names(network.config, network.config.num_labels)
    return [name.strip().casefold() for name in names] if has_names(names) else []
