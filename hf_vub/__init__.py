"""Robust Hugging Face classifiers with the variational information bottleneck (VIB and VUB)."""

from importlib import import_module
from typing import Any

from .registration import register_with_transformers
from .version import __version__

# Loaded when first used: transformers' models and trainer take seconds to import.
_HOMES = {
    "Objective": "configuration_vub",
    "VUBConfig": "configuration_vub",
    "VUBForImageClassification": "modeling_vub",
    "VUBForSequenceClassification": "modeling_vub",
    "VUBOutput": "modeling_vub",
    "VUBTrainer": "trainer",
    "VUBTrainingArguments": "trainer",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


register_with_transformers()
