"""Load a classifier of texts or images, ours or a stock one, together with its tokenizer or image processor.

No checkpoint carries this module: ``modeling_vub`` must not import it.
"""

import copy
import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .modeling_vub import VUBForImageClassification, VUBForSequenceClassification
from .timm_processing import timm_image_processor
from .trust import load, require_checkpoint

logger = logging.getLogger(__name__)

Task = Literal["text", "image"]


class TaskClasses(NamedTuple):
    """The classes that load the checkpoints of one task."""

    stock: type[AutoModelForSequenceClassification] | type[AutoModelForImageClassification]
    """The Auto class of the stock classifiers; it loads ours too."""
    ours: type[VUBForSequenceClassification] | type[VUBForImageClassification]
    """The classifier with a bottleneck, which also wraps stock checkpoints."""
    processor: type[AutoTokenizer] | type[AutoImageProcessor]


TASKS: dict[str, TaskClasses] = {
    "text": TaskClasses(AutoModelForSequenceClassification, VUBForSequenceClassification, AutoTokenizer),
    "image": TaskClasses(AutoModelForImageClassification, VUBForImageClassification, AutoImageProcessor),
}


class LoadedClassifier(NamedTuple):
    """A classifier with what prepares its inputs."""

    network: nn.Module
    """In evaluation mode, on the CPU and with its training logits where it was loaded here; as it was where given."""
    processor: Any
    """Its tokenizer or image processor; None for a network that takes pixels in [0, 1] as they are."""
    name: str
    """The folder or Hub id, or the class name of a model that was never saved."""


def load_classifier(
    model: nn.Module | str | Path,
    task: str,
    *,
    processor: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str | None = None,
) -> LoadedClassifier:
    """Return a classifier, its tokenizer or image processor, and its name.

    Args:
        model: a module, or the folder or Hub id of a VUB or stock checkpoint.
        task: "text" or "image".
        processor: tokenizer or image processor, or the folder or Hub id of one; None loads the one saved with
            ``model``. For a module that is the one of the checkpoint it was loaded from.
        revision: revision of ``model`` on the Hub.
        trust_remote_code: run code that comes with ``model``.
        dtype: "float32" or "bfloat16" for the weights, None for the saved dtype; our head stays in float32. A module in
            another dtype is copied, never changed.

    Raises:
        ValueError: for an unknown task or dtype, a checkpoint of the other task, a configuration that asks for code,
            a text model without a tokenizer, or a tokenizer with more tokens than the model has embeddings.
        OSError: if there is no such checkpoint.

    Example:
        >>> network, tokenizer, name = load_classifier("user/vub-bert-imdb", "text")  # doctest: +SKIP
    """
    kinds = _classes(task)
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"dtype must be None, 'float32' or 'bfloat16', but is {dtype!r}")
    name = classifier_name(model)
    if not isinstance(model, nn.Module):
        # A checkpoint of the other task is refused before its processor is missed.
        require_checkpoint(kinds.stock, name, revision=revision, trust_remote_code=trust_remote_code)
        processor = name if processor is None else processor
    if isinstance(processor, (str, Path)):
        same = revision if str(processor) == name else None
        processor = load_processor(processor, task, revision=same, trust_remote_code=trust_remote_code)
    elif processor is None and isinstance(model, nn.Module):
        processor = _processor_of(model, task, revision, trust_remote_code)
    network: nn.Module
    if isinstance(model, nn.Module):
        network = _in_dtype(model, dtype)
    else:
        network = load(kinds.stock, name, dtype=dtype or "auto", revision=revision, trust_remote_code=trust_remote_code)
        config: Any = getattr(network, "config", None)
        if getattr(config, "calibrated_logits", False):
            config.calibrated_logits = False  # attacks and losses see what training saw
        if isinstance(processor, PreTrainedTokenizerBase):
            set_padding(network, processor)
    if isinstance(processor, PreTrainedTokenizerBase):
        _check_vocabulary(network, processor, name)
    return LoadedClassifier(network, processor, name)


def load_processor(
    name: str | Path, task: str, *, revision: str | None = None, trust_remote_code: bool = False, savable: bool = False
) -> Any:
    """Return the tokenizer or image processor saved in a folder or on the Hub.

    ``savable`` replaces timm's image processor, which cannot be saved, by an ordinary one with the same steps; for the
    other arguments see :func:`load_classifier`.

    Raises:
        ValueError: a file of it cannot be read, or it asks for code.
        OSError: if there is none.
    """
    processor = load(_classes(task).processor, str(name), revision=revision, trust_remote_code=trust_remote_code)
    if isinstance(processor, PreTrainedTokenizerBase) and processor.pad_token is None:
        processor.pad_token = processor.eos_token
    if savable and hasattr(processor, "data_config"):
        return timm_image_processor(processor.data_config)
    return processor


def classifier_name(model: nn.Module | str | Path) -> str:
    """Return the folder or Hub id of a model, or the class name of one that was never saved."""
    if isinstance(model, nn.Module):
        return str(getattr(model, "name_or_path", "") or type(model).__name__)
    return str(model)


def backbone_of(network: nn.Module) -> nn.Module:
    """Return the part that runs in the requested dtype: our backbone, whose head stays in float32, or all of it."""
    backbone = getattr(network, "backbone", None)
    return backbone if isinstance(backbone, nn.Module) and hasattr(network, "features") else network


def backbone_dtype(network: nn.Module) -> torch.dtype:
    """Return the dtype that the backbone computes in; float32 for a module without floating-point parameters."""
    parameters = backbone_of(network).parameters()
    return next((each.dtype for each in parameters if each.is_floating_point()), torch.float32)


def set_padding(network: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell a model that names no padding token, as most decoders, which token its tokenizer pads with.

    A decoder finds the last token of a text by the padding.
    """
    config = getattr(backbone_of(network), "config", None)
    if isinstance(config, PretrainedConfig) and getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id


def _classes(task: str) -> TaskClasses:
    """Return the classes of a task; raise ValueError for an unknown one."""
    if task not in TASKS:
        raise ValueError(f"task must be 'text' or 'image', but is {task!r}")
    return TASKS[task]


def _processor_of(model: nn.Module, task: str, revision: str | None, trust_remote_code: bool) -> Any:
    """Return the tokenizer or image processor of the checkpoint that a module was loaded from."""
    source = str(getattr(model, "name_or_path", "") or "")
    revision = revision or getattr(getattr(model, "config", None), "_commit_hash", None)
    if source:
        try:
            return load_processor(source, task, revision=revision, trust_remote_code=trust_remote_code)
        except OSError:
            if task == "text":
                raise
            logger.warning("No image processor is saved with %s: it gets pixels in [0, 1] as they are.", source)
    elif task == "text":
        raise ValueError(
            f"tokenizer is None, and this {type(model).__name__} was not loaded from a folder or the Hub: give its "
            "tokenizer"
        )
    return None


def _in_dtype(model: nn.Module, dtype: str | None) -> nn.Module:
    """Return the module, or a copy of it whose backbone is in another dtype."""
    if dtype is None or backbone_dtype(model) == getattr(torch, dtype):
        return model
    model = copy.deepcopy(model)
    backbone_of(model).to(getattr(torch, dtype))
    return model


def _check_vocabulary(network: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ValueError where ordinary texts may hold tokens that the model has no embedding for.

    Added tokens beyond the embeddings, such as those of images, are left out: no text holds them.
    """
    embeddings = network.get_input_embeddings() if isinstance(network, PreTrainedModel) else None
    rows = getattr(embeddings, "num_embeddings", None)
    if rows is None or len(tokenizer) <= rows:
        return
    around = [getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "cls", "sep", "bos", "eos", "unk")]
    if max([tokenizer.vocab_size - 1, *(token for token in around if token is not None)]) >= rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {name} has embeddings for {rows}: "
            "use the tokenizer that the model was trained with"
        )
