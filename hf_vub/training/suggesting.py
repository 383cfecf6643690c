"""Suggest the setting of a bottleneck for a data set, and save the best head of it as a checkpoint."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..data.record import TrainingRecord
from ..data.splits import Splits, label_names, load_splits, read_labels
from ..model.information import label_entropy
from ..model.loading import TASKS, Task
from ..model.modeling_vub import VUBForImageClassification, VUBForSequenceClassification
from ..reports.calibration_figures import frontier_figure
from ..reports.plots import save
from ..runs.files import lock_folder
from ..runs.provenance import public_name
from ..runs.schema import SuggestionResult
from ..sweep.suggestion import BETAS, ENTROPY_WEIGHTS, Suggestion, suggest
from .arguments import ModelArguments, check_choice
from .classifiers import build_classifier
from .rows import FeatureRows, feature_rows

logger = logging.getLogger(__name__)


@dataclass
class SuggestArguments:
    """The backbone, the data, and the grid to choose from."""

    model: str = field(metadata={"help": "Folder or Hub id of the backbone."})
    dataset: str = field(metadata={"help": "Hub name, parquet/CSV/JSON file or folder, 'synthetic-reviews', 'digits'."})
    output_dir: str = field(metadata={"help": "Folder of the checkpoint."})
    task: str | None = field(default=None, metadata={"help": "text or image; by default what the data set holds."})
    objectives: list[str] = field(
        default_factory=lambda: ["vib", "vub"], metadata={"help": "Objectives to try: any of vib, vub and ce."}
    )
    betas: list[float] = field(default_factory=lambda: list(BETAS), metadata={"help": "Weights of the rate to try."})
    entropy_weights: list[float] = field(
        default_factory=lambda: list(ENTROPY_WEIGHTS), metadata={"help": "Weights of VUB's min term to try."}
    )
    seeds: int = field(default=3, metadata={"help": "Trainings of every setting."})
    criterion: str = field(
        default="link",
        metadata={"help": "NLL that decides: link (posterior link) or temperature (that too)."},
    )
    epochs: int = field(default=20, metadata={"help": "Epochs of the heads."})
    batch_size: int = field(default=32, metadata={"help": "Batch size of the heads."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the heads in the first epoch."})
    validation: float = field(
        default=0.1, metadata={"help": "Share of the training rows that decides, without a validation split."}
    )
    max_train: int | None = field(default=None, metadata={"help": "Most training rows, drawn by class (all)."})
    max_length: int = field(default=256, metadata={"help": "Tokens per text; longer texts are cut."})
    pooling: str = field(default="auto", metadata={"help": "Features of a text: auto, stock, cls, mean or last token."})
    text_column: str | None = field(default=None, metadata={"help": "Column of texts, if it has no usual name."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images, if it has no usual name."})
    label_column: str | None = field(default=None, metadata={"help": "Column of labels, if it has no usual name."})
    column_names: str | None = field(default=None, metadata={"help": "Columns of a CSV file without a header."})
    feature_cache: str | None = field(default=None, metadata={"help": "Folder of the features."})
    feature_dtype: str = field(
        default="float32", metadata={"help": "Arithmetic of the features: float32, bfloat16 or auto (what is fast)."}
    )


def suggest_setting(arguments: SuggestArguments) -> SuggestionResult:
    """Choose objective, beta and entropy weight for the head of a frozen backbone, and save the best head.

    The features are computed once and cached; :func:`hf_vub.sweep.suggest` chooses on validation rows. ``output_dir``
    then holds a checkpoint that reports calibrated probabilities, the record of its rows, ``suggestion.json`` with the
    frontier, and ``frontier.png`` where matplotlib is installed. No choice reads a test row.

    Returns:
        The content of ``suggestion.json``.

    Raises:
        ValueError: no validation rows, or options and data that do not fit.
        OSError: there is no such checkpoint or data set.
    """
    splits, task = _read(arguments)
    names = label_names(splits)
    entropy = label_entropy(torch.tensor(read_labels(splits["train"])), len(names))
    options = ModelArguments(model=arguments.model, freeze_backbone=True, pooling=arguments.pooling)
    network, processor = build_classifier(task, options, names, entropy)
    before = TrainingRecord.load(arguments.model)
    _warn_of_seen_rows(before, splits, arguments.model)

    def features(split: str) -> FeatureRows:
        return feature_rows(
            network,
            splits[split],
            processing_class=processor,
            cache_dir=arguments.feature_cache,
            max_length=arguments.max_length if isinstance(processor, PreTrainedTokenizerBase) else None,
            dtype=arguments.feature_dtype,
        )

    found = _suggest(arguments, features("train"), features("validation"), len(names), entropy)
    result = replace(
        found.result,
        task=task,
        model=public_name(arguments.model),
        dataset=public_name(arguments.dataset),
        data_rows=splits.described(),
    )
    folder = Path(arguments.output_dir)
    assert isinstance(network, (VUBForSequenceClassification, VUBForImageClassification))
    with lock_folder(folder):
        replace(found, result=result).export(network, folder, processor)
        _record(before, splits, arguments.dataset).save(folder)
        try:
            save(frontier_figure(result), folder / "frontier")
        except ImportError as error:
            logger.warning("%s has no figure of the frontier: %s", folder, error)
    return result


def _read(arguments: SuggestArguments) -> tuple[Splits, Task]:
    """Return training and validation rows, and the task that they are for."""
    check_choice("task", arguments.task or "text", tuple(TASKS))
    check_choice("criterion", arguments.criterion, ("link", "temperature"))
    medium: Task | None = None if arguments.task is None else "image" if arguments.task == "image" else "text"
    splits = load_splits(
        arguments.dataset,
        medium=medium,
        text_column=arguments.text_column,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        column_names=arguments.column_names,
        max_train=arguments.max_train,
        validation=arguments.validation,
    )
    if "train" not in splits or "validation" not in splits:
        raise ValueError(
            f"validation is {arguments.validation:g} and {arguments.dataset} has no validation split, so no rows can "
            "decide: hold out a share, such as 0.1"
        )
    return splits, "image" if "image" in splits["train"].column_names else "text"


def _suggest(
    arguments: SuggestArguments, train: FeatureRows, held_out: FeatureRows, num_labels: int, entropy: float
) -> Suggestion:
    return suggest(
        train.features,
        train.labels,
        num_labels=num_labels,
        validation_features=held_out.features,
        validation_labels=held_out.labels,
        objectives=arguments.objectives,
        betas=arguments.betas,
        entropy_weights=arguments.entropy_weights,
        seeds=arguments.seeds,
        criterion="temperature" if arguments.criterion == "temperature" else "link",
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        label_entropy=entropy,
    )


def _warn_of_seen_rows(record: TrainingRecord | None, splits: Splits, model: str) -> None:
    seen = 0 if record is None else int(record.seen(splits["validation"]).sum())
    if seen:
        logger.warning(
            "%s was trained or selected on %d of the %d validation rows: they look easier than new ones, so the "
            "suggestion may compress too much",
            model,
            seen,
            len(splits["validation"]),
        )


def _record(before: TrainingRecord | None, splits: Splits, name: str) -> TrainingRecord:
    """Return the record of the rows that the head and its backbone have seen."""
    record = TrainingRecord.of(splits, name)
    if before is None:
        return record
    train = np.union1d(record.train, before.train)
    return replace(record, train=train, validation=np.union1d(record.validation, before.validation))
