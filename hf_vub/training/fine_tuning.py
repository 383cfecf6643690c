"""One run from a data set and a checkpoint to a trained, evaluated and saved classifier: the library of the scripts."""

import sys
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PretrainedConfig,
    PrinterCallback,
    default_data_collator,
    set_seed,
)

from ..data.preprocessing import image_transform, tokenize
from ..data.splits import check_labels, label_names, load_splits, read_labels
from ..embeddings.extraction import extract
from ..metrics.classification import classification_metrics
from ..model.configuration_vub import Objective, VUBConfig
from ..model.information import label_entropy
from ..model.modeling_vub import VUBForImageClassification, VUBForSequenceClassification
from ..model.timm_processing import timm_image_processor
from ..model.trust import load
from ..reports.model_cards import refresh_model_card
from ..runs.files import claim, read_json, write_json
from ..runs.provenance import provenance
from .arguments import VUBTrainingArguments
from .safeguards import WatchedTrainer, last_checkpoint
from .trainer import VUBTrainer, how_trained

VANILLA = "vanilla"


@dataclass
class ModelArguments:
    """The classifier to train."""

    _argument_group_name = "the classifier"

    model: str = field(metadata={"help": "Checkpoint to start from: a folder or a Hub id (timm/NAME for timm's)."})
    objective: str = field(
        default="vub", metadata={"help": "vub, vib or ce; 'vanilla' trains the stock classifier without a bottleneck."}
    )
    beta: float = field(default=1e-3, metadata={"help": "Weight of the rate."})
    entropy_weight: float = field(default=1.0, metadata={"help": "Weight of the min term of vub."})
    latent_size: int | None = field(default=None, metadata={"help": "Size of z; half the feature size by default."})
    num_train_samples: int = field(default=1, metadata={"help": "Draws of z per example in training."})
    num_eval_samples: int = field(default=0, metadata={"help": "Draws of z in evaluation; 0 takes the mean."})
    freeze_backbone: bool = field(
        default=False, metadata={"help": "Train the head alone, on features that are computed once and cached."}
    )
    from_scratch: bool = field(default=False, metadata={"help": "Random weights: take the architecture alone."})
    image_size: int | None = field(default=None, metadata={"help": "Input size in pixels, for timm from scratch."})
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
    text_column: str | None = field(default=None, metadata={"help": "Column of texts, where it has no usual name."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images, where it has no usual name."})
    label_column: str | None = field(default=None, metadata={"help": "Column of labels, where it has no usual name."})
    max_train: int | None = field(default=None, metadata={"help": "Rows to train on, drawn by class with the seed."})
    max_test: int | None = field(default=None, metadata={"help": "Rows to test on, drawn by class with the seed."})
    max_length: int = field(default=256, metadata={"help": "Tokens that a text is cut to."})
    augment: bool = field(default=False, metadata={"help": "Crop training images at random and mirror them."})
    feature_cache: str | None = field(
        default=None, metadata={"help": "Folder for features of frozen backbones; in the Hugging Face home if unset."}
    )
    feature_dtype: str = field(
        default="float32", metadata={"help": "Arithmetic of those features: float32, bfloat16 or auto (what is fast)."}
    )


_DECISIVE = (
    *("seed", "data_seed", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "lr_decay", "warmup_steps", "warmup_ratio"),
    *("weight_decay", "max_grad_norm", "optim", "beta_schedule", "beta_warmup", "beta_cycles", "bf16", "fp16"),
)
"""Training arguments that a resumed run must share with the one that left the checkpoint."""


def fine_tune(task: str, model: ModelArguments, data: DataArguments, training: VUBTrainingArguments) -> dict[str, Any]:
    """Train a text or an image classifier, test it, and save it with its result file.

    ``output_dir`` then holds an ordinary checkpoint with its tokenizer or image processor, ``result.json`` and a model
    card; with ``training.push_to_hub`` so does the Hub. The run goes on from the last checkpoint that it finds in
    ``output_dir``, if this came from the same settings.

    Args:
        task: "text" or "image".
        model: what to train; ``objective="vanilla"`` is the stock classifier under the stock ``Trainer``.
        data: what to train and test on.
        training: how. With ``num_train_epochs=0`` the model is only tested.

    Returns:
        The content of ``result.json`` (``schema: 1``, ``kind: "train"``).

    Raises:
        ValueError: for options and data that do not fit, or an ``output_dir`` that another process writes to; before
            anything is written.
    """
    started = time.monotonic()
    if task not in _TASKS:
        raise ValueError(f"task is {task!r}; it must be one of {', '.join(map(repr, _TASKS))}")
    if model.objective != VANILLA:
        Objective.parse(model.objective)
    output = Path(str(training.output_dir))
    decided = training.to_dict()
    settings = {"task": task, **asdict(model), **asdict(data), **{name: decided.get(name) for name in _DECISIVE}}
    checkpoint = _own_checkpoint(output, settings)

    splits = load_splits(
        data.dataset,
        config_name=data.config_name,
        train_split=data.train_split,
        test_split=data.test_split,
        label_column=data.label_column,
        max_train=data.max_train,
        max_test=data.max_test,
        seed=training.seed,
        text_column=data.text_column if task == "text" else None,
        image_column=data.image_column if task == "image" else None,
    )
    names = label_names(splits)
    for split in splits.values():
        check_labels(split, len(names))
    set_seed(training.seed)
    classifier = _TASKS[task](model, names, label_entropy(torch.tensor(read_labels(splits["train"])), len(names)))
    rows, collator = classifier.rows(splits, data)
    eval_rows = rows.get("validation", rows["test"])
    training.remove_unused_columns = training.remove_unused_columns and task == "text"
    training.disable_tqdm = training.disable_tqdm or not sys.stderr.isatty()

    parts: dict[str, Any] = {
        "model": classifier.model,
        "args": training,
        "train_dataset": rows["train"],
        "eval_dataset": eval_rows,
        "data_collator": collator,
        "processing_class": classifier.processor,
    }
    vanilla = model.objective == VANILLA
    trainer = _StockTrainer(compute_metrics=_accuracy_and_calibration, **parts) if vanilla else VUBTrainer(**parts)
    trainer.remove_callback(PrinterCallback)
    with claim(output) if trainer.is_world_process_zero() else nullcontext():
        if training.max_steps > 0 or training.num_train_epochs > 0:
            if trainer.is_world_process_zero():
                write_json(output / "settings.json", settings)
            trainer.train(resume_from_checkpoint=checkpoint)
        metrics = trainer.evaluate(rows["test"], metric_key_prefix="test")
        result = {
            **provenance(),
            "kind": "train",
            "task": task,
            "model": output.name,
            "base_model": model.model,
            **{name: value for name, value in asdict(model).items() if name not in ("model", "revision")},
            "dataset": data.dataset,
            "num_train": len(splits["train"]),
            "num_test": len(splits["test"]),
            "num_labels": len(names),
            "max_length": data.max_length if task == "text" else None,
            "feature_dtype": data.feature_dtype if model.freeze_backbone else None,
            "seed": training.seed,
            "epochs": training.num_train_epochs,
            "max_steps": training.max_steps,
            "batch_size": training.train_batch_size * training.gradient_accumulation_steps * training.world_size,
            "learning_rate": training.learning_rate,
            "labels": names,
            **how_trained(training, bottleneck=not vanilla),
            "metrics": {
                name.removeprefix("test_"): value
                for name, value in metrics.items()
                if name.startswith("test_") and not name.endswith(("_runtime", "_per_second"))
            },
            "seconds": time.monotonic() - started,
        }
        trainer.result = result
        trainer.save_model(str(output), _internal_call=True)
        trainer.create_model_card()
        if training.push_to_hub:
            trainer.push_to_hub()
        return result


class _StockTrainer(WatchedTrainer):
    """The stock trainer, with the card that its competitors get."""

    result: dict[str, Any]

    def create_model_card(self, **options: Any) -> None:  # type: ignore[override]
        if self.is_world_process_zero():
            result = {**self.result, "model": self.hub_model_id or self.result["model"]}
            write_json(Path(str(self.args.output_dir)) / "result.json", result)
            refresh_model_card(str(self.args.output_dir))


class FeatureRows(Dataset):
    """Cached features and labels as rows that a VUB classifier takes in the place of tokens or pixels."""

    def __init__(self, features: Tensor, labels: Tensor):
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"features": self.features[row], "labels": self.labels[row]}


class _Classifier(ABC):
    """A model with what turns its data into rows; the two kinds differ in their classes and their preprocessing."""

    stock_class: Any
    vub_class: Any

    def __init__(self, arguments: ModelArguments, names: list[str], entropy: float):
        self.arguments = arguments
        self.labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        self.options: dict[str, Any] = {
            name: getattr(arguments, name)
            for name in ("beta", "entropy_weight", "latent_size", "num_train_samples", "num_eval_samples")
        }
        self.options |= {"freeze_backbone": arguments.freeze_backbone, "label_entropy": entropy, **self.labels}
        self.processor = self.load_processor()
        self.model = self.load_model()

    @abstractmethod
    def load_processor(self) -> Any:
        """The tokenizer or image processor."""

    def stock_config(self) -> PretrainedConfig:
        return load(AutoConfig, self.arguments.model, revision=self.arguments.revision, **self.labels)

    def load_model(self) -> Any:
        vanilla = self.arguments.objective == VANILLA
        if self.arguments.from_scratch:
            config = self.stock_config()
            if vanilla:
                return _mean_loss(self.stock_class.from_config(config))
            return self.vub_class(VUBConfig(config, objective=self.arguments.objective, **self.options))
        if not vanilla:
            return self.vub_class.from_pretrained(
                self.arguments.model,
                revision=self.arguments.revision or "main",
                objective=self.arguments.objective,
                **self.options,
            )
        return _mean_loss(
            load(
                self.stock_class,
                self.arguments.model,
                revision=self.arguments.revision or "main",
                ignore_mismatched_sizes=True,
                problem_type="single_label_classification",
                **self.labels,
            )
        )

    @abstractmethod
    def prepare(self, splits: Any, data: DataArguments) -> tuple[dict[str, Any], Any]:
        """Rows of every split as the backbone takes them, and the collator of their batches."""

    def rows(self, splits: Any, data: DataArguments) -> tuple[dict[str, Any], Any]:
        """Rows of every split and the collator of their batches; for a frozen backbone the rows are its features."""
        if not self.arguments.freeze_backbone or self.arguments.objective == VANILLA or data.augment:
            return self.prepare(splits, data)
        cache = data.feature_cache or _default_cache()
        rows = {}
        for name, split in splits.items():
            found = extract(
                self.model,
                split,
                cache,
                processing_class=self.processor,
                max_length=data.max_length,
                dtype=data.feature_dtype,
            )
            rows[name] = FeatureRows(found.features, found.labels)
        return rows, default_data_collator


class _TextClassifier(_Classifier):
    stock_class = AutoModelForSequenceClassification
    vub_class = VUBForSequenceClassification

    def load_processor(self) -> Any:
        tokenizer = load(AutoTokenizer, self.arguments.model, revision=self.arguments.revision or "main")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def load_model(self) -> Any:
        model = super().load_model()
        # A decoder finds its last token by the padding, and often comes without any.
        backbone = getattr(model, "backbone", model)
        if backbone.config.pad_token_id is None:
            backbone.config.pad_token_id = self.processor.pad_token_id
        return model

    def prepare(self, splits: Any, data: DataArguments) -> tuple[dict[str, Any], Any]:
        rows = {name: tokenize(split, self.processor, data.max_length) for name, split in splits.items()}
        return rows, DataCollatorWithPadding(self.processor)


class _ImageClassifier(_Classifier):
    stock_class = AutoModelForImageClassification
    vub_class = VUBForImageClassification

    def load_processor(self) -> Any:
        if self.arguments.from_scratch and self._is_timm():
            return timm_image_processor(self.stock_config().pretrained_cfg)
        processor = load(AutoImageProcessor, self.arguments.model, revision=self.arguments.revision or "main")
        # timm's own processor cannot be saved.
        return timm_image_processor(processor.data_config) if hasattr(processor, "data_config") else processor

    def stock_config(self) -> PretrainedConfig:
        if not self._is_timm():
            return super().stock_config()
        return timm_config(self.arguments.model.removeprefix("timm/"), self.arguments.image_size, **self.labels)

    def _is_timm(self) -> bool:
        return self.arguments.model.startswith("timm/")

    def prepare(self, splits: Any, data: DataArguments) -> tuple[dict[str, Any], Any]:
        plain = image_transform(self.processor)
        train = image_transform(self.processor, train=True, flip=data.dataset != "digits") if data.augment else plain
        rows = {
            name: split.with_transform(train if name == "train" else plain, output_all_columns=False)
            for name, split in splits.items()
        }
        return rows, default_data_collator


_TASKS: dict[str, type[_Classifier]] = {"text": _TextClassifier, "image": _ImageClassifier}


def timm_config(architecture: str, image_size: int | None = None, **options: Any) -> PretrainedConfig:
    """Configuration of an untrained timm model, with the preprocessing of its pretrained twin.

    Args:
        architecture: a name that timm knows, with or without the tag of its weights.
        image_size: input size in pixels instead of the architecture's own; images are then not cropped.
        options: fields of the configuration: ``num_labels``, ``id2label``, ...

    Raises:
        ImportError: without timm.
        ValueError: for an architecture that timm does not know.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError('timm models need timm: pip install "hf_vub[vision]"') from error
    if not timm.is_model(architecture):
        raise ValueError(f"model is 'timm/{architecture}', an architecture that timm {timm.__version__} does not know")
    known: Any = timm.get_pretrained_cfg(architecture)
    found = known.to_dict()
    kept = ("input_size", "crop_pct", "interpolation", "mean", "std", "crop_mode")
    preprocessing = {name: found[name] for name in kept if name in found}
    arguments = {}
    if image_size is not None:
        preprocessing |= {"input_size": (3, image_size, image_size), "crop_pct": 1.0}
        if found.get("fixed_input_size"):
            arguments["img_size"] = image_size
    return AutoConfig.for_model(
        "timm_wrapper", architecture=architecture, pretrained_cfg=preprocessing, model_args=arguments or None, **options
    )


def _mean_loss(model: Any) -> Any:
    """The stock model, its loss declared a mean over the batch: some versions would scale it twice otherwise."""
    model.accepts_loss_kwargs = False
    return model


def _accuracy_and_calibration(prediction: EvalPrediction) -> dict[str, float]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return classification_metrics(logits, prediction.label_ids)


def _own_checkpoint(output: Path, settings: dict[str, Any]) -> str | None:
    """The last checkpoint in the folder, which must come from a run with these settings."""
    checkpoint = last_checkpoint(output)
    if checkpoint is None:
        return None
    known = output / "settings.json"
    before = read_json(known) if known.exists() else {}
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(
                f"output_dir {output} holds checkpoints of a run with {name}={before.get(name)!r}, and this one has "
                f"{value!r}; name another folder or empty this one"
            )
    return checkpoint


def _default_cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_vub" / "features"
