"""Training: the arguments, the trainer that computes the objective, and the card it writes."""

import math
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import IterableDataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction

from ..data.splits import check_labels
from ..metrics.classification import classification_metrics
from ..model.hub import told_push
from ..model.information import NATS_PER_BIT
from ..model.objectives import Terms, objective_loss
from ..reports.model_cards import refresh_model_card
from ..runs.files import write_json
from ..runs.provenance import provenance
from .arguments import VUBTrainingArguments
from .information_plane import TERMS, InformationPlane
from .safeguards import WatchedTrainer
from .schedules import _PaperDecay, scheduled_beta


class VUBTrainer(WatchedTrainer):
    r"""A ``Trainer`` for VUB classifiers: it computes the objective and reports its terms.

    The loss is the mean over the batch of

    .. math:: \beta_t R(x) + CE(y, c(z)) - w\min\{H(Y), H(c(y|z))\}

    with the model's objective and weights, and beta as its schedule has it at this step. In training the log carries
    the means of ``rate``, ``cross_entropy`` and ``entropy`` (nats) and ``beta``; in evaluation also ``accuracy``,
    ``nll``, ``brier``, ``ece`` and the three bounds on ``beta I(Z;X) - I(Z;Y)``, in nats and in bits. Evaluation uses
    the model's own beta, so that its losses can be compared along a schedule.

    Args:
        model: a VUB classifier, also as a PEFT model. Nothing else has the terms.
        args: :class:`VUBTrainingArguments`.
        compute_metrics: as for ``Trainer``; it sees the logits alone, and its metrics join the ones above.
        kwargs: everything else that ``Trainer`` takes.

    Raises:
        TypeError: for another model, or plain training arguments.
        ValueError: for what would bypass the objective (``label_smoothing_factor``, ``compute_loss_func``), for an
            empty data set and for labels out of range.

    Example:
        >>> trainer = VUBTrainer(
        ...     model=model,
        ...     args=VUBTrainingArguments("out", num_train_epochs=3),
        ...     train_dataset=train,
        ...     eval_dataset=test,
        ...     processing_class=tokenizer,
        ... )  # doctest: +SKIP
    """

    # The loss is a mean over the batch: the Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False
    args: VUBTrainingArguments
    model: Any
    result: dict[str, Any] | None = None
    """What ``result.json`` says of the training, where somebody has written it; a push writes it otherwise."""

    def __init__(
        self,
        model: Any = None,
        args: VUBTrainingArguments | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        **kwargs: Any,
    ):
        if getattr(getattr(model, "config", None), "model_type", None) != "vub":
            raise TypeError(
                f"model is a {type(model).__name__}; VUBTrainer trains VUBForSequenceClassification and "
                "VUBForImageClassification (wrap a checkpoint with their from_pretrained)"
            )
        args = VUBTrainingArguments() if args is None else args
        if not isinstance(args, VUBTrainingArguments):
            raise TypeError(f"args is a {type(args).__name__}; VUBTrainer takes VUBTrainingArguments")
        if args.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor is {args.label_smoothing_factor}; set it to 0, it would bypass the objective"
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func would replace the objective; leave it out")
        if args.batch_eval_metrics:
            raise ValueError("batch_eval_metrics is True; calibration and bounds need all rows at once, leave it off")
        for name, dataset in _named_datasets(train_dataset, eval_dataset):
            if hasattr(dataset, "__len__") and len(dataset) == 0:
                raise ValueError(f"{name} is empty; training and evaluation need at least one example")
            labelled = {"label", "labels"} & set(getattr(dataset, "column_names", None) or ())
            if labelled and not isinstance(dataset, IterableDataset):  # of a stream the model checks every batch
                check_labels(dataset, model.config.num_labels)
        if preprocess_logits_for_metrics is not None:
            preprocess_logits_for_metrics = _on_logits(preprocess_logits_for_metrics)
        self._user_metrics = compute_metrics
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=self._all_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            **kwargs,
        )
        self._plane = InformationPlane(_head_of(model).latent_size, reduce=self.accelerator.reduce)
        self.add_callback(self._plane)

    @property
    def beta(self) -> float:
        """The weight of the rate at the current step."""
        return scheduled_beta(
            self.args.beta_schedule,
            self.model.config.beta,
            self.state.global_step,
            self.state.max_steps,
            warmup=self.args.beta_warmup,
            cycles=self.args.beta_cycles,
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean of the objective over the batch, in nats."""
        outputs = model(**inputs)
        if outputs.cross_entropy is None:
            raise ValueError("the batch has no labels; the objective needs a column 'labels' (or 'label')")
        config = self.model.config
        losses = objective_loss(
            config.objective,
            Terms(outputs.rate, outputs.cross_entropy, outputs.entropy),
            beta=self.beta if model.training else config.beta,
            label_entropy=config.entropy_cap,
            entropy_weight=config.entropy_weight,
        )
        if model.training:
            self.terms = {name: outputs[name] for name in TERMS}
            self._plane.add(self.terms)
        return (losses.mean(), outputs) if return_outputs else losses.mean()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The scheduler of ``lr_scheduler_type``, or the paper's decay: 0.97 every two epochs."""
        if self.args.lr_decay == "paper" and self.lr_scheduler is None:
            epochs = self.args.num_train_epochs
            if self.args.max_steps > 0:
                try:
                    batches = len(self.get_train_dataloader())
                except TypeError:
                    raise ValueError("lr_decay='paper' counts epochs, and this train_dataset has no length") from None
                epochs = num_training_steps / max(1, batches // self.args.gradient_accumulation_steps)
            steps_per_epoch = max(1, math.ceil(num_training_steps / epochs))
            optimizer = optimizer or self.optimizer
            self.lr_scheduler = LambdaLR(optimizer, _PaperDecay(steps_per_epoch))
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the means of the objective's terms since the last log of training."""
        if "loss" in logs:
            means = self._plane.window_means()
            logs.update({name: means[name] for name in ("cross_entropy", "rate", "entropy") if name in means})
            logs["beta"] = self.beta
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """The loop of ``Trainer`` with the terms gathered beside the logits; predictions are the logits alone."""
        ignored = {"hidden_states", "attentions", *(ignore_keys or [])} - set(TERMS)
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, sorted(ignored), metric_key_prefix
        )
        if isinstance(output.predictions, tuple):
            output = output._replace(predictions=output.predictions[0])
        return output

    def create_model_card(self, **options: Any) -> None:  # type: ignore[override]
        """Write ``result.json`` of the training, and ``README.md`` from it and the results of attacks beside it.

        Args:
            options: those of ``Trainer.create_model_card``; ``language``, ``license``, ``tags``, ``model_name``,
                ``finetuned_from`` and ``dataset`` are shown.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        card = {name: options[name] for name in ("language", "license", "tags") if options.get(name)}
        renamed = {"model_name": "model", "finetuned_from": "base_model", "dataset": "dataset"}
        named = {ours: _first(options[theirs]) for theirs, ours in renamed.items() if options.get(theirs)}
        result = {**(self.result or self._training_result()), **named}
        result["model"] = self.hub_model_id or result["model"]
        if card:
            result["card"] = card
        write_json(folder / "result.json", result)
        refresh_model_card(folder)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Push model, processing class, card and arguments; if that fails, the OSError says what the Hub holds."""
        if not self.is_world_process_zero():
            return super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
        name = self.hub_model_id or self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        with told_push(name, revision or getattr(self.args, "hub_revision", None), token or self.args.hub_token):
            return super().push_to_hub(commit_message, blocking, token, revision, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # transformers pushes weights, configuration and processing class only: here they cannot be loaded without code.
        if self.is_world_process_zero():
            for pattern in ("*.py", "preprocessor_config.json"):
                for path in Path(checkpoint_folder).glob(pattern):
                    shutil.copy(path, str(self.args.output_dir))
        super()._push_from_checkpoint(checkpoint_folder)

    def _training_result(self) -> dict[str, Any]:
        """The content of ``result.json``, as far as the trainer knows it."""
        config, state = self.model.config, self.state
        metrics: dict[str, float] = next((log for log in reversed(state.log_history) if "eval_nll" in log), {})
        ours = ("objective", "beta", "entropy_weight", "latent_size", "num_train_samples", "num_eval_samples")
        return {
            **provenance(),
            "kind": "train",
            "task": "image" if self.model.main_input_name == "pixel_values" else "text",
            "model": Path(str(self.args.output_dir)).absolute().name,
            "base_model": config.backbone_config._name_or_path or f"an untrained {config.backbone_config.model_type}",
            **{name: getattr(config, name) for name in (*ours, "freeze_backbone", "num_labels")},
            "dataset": _hub_name(self.train_dataset) or "a data set in memory",
            "num_train": _rows(self.train_dataset),
            "num_test": _rows(self.eval_dataset),
            "seed": self.args.seed,
            "epochs": state.epoch,
            "steps": state.global_step,
            "batch_size": self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            "learning_rate": self.args.learning_rate,
            "labels": list(config.id2label.values()),
            **how_trained(self.args),
            "metrics": {
                name.removeprefix("eval_"): value
                for name, value in metrics.items()
                if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second"))
            },
        }

    def _all_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the logits, means of the terms, the bounds, and whatever the user's function adds."""
        logits, *values = prediction.predictions
        terms = {name: np.asarray(value, dtype=np.float64) for name, value in zip(TERMS, values, strict=True)}
        metrics = {**classification_metrics(logits, prediction.label_ids), **bound_metrics(terms, self.model.config)}
        if self._user_metrics is not None:
            prediction.predictions = logits
            metrics.update(self._user_metrics(prediction))
        return metrics


def how_trained(args: VUBTrainingArguments, bottleneck: bool = True) -> dict[str, Any]:
    """What ``result.json`` and the card say of the optimization, beside batch size, epochs and learning rate.

    Args:
        args: of the training.
        bottleneck: whether ``VUBTrainer`` heeds what these arguments add to those of transformers.
    """
    paper = bottleneck and args.lr_decay == "paper"
    return {
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "lr_schedule": "0.97 every two epochs" if paper else str(getattr(args.lr_scheduler_type, "value", "")),
        "warmup": getattr(args, "warmup_ratio", None) or args.warmup_steps or None,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "precision": "bfloat16, mixed" if args.bf16 else "float16, mixed" if args.fp16 else "float32",
        "beta_schedule": args.beta_schedule if bottleneck else None,
    }


def bound_metrics(terms: dict[str, np.ndarray], config: Any) -> dict[str, float]:
    r"""Means of the terms and the three upper bounds on :math:`\beta I(Z;X) - I(Z;Y)`, from loosest to tightest.

    ``bound_vib`` is beta R + CE; ``bound_vub`` subtracts the mean of min{H(Y), H(c)}; ``bound_ib`` subtracts H(Y)
    itself, which is the tightest but has the gradient of vib. All in nats, and in bits with ``_bits`` at the end.
    """
    means = {name: float(values.mean()) for name, values in terms.items()}
    vib = config.beta * means["rate"] + means["cross_entropy"]
    nats = {
        "cross_entropy": means["cross_entropy"],
        "rate": means["rate"],
        "entropy": means["entropy"],
        "bound_vib": vib,
        "bound_vub": vib - float(np.minimum(terms["entropy"], config.entropy_cap).mean()),
        "bound_ib": vib - config.entropy_cap,
    }
    bits = {f"{name}_bits": value / NATS_PER_BIT for name, value in nats.items()}
    return {**nats, **bits, "posterior_entropy": means["posterior_entropy"]}


class _on_logits:
    """A user's ``preprocess_logits_for_metrics`` applied to the logits, the gathered terms passing by."""

    def __init__(self, function: Callable[[Any, Any], Any]):
        self.function = function

    def __call__(self, outputs: Any, labels: Any) -> Any:
        return (self.function(outputs[0], labels), *outputs[1:])


def _head_of(model: Any) -> Any:
    """The head of a VUB classifier, under whatever wrapper."""
    return next(module for module in model.modules() if hasattr(module, "latent_size"))


def _named_datasets(train: Any, evaluation: Any) -> Iterable[tuple[str, Any]]:
    several = evaluation if isinstance(evaluation, dict) else {}
    single = None if several else evaluation
    named = {
        "train_dataset": train,
        "eval_dataset": single,
        **{f"eval_dataset {name!r}": d for name, d in several.items()},
    }
    return [(name, dataset) for name, dataset in named.items() if dataset is not None]


def _hub_name(dataset: Any) -> str | None:
    """The name of a data set that was loaded from the Hub, as its files were called there."""
    files = getattr(getattr(dataset, "info", None), "download_checksums", None) or {}
    match = re.match(r"hf://datasets/([^@]+)@", next(iter(files), ""))
    return match and match.group(1)


def _rows(dataset: Any) -> int | None:
    return len(dataset) if hasattr(dataset, "__len__") and not isinstance(dataset, dict) else None


def _first(value: str | list[str]) -> str:
    return value if isinstance(value, str) else value[0]
