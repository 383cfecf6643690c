"""Adapters (LoRA and others) of the peft library on VUB models, saved so that they load again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig

from .configuration_vub import VUBConfig

if TYPE_CHECKING:
    from peft import PeftModel


def save_base(adapted: "PeftModel", folder: str | Path) -> None:
    """Save the VUB model under an adapter, unless it was loaded from a VUB checkpoint, and record where it is.

    An adapter's files name the checkpoint that it was trained on. For a model that wraps a stock checkpoint that is the
    stock one, which has no head, so that ``AutoPeftModelForSequenceClassification`` fails. Call this before
    ``adapted.save_pretrained(...)``. No checkpoint carries this module.

    Args:
        adapted: a model of ``peft.get_peft_model`` over one of ours.
        folder: where the base goes; its weights are those without the adapter.

    Example:
        >>> save_base(adapted, "runs/base")  # doctest: +SKIP
        >>> adapted.save_pretrained("runs/adapter")  # doctest: +SKIP
    """
    base: Any = adapted.get_base_model()
    recorded = adapted.active_peft_config.base_model_name_or_path
    if not isinstance(base.config, VUBConfig) or (recorded and _is_ours(recorded)):
        return
    prefix = adapted.base_model.prefix  # "lora_" and the like, of the adapter's own weights
    weights = {}
    for name, tensor in base.state_dict().items():
        if ".modules_to_save." not in name and f".{prefix}" not in name:
            weights[name.replace(".base_layer.", ".").replace(".original_module.", ".")] = tensor
    base.save_pretrained(folder, state_dict=weights)
    base.name_or_path = str(folder)
    for config in adapted.peft_config.values():
        config.base_model_name_or_path = str(folder)


def _is_ours(name: str) -> bool:
    """Tell whether a folder or Hub id holds a VUB checkpoint."""
    try:
        content, _ = PretrainedConfig.get_config_dict(name)
    except OSError:
        return False
    return bool(content.get("model_type") == VUBConfig.model_type)
