"""Classifiers with an information bottleneck instead of their last linear layer.

The stock classification model stays whole, its own pooling and dense layers included. Its last linear layer becomes an
identity, so its logits are the features, and :class:`~hf_vub.model.head.VUBHead` turns these into logits. With another
``pooling`` the backbone is the plain encoder, whose token states are pooled into the features.
"""

import copy
import inspect
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, overload

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput, PushToHubMixin

from .configuration_vub import VUBConfig, config_fields, refuse_misspelt
from .head import Float32Linear, VUBHead
from .information import gaussian_entropy
from .objectives import class_log_probabilities, objective_loss, objective_terms, objective_weights
from .pooling import choose_pooling, pool, prepare_encoder, token_mask
from .stock import replace_classifier, warn_of_untrained
from .timm_processing import save_timm_image_processor
from .trust import AutoClass, Name, Options, clear_errors, read_config, require_task

T = TypeVar("T", bound="VUBPreTrainedModel")

_ALIGNMENT = 64  # bytes, what torch gives the tensors that it makes itself


@dataclass
class VUBOutput(ModelOutput):
    """Output of a VUB classifier; everything but the loss has one row per sample.

    Attributes:
        loss: mean of the objective over the batch, in nats; only with labels.
        logits: of the training objective, shape (batch, num_labels), float32; with ``config.calibrated_logits`` the
            logarithms of ``probabilities`` instead.
        rate: KL divergence of the posterior from the prior, in nats, shape (batch,).
        cross_entropy: of the labels, averaged over the draws of z, in nats, shape (batch,); only with labels.
        entropy: H(c(y|z)) averaged over the draws, in nats, shape (batch,); the objective caps it at H(Y).
        posterior_entropy: differential entropy H(Z|x) in nats, shape (batch,).
        probabilities: of the classes, as ``config.probabilities`` and ``config.calibration_temperature`` say, shape
            (batch, num_labels), float32.
        hidden_states: of the backbone, with ``output_hidden_states=True``.
        attentions: of the backbone, with ``output_attentions=True``.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    rate: Tensor | None = None
    cross_entropy: Tensor | None = None
    entropy: Tensor | None = None
    posterior_entropy: Tensor | None = None
    probabilities: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class VUBPreTrainedModel(PreTrainedModel):
    """Base of the text and the image classifier: construction, loading, freezing, features and the objective."""

    config_class = VUBConfig
    base_model_prefix = ""
    # The objective is a mean over samples: the Trainer divides it by the accumulation steps itself.
    accepts_loss_kwargs = False
    # In half precision the bottleneck would lose small updates, so it loads in float32 next to any backbone.
    _keep_in_fp32_modules_strict: Any = ["bottleneck_encoder", "bottleneck_decoder"]  # noqa: RUF012
    _no_split_modules: Any = ["VUBHead"]  # noqa: RUF012
    # The backbone checks for itself what it supports.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _stock_class: ClassVar[AutoClass]
    _medium: ClassVar[str]

    def __init__(self, config: VUBConfig):
        super().__init__(config)
        if config.backbone_config is None:
            raise ValueError(
                "backbone_config is None: give VUBConfig the configuration of a classification model, "
                "or wrap a checkpoint with from_pretrained"
            )
        require_task(self._stock_class, config.backbone_config.model_type, config.name_or_path or "backbone_config")
        if config.pooling == "auto":
            config.pooling = "stock"
        self.num_labels = config.num_labels
        # Code of the backbone's own runs only where a caller has let it in before, which registers its class.
        backbone_class = self._backbone_class(config.pooling)
        self.backbone: PreTrainedModel = backbone_class.from_config(config.backbone_config, trust_remote_code=False)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.head = VUBHead(
            feature_size=self._prepare_backbone(self.backbone),
            num_labels=config.num_labels,
            latent_size=config.latent_size,
            num_train_samples=config.num_train_samples,
            num_eval_samples=config.num_eval_samples,
            encoder_relu=config.encoder_relu,
        )
        self.post_init()
        self._freeze_and_align()
        self.add_model_tags(["hf_vub", "information-bottleneck"])

    def _init_weights(self, module: nn.Module) -> None:
        # The backbone initialises itself; only the head is ours.
        if isinstance(module, Float32Linear):
            module.reset_parameters()

    @overload
    @classmethod
    def from_pretrained(
        cls: type[T],
        pretrained_model_name_or_path: Name,
        *args: object,
        output_loading_info: Literal[True],
        **kwargs: Any,
    ) -> tuple[T, Options]: ...

    @overload
    @classmethod
    def from_pretrained(cls: type[T], pretrained_model_name_or_path: Name, *args: object, **kwargs: Any) -> T: ...

    @classmethod
    def from_pretrained(
        cls: type[T],
        pretrained_model_name_or_path: Name,
        *args: object,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> T | tuple[T, Options]:
        """Load a VUB checkpoint, or wrap any encoder or classifier checkpoint in a new bottleneck.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id. A VUB checkpoint is loaded as it is; of anything else
                the stock classification model is loaded and its last linear layer replaced by an untrained head.
            args: passed on to the stock ``from_pretrained``.
            output_loading_info: return the loading report too.
            kwargs: fields of :class:`VUBConfig` (``objective``, ``beta``, ``num_labels``, ``freeze_backbone``,
                ``pooling``, ...) and everything that ``PreTrainedModel.from_pretrained`` takes (``config``, ``dtype``,
                ``device_map``, ``revision``, ``attn_implementation``, ``token``, ...). ``dtype`` is "auto" by default:
                the saved one. ``pooling="auto"`` follows the ``1_Pooling`` of a sentence-transformers checkpoint and
                is the stock classifier's own for any other; ``model.config.pooling`` and the log say which.

        Returns:
            The model in evaluation mode; with ``output_loading_info=True`` the pair of it and the loading report.

        Raises:
            ValueError: for options out of range, a checkpoint of the other task, a configuration that asks for code
                (without ``trust_remote_code=True``), or a VUB checkpoint whose weights are missing or do not fit its
                configuration.
            TypeError: for an unknown keyword.
            OSError: if there is no such checkpoint.
        """
        path = pretrained_model_name_or_path
        refuse_misspelt(f"{cls.__name__}.from_pretrained", kwargs)
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", "auto")
        kwargs.setdefault("trust_remote_code", False)  # None would ask on the terminal, and run code on a "y"
        config = kwargs.get("config")
        content = config.to_dict() if isinstance(config, PretrainedConfig) else read_config(config or path, **kwargs)
        with clear_errors(path):
            if content.get("model_type") == VUBConfig.model_type:
                model, info = cls._load_ours(path, content, kwargs, *args)
            else:
                options = {name: kwargs.pop(name) for name in config_fields() if name in kwargs}
                # Impossible options are found before a large checkpoint is read.
                VUBConfig(**{"problem_type": content.get("problem_type"), **options})
                require_task(cls._stock_class, content.get("model_type"), path)
                model, info = cls._wrap_stock(path, content, options, kwargs, *args)
        model._freeze_and_align()
        return (model, info) if output_loading_info else model

    @classmethod
    def _load_ours(cls: type[T], path: Name, content: Options, kwargs: Options, *args: object) -> tuple[T, Options]:
        """Load a VUB checkpoint; return it with the loading report."""
        asked, saved = kwargs.pop("pooling", "auto"), content.get("pooling", "stock")
        if asked not in ("auto", saved):
            raise ValueError(f"pooling is {asked!r}, and {path} was trained with {saved!r}: leave pooling out")
        try:
            model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        except RuntimeError as error:
            if "mismatch" not in str(error):
                raise
            raise ValueError(
                f"the weights of {path} have other sizes than its configuration asks for "
                f"(latent_size, num_labels or the backbone's): {' '.join(str(error).split())}"
            ) from error
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise ValueError(
                f"the checkpoint {path} lacks {len(missing)} weights ({missing[0]}, ...); "
                "it is damaged or was not saved by hf_vub"
            )
        return model, info

    @classmethod
    def _wrap_stock(
        cls: type[T], path: Name, content: Options, options: Options, kwargs: Options, *args: object
    ) -> tuple[T, Options]:
        """Load a stock checkpoint into a new model; return it with the loading report."""
        if options.get("pooling", "auto") == "auto":
            options["pooling"] = choose_pooling(path, content, kwargs) if cls._medium == "text" else "stock"
        backbone_class = cls._backbone_class(options["pooling"])
        try:
            backbone, info = backbone_class.from_pretrained(path, *args, output_loading_info=True, **kwargs)
        except TypeError as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if unknown is None:
                raise
            raise TypeError(
                f"{cls.__name__}.from_pretrained got the unexpected keyword {unknown[1]!r}: neither VUBConfig nor "
                f"{content.get('model_type')!r} models have it"
            ) from error
        stock = backbone.config
        if not {"num_labels", "id2label", "label2id"} & options.keys() or options.get("num_labels") == stock.num_labels:
            options = {"id2label": stock.id2label, "label2id": stock.label2id, **options}
            options.pop("num_labels", None)
        # The model is laid out without memory, on a copy of the configuration that construction may change, and then
        # gets the loaded backbone.
        with init_empty_weights():
            model = cls(VUBConfig(backbone_config=copy.deepcopy(stock), **options))
        device = list(backbone.parameters())[-1].device
        model._prepare_backbone(backbone)
        model.backbone, model.config.backbone_config, model.config.dtype = backbone, stock, backbone.dtype
        model.name_or_path = str(path)
        model.head.to_empty(device=device)
        model.head.reset_parameters()
        if hasattr(backbone, "hf_device_map"):
            placed = {f"backbone.{name}".rstrip("."): where for name, where in backbone.hf_device_map.items()}
            model.hf_device_map = {**placed, "head": str(device)}  # type: ignore[assignment]
        warn_of_untrained(path, sorted(set(info["missing_keys"]) & backbone.state_dict().keys()))
        return model.eval(), info

    @classmethod
    def _backbone_class(cls, pooling: str) -> AutoClass:
        """Return the Auto class of the backbone: a stock classifier, or the encoder whose states are pooled."""
        if pooling != "stock" and cls._medium == "image":
            raise ValueError(f"pooling is {pooling!r}; images have the stock model's own pooling: use 'auto'")
        return cls._stock_class if pooling == "stock" else AutoModel

    def _prepare_backbone(self, backbone: PreTrainedModel) -> int:
        """Take the parts away that give no features, and return the number of features."""
        if self.config.pooling == "stock":
            return replace_classifier(backbone).in_features
        return prepare_encoder(backbone, backbone.config, self.config.pooling)

    def _freeze_and_align(self) -> None:
        """Freeze what ``freeze_backbone`` says, and move weights to addresses where kernels give the usual bits.

        A mapped safetensors file leaves weights at any address, and for some of these CPU kernels take another path
        with other last bits.
        """
        if self.config.freeze_backbone:
            self.backbone.requires_grad_(False).eval()
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
                tensor.data = tensor.data.clone()

    def train(self: T, mode: bool = True) -> T:
        """Set the training mode; a frozen backbone keeps its dropout and batch statistics off."""
        super().train(mode)
        if self.config.freeze_backbone:
            self.backbone.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's input embeddings."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's input embeddings."""
        self.backbone.set_input_embeddings(value)

    def push_to_hub(self, repo_id: str, *args: object, **kwargs: object) -> str:  # type: ignore[override]
        """Push weights, configuration and code to the Hub, in one commit."""
        if not args and "use_temp_dir" in inspect.signature(PushToHubMixin.push_to_hub).parameters:
            # transformers 4 would save into a local folder of that name, and push only the changes in it.
            kwargs.setdefault("use_temp_dir", True)
        return str(super().push_to_hub(repo_id, *args, **kwargs))  # type: ignore[arg-type]

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        # Only the backbone's activations are large, and a frozen backbone keeps none.
        if not self.config.freeze_backbone:
            self.backbone._set_gradient_checkpointing(*args, **kwargs)

    def features(self, **inputs: object) -> Tensor:
        """Return the input of the head, shape (batch, feature_size).

        These are the inputs of the stock model's last linear layer, or the pooled token states
        (:func:`hf_vub.model.pooling.pool`).

        Args:
            inputs: inputs of the backbone: ``input_ids`` and ``attention_mask``, or ``pixel_values``.
        """
        return self._run_backbone(inputs)[0]

    def _run_backbone(self, inputs: Options) -> tuple[Tensor, Options]:
        """Return the features and the backbone's output."""
        inputs = {name: value for name, value in inputs.items() if value is not None and name != "num_items_in_batch"}
        if "pixel_values" in inputs:
            pixels, side = inputs["pixel_values"].to(self.backbone.dtype), self.config.enlarge_to
            inputs["pixel_values"] = pixels if side is None else F.interpolate(pixels, (side, side), mode="bilinear")
        output = self.backbone(**inputs, return_dict=True)
        if self.config.pooling == "stock":
            return output.logits, output
        mask = token_mask(inputs, getattr(self.config.backbone_config, "pad_token_id", None))
        return pool(output.last_hidden_state, mask, self.config.pooling), output

    def _classify(
        self, inputs: Options, features: Tensor | None, labels: Tensor | None, num_samples: int | None
    ) -> VUBOutput:
        """Return the output for inputs of the backbone, or where they are given for its features."""
        states: Options = {}
        if features is None:
            features, states = self._run_backbone(inputs)
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
        log_probabilities = self.class_log_probabilities(head.logits)
        return VUBOutput(
            loss=loss,
            logits=log_probabilities if self.config.calibrated_logits else head.logits,
            rate=terms.rate,
            cross_entropy=terms.cross_entropy,
            entropy=terms.entropy,
            posterior_entropy=gaussian_entropy(head.scale),
            probabilities=log_probabilities.exp(),
            hidden_states=states.get("hidden_states"),
            attentions=states.get("attentions"),
        )

    def class_log_probabilities(self, logits: Tensor) -> Tensor:
        """Return the logarithms of the probabilities that this model reports, shape (..., num_labels).

        Args:
            logits: training logits, as the head gives them, shape (..., num_labels).
        """
        config = self.config
        return class_log_probabilities(
            logits,
            probabilities=config.probabilities,
            temperature=config.calibration_temperature,
            entropy_weight=objective_weights(config.objective, config.beta, config.entropy_weight)[1],
            label_entropy=config.entropy_cap,
        )

    def _checked(self, labels: Tensor | None, logits: Tensor) -> Tensor | None:
        """Return the labels on the logits' device; check their range on a CPU, where that costs nothing."""
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
    """A text classifier with an information bottleneck, over any encoder or decoder that classifies sequences.

    Example:
        >>> model = VUBForSequenceClassification.from_pretrained(
        ...     "bert-base-uncased", num_labels=2, objective="vub", beta=1e-3
        ... )  # doctest: +SKIP
    """

    _stock_class = AutoModelForSequenceClassification
    _medium = "text"

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
        **kwargs: object,
    ) -> VUBOutput | tuple[Any, ...]:
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
            A :class:`VUBOutput`, or with ``return_dict=False`` the tuple of its values.
        """
        kwargs |= {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        kwargs |= {"position_ids": position_ids, "inputs_embeds": inputs_embeds}
        output = self._classify(kwargs, features, labels, num_samples)
        return output.to_tuple() if return_dict is False else output


class VUBForImageClassification(VUBPreTrainedModel):
    """An image classifier with an information bottleneck, over any backbone that classifies images, timm's included.

    Example:
        >>> model = VUBForImageClassification.from_pretrained(
        ...     "timm/inception_v3.tv_in1k", num_labels=1000, freeze_backbone=True
        ... )  # doctest: +SKIP
    """

    main_input_name = "pixel_values"
    _stock_class = AutoModelForImageClassification
    _medium = "image"

    def forward(
        self,
        pixel_values: Tensor | None = None,
        features: Tensor | None = None,
        labels: Tensor | None = None,
        num_samples: int | None = None,
        return_dict: bool | None = None,
        **kwargs: object,
    ) -> VUBOutput | tuple[Any, ...]:
        """Classify images: ``pixel_values`` are normalised, of shape (batch, channels, height, width).

        The other arguments, and what is returned, are those of :meth:`VUBForSequenceClassification.forward`.
        """
        output = self._classify({"pixel_values": pixel_values, **kwargs}, features, labels, num_samples)
        return output.to_tuple() if return_dict is False else output

    def save_pretrained(self, save_directory: Name, **kwargs: Any) -> None:  # type: ignore[override]
        """Save as any model, with the preprocessing of a timm backbone, which timm keeps in its configuration."""
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            save_timm_image_processor(self.config.backbone_config, save_directory)


# A saved checkpoint carries this code, so that trust_remote_code=True loads it without the package.
VUBForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
VUBForImageClassification.register_for_auto_class("AutoModelForImageClassification")
