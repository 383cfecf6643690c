"""Heads on cached features: saved and loaded, put on the backbone, and measured."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from ..embeddings.extraction import Features
from ..metrics.classification import classification_metrics, reliability_bins
from ..model.head import VUBHead
from ..model.modeling_vub import VUBForImageClassification, VUBForSequenceClassification
from ..runs.files import plain, replacing
from ..runs.schema import Metrics, Reliability
from ..sweep.heads import HeadRun, Settings, SweepResult

Processor = PreTrainedTokenizerBase | BaseImageProcessor
"""What turns texts or images into the inputs of a backbone."""
Backbone = VUBForSequenceClassification | VUBForImageClassification
"""A model with ``features(**inputs)``, whose own head is not used."""


class HeadOnFeatures(nn.Module):
    """One head on a backbone that other heads share, as a classifier of images."""

    def __init__(self, model: Backbone, head: nn.Module):
        super().__init__()
        self.model, self.head, self.config = model, head, model.config
        self.training_record = vars(model).get("training_record")

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits (batch, classes) of normalised pixels."""
        return _logits(self.head, self.features(pixel_values))

    def features(self, pixel_values: Tensor) -> Tensor:
        """Return what the head sees (batch, feature_size) of normalised pixels."""
        return self.model.features(pixel_values=pixel_values)


def save_head(head: nn.Module, path: Path) -> None:
    """Write the weights of a head to one safetensors file, atomically."""
    with replacing(path) as temporary:
        save_file({name: value.contiguous() for name, value in head.state_dict().items()}, temporary)


def load_head(path: Path) -> nn.Module:
    """Return a frozen head from its file: a linear layer, the two-layer MLP of the baselines, or a `VUBHead`."""
    state = load_file(path)
    head: nn.Module
    if "bottleneck_decoder.weight" in state:
        classes, latent = state["bottleneck_decoder.weight"].shape
        head = VUBHead(state["bottleneck_encoder.0.weight"].shape[0], classes, latent)
    elif "weight" in state:
        head = _linear(state["weight"], "bias" in state)
    else:
        first, last = state["0.weight"], state["3.weight"]
        head = nn.Sequential(_linear(first), nn.ReLU(), nn.Dropout(), _linear(last))
    head.load_state_dict(state)
    return head.requires_grad_(False).eval()


def in_blocks(head: nn.Module, features: Tensor, rows: int = 4096) -> Iterator[Tensor]:
    """Yield the logits of a head through its mean, block by block."""
    with torch.inference_mode():
        for block in features.split(rows):
            yield _logits(head, block.float()).float()


def measure(head: nn.Module, rows: Features, run: HeadRun | None, settings: Settings) -> tuple[Metrics, Reliability]:
    """Return the metrics of a head through its mean, and how its confidence and accuracy go together.

    Args:
        head: from features to logits.
        rows: features and labels of a split.
        run: of the grid, whose objective's terms are measured too; None for other heads.
        settings: of the grid.
    """
    logits = torch.cat(list(in_blocks(head, rows.features)))
    metrics: Metrics = dict(classification_metrics(logits, rows.labels))
    if run is not None and isinstance(head, VUBHead):
        metrics |= _terms(run, settings, head, rows)
    bins = reliability_bins(logits, rows.labels)
    return metrics, Reliability.from_json({name: plain(values) for name, values in bins.items()})


def right_rows(head: nn.Module, rows: Features) -> Tensor:
    """Return for each row, bool (rows,), if a head classifies it correctly through its mean."""
    return torch.cat([logits.argmax(dim=-1) for logits in in_blocks(head, rows.features)]) == rows.labels


def _terms(run: HeadRun, settings: Settings, head: VUBHead, rows: Features) -> dict[str, float]:
    """Return the terms of the objective through the mean, in nats, and the bounds made of them."""
    measured = SweepResult(run, settings, head).evaluate(rows.features, rows.labels)
    terms = {name: measured[name] for name in ("cross_entropy", "rate", "entropy", "information")}
    # Without the rate: if a bottleneck has exploded, its rounding would hide the min term.
    free = replace(run, objective="vub", beta=0.0, entropy_weight=1.0)
    distortion = SweepResult(free, settings, head).evaluate(rows.features, rows.labels)["loss"]
    rate = run.beta * terms["rate"]
    vib = rate + terms["cross_entropy"]
    return terms | {"bound_vib": vib, "bound_vub": rate + distortion, "bound_ib": vib - settings.label_entropy}


def _logits(head: nn.Module, features: Tensor) -> Tensor:
    output = head(features)
    logits: Tensor = getattr(output, "logits", output)
    return logits


def _linear(weight: Tensor, bias: bool = True) -> nn.Linear:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
