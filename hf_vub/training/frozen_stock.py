"""A stock classifier whose last linear layer alone is trained: the frozen baseline of a bottleneck's head."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..model.modeling_vub import replace_classifier


class StockFeatures(nn.Module):
    """The inputs of a stock classifier's last linear layer, as :func:`hf_vub.embeddings.extract` asks for them.

    Args:
        network: inside a block of :func:`without_classifier`.
    """

    def __init__(self, network: PreTrainedModel):
        super().__init__()
        self.backbone, self.config = network, network.config

    def features(self, **inputs: object) -> Tensor:
        """Return what the last linear layer would see, shape (batch, feature_size)."""
        logits: Tensor = self.backbone(**inputs, return_dict=True).logits
        return logits


def freeze_all_but_classifier(network: PreTrainedModel) -> None:
    """Leave only the last linear layer of a stock classifier to train, and let the network take cached features.

    Afterwards ``network(features=..., labels=...)`` applies that layer to features of shape (batch, feature_size). The
    network stays in evaluation mode even while it trains, so that no batch statistic moves and nothing is dropped out.
    It is saved as the stock classifier that it is.

    Args:
        network: a ``...ForSequenceClassification`` or ``...ForImageClassification`` of transformers; changed in place.

    Raises:
        ValueError: its logits do not come from exactly one linear layer.
    """
    with without_classifier(network) as classifier:
        network.requires_grad_(False)
    classifier.requires_grad_(True)
    place = next(name for name, module in network.named_modules() if module is classifier)
    stock = type(network)

    @functools.wraps(stock.forward)
    def forward(
        self: PreTrainedModel,
        *args: object,
        features: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: object,
    ) -> Any:
        if features is None:
            return stock.forward(self, *args, labels=labels, **inputs)
        linear = self.get_submodule(place)
        logits = linear(features.to(next(linear.parameters()).dtype)).float()
        loss: Any = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def train(self: PreTrainedModel, mode: bool = True) -> PreTrainedModel:
        stock.train(self, False)
        return self

    # A subclass of the same name rather than attributes of the instance: copies and replicas of the network keep it.
    network.__class__ = type(stock.__name__, (stock,), {"forward": forward, "train": train})
    network.eval()


@contextmanager
def without_classifier(network: PreTrainedModel) -> Iterator[nn.Linear]:
    """Put an identity in the place of a stock classifier's last linear layer inside the block, and give that layer."""
    names = {id(module): name for name, module in network.named_modules()}
    classifier = replace_classifier(network)
    parent, _, child = names[id(classifier)].rpartition(".")
    try:
        yield classifier
    finally:
        setattr(network.get_submodule(parent), child, classifier)
