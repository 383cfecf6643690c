"""The backbone of an experiment and the head it came with."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..model.configuration_vub import VUBConfig
from ..model.modeling_vub import VUBForImageClassification, VUBForSequenceClassification, replace_classifier
from ..model.timm_processing import timm_image_processor
from ..model.trust import load
from ..sweep.seeding import data_order, initial_head
from .experiments import PROBE_EPOCHS, PROBE_STEPS, Experiment

_CLASSES = {"text": VUBForSequenceClassification, "image": VUBForImageClassification}


class HeadOnFeatures(nn.Module):
    """One head on a backbone that it shares with others, as a classifier of images."""

    def __init__(self, model: Any, head: nn.Module):
        super().__init__()
        self.model, self.head, self.config = model, head, model.config

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised pixels."""
        output = self.head(self.model.features(pixel_values=pixel_values))
        logits: Tensor = getattr(output, "logits", output)
        return logits


def load_backbone(settings: Experiment, num_labels: int, texts: Sequence[str]) -> tuple[Any, Any, nn.Linear | None]:
    """The frozen model, its tokenizer or image processor, and its trained last layer, if it fits the classes.

    Args:
        settings: names the model.
        num_labels: classes of the data set.
        texts: of the training split; with random weights and no tokenizer at hand, one is made from them.
    """
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    stock_class = {"text": AutoModelForSequenceClassification, "image": AutoModelForImageClassification}[settings.task]
    last: nn.Linear | None = None
    if settings.from_config:
        config = _config(settings, num_labels)
        torch.manual_seed(settings.seed)
        model = _CLASSES[settings.task](VUBConfig(config, num_labels=num_labels, freeze_backbone=True))
    else:
        config = load(AutoConfig, settings.model)
        if config.model_type != VUBConfig.model_type:
            stock, info = load(stock_class, settings.model, output_loading_info=True)
            last = replace_classifier(stock)
            if info["missing_keys"] or last.out_features != num_labels:
                last = None
            del stock
        model = _CLASSES[settings.task].from_pretrained(settings.model, num_labels=num_labels, freeze_backbone=True)
    # A head that nobody uses is a part of what attacks take for the model: it must not differ from run to run.
    torch.manual_seed(settings.seed)
    model.head.reset_parameters()
    model = model.float().eval()
    processor: Any
    if settings.task == "image":
        config = model.config.backbone_config
        if config.model_type == "timm_wrapper":
            processor = timm_image_processor(config.pretrained_cfg or {})
        else:
            processor = load(AutoImageProcessor, settings.model)
    else:
        try:
            processor = load(AutoTokenizer, settings.model)
        except (OSError, ValueError):
            if not settings.from_config:
                raise
            from ..data.synthetic import word_tokenizer

            processor = word_tokenizer(texts, vocab_size=model.config.backbone_config.vocab_size)
    return model, processor, last


def linear_probe(features: Tensor, labels: Tensor, num_labels: int, seed: int) -> nn.Linear:
    """A linear layer on the features, trained with cross-entropy: "vanilla" where a backbone has no classifier."""
    layer = nn.Linear(features.shape[1], num_labels)
    start = initial_head(seed, features.shape[1], num_labels, latent_size=features.shape[1]).bottleneck_decoder
    layer.load_state_dict(start.state_dict())
    spread, mean = torch.std_mean(features, dim=0)
    spread = spread.clamp_min(1e-6)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for epoch in range(max(PROBE_EPOCHS, math.ceil(PROBE_STEPS * 256 / len(labels)))):
        for rows in data_order(seed, epoch, len(labels)).split(256):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer((features[rows] - mean) / spread), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():  # the standardisation becomes a part of the layer
        layer.weight.div_(spread)
        layer.bias.sub_(layer.weight @ mean)
    return layer.requires_grad_(False)


def in_blocks(head: nn.Module, features: Tensor, rows: int = 4096) -> Iterator[Tensor]:
    """Logits of a head through its mean, block by block."""
    with torch.inference_mode():
        for block in features.split(rows):
            output = head(block.float())
            yield getattr(output, "logits", output).float()


def _config(settings: Experiment, num_labels: int) -> Any:
    """The backbone's configuration, from its folder or the Hub, or from what the libraries know of its name."""
    from transformers import AutoConfig

    if Path(settings.model).exists():
        return load(AutoConfig, settings.model, num_labels=num_labels)
    name = settings.model.rpartition("/")[2]
    if settings.task == "image":
        try:
            import timm
        except ImportError as error:
            raise ImportError('timm backbones need timm: pip install "hf_vub[vision]"') from error
        known = timm.get_pretrained_cfg(name)
        if known is not None:
            return AutoConfig.for_model(
                "timm_wrapper",
                architecture=known.architecture,
                num_labels=num_labels,
                pretrained_cfg=known.to_dict(),
                model_args={"aux_logits": False} if known.architecture == "inception_v3" else None,
            )
    elif name.startswith("bert-base-uncased"):
        return AutoConfig.for_model("bert", num_labels=num_labels)
    return load(AutoConfig, settings.model, num_labels=num_labels)
