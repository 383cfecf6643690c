"""What a trainer of VUB classifiers refuses before any work: models, arguments and data sets that cannot be trained."""

from collections.abc import Iterable, Mapping, Sized
from typing import cast

from datasets import Dataset

from ..data.splits import check_labels
from ..model.configuration_vub import VUBConfig
from .arguments import VUBTrainingArguments


def check_model(model: object) -> VUBConfig:
    """Return the configuration of a model; raise TypeError for a model without the terms of the objective."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) != VUBConfig.model_type:
        raise TypeError(
            f"model is a {type(model).__name__}; VUBTrainer trains VUBForSequenceClassification and "
            "VUBForImageClassification (wrap a checkpoint with their from_pretrained)"
        )
    return cast(VUBConfig, config)  # also where remote code has made its class


def check_arguments(args: object, compute_loss_func: object) -> None:
    """Refuse arguments of another kind, and those that would bypass the objective or its metrics."""
    if not isinstance(args, VUBTrainingArguments):
        raise TypeError(f"args is a {type(args).__name__}; VUBTrainer takes VUBTrainingArguments")
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}; set it to 0, it would bypass the objective"
        )
    if compute_loss_func is not None:
        raise ValueError("compute_loss_func would replace the objective; leave it out")
    if args.batch_eval_metrics:
        raise ValueError("batch_eval_metrics is True; calibration and bounds need all rows at once, leave it off")


def check_datasets(named: Iterable[tuple[str, object]], num_labels: int | None) -> None:
    """Refuse data sets without rows, and with labels that are no class of the model; None leaves the labels."""
    for name, dataset in named:
        if isinstance(dataset, Sized) and len(dataset) == 0:
            raise ValueError(f"{name} is empty; training and evaluation need at least one example")
        labelled = {"label", "labels"} & set(getattr(dataset, "column_names", None) or ())
        if num_labels is not None and labelled and isinstance(dataset, Dataset):  # the model checks other batches
            try:
                check_labels(dataset, num_labels)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def check_best_metric(args: VUBTrainingArguments, metrics: Mapping[str, float]) -> None:
    """Raise ValueError where ``metric_for_best_model`` is none of an evaluation's metrics."""
    wanted = (args.metric_for_best_model or "loss").removeprefix("eval_")
    if wanted != "loss" and wanted not in metrics:
        raise ValueError(f"metric_for_best_model is {wanted!r}; it must be one of loss, {', '.join(metrics)}")


def named_datasets(train: object, evaluation: object) -> list[tuple[str, object]]:
    """Return the data sets of a Trainer with their names, each of several evaluation sets apart."""
    several = evaluation if isinstance(evaluation, dict) else {}
    single = None if several else evaluation
    named = {
        "train_dataset": train,
        "eval_dataset": single,
        **{f"eval_dataset {name!r}": dataset for name, dataset in several.items()},
    }
    return [(name, dataset) for name, dataset in named.items() if dataset is not None]
