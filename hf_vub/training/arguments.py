"""The arguments of a training: those of transformers, what the objective adds, and the options of the scripts."""

import logging
import math
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..data.noise import parse_noise
from ..data.word_edits import parse_edits
from ..model.configuration_vub import check_choice
from .adversary import ADVERSARIES, adversary_of

logger = logging.getLogger(__name__)

BETA_SCHEDULES = ("constant", "linear", "cosine", "cyclic")
LEARNING_RATE_DECAYS = ("transformers", "paper")
VANILLA = "vanilla"
"""The objective that stands for the stock classifier, trained with cross-entropy."""
AUTO = "auto"
"""The beta that is chosen on validation rows."""
LOWER_IS_BETTER = (
    *("nll", "brier", "ece", "cross_entropy", "rate", "bound_vib", "bound_vub", "bound_ib"),
    *("cross_entropy_bits", "rate_bits", "bound_vib_bits", "bound_vub_bits", "bound_ib_bits"),
)
_SECRET = re.compile(r"(^|_)(token|secret|password|passwd|api_?key)$", re.IGNORECASE)


class _DefaultFloat(float):
    """A value that nobody set."""


class _DefaultInt(int):
    """A value that nobody set."""


# Accuracy of a head on held-out rows, with these against transformers' own, which suit a whole model (linear decay):
# 94.7% against 19.4% on 1,400 digits, 89.4% against 10.8% on 500 of them, 72.0% against 71.6% on 2,000 reviews
# through an encoder that was never tuned (negative log-likelihood 0.56 against 0.65), where longer training overfits.
_HEAD_DEFAULTS = {"learning_rate": 1e-3, "num_train_epochs": 20.0, "per_device_train_batch_size": 32}


@dataclass
class VUBTrainingArguments(TrainingArguments):
    """Hold what ``TrainingArguments`` takes, and the schedules of beta and the learning rate.

    ``learning_rate``, ``num_train_epochs`` and ``per_device_train_batch_size`` are those of transformers (5e-5, 3 and
    8) for a whole model. With a frozen backbone only the head trains, which takes more and larger steps: whichever of
    the three nobody set becomes 1e-3, 20 and 32, see :func:`choose_defaults`.

    Attributes:
        beta_schedule: course of beta, the weight of the rate: see :func:`scheduled_beta`.
        beta_warmup: share of the training (of each cycle for "cyclic") in which beta rises, above 0 and at most 1.
        beta_cycles: cycles of a cyclic schedule.
        lr_decay: "transformers" for ``lr_scheduler_type``; "paper" for a factor of 0.97 every two epochs.
        information_plane: write ``information_plane.jsonl`` to ``output_dir``, see :class:`InformationPlane`.
        adversary: what to train against: "fgsm_rs", "pgd" or "trades" for images, "freelb" for texts; see
            :class:`~hf_vub.training.adversary.Adversary`. With "trades" the loss is the objective on clean images plus
            ``trades_weight`` times KL(clean || perturbed); with the others the objective on perturbed inputs alone.
        epsilon: radius of the perturbations, a number or a fraction: "8/255" of pixels in [0, 1] under Linf, "128/255"
            under L2, 0.3 of a text's embeddings.
        adversary_steps: gradient steps: 1 for "fgsm_rs", 10 for "pgd" and "trades", 3 for "freelb".
        adversary_norm: "linf" or "l2", for images.
        trades_weight: 1 / lambda of TRADES.
        robust_eval_rows: held-out images, drawn with the seed, of which every evaluation also reports the accuracy
            under ten PGD steps, as ``eval_robust_accuracy``; 0 for none.
        ema_decay: weight of the past in an exponential moving average of the weights, such as 0.999. Evaluations and
            checkpoints then hold the averaged weights.
        perturb: random edits of the training texts, fresh in every epoch: "typos:0.15", "synonyms:0.2" or both with a
            comma between them; the number is the share of words. ``train_dataset`` then holds texts (columns text and
            label), and ``processing_class`` is the tokenizer.
        consistency: weight of the symmetric KL divergence between the predictions for a text and for its edited copy,
            or for two noisy copies of a text or image.
            With more than 0 the model trains on both; with 0 on the edited texts alone.
        smoothing: noise on every row, "delete:0.95" or "mask:0.7" on words, "gaussian:0.25" on pixels; for the base
            classifier of a smoothed one (docs/certify.md).

    Raises:
        ValueError: for a value that no training can use, such as a learning rate that is not a number.
    """

    _argument_group_name = "the training"

    learning_rate: float = field(
        default=_DefaultFloat(5e-5), metadata={"help": "Learning rate, the highest of its schedule; 1e-3 for a head."}
    )
    num_train_epochs: float = field(default=_DefaultFloat(3.0), metadata={"help": "Epochs; 20 for a head."})
    per_device_train_batch_size: int = field(
        default=_DefaultInt(8), metadata={"help": "Rows of a training batch, on each device; 32 for a head."}
    )
    beta_schedule: str = field(
        default="constant", metadata={"help": f"Course of beta during training: {', '.join(BETA_SCHEDULES)}."}
    )
    beta_warmup: float = field(
        default=0.5, metadata={"help": "Share of the training, or of a cycle, in which beta rises."}
    )
    beta_cycles: int = field(default=4, metadata={"help": "Cycles of the cyclic beta schedule."})
    lr_decay: str = field(
        default="transformers",
        metadata={"help": "'transformers' follows lr_scheduler_type; 'paper' multiplies by 0.97 every two epochs."},
    )
    information_plane: bool = field(
        default=True, metadata={"help": "Write information_plane.jsonl, one line per epoch, to output_dir."}
    )
    adversary: str | None = field(
        default=None, metadata={"help": f"Perturbation to train against: {', '.join(ADVERSARIES)}."}
    )
    epsilon: str | None = field(
        default=None, metadata={"help": "Radius of the perturbations: 8/255 by default, 128/255 under L2."}
    )
    adversary_steps: int | None = field(
        default=None, metadata={"help": "Gradient steps: 10 by default, 1 for fgsm_rs, 3 for freelb."}
    )
    adversary_norm: str = field(default="linf", metadata={"help": "Norm of perturbed images: linf or l2."})
    trades_weight: float = field(
        default=6.0, metadata={"help": "Weight of the divergence of perturbed from clean predictions in TRADES."}
    )
    robust_eval_rows: int = field(
        default=256, metadata={"help": "Held-out images attacked at every evaluation of an adversarial training."}
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "Average the weights over the steps with this decay, such as 0.999."}
    )
    perturb: str | None = field(
        default=None, metadata={"help": "Edit words of training texts at random: typos:P, synonyms:P or both."}
    )
    consistency: float = field(
        default=0.0,
        metadata={"help": "Weight of the divergence between predictions for a text and its edited copy, or two noisy."},
    )
    smoothing: str | None = field(
        default=None,
        metadata={"help": "Noise to train and test under, for certificates: delete:P, mask:P or gaussian:SIGMA."},
    )

    def __post_init__(self) -> None:
        _check_numbers(self)
        check_choice("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        check_choice("lr_decay", self.lr_decay, LEARNING_RATE_DECAYS)
        if adversary_of(self) is not None and self.fp16:
            raise ValueError("fp16 is on, in which gradients of pixels vanish; train an adversary with bf16 or float32")
        if self.adversary is not None and self.smoothing is not None:
            raise ValueError("adversary and smoothing are both set; train against one of them")
        if self.perturb is not None:
            parse_edits(self.perturb)
            if self.smoothing is not None:
                raise ValueError("perturb and smoothing are both set; train under one of them")
        elif self.consistency and self.smoothing is None:
            raise ValueError(
                f"consistency is {self.consistency}, but there is nothing to compare: set perturb, such as "
                "'typos:0.15', or smoothing, such as 'delete:0.95'"
            )
        if self.smoothing is not None:
            self.smoothing = str(parse_noise(self.smoothing))
        metric = (self.metric_for_best_model or "").removeprefix("eval_")
        if self.greater_is_better is None and metric in LOWER_IS_BETTER:
            self.greater_is_better = False  # transformers would take the checkpoint with the highest
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """Return what is saved and pushed as training_args.bin: no secret, and not the name of this machine."""
        state: dict[str, Any] = dict(self.__dict__)
        for name, value in state.items():
            if _SECRET.search(name):
                state[name] = None
            elif isinstance(value, str) and socket.gethostname() in value:
                state[name] = value.replace(f"_{socket.gethostname()}", "")
        return state


def choose_defaults(args: TrainingArguments, *, frozen: bool) -> dict[str, float]:
    """Give the arguments that nobody set their values for a whole model, or for a head on a frozen backbone.

    Args:
        args: of the training; changed in place.
        frozen: only the head trains.

    Returns:
        The values chosen for a head by name; empty for a whole model.
    """
    chosen: dict[str, float] = {}
    for name, value in _HEAD_DEFAULTS.items():
        current = getattr(args, name)
        if not isinstance(current, (_DefaultFloat, _DefaultInt)):
            continue
        if frozen:
            chosen[name] = value
        setattr(args, name, value if frozen else type(value)(current))
    if chosen:
        values = ", ".join(f"{name}={value:g}" for name, value in chosen.items())
        logger.info("Only the head trains, so what nobody set is chosen for a head: %s.", values)
    return chosen


@dataclass
class ModelArguments:
    """The classifier to train."""

    _argument_group_name = "the classifier"

    model: str = field(metadata={"help": "Checkpoint to start from: a folder or a Hub id (timm/NAME for timm's)."})
    objective: str = field(
        default="vub", metadata={"help": "vub, vib or ce; 'vanilla' trains the stock classifier without a bottleneck."}
    )
    beta: float | str = field(
        default=1e-3,
        metadata={"help": "Weight of the rate; with --freeze_backbone, auto chooses it on the validation rows."},
    )
    entropy_weight: float = field(default=1.0, metadata={"help": "Weight of the min term of vub."})
    latent_size: int | None = field(default=None, metadata={"help": "Size of z; half the feature size by default."})
    num_train_samples: int = field(default=1, metadata={"help": "Draws of z per example in training."})
    num_eval_samples: int = field(default=0, metadata={"help": "Draws of z in evaluation; 0 takes the mean."})
    pooling: str = field(
        default="auto",
        metadata={"help": "Features of a text: auto (the checkpoint's own way), stock, cls, mean or last token."},
    )
    freeze_backbone: bool = field(
        default=False,
        metadata={"help": "Train the head (of a vanilla model the last linear layer) on cached features."},
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "Start from random weights: take only the architecture of the model."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Size of images in pixels, for timm from scratch or with enlarge_to."}
    )
    enlarge_to: int | None = field(
        default=None, metadata={"help": "Size in pixels to which the model itself enlarges images of image_size."}
    )
    fold_unicode: bool = field(
        default=False,
        metadata={"help": "Read look-alike letters as plain ones, and no invisible characters, wherever it is used."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub checkpoint."})


@dataclass
class DataArguments:
    """The data to train and test on."""

    _argument_group_name = "the data"

    dataset: str = field(
        metadata={"help": "Hub name, parquet/CSV/JSON file or folder, image folder, 'synthetic-reviews' or 'digits'."}
    )
    config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    train_split: str | None = field(default=None, metadata={"help": "Name of the training split."})
    test_split: str | None = field(default=None, metadata={"help": "Name of the test split."})
    validation: float = field(
        default=0.1,
        metadata={"help": "Share of the training rows held out for evaluation on the way, without such a split."},
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column of texts, where it has no usual name; 'a,b' for a pair of texts."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of images, where it has no usual name."})
    label_column: str | None = field(default=None, metadata={"help": "Column of labels, where it has no usual name."})
    column_names: str | None = field(
        default=None, metadata={"help": "Names of the columns of a CSV file without a header, such as 'label,text'."}
    )
    max_train: int | None = field(default=None, metadata={"help": "Rows to train on, drawn by class with the seed."})
    max_test: int | None = field(default=None, metadata={"help": "Rows to test on, drawn by class with the seed."})
    max_length: int = field(default=256, metadata={"help": "Tokens per text; longer texts are cut."})
    augment: bool = field(default=False, metadata={"help": "Crop training images at random and mirror them."})
    feature_cache: str | None = field(
        default=None, metadata={"help": "Folder for features of frozen backbones; in the Hugging Face home if unset."}
    )
    feature_dtype: str = field(
        default="float32", metadata={"help": "Arithmetic of those features: float32, bfloat16 or auto (what is fast)."}
    )


_AT_LEAST_ZERO = (
    *("num_train_epochs", "learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "neftune_noise_alpha"),
    *("logging_steps", "eval_steps", "save_steps", "eval_delay", "save_total_limit", "dataloader_num_workers"),
    *("trades_weight", "robust_eval_rows", "consistency"),
)
_AT_LEAST_ONE = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("eval_accumulation_steps", "dataloader_prefetch_factor", "beta_cycles"),
)
# Beyond these no training gives anything but numbers that are not finite, or ends.
_AT_MOST = {"learning_rate": 100, "weight_decay": 100, "adam_epsilon": 1, "num_train_epochs": 1e6, "max_steps": 1e9}
_AT_MOST |= {"neftune_noise_alpha": 1e4, "trades_weight": 1e4, "consistency": 1e4}
_AT_MOST |= {"per_device_train_batch_size": 1e6}
_AT_MOST |= {"per_device_eval_batch_size": 1e6, "gradient_accumulation_steps": 1e6}


def _check_numbers(args: TrainingArguments) -> None:
    """Raise ValueError for a number with which nothing, or nothing sensible, would be trained."""
    rules: list[tuple[tuple[str, ...], Callable[[float], bool], str]] = [
        (_AT_LEAST_ZERO, lambda value: value >= 0, "at least 0"),
        (_AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
        (("max_steps",), lambda value: value >= -1, "above 0, or -1 to train for num_train_epochs"),
        (("adam_beta1", "adam_beta2", "ema_decay"), lambda value: 0 <= value < 1, "at least 0 and less than 1"),
        (("adam_epsilon",), lambda value: value > 0, "above 0"),
        (("warmup_ratio",), lambda value: 0 <= value <= 1, "a share between 0 and 1"),
        (("beta_warmup",), lambda value: 0 < value <= 1, "a share above 0 and at most 1"),
        (("seed", "data_seed"), lambda value: 0 <= value < 2**32, "between 0 and 4294967295"),
    ]
    for names, fits, wanted in rules:
        for name in names:
            value = getattr(args, name, None)
            if value is None:
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise ValueError(f"{name} is {value!r}; it must be a number") from None
            if not (math.isfinite(number) and fits(number)):
                raise ValueError(f"{name} is {value}; it must be {wanted}")
            if number > _AT_MOST.get(name, math.inf):
                raise ValueError(f"{name} is {value}; it must be at most {_AT_MOST[name]:g}")
