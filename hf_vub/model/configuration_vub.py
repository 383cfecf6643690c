"""Configuration of a VUB checkpoint: its backbone, its bottleneck and its objective."""

import copy
import difflib
import math
import sys
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, SupportsFloat

from transformers import AutoConfig, PretrainedConfig

from .trust import refuse_code

# Not in pooling.py: transformers copies for remote code only the files that this one imports, not what they import.
POOLINGS = ("auto", "stock", "cls", "mean", "last")
PROBABILITIES = ("softmax", "posterior")
_LEAST_TEMPERATURE = 1e-6  # dividing by less makes logits infinite


class Objective(str, Enum):
    """The training objectives by name; :mod:`hf_vub.model.objectives` holds their formulas."""

    CE = "ce"
    VIB = "vib"
    VUB = "vub"

    @classmethod
    def parse(cls, name: str) -> "Objective":
        """Return the objective called ``name``; raise ValueError with the names that exist."""
        check_choice("objective", name, [member.value for member in cls])
        return cls(name)


class VUBConfig(PretrainedConfig):
    r"""Configuration of a classifier with an information bottleneck instead of its last linear layer.

    Args:
        backbone_config: configuration (or its dictionary, with ``model_type``) of the stock classification model.
        objective: "ce", "vib" or "vub": the loss that ``forward`` returns, see :mod:`hf_vub.model.objectives`.
        beta: weight of the rate, at least 0.
        entropy_weight: weight of the min term of vub, at least 0; 1 is the paper's.
        label_entropy: H(Y) of the training labels in nats; None means log(num_labels), balanced classes.
        latent_size: size of z; None means half the feature size.
        num_train_samples: draws of z per sample while training, at least 1.
        num_eval_samples: draws in evaluation; 0 is one deterministic pass through the mean.
        freeze_backbone: train the head alone; the backbone stays in evaluation mode.
        encoder_relu: put a ReLU on the encoder's output too, as the paper's text says.
        pooling: how the features of a text are made from its tokens: "stock" is the stock classifier's own way, "cls"
            the first token's last hidden state, "mean" the average and "last" the last token's. "auto" becomes "stock";
            only ``from_pretrained`` of a sentence encoder finds another (:mod:`hf_vub.model.pooling`).
        probabilities: how ``output.probabilities`` come from the logits: "softmax", or "posterior" for the link of
            :func:`~hf_vub.model.objectives.posterior_probabilities`; see docs/calibration.md.
        calibration_temperature: temperature of the probabilities, at least 1e-6; ``hf_vub.uncertainty.calibrate`` fits
            it. (transformers keeps the name ``temperature`` for text generation and refuses to save it.)
        conformal_thresholds: least probability of a class in the prediction set, by miscoverage: {"0.05": 0.31}.
        calibrated_logits: return the logarithms of ``probabilities`` as logits, so that code that soft-maxes them, as
            the pipelines of transformers do, gets the calibrated probabilities. The loss never uses them.
        kwargs: fields of every configuration: ``num_labels``, ``id2label``, ``label2id``, ...

    Raises:
        ValueError: for any value outside these ranges, and for regression or multi-label problems.
        TypeError: for a misspelt field.

    Example:
        >>> from transformers import BertConfig
        >>> VUBConfig(BertConfig(), objective="vub", beta=1e-3, num_labels=2).objective
        'vub'
    """

    model_type = "vub"
    sub_configs = {"backbone_config": AutoConfig}  # type: ignore[dict-item]  # noqa: RUF012
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "rate",
        "cross_entropy",
        "entropy",
        "posterior_entropy",
        "probabilities",
        "hidden_states",
        "attentions",
    ]

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict[str, object] | None = None,
        objective: str = "vub",
        beta: float = 1e-3,
        entropy_weight: float = 1.0,
        label_entropy: float | None = None,
        latent_size: int | None = None,
        num_train_samples: int = 1,
        num_eval_samples: int = 0,
        freeze_backbone: bool = False,
        encoder_relu: bool = False,
        pooling: str = "auto",
        probabilities: str = "softmax",
        calibration_temperature: float = 1.0,
        conformal_thresholds: dict[str, float] | None = None,
        calibrated_logits: bool = False,
        enlarge_to: int | None = None,
        **kwargs: Any,
    ):
        refuse_misspelt(type(self).__name__, kwargs)
        if isinstance(backbone_config, dict):
            if "model_type" not in backbone_config:
                raise ValueError(f"backbone_config has the keys {sorted(backbone_config)}; it needs 'model_type' too")
            refuse_code(backbone_config, "a VUB checkpoint")
            # from_dict instead of the constructor: timm's configuration translates its class names there.
            config_class = type(AutoConfig.for_model(str(backbone_config["model_type"])))
            backbone_config = config_class.from_dict(copy.deepcopy(backbone_config))
        elif backbone_config is not None and not isinstance(backbone_config, PretrainedConfig):
            raise TypeError(f"backbone_config is a {type(backbone_config).__name__}; it must be a configuration")
        if not isinstance(kwargs.get("id2label", {}), dict | None):
            raise TypeError(f"id2label is {kwargs['id2label']!r}; it must name the classes by their numbers")
        self.backbone_config: PretrainedConfig | None = backbone_config
        self.objective = Objective.parse(objective).value
        self.beta = _number("beta", beta)
        self.entropy_weight = _number("entropy_weight", entropy_weight)
        self.label_entropy = None if label_entropy is None else _number("label_entropy", label_entropy)
        self.latent_size = None if latent_size is None else _integer("latent_size", latent_size, 1)
        self.num_train_samples = _integer("num_train_samples", num_train_samples, 1)
        self.num_eval_samples = _integer("num_eval_samples", num_eval_samples, 0)
        self.freeze_backbone = _truth("freeze_backbone", freeze_backbone)
        self.encoder_relu = _truth("encoder_relu", encoder_relu)
        check_choice("pooling", pooling, POOLINGS)
        self.pooling = pooling
        self.set_calibration(probabilities, calibration_temperature, conformal_thresholds)
        self.calibrated_logits = _truth("calibrated_logits", calibrated_logits)
        self.enlarge_to = None if enlarge_to is None else _integer("enlarge_to", enlarge_to, 1)
        super().__init__(**kwargs)
        self.validate_problem()

    @classmethod
    def from_dict(cls, config_dict: dict[str, object], **kwargs: Any) -> "VUBConfig":
        """Build from a dictionary; raise ValueError where it asks for code (:func:`~.trust.refuse_code`)."""
        refuse_code(config_dict, kwargs.get("name_or_path") or "a VUB checkpoint")
        return super().from_dict(config_dict, **kwargs)

    def to_diff_dict(self) -> dict[str, object]:
        """Return the fields that differ from the defaults, or all where transformers 4 fails: without a backbone."""
        return self.to_dict() if self.backbone_config is None else super().to_diff_dict()

    def set_calibration(
        self,
        probabilities: str = "softmax",
        calibration_temperature: float = 1.0,
        conformal_thresholds: dict[str, float] | None = None,
    ) -> None:
        """Set the three fields of the calibration; without arguments, forget it, as after any change of the weights.

        Raises:
            ValueError: for another kind of probabilities, a temperature below 1e-6, or a threshold or miscoverage
                outside 0 to 1.
        """
        check_choice("probabilities", probabilities, PROBABILITIES)
        temperature = _number("calibration_temperature", calibration_temperature)
        if temperature < _LEAST_TEMPERATURE:
            raise ValueError(f"calibration_temperature is {temperature}; it must be at least {_LEAST_TEMPERATURE}")
        if not isinstance(conformal_thresholds, dict | None):
            raise ValueError(f"conformal_thresholds is {conformal_thresholds!r}; it must be such as {{'0.05': 0.31}}")
        thresholds = None if conformal_thresholds is None else dict(conformal_thresholds)
        for miscoverage, threshold in (thresholds or {}).items():
            if not _is_share(miscoverage) or not _is_share(threshold) or isinstance(threshold, (str, bool)):
                raise ValueError(
                    f"conformal_thresholds has {miscoverage!r}: {threshold!r}; it must hold probabilities by "
                    "miscoverage, such as '0.05': 0.31"
                )
        self.probabilities, self.calibration_temperature = probabilities, temperature
        self.conformal_thresholds = thresholds

    def validate_problem(self) -> None:
        """Raise ValueError unless this is a single-label problem of two or more classes with a possible H(Y)."""
        if self.problem_type not in (None, "single_label_classification"):
            raise ValueError(
                f"problem_type is {self.problem_type!r}; the bottleneck objectives are defined for "
                "'single_label_classification' alone"
            )
        if self.num_labels < 2:
            raise ValueError(f"num_labels is {self.num_labels}; a classifier needs at least 2")
        if self.label_entropy is not None and self.label_entropy > math.log(self.num_labels) + 1e-6:
            raise ValueError(
                f"label_entropy is {self.label_entropy}; {self.num_labels} classes have at most "
                f"log({self.num_labels}) = {math.log(self.num_labels):.4f} nats"
            )

    @property
    def entropy_cap(self) -> float:
        """H(Y) in nats: ``label_entropy``, or log(num_labels) where that is None."""
        return math.log(self.num_labels) if self.label_entropy is None else self.label_entropy


def config_fields() -> tuple[str, ...]:
    """Return the keywords that belong to VUBConfig and not to the backbone."""
    code = VUBConfig.__init__.__code__
    return (*code.co_varnames[2 : code.co_argcount], "num_labels", "id2label", "label2id", "problem_type")


def refuse_misspelt(caller: str, names: Iterable[str]) -> None:
    """Raise TypeError where one of the keywords given to ``caller`` is almost, but not quite, a field of VUBConfig."""
    for name in names:
        near = difflib.get_close_matches(name, config_fields(), n=1, cutoff=0.8)
        if near and near[0] != name:
            raise TypeError(f"{caller} got the unexpected keyword {name!r}: did you mean {near[0]!r}?")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError naming the choices where ``value`` is none of them."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be true or false")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name} is {value!r}; it must be a finite number of at least 0")
    return float(value)


def _is_share(value: object) -> bool:
    try:
        return isinstance(value, (str, SupportsFloat)) and 0 <= float(value) <= 1
    except (ValueError, OverflowError):
        return False


def _integer(name: str, value: object, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {lowest}")
    return value


# A saved checkpoint carries this code, so that trust_remote_code=True loads it without the package.
VUBConfig.register_for_auto_class()
