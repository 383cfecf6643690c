"""The backbone of an experiment and the classifier it came with."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from ..data.labels import align_labels, class_names
from ..model.configuration_vub import VUBConfig
from ..model.loading import TASKS, load_processor, set_padding
from ..model.modeling_vub import replace_classifier
from ..model.timm_processing import timm_image_processor
from ..model.trust import load
from .experiments import Experiment
from .heads import Backbone, Processor


class LoadedBackbone(NamedTuple):
    """A frozen backbone.

    Attributes:
        model: has ``features(**inputs)``.
        processor: its tokenizer or image processor.
        classifier: the last layer that it was trained with; None if it has none that fits the classes.
        class_names: of that layer.
    """

    model: Backbone
    processor: Processor
    classifier: nn.Linear | None
    class_names: Sequence[str]


def load_backbone(settings: Experiment, num_labels: int, texts: Sequence[str]) -> LoadedBackbone:
    """Load the frozen backbone of an experiment, or build it with random weights.

    Args:
        settings: names the model.
        num_labels: classes of the data set.
        texts: of the training split. A tokenizer is made from them for random weights without a tokenizer at hand.

    Raises:
        ValueError: the checkpoint cannot be read, or is of the other task.
        OSError: there is no such checkpoint.
    """
    classes = TASKS[settings.task]
    classifier: nn.Linear | None = None
    names: Sequence[str] = ()
    model: Backbone
    if settings.from_config:
        torch.manual_seed(settings.seed)
        model = classes.ours(VUBConfig(_config(settings, num_labels), num_labels=num_labels, freeze_backbone=True))
    else:
        classifier, names = _classifier(settings, num_labels)
        model = classes.ours.from_pretrained(settings.model, num_labels=num_labels, freeze_backbone=True)
    # Nobody uses the model's own head, but attacks count it as a part of the model: it must not differ between runs.
    torch.manual_seed(settings.seed)
    model.head.reset_parameters()
    model = model.float().eval()
    processor = _processor(settings, model, texts)
    if isinstance(processor, PreTrainedTokenizerBase):
        set_padding(model, processor)
    return LoadedBackbone(model, processor, classifier, names)


def aligned_classifier(backbone: LoadedBackbone, names: Sequence[str], match: str) -> nn.Linear | None:
    """Return a backbone's own last layer with its classes in the order of the data set; None if it has none.

    Args:
        backbone: of the experiment.
        names: of the data set's classes.
        match: "name" or "number", see ``hf_vub.data.labels.align_labels``.

    Raises:
        ValueError: the classes cannot be matched.
    """
    layer = backbone.classifier
    if layer is None:
        return None
    rows = torch.as_tensor(align_labels(range(len(names)), names, backbone.class_names, by=match))
    aligned = copy.deepcopy(layer)
    aligned.load_state_dict({name: values[rows] for name, values in layer.state_dict().items()})
    return aligned.requires_grad_(False).eval()


def _classifier(settings: Experiment, num_labels: int) -> tuple[nn.Linear | None, Sequence[str]]:
    """Return the trained last layer of a stock checkpoint with as many classes as the data set, and their names."""
    if load(AutoConfig, settings.model).model_type == VUBConfig.model_type:
        return None, ()
    stock, info = load(TASKS[settings.task].stock, settings.model, output_loading_info=True)
    classifier: nn.Linear = replace_classifier(stock)
    if info["missing_keys"] or classifier.out_features != num_labels:
        return None, ()
    return classifier, class_names(stock.config, num_labels)


def _processor(settings: Experiment, model: Backbone, texts: Sequence[str]) -> Processor:
    """Return the saved tokenizer or image processor, or the one that random weights need."""
    config = model.config.backbone_config
    if settings.task == "image" and config.model_type == "timm_wrapper":
        return timm_image_processor(config.pretrained_cfg or {})
    try:
        processor: Processor = load_processor(settings.model, settings.task)
        return processor
    except (OSError, ValueError):
        if settings.task == "image" or not settings.from_config:
            raise
        from ..data.synthetic import word_tokenizer

        return word_tokenizer(texts, vocab_size=config.vocab_size)


def _config(settings: Experiment, num_labels: int) -> PretrainedConfig:
    """Return the backbone's configuration: saved, from timm's registry or from transformers' defaults by name."""
    config: PretrainedConfig
    name = settings.model.rpartition("/")[2]
    if not Path(settings.model).exists() and settings.task == "image":
        try:
            import timm
        except ImportError as error:
            raise ImportError('timm backbones need timm: pip install "hf_vub[vision]"') from error
        registered = timm.get_pretrained_cfg(name)
        if registered is not None:
            config = AutoConfig.for_model(
                "timm_wrapper",
                architecture=registered.architecture,
                num_labels=num_labels,
                pretrained_cfg=registered.to_dict(),
                model_args={"aux_logits": False} if registered.architecture == "inception_v3" else None,
            )
            return config
    elif not Path(settings.model).exists() and name.startswith("bert-base-uncased"):
        config = AutoConfig.for_model("bert", num_labels=num_labels)
        return config
    config = load(AutoConfig, settings.model, num_labels=num_labels)
    return config
