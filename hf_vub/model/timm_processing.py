"""The preprocessing of timm models as an ordinary image processor, which a VUB checkpoint can save and load.

timm's own processor saves nothing: it reads the ``config.json`` of a timm checkpoint, which a VUB checkpoint lacks.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import BitImageProcessor, PretrainedConfig

from .trust import Name

_RESAMPLE: dict[str, Any] = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def timm_image_processor(pretrained_cfg: Mapping[str, Any]) -> BitImageProcessor:
    """Return resize, centre crop and normalisation of a timm model as a :class:`~transformers.BitImageProcessor`.

    The shortest edge becomes ``input size / crop_pct`` (``crop_mode`` "center"; "squash" resizes both edges), the
    centre is cropped to the input size, pixels are scaled to [0, 1] and normalised with the model's mean and deviation.

    Args:
        pretrained_cfg: of the model's configuration: ``input_size`` (channels, height, width), ``crop_pct``,
            ``interpolation``, ``mean``, ``std``; missing keys take timm's defaults.

    Example:
        >>> timm_image_processor({"input_size": [3, 299, 299], "crop_pct": 0.875}).crop_size["height"]
        299
    """
    _, height, width = pretrained_cfg.get("input_size", (3, 224, 224))
    crop = pretrained_cfg.get("crop_pct") or 0.875
    squash = pretrained_cfg.get("crop_mode") == "squash" or height != width
    edges = {"height": math.floor(height / crop), "width": math.floor(width / crop)}
    return BitImageProcessor(
        size=edges if squash else {"shortest_edge": math.floor(height / crop)},
        crop_size={"height": height, "width": width},
        resample=_RESAMPLE.get(pretrained_cfg.get("interpolation", "bilinear"), 3),
        image_mean=list(pretrained_cfg.get("mean", (0.485, 0.456, 0.406))),
        image_std=list(pretrained_cfg.get("std", (0.229, 0.224, 0.225))),
        do_convert_rgb=True,
    )


def save_timm_image_processor(config: PretrainedConfig, folder: Name) -> None:
    """Write ``preprocessor_config.json`` of a timm backbone, unless the folder has one already."""
    if config.model_type == "timm_wrapper" and not (Path(folder) / "preprocessor_config.json").exists():
        timm_image_processor(getattr(config, "pretrained_cfg", None) or {}).save_pretrained(folder)
