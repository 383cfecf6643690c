"""Classifiers with an information bottleneck in the place of their last linear layer.

The stock classification model stays whole, its own pooling and dense layers included; its last linear layer becomes an
identity, so that what it calls logits are the features. :class:`~hf_vub.model.head.VUBHead` turns these into logits.
"""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput, PushToHubMixin

from .configuration_vub import VUBConfig
from .head import VUBHead, WideLinear
from .hub import told_push
from .information import gaussian_entropy
from .objectives import objective_loss, objective_terms
from .timm_processing import save_timm_image_processor
from .trust import read_config

_ALIGNMENT = 64  # bytes, what torch gives the tensors that it makes itself


@dataclass
class VUBOutput(ModelOutput):
    """Output of a VUB classifier; everything but the loss has one row per sample.

    Attributes:
        loss: mean of the objective over the batch, in nats; with labels only.
        logits: shape (batch, num_labels), float32.
        rate: KL of the posterior from the prior, in nats, shape (batch,).
        cross_entropy: of the labels, averaged over the draws of z, in nats, shape (batch,); with labels only.
        entropy: H(c(y|z)) averaged over the draws, in nats, shape (batch,); the objective caps it at H(Y).
        posterior_entropy: differential entropy H(Z|x) in nats, shape (batch,).
        hidden_states: of the backbone, when asked for.
        attentions: of the backbone, when asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    rate: Tensor | None = None
    cross_entropy: Tensor | None = None
    entropy: Tensor | None = None
    posterior_entropy: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class VUBPreTrainedModel(PreTrainedModel):
    """What the sequence and the image classifier share: construction, loading, freezing, features and the objective."""

    config_class = VUBConfig
    base_model_prefix = ""
    # The objective is a mean over samples: the Trainer divides it by the accumulation steps itself.
    accepts_loss_kwargs = False
    # Training the bottleneck in half precision loses its small updates, so it loads in float32 beside any backbone.
    _keep_in_fp32_modules_strict: Any = ["bottleneck_encoder", "bottleneck_decoder"]  # noqa: RUF012
    _no_split_modules: Any = ["VUBHead"]  # noqa: RUF012
    # The backbone checks for itself what it supports.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _stock_class: Any

    def __init__(self, config: VUBConfig):
        super().__init__(config)
        if config.backbone_config is None:
            raise ValueError(
                "backbone_config is None: give VUBConfig the configuration of a classification model, "
                "or wrap a checkpoint with from_pretrained"
            )
        self.num_labels = config.num_labels
        self.backbone = self._stock_class.from_config(config.backbone_config)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.head = VUBHead(
            feature_size=replace_classifier(self.backbone).in_features,
            num_labels=config.num_labels,
            latent_size=config.latent_size,
            num_train_samples=config.num_train_samples,
            num_eval_samples=config.num_eval_samples,
            encoder_relu=config.encoder_relu,
        )
        self.post_init()
        self._settle()
        self.add_model_tags(["hf_vub", "information-bottleneck"])

    def _init_weights(self, module: nn.Module) -> None:
        # The backbone initialises itself; only the head is ours.
        if isinstance(module, WideLinear):
            module.reset_parameters()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Load a VUB checkpoint, or wrap any encoder or classifier checkpoint in a new bottleneck.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id. A VUB checkpoint is loaded as it is; of anything else
                the stock classification model is loaded and its last linear layer replaced by an untrained head.
            model_args: passed on to the stock ``from_pretrained``.
            config: a configuration to use instead of the checkpoint's.
            kwargs: fields of :class:`VUBConfig` (``objective``, ``beta``, ``num_labels``, ``freeze_backbone``, ...) and
                everything that ``PreTrainedModel.from_pretrained`` takes (``dtype``, ``device_map``, ``revision``,
                ``attn_implementation``, ``token``, ...). ``dtype`` is "auto" by default: what was saved.

        Returns:
            The model in evaluation mode; of a VUB checkpoint with ``output_loading_info=True`` also the loading report.

        Raises:
            ValueError: for options out of range, a configuration that asks for code (without
                ``trust_remote_code=True``), or a VUB checkpoint that lacks weights or has others than its configuration
                says.
            OSError: if there is no such checkpoint.
        """
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", "auto")
        content = _config_content(pretrained_model_name_or_path, config, kwargs)
        if content.get("model_type") != VUBConfig.model_type:
            options = {name: kwargs.pop(name) for name in _config_fields() if name in kwargs}
            # Options that cannot be are found before a large checkpoint is read.
            VUBConfig(**{"problem_type": content.get("problem_type"), **options})
            return cls._wrap_stock(pretrained_model_name_or_path, *model_args, options=options, config=config, **kwargs)
        with_info = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, config=config, output_loading_info=True, **kwargs
            )
        except RuntimeError as error:
            if "mismatch" not in str(error):
                raise
            raise ValueError(
                f"the weights of {pretrained_model_name_or_path} have other sizes than its configuration asks for "
                f"(latent_size, num_labels or the backbone's): {' '.join(str(error).split())}"
            ) from error
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise ValueError(
                f"the checkpoint {pretrained_model_name_or_path} lacks {len(missing)} weights ({missing[0]}, ...); "
                "it is damaged or was not saved by hf_vub"
            )
        model._settle()
        return (model, info) if with_info else model

    @classmethod
    def _wrap_stock(cls, path: Any, *model_args: Any, options: dict[str, Any], **kwargs: Any) -> Any:
        kwargs.pop("output_loading_info", None)
        backbone = cls._stock_class.from_pretrained(path, *model_args, **kwargs)
        stock = backbone.config
        if not {"num_labels", "id2label", "label2id"} & options.keys() or options.get("num_labels") == stock.num_labels:
            options = {"id2label": stock.id2label, "label2id": stock.label2id, **options}
            options.pop("num_labels", None)
        # The model is laid out without memory, on a copy of the configuration that construction may change, and then
        # given the loaded backbone.
        with init_empty_weights():
            model = cls(VUBConfig(backbone_config=copy.deepcopy(stock), **options))
        device = replace_classifier(backbone).weight.device
        model.backbone, model.config.backbone_config, model.config.dtype = backbone, stock, backbone.dtype
        model.name_or_path = str(path)
        model.head.to_empty(device=device)
        model.head.reset_parameters()
        if hasattr(backbone, "hf_device_map"):
            placed = {
                f"backbone.{name}" if name else "backbone": where for name, where in backbone.hf_device_map.items()
            }
            model.hf_device_map = {**placed, "head": str(device)}  # type: ignore[assignment]
        model._settle()
        return model.eval()

    def _settle(self) -> None:
        """Freeze what is to be frozen, and put weights where kernels run as they do on freshly made ones.

        A mapped safetensors file leaves weights at any address, and for some of these CPU kernels take another path
        with other last bits.
        """
        if self.config.freeze_backbone:
            self.backbone.requires_grad_(False).eval()
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
                tensor.data = tensor.data.clone()

    def train(self, mode: bool = True) -> "VUBPreTrainedModel":
        """As for any module, but a frozen backbone keeps its dropout and batch statistics off."""
        super().train(mode)
        if self.config.freeze_backbone:
            self.backbone.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's input embeddings."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's input embeddings."""
        self.backbone.set_input_embeddings(value)

    def push_to_hub(self, repo_id: str, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Push to the Hub; the OSError of a failed push says what the Hub holds (:func:`~.hub.told_push`)."""
        if not args and "use_temp_dir" in inspect.signature(PushToHubMixin.push_to_hub).parameters:
            # transformers 4 would save into a local folder of that name, and push only what that changes there.
            kwargs.setdefault("use_temp_dir", True)
        with told_push(repo_id, kwargs.get("revision"), kwargs.get("token")):
            return super().push_to_hub(repo_id, *args, **kwargs)  # type: ignore[arg-type]

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        # The backbone's activations; a frozen backbone keeps none, so there is nothing to save.
        if not self.config.freeze_backbone:
            self.backbone._set_gradient_checkpointing(*args, **kwargs)

    def features(self, **inputs: Any) -> Tensor:
        """What the head sees: what the stock model's last linear layer saw, shape (batch, feature_size).

        Args:
            inputs: what the backbone takes: ``input_ids`` and ``attention_mask``, or ``pixel_values``.
        """
        return self._run_backbone(inputs).logits

    def _run_backbone(self, inputs: dict[str, Any]) -> Any:
        inputs = {name: value for name, value in inputs.items() if value is not None and name != "num_items_in_batch"}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.backbone.dtype)
        return self.backbone(**inputs, return_dict=True)

    def _classify(
        self,
        inputs: dict[str, Any],
        features: Tensor | None,
        labels: Tensor | None,
        num_samples: int | None,
        return_dict: bool | None,
    ) -> Any:
        states: dict[str, Any] = {}
        if features is None:
            outputs = self._run_backbone(inputs)
            features = outputs.logits
            states = {name: outputs.get(name) for name in ("hidden_states", "attentions")}
        head = self.head(features, num_samples=num_samples)
        terms = objective_terms(head.mean, head.scale, head.draws, self._checked(labels, head.logits))
        loss = None
        if labels is not None:
            loss = objective_loss(
                self.config.objective,
                terms,
                beta=self.config.beta,
                label_entropy=self.config.entropy_cap,
                entropy_weight=self.config.entropy_weight,
            ).mean()
        output = VUBOutput(
            loss=loss,
            logits=head.logits,
            rate=terms.rate,
            cross_entropy=terms.cross_entropy,
            entropy=terms.entropy,
            posterior_entropy=gaussian_entropy(head.scale),
            **states,
        )
        return output.to_tuple() if return_dict is False else output

    def _checked(self, labels: Tensor | None, logits: Tensor) -> Tensor | None:
        """Labels on the logits' device; on a CPU, where looking costs nothing, their range is checked."""
        if labels is None:
            return None
        if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
            raise ValueError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}; single-label classification takes class "
                f"indices of shape {tuple(logits.shape[:-1])}"
            )
        if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling():
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.num_labels:
                raise ValueError(
                    f"labels span {low} to {high}; num_labels={self.num_labels} allows 0 to {self.num_labels - 1}"
                )
        return labels.to(logits.device)


class VUBForSequenceClassification(VUBPreTrainedModel):
    """A text classifier with an information bottleneck, over any backbone that classifies sequences.

    Example:
        >>> model = VUBForSequenceClassification.from_pretrained(
        ...     "bert-base-uncased", num_labels=2, objective="vub", beta=1e-3
        ... )  # doctest: +SKIP
    """

    _stock_class = AutoModelForSequenceClassification

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        features: Tensor | None = None,
        labels: Tensor | None = None,
        num_samples: int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Classify token sequences.

        Args:
            input_ids: token ids, shape (batch, length).
            attention_mask: 1 for tokens and 0 for padding, shape (batch, length).
            token_type_ids: where the backbone has them, shape (batch, length).
            position_ids: shape (batch, length).
            inputs_embeds: embeddings instead of ids, shape (batch, length, hidden_size).
            features: precomputed features, shape (batch, feature_size); the backbone is then not run.
            labels: class indices, shape (batch,).
            num_samples: draws of z, 0 for the mean; None follows the configuration.
            return_dict: False for a plain tuple.
            kwargs: passed on to the backbone (``output_hidden_states``, ...).

        Returns:
            A :class:`VUBOutput`.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            **kwargs,
        }
        return self._classify(inputs, features, labels, num_samples, return_dict)


class VUBForImageClassification(VUBPreTrainedModel):
    """An image classifier with an information bottleneck, over any backbone that classifies images, timm's included.

    Example:
        >>> model = VUBForImageClassification.from_pretrained(
        ...     "timm/inception_v3.tv_in1k", num_labels=1000, freeze_backbone=True
        ... )  # doctest: +SKIP
    """

    main_input_name = "pixel_values"
    _stock_class = AutoModelForImageClassification

    def forward(
        self,
        pixel_values: Tensor | None = None,
        features: Tensor | None = None,
        labels: Tensor | None = None,
        num_samples: int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Classify images.

        Args:
            pixel_values: normalised pixels, shape (batch, channels, height, width).
            features: precomputed features, shape (batch, feature_size); the backbone is then not run.
            labels: class indices, shape (batch,).
            num_samples: draws of z, 0 for the mean; None follows the configuration.
            return_dict: False for a plain tuple.
            kwargs: passed on to the backbone.

        Returns:
            A :class:`VUBOutput`.
        """
        return self._classify({"pixel_values": pixel_values, **kwargs}, features, labels, num_samples, return_dict)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Save as any model; beside a timm backbone also its preprocessing, which timm keeps in its configuration."""
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            save_timm_image_processor(self.config.backbone_config, save_directory)


def replace_classifier(model: PreTrainedModel) -> nn.Linear:
    """Put an identity in the place of the linear layer that produces a stock classifier's logits.

    Args:
        model: any ``...ForSequenceClassification`` or ``...ForImageClassification`` of transformers.

    Returns:
        The linear layer that was there; its ``in_features`` is the feature size.

    Raises:
        ValueError: if the model's logits do not come from exactly one linear layer.
    """
    if hasattr(model, "timm_model"):
        timm_model: Any = model.timm_model
        classifier = timm_model.get_classifier()
        found = [(name, module) for name, module in model.named_modules() if module is classifier]
    else:
        inner = getattr(model, model.base_model_prefix, None) if model.base_model_prefix else None
        inside = set() if inner is None else set(inner.modules())
        found = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module not in inside and module.out_features == model.config.num_labels
        ]
    if len(found) != 1 or not isinstance(found[0][1], nn.Linear):
        raise ValueError(
            f"{type(model).__name__} has {len(found)} layers that could be its last linear layer; the bottleneck takes "
            "the place of exactly one"
        )
    name, linear = found[0]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    # Some models initialise that layer by name; all others have been initialised by now.
    model._is_hf_initialized = True  # type: ignore[assignment]
    return linear


def _config_content(path: Any, config: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoint's configuration file says, or the configuration given instead of it."""
    if isinstance(config, PretrainedConfig):
        return {"model_type": config.model_type, "problem_type": config.problem_type}
    return read_config(config or path, **kwargs)


def _config_fields() -> tuple[str, ...]:
    """The options of from_pretrained that are ours and not the stock model's."""
    names = VUBConfig.__init__.__code__.co_varnames[2 : VUBConfig.__init__.__code__.co_argcount]
    return (*names, "num_labels", "id2label", "label2id", "problem_type")


# A saved checkpoint carries this code, so that trust_remote_code=True loads it without the package.
VUBForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
VUBForImageClassification.register_for_auto_class("AutoModelForImageClassification")
