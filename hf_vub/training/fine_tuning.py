"""One run from a data set and a checkpoint to a trained, evaluated and saved classifier: the library of the scripts."""

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from numpy import union1d
from transformers import EvalPrediction, PrinterCallback, ProgressCallback, set_seed

from ..data.record import TrainingRecord
from ..data.splits import Splits, label_names, load_splits, read_labels
from ..metrics.classification import classification_metrics
from ..model.configuration_vub import Objective
from ..model.information import label_entropy
from ..model.loading import TASKS, Task
from ..runs.digests import processing_digest, weights_digest
from ..runs.files import lock_folder, write_json
from ..runs.schema import TrainResult
from .arguments import AUTO, VANILLA, DataArguments, ModelArguments, VUBTrainingArguments, check_choice, choose_defaults
from .auto_beta import check_beta, choose_beta
from .checkpoints import SETTINGS_FILE, check_settings, decisive_arguments, resume_point
from .checks import check_best_metric
from .classifiers import NewClassifier, build_classifier
from .frozen_stock import freeze_all_but_classifier
from .progress import ProgressLines, SilentBar
from .result import plain_metrics, training_result, write_card
from .rows import FeatureRows, prepare_rows
from .safeguards import WatchedTrainer
from .smoothing import store_noise
from .trainer import VUBTrainer


def fine_tune(task: Task, model: ModelArguments, data: DataArguments, training: VUBTrainingArguments) -> TrainResult:
    """Train a text or an image classifier, test it, and save it with its result file.

    The checkpoint is chosen on validation rows, a share of the training rows where the data set has none of its own;
    the test rows are used once, at the end. ``output_dir`` then holds an ordinary checkpoint with its tokenizer or
    image processor, a record of the rows it was trained on, ``result.json`` and a model card; with
    ``training.push_to_hub`` so does the Hub. The run goes on from the newest whole checkpoint in ``output_dir``, if
    that came from the same settings, data and base model.

    Args:
        task: "text" or "image".
        model: what to train; ``objective="vanilla"`` is the stock classifier under the stock ``Trainer``.
        data: what to train and test on.
        training: how; what nobody set is chosen for a whole model or for a head, see :func:`choose_defaults`. With
            ``num_train_epochs=0`` the model is only tested.

    Returns:
        The content of ``result.json``.

    Raises:
        ValueError: for options and data that do not fit, or an ``output_dir`` that another process writes to; before
            anything is written.
    """
    started = time.monotonic()
    _check_options(task, model, training)
    choose_defaults(training, frozen=model.freeze_backbone)
    output = Path(str(training.output_dir))
    settings = {"task": task, **asdict(model), **asdict(data), **decisive_arguments(training)}
    checkpoint = resume_point(output, training.resume_from_checkpoint, settings)

    splits = _read(task, data, training.seed)
    if training.do_eval and "validation" not in splits:
        raise ValueError(
            "eval_strategy asks for evaluations on the way, but there are no validation rows: set validation above 0"
        )
    names = label_names(splits)
    set_seed(training.seed)
    entropy = label_entropy(torch.tensor(read_labels(splits["train"])), len(names))
    first = replace(model, beta=0.0) if model.beta == AUTO else model
    classifier = build_classifier(task, first, names, entropy)
    settings |= {
        "data_digest": splits.digest,
        "model_digest": weights_digest(classifier.network),
        "processor_digest": processing_digest(classifier.processor),
    }
    if checkpoint is not None:
        check_settings(checkpoint, settings)
    trainer, test_rows = _trainer(task, classifier, splits, model, data, training)
    with lock_folder(output) if trainer.is_world_process_zero() else nullcontext():
        if model.beta == AUTO:
            model = choose_beta(trainer, model, training, resuming=checkpoint is not None)
        if training.max_steps > 0 or training.num_train_epochs > 0:
            if trainer.is_world_process_zero():
                write_json(output / SETTINGS_FILE, settings)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        metrics = trainer.evaluate(test_rows, metric_key_prefix="test")
        trainer.result = training_result(
            trainer,
            task=task,
            model=output.name,
            base_model=model.model,
            bottleneck=model.objective != VANILLA,
            pooling=getattr(classifier.network.config, "pooling", None) if model.objective != VANILLA else None,
            **{name: value for name, value in asdict(model).items() if name not in ("model", "revision", "pooling")},
            dataset=data.dataset,
            num_train=len(splits["train"]),
            num_validation=len(splits["validation"]) if "validation" in splits else 0,
            num_test=len(splits["test"]),
            data_rows=splits.described(),
            num_labels=len(names),
            max_length=data.max_length if task == "text" else None,
            feature_dtype=data.feature_dtype if model.freeze_backbone else None,
            labels=tuple(names),
            metrics=plain_metrics(metrics, "test_"),
            seconds=time.monotonic() - started,
        )
        trainer.save_model(str(output), _internal_call=True)
        trainer.create_model_card()
        if training.push_to_hub:
            trainer.push_to_hub()
        return trainer.result


def _check_options(task: Task, model: ModelArguments, training: VUBTrainingArguments) -> None:
    check_choice("task", task, tuple(TASKS))
    check_choice("objective", model.objective, (*(member.value for member in Objective), VANILLA))
    if model.objective == VANILLA and (training.adversary or training.ema_decay is not None or training.consistency):
        raise ValueError(
            "objective is 'vanilla', whose trainer has no adversary, consistency or ema_decay: use objective 'ce'"
        )
    check_beta(model)


class _StockTrainer(WatchedTrainer):
    """The stock trainer, with the card that its competitors get."""

    def create_model_card(self, *args: Any, **options: Any) -> None:
        if self.result is not None:
            write_card(self, self.result)


def _read(task: Task, data: DataArguments, seed: int) -> Splits:
    return load_splits(
        data.dataset,
        medium=task,
        config_name=data.config_name,
        train_split=data.train_split,
        test_split=data.test_split,
        label_column=data.label_column,
        column_names=data.column_names,
        max_train=data.max_train,
        max_test=data.max_test,
        validation=data.validation,
        seed=seed,
        text_column=data.text_column if task == "text" else None,
        image_column=data.image_column if task == "image" else None,
    )


def _trainer(
    task: Task,
    classifier: NewClassifier,
    splits: Splits,
    model: ModelArguments,
    data: DataArguments,
    training: VUBTrainingArguments,
) -> tuple[WatchedTrainer, Any]:
    """Return the trainer of the classifier, and the rows to test it on."""
    network, processor = classifier
    vanilla = model.objective == VANILLA
    if vanilla:
        check_best_metric(training, classification_metrics([[0.0, 1.0]], [1]))
    frozen = model.freeze_backbone
    rows, collator = prepare_rows(task, network, processor, splits, data, training, frozen=frozen)
    if vanilla and frozen:
        freeze_all_but_classifier(network)
    store_noise(network.config, training.smoothing)
    vars(network)["training_record"] = _record(splits, data.dataset, model)
    # Only tokenised rows have columns that the network does not take.
    training.remove_unused_columns &= task == "text" and not isinstance(rows["train"], FeatureRows)
    training.disable_tqdm = training.disable_tqdm or not sys.stderr.isatty()
    parts: dict[str, Any] = {
        "model": network,
        "args": training,
        "train_dataset": rows["train"],
        "eval_dataset": rows.get("validation"),
        "data_collator": collator,
        "processing_class": processor,
    }
    kind = _StockTrainer if vanilla else VUBTrainer
    trainer = kind(compute_metrics=_accuracy_and_calibration, **parts) if vanilla else kind(**parts)
    trainer.remove_callback(PrinterCallback)
    if not training.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(SilentBar())
    if training.log_level not in ("error", "critical"):
        trainer.add_callback(ProgressLines())
    return trainer, rows["test"]


def _record(splits: Splits, name: str, model: ModelArguments) -> TrainingRecord:
    """Return the record of the rows that the classifier will have seen, those of its base checkpoint among them."""
    record = TrainingRecord.of(splits, name)
    before = None if model.from_scratch else TrainingRecord.load(model.model, model.revision)
    if before is None:
        return record
    return replace(
        record,
        train=union1d(record.train, before.train),
        validation=union1d(record.validation, before.validation),
    )


def _accuracy_and_calibration(prediction: EvalPrediction) -> dict[str, float]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return classification_metrics(logits, prediction.label_ids)
