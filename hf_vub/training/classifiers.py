"""A classifier to train from the options of a script: a bottleneck or the stock model, loaded or untrained."""

from typing import Any, NamedTuple

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.canonical import fold_unicode
from ..model.configuration_vub import VUBConfig
from ..model.loading import TASKS, Task, load_classifier, load_processor, set_padding
from ..model.timm_processing import timm_image_processor
from ..model.trust import load
from .arguments import VANILLA, ModelArguments
from .types import Processor

_OF_BOTTLENECK = (
    *("beta", "entropy_weight", "latent_size", "num_train_samples", "num_eval_samples", "freeze_backbone", "pooling"),
)


class NewClassifier(NamedTuple):
    """A classifier to train, with what prepares its inputs.

    Attributes:
        network: a VUB classifier, or the stock one where the objective is "vanilla".
        processor: its tokenizer or image processor.
    """

    network: PreTrainedModel
    processor: Processor


def build_classifier(task: Task, arguments: ModelArguments, names: list[str], label_entropy: float) -> NewClassifier:
    """Return the classifier that the options ask for, with new labels.

    Args:
        task: "text" or "image".
        arguments: checkpoint, objective and bottleneck.
        names: of the classes, in the order of their numbers.
        label_entropy: H(Y) of the training labels, in nats.

    Raises:
        ValueError: for options out of range, or a checkpoint of another kind.
        OSError: there is no such checkpoint.
    """
    _check_inputs(task, arguments)
    if arguments.objective == VANILLA and arguments.pooling not in ("auto", "stock"):
        raise ValueError(f"pooling is {arguments.pooling!r}, but a vanilla classifier pools in its own way: use 'auto'")
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    options: dict[str, Any] = {name: getattr(arguments, name) for name in _OF_BOTTLENECK}
    options |= {"objective": arguments.objective, "label_entropy": label_entropy, **labels}
    # A calibration holds for the weights that it was fitted to.
    options |= {"probabilities": "softmax", "calibration_temperature": 1.0, "conformal_thresholds": None}
    classes, vanilla = TASKS[task], arguments.objective == VANILLA
    untrained_timm = task == "image" and arguments.from_scratch and arguments.model.startswith("timm/")
    revision = arguments.revision or "main"
    processor: Processor
    network: PreTrainedModel
    if arguments.enlarge_to is not None:
        options["enlarge_to"] = arguments.enlarge_to
    if untrained_timm:
        config = timm_config(
            arguments.model.removeprefix("timm/"), arguments.enlarge_to or arguments.image_size, **labels
        )
        processor = timm_image_processor(config.pretrained_cfg)
    else:
        processor = load_processor(arguments.model, task, savable=True, revision=revision)
    if arguments.image_size is not None and (arguments.enlarge_to is not None or not untrained_timm):
        _resize(processor, arguments.image_size)
    if arguments.from_scratch:
        if not untrained_timm:
            config = load(AutoConfig, arguments.model, revision=revision, **labels)
        network = classes.stock.from_config(config) if vanilla else classes.ours(VUBConfig(config, **options))
    elif vanilla:
        kind = {"ignore_mismatched_sizes": True, "problem_type": "single_label_classification"}
        network = load(classes.stock, arguments.model, revision=revision, **kind, **labels)
    else:
        network = classes.ours.from_pretrained(arguments.model, revision=revision, **options)
    # The loss is a mean over the batch, which some versions would scale twice otherwise.
    vars(network)["accepts_loss_kwargs"] = False
    if isinstance(processor, PreTrainedTokenizerBase):
        set_padding(network, processor)
        if arguments.fold_unicode:
            fold_unicode(processor)
    load_classifier(network, task, processor=processor)  # its checks
    return NewClassifier(network, processor)


def _check_inputs(task: Task, arguments: ModelArguments) -> None:
    """Raise ValueError for options of the other medium, and sizes of images that the model cannot have."""
    side, inner = arguments.image_size, arguments.enlarge_to
    if arguments.fold_unicode and task == "image":
        raise ValueError("fold_unicode is True, but the model classifies images; it is for texts")
    for name, value in (("image_size", side), ("enlarge_to", inner)):
        if value is not None and (task == "text" or value < 1):
            raise ValueError(f"{name} is {value}; it must be a size of images in pixels")
    if inner is not None and arguments.objective == VANILLA:
        raise ValueError(f"enlarge_to is {inner}, but objective 'vanilla' is a stock model without it: use 'ce'")
    if inner is not None and side is None:
        raise ValueError(f"enlarge_to is {inner}; give image_size, the smaller size that images are read at")
    untrained = arguments.from_scratch and arguments.model.startswith("timm/")
    if side is not None and inner is None and not untrained:
        raise ValueError(f"image_size is {side}; only an untrained timm model, or one with enlarge_to, can choose it")


def _resize(processor: Processor, side: int) -> None:
    """Let an image processor give images of this size, not cropped."""
    for name in ("size", "crop_size"):
        if getattr(processor, name, None):
            setattr(processor, name, dict.fromkeys(dict(getattr(processor, name)), side))


def timm_config(architecture: str, image_size: int | None = None, **options: Any) -> PretrainedConfig:
    """Return the configuration of an untrained timm model, with the preprocessing of its pretrained twin.

    Args:
        architecture: a name that timm knows, with or without the tag of its weights.
        image_size: input size in pixels instead of the architecture's own; images are then not cropped.
        options: fields of the configuration: ``num_labels``, ``id2label``, ...

    Raises:
        ImportError: timm is not installed.
        ValueError: for an architecture that timm does not know.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError('timm models need timm: pip install "hf_vub[vision]"') from error
    if not timm.is_model(architecture):
        raise ValueError(f"model is 'timm/{architecture}', an architecture that timm {timm.__version__} does not know")
    pretrained = timm.get_pretrained_cfg(architecture)
    assert pretrained is not None  # every model has one, if only an empty one
    content = pretrained.to_dict()
    kept = ("input_size", "crop_pct", "interpolation", "mean", "std", "crop_mode")
    preprocessing = {name: content[name] for name in kept if name in content}
    arguments = {}
    if image_size is not None:
        preprocessing |= {"input_size": (3, image_size, image_size), "crop_pct": 1.0}
        if content.get("fixed_input_size"):
            arguments["img_size"] = image_size
    return AutoConfig.for_model(
        "timm_wrapper", architecture=architecture, pretrained_cfg=preprocessing, model_args=arguments or None, **options
    )
