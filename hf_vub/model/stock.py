"""Stock classifiers of transformers as backbones: their last linear layer, and the weights that a checkpoint lacks."""

import logging

from torch import nn
from transformers import PreTrainedModel

from .trust import Name

logger = logging.getLogger(__name__)


def replace_classifier(model: PreTrainedModel) -> nn.Linear:
    """Replace the linear layer that produces a stock classifier's logits by an identity.

    Args:
        model: any ``...ForSequenceClassification`` or ``...ForImageClassification`` of transformers.

    Returns:
        The replaced linear layer; its ``in_features`` is the number of features.

    Raises:
        ValueError: if the model's logits do not come from exactly one linear layer.
    """
    get_timm_classifier = getattr(getattr(model, "timm_model", None), "get_classifier", None)
    if get_timm_classifier is not None:
        classifier = get_timm_classifier()
        found = [(name, module) for name, module in model.named_modules() if module is classifier]
    else:
        inner = getattr(model, model.base_model_prefix, None) if model.base_model_prefix else None
        inside = set() if inner is None else set(inner.modules())
        found = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module not in inside and module.out_features == model.config.num_labels
        ]
    name, linear = found[0] if len(found) == 1 else ("", None)
    if not isinstance(linear, nn.Linear):
        raise ValueError(
            f"{type(model).__name__} has {len(found)} layers that could be its last linear layer; the bottleneck takes "
            "the place of exactly one"
        )
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    # Some models initialise that layer by name; all others have been initialised by now.
    model._is_hf_initialized = True  # type: ignore[assignment]
    return linear


def warn_of_untrained(path: Name, names: list[str]) -> None:
    """Warn where features pass through weights that the checkpoint did not have, such as those of BERT's pooler."""
    if names:
        logger.warning(
            "%s has no weights for %s: they start at random, and the features pass through them. Train the backbone, "
            "or choose pooling='mean', 'cls' or 'last'.",
            path,
            ", ".join(names),
        )
