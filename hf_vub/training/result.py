"""The result of a training: its JSON, and the model card made from it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from ..reports.model_cards import refresh_model_card
from ..runs.provenance import provenance
from ..runs.schema import TrainResult, split_metrics
from .adversary import adversary_of
from .arguments import VUBTrainingArguments

if TYPE_CHECKING:
    from .safeguards import WatchedTrainer

_TIMES = ("_runtime", "_per_second")


def training_result(
    trainer: "WatchedTrainer", *, bottleneck: bool, metrics: Mapping[str, object], **fields: Any
) -> TrainResult:
    """Return the result of a training with all that its trainer knows.

    Args:
        trainer: after training and evaluation.
        bottleneck: the model has one, so that the schedules that we add to those of transformers applied.
        metrics: of the evaluation, those of the user's ``compute_metrics`` among them.
        fields: what the trainer does not know: model, data set, rows, ...
    """
    args, state = trainer.args, trainer.state
    paper = bottleneck and getattr(args, "lr_decay", None) == "paper"
    numbers, others = split_metrics(metrics)
    return TrainResult(
        **provenance(),
        **fields,
        metrics=numbers,
        other_metrics=others or None,
        seed=args.seed,
        epochs=args.num_train_epochs,
        max_steps=args.max_steps,
        steps=state.global_step,
        best_step=trainer.best_step(),
        batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        learning_rate=args.learning_rate,
        optimizer=str(getattr(args.optim, "value", args.optim)),
        lr_schedule="0.97 every two epochs" if paper else str(getattr(args.lr_scheduler_type, "value", "")),
        warmup=getattr(args, "warmup_ratio", None) or args.warmup_steps or None,
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        precision="bfloat16, mixed" if args.bf16 else "float16, mixed" if args.fp16 else "float32",
        beta_schedule=getattr(args, "beta_schedule", None) if bottleneck else None,
        smoothing=getattr(args, "smoothing", None),
        perturb=getattr(args, "perturb", None),
        consistency=getattr(args, "consistency", None) or None,
        ema_decay=getattr(args, "ema_decay", None) if bottleneck else None,
        **_adversary_fields(args),
        has_training_record=getattr(trainer.model, "training_record", None) is not None,
    )


def _adversary_fields(args: TrainingArguments) -> dict[str, Any]:
    """Return what the result says of the adversary that was trained against; nothing without one."""
    if not isinstance(args, VUBTrainingArguments) or (adversary := adversary_of(args)) is None:
        return {}
    return {
        "adversary": adversary.kind,
        "epsilon": adversary.epsilon,
        "adversary_steps": adversary.steps,
        "adversary_norm": adversary.norm,
        "trades_weight": args.trades_weight if adversary.kind == "trades" else None,
    }


def plain_metrics(logged: Mapping[str, object], prefix: str) -> dict[str, object]:
    """Return the metrics of one evaluation without their prefix and its timings."""
    return {
        name.removeprefix(prefix): value
        for name, value in logged.items()
        if name.startswith(prefix) and not name.endswith(_TIMES)
    }


def write_card(trainer: "WatchedTrainer", result: TrainResult) -> None:
    """Write ``result.json`` and ``README.md`` into the trainer's folder; only the main process does."""
    if not trainer.is_world_process_zero():
        return
    folder = Path(str(trainer.args.output_dir))
    replace(result, model=trainer.hub_model_id or result.model).save(folder / "result.json")
    refresh_model_card(folder)
