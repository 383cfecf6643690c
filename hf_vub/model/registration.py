"""Registers VUB checkpoints with the Auto classes of transformers, without importing these before they are used.

Importing the Auto classes takes seconds, and ``import hf_vub`` 0.06 s: a hook on the import system waits for them.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_CONFIG, _MODELS = "hf_vub.model.configuration_vub", "hf_vub.model.modeling_vub"


def register_with_transformers() -> None:
    """Register configuration and models once the Auto classes, or our own modules, are imported."""
    AfterImport(
        {
            "transformers.models.auto.configuration_auto": register_config,
            "transformers.models.auto.modeling_auto": register_models,
            _CONFIG: register_config,
            _MODELS: register_models,
        }
    )


def register_config() -> None:
    """Let ``AutoConfig`` load VUB configurations."""
    if _is_loading(_CONFIG, "VUBConfig"):
        return
    from transformers import AutoConfig

    from .configuration_vub import VUBConfig

    AutoConfig.register(VUBConfig.model_type, VUBConfig, exist_ok=True)


def register_models() -> None:
    """Let the Auto classes of sequence and image classification load VUB checkpoints."""
    if _is_loading(_MODELS, "VUBForImageClassification") or _is_loading(_CONFIG, "VUBConfig"):
        return
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    from .configuration_vub import VUBConfig
    from .modeling_vub import VUBForImageClassification, VUBForSequenceClassification

    AutoModelForSequenceClassification.register(VUBConfig, VUBForSequenceClassification, exist_ok=True)
    AutoModelForImageClassification.register(VUBConfig, VUBForImageClassification, exist_ok=True)


def _is_loading(name: str, last: str) -> bool:
    """Tell a module of ours that is half imported: it asked for the Auto classes and registers itself when done."""
    return name in sys.modules and not hasattr(sys.modules[name], last)


class AfterImport(MetaPathFinder):
    """Run an action once a module has been imported; at once, where it has been already."""

    def __init__(self, actions: dict[str, Callable[[], None]]):
        self.actions = {name: action for name, action in actions.items() if name not in sys.modules}
        sys.meta_path.insert(0, self)
        for name in actions.keys() - self.actions.keys():
            actions[name]()

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the module's own specification, whose loader runs the action after the module."""
        action = self.actions.pop(fullname, None)
        spec = importlib.util.find_spec(fullname) if action else None
        if action is None or spec is None or spec.loader is None:
            return None
        run_module = spec.loader.exec_module

        def run_then_act(module: ModuleType) -> None:
            run_module(module)
            action()

        spec.loader.exec_module = run_then_act  # type: ignore[method-assign]
        return spec
