"""Pooling of token states into one feature vector per text, where the stock classifier's own pooling is not wanted."""

import inspect
import json
import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import cached_file

from .information import at_least_float32
from .trust import HUB_OPTIONS, Name, Options

logger = logging.getLogger(__name__)


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    r"""Return one vector per text from the encoder's last hidden states.

    "cls" takes the first token, "last" the last one, and "mean" the average over the tokens,

    .. math:: f = \frac{\sum_t m_t h_t}{\sum_t m_t},

    padding left out. The mean is computed in at least float32.

    Args:
        states: last hidden states, shape (batch, length, hidden_size).
        mask: 1 for tokens and 0 for padding, on whichever side, shape (batch, length).
        pooling: "cls", "mean" or "last".

    Returns:
        Features, shape (batch, hidden_size), in the dtype of ``states``.

    Source: Reimers and Gurevych 2019, Sentence-BERT, section 3.
    """
    if pooling == "mean":
        weights = at_least_float32(mask).to(states.device).unsqueeze(-1)
        total = (at_least_float32(states) * weights).sum(1)
        return (total / weights.sum(1).clamp_min(1.0)).to(states.dtype)
    tokens = (mask != 0).int()
    if pooling == "last":
        tokens = tokens * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    place = tokens.argmax(1)  # of equal values the first
    return states[torch.arange(len(states), device=states.device), place.to(states.device)]


def token_mask(inputs: dict[str, Tensor], pad_token_id: int | None) -> Tensor:
    """Return the mask of tokens, shape (batch, length): as given, else by the padding token, else all ones."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"]
    if "input_ids" not in inputs:
        return torch.ones(inputs["inputs_embeds"].shape[:2], device=inputs["inputs_embeds"].device)
    ids = inputs["input_ids"]
    return torch.ones_like(ids) if pad_token_id is None else (ids != pad_token_id).long()


def choose_pooling(path: Name, content: Options, options: Options) -> str:
    """Return the pooling that "auto" means for a stock checkpoint of texts, and log where it comes from.

    ``content`` is that of its ``config.json``, and ``options`` are the keywords of ``from_pretrained``.
    """
    found = None
    if not any("Classification" in str(name) for name in content.get("architectures") or ()):
        hub = {name: options[name] for name in HUB_OPTIONS if name in options and name != "subfolder"}
        found = saved_pooling(path, hub)
    if found is None:
        logger.info("pooling of %s is 'stock': what its %r classifier does.", path, content.get("model_type"))
        return "stock"
    logger.info("pooling of %s is %r, as its 1_Pooling/config.json says.", path, found)
    return found


def saved_pooling(name: Name, options: Options) -> str | None:
    """Return the pooling that a sentence-transformers checkpoint names in ``1_Pooling/config.json``, if it names one.

    ``options`` say where on the Hub it is (``revision``, ``token``, ``cache_dir``, ...).

    Raises:
        ValueError: the file is not valid JSON.
    """
    path = cached_file(
        name,
        "1_Pooling/config.json",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **options,
    )
    if path is None:
        return None
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    chosen = [key for key, value in content.items() if key.startswith("pooling_mode_") and value is True]
    named = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}
    mode = content.get("pooling_mode")  # of newer versions, where it is one word
    found = named.get(chosen[0]) if len(chosen) == 1 else {"lasttoken": "last"}.get(mode, mode)
    if found in ("cls", "mean", "last"):
        return str(found)
    logger.warning("%s names a pooling that is not offered (%s): 'mean' is used.", path, ", ".join(chosen) or mode)
    return "mean"


def prepare_encoder(encoder: nn.Module, config: PretrainedConfig, pooling: str) -> int:
    """Drop the pooler of an encoder whose token states are pooled, and return the number of features.

    Distributed training and checkpointing fail on parameters that nothing uses; a pooler that the encoder cannot do
    without is therefore frozen.

    Raises:
        ValueError: for a model of encoder and decoder, or one without a size of hidden states.
    """
    size = getattr(config, "hidden_size", None)
    if getattr(config, "is_encoder_decoder", False) or not isinstance(size, int):
        raise ValueError(f"pooling is {pooling!r}, which {config.model_type!r} models do not offer: use 'stock'")
    pooler = getattr(encoder, "pooler", None)
    if isinstance(pooler, nn.Module):
        if "add_pooling_layer" in inspect.signature(type(encoder).__init__).parameters:
            encoder.register_module("pooler", None)
        else:
            pooler.requires_grad_(False)
    return size
