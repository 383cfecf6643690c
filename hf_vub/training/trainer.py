"""The trainer of VUB classifiers: it computes the objective, reports its terms and writes the card."""

import logging
import math
import shutil
from collections.abc import Callable, Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput

from ..data.record import RECORD_FILE
from ..metrics.classification import classification_metrics
from ..model.modeling_vub import VUBOutput, VUBPreTrainedModel
from ..model.objectives import Terms, objective_loss
from ..runs.pushing import report_failed_push
from ..runs.schema import TrainResult
from .arguments import VUBTrainingArguments, choose_defaults
from .bounds import bound_metrics
from .checks import check_arguments, check_best_metric, check_datasets, check_model, named_datasets
from .information_plane import TERMS, InformationPlane
from .result import plain_metrics, training_result, write_card
from .robust_trainer import ROBUST_ACCURACY, RobustTrainer
from .rows import hub_name
from .safeguards import PassedOn
from .schedules import PaperDecay, scheduled_beta
from .types import Data

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

LogitsFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Evaluation = tuple[int, dict[str, float], object]
"""Step of the evaluated weights, metrics, and the data set they are of."""


class VUBTrainer(RobustTrainer):
    r"""Train VUB classifiers as ``Trainer`` does: compute the objective and report its terms.

    The loss is the mean over the batch of

    .. math:: \beta_t R(x) + CE(y, c(z)) - w\min\{H(Y), H(c(y|z))\}

    with the model's objective and weights, and with beta as its schedule gives it at this step. In training the log
    has the means of ``rate``, ``cross_entropy`` and ``entropy`` (nats) and ``beta``; in evaluation also ``accuracy``,
    ``nll``, ``brier``, ``ece`` and the three bounds on ``beta I(Z;X) - I(Z;Y)``, in nats and in bits. Evaluation uses
    the model's own beta, so that its losses can be compared along a schedule.

    With ``freeze_backbone=True`` in the model's configuration only the head trains. Its features are the same in every
    epoch: :func:`~hf_vub.training.feature_rows` computes them once, which makes such a training many times faster.

    Args:
        model: a VUB classifier, also as a PEFT model. Nothing else has the terms. None with ``model_init``.
        args: :class:`VUBTrainingArguments`; what nobody set is chosen for a whole model or for a head alone.
        compute_metrics: as for ``Trainer``; it sees the logits and the labels, and its metrics join the ones above.
        kwargs: everything else that ``Trainer`` takes: ``processing_class``, ``model_init``, ``callbacks``, ...

    Raises:
        TypeError: for another model, plain training arguments, or an unknown keyword.
        ValueError: for what would bypass the objective (``label_smoothing_factor``, ``compute_loss_func``), for an
            empty data set, for labels that are no class numbers, and for an unknown ``metric_for_best_model``.

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
    model: VUBPreTrainedModel
    _plane: InformationPlane | None = None
    _evaluation: Evaluation | None = None  # the last one with the prefix "eval"

    def __init__(
        self,
        model: nn.Module | None = None,
        args: VUBTrainingArguments | None = None,
        *,
        train_dataset: Data | None = None,
        eval_dataset: Data | dict[str, Data] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        preprocess_logits_for_metrics: LogitsFunction | None = None,
        **kwargs: "Unpack[PassedOn]",
    ):
        args = VUBTrainingArguments() if args is None else args
        check_arguments(args, kwargs.get("compute_loss_func"))
        config = None if model is None else check_model(model)
        if config is not None:
            choose_defaults(args, frozen=config.freeze_backbone)
        elif kwargs.get("model_init") is None:
            raise TypeError("VUBTrainer needs a model, or a model_init that makes one")
        named = named_datasets(train_dataset, eval_dataset)
        check_datasets(named, None if config is None else config.num_labels)
        on_logits = None if preprocess_logits_for_metrics is None else _OnLogits(preprocess_logits_for_metrics)
        self._user_metrics = compute_metrics
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=self._all_metrics,
            preprocess_logits_for_metrics=on_logits,
            **kwargs,
        )
        if model is None:
            check_datasets(named, self.model.config.num_labels)
        if compute_metrics is None and not isinstance(eval_dataset, dict):
            no_terms = {name: np.zeros(1) for name in TERMS}
            metrics = {**classification_metrics([[0.0, 1.0]], [1]), **bound_metrics(no_terms, check_model(self.model))}
            check_best_metric(args, metrics | ({ROBUST_ACCURACY: 0.0} if self.reports_robust_accuracy else {}))
        self._plane = InformationPlane(_latent_size(self.model), reduce=self.accelerator.reduce)
        self.add_callback(self._plane)

    def _begin(self) -> None:
        super()._begin()
        self._evaluation = None  # of other weights

    def call_model_init(self, trial: object = None) -> PreTrainedModel:
        """Make the model of a training or trial, which must be a VUB classifier."""
        model: PreTrainedModel = super().call_model_init(trial)
        choose_defaults(self.args, frozen=check_model(model).freeze_backbone)
        if self._plane is not None:
            self._plane.latent_size = _latent_size(model)  # a trial may choose it
        return model

    @property
    def beta(self) -> float:
        """Return the weight of the rate at the current step."""
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
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, VUBOutput]:
        """Return the mean of the objective over the batch, in nats."""
        if "labels" not in inputs:
            raise ValueError("the batch has no labels; the objective needs a column 'labels' (or 'label')")
        added: Tensor | float = 0.0
        if model.training:
            outputs, added = self.training_outputs(model, inputs)
        else:
            outputs = model(**inputs)
        config = self.model.config
        losses = objective_loss(
            config.objective,
            Terms(outputs["rate"], outputs["cross_entropy"], outputs["entropy"]),
            beta=self.beta if model.training else config.beta,
            label_entropy=config.entropy_cap,
            entropy_weight=config.entropy_weight,
        )
        if model.training:
            self.terms = {name: outputs[name] for name in TERMS}
            if self._plane is not None:
                self._plane.add(self.terms)
        loss = (losses.mean() + added) / (self.passes if model.training else 1)
        return (loss, outputs) if return_outputs else loss

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Make the scheduler of ``lr_scheduler_type``, or the paper's decay: 0.97 every two epochs."""
        optimizer = optimizer or self.optimizer
        assert optimizer is not None  # made before its scheduler
        if self.args.lr_decay == "paper" and self.lr_scheduler is None:
            epochs = self.args.num_train_epochs
            if self.args.max_steps > 0:
                try:
                    batches = len(self.get_train_dataloader())
                except TypeError:
                    raise ValueError("lr_decay='paper' counts epochs, and this train_dataset has no length") from None
                epochs = num_training_steps / max(1, batches // self.args.gradient_accumulation_steps)
            steps_per_epoch = max(1, math.ceil(num_training_steps / epochs))
            self.lr_scheduler = LambdaLR(optimizer, PaperDecay(steps_per_epoch))
            self._created_lr_scheduler = True
        scheduler: LRScheduler = super().create_scheduler(num_training_steps, optimizer)
        return scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the means of the objective's terms since the last log of training."""
        if "loss" in logs and self._plane is not None:
            means = self._plane.window_means()
            logs.update({name: means[name] for name in ("cross_entropy", "rate", "entropy") if name in means})
            logs["beta"] = self.beta
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: DataLoader[object],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the loop of ``Trainer`` with the terms gathered next to the logits; predictions are the logits alone."""
        ignored = {"hidden_states", "attentions", "probabilities", *(ignore_keys or [])} - set(TERMS)
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, sorted(ignored), metric_key_prefix
        )
        if isinstance(output.predictions, tuple):
            output = output._replace(predictions=output.predictions[0])
        return output

    def evaluate(
        self,
        eval_dataset: Data | dict[str, Data] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate as ``Trainer`` does; the card shows the last evaluation whose metrics are called ``eval_...``."""
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if "eval_nll" in metrics:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            self._evaluation = (self.state.global_step, metrics, rows)
        return metrics

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = self.best_step()
        logs = [log for log in self.state.log_history if log.get("step") == best and "eval_nll" in log]
        self._evaluation = (self.state.global_step, logs[-1], self.eval_dataset) if logs else None

    def create_model_card(self, *args: object, **options: object) -> None:
        """Write ``result.json`` of the training, and ``README.md`` from it and the results of attacks next to it.

        Args:
            args: as ``options``, in the order of ``Trainer.create_model_card``.
            options: those of ``Trainer.create_model_card``; ``language``, ``license``, ``tags``, ``model_name``,
                ``finetuned_from`` and ``dataset`` are shown.
        """
        if not self.is_world_process_zero():
            return
        options |= dict(zip(("language", "license", "tags", "model_name", "finetuned_from"), args, strict=False))
        card = {name: options[name] for name in ("language", "license", "tags") if options.get(name)}
        result = self.result or self._training_result()
        write_card(
            self,
            replace(
                result,
                model=_first(options.get("model_name")) or result.model,
                base_model=_first(options.get("finetuned_from")) or result.base_model,
                dataset=_first(options.get("dataset")) or result.dataset,
                card=card or result.card,
            ),
        )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Push model, processing class, card and arguments; the OSError of a failed push says what the Hub holds."""
        if not self.is_world_process_zero():
            return super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
        name = self.hub_model_id or self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        with report_failed_push(
            name, revision or getattr(self.args, "hub_revision", None), token or self.args.hub_token
        ):
            return super().push_to_hub(commit_message, blocking, token, revision, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # transformers pushes weights, configuration and processing class only: here they cannot be loaded without code.
        if self.is_world_process_zero():
            for pattern in ("*.py", "preprocessor_config.json", RECORD_FILE):
                for path in Path(checkpoint_folder).glob(pattern):
                    shutil.copy(path, str(self.args.output_dir))
        super()._push_from_checkpoint(checkpoint_folder)

    def _training_result(self) -> TrainResult:
        """Return the content of ``result.json``, as far as the trainer knows it."""
        config = check_model(self.model)
        backbone = config.backbone_config
        assert backbone is not None  # no model is built without
        metrics, tested = self._metrics_of_weights()
        ours = ("objective", "beta", "entropy_weight", "latent_size", "num_train_samples", "num_eval_samples")
        selected = self.best_step() is not None
        chosen = "; the best checkpoint was chosen on eval_dataset" if selected else ""
        return training_result(
            self,
            bottleneck=True,
            task="image" if self.model.main_input_name == "pixel_values" else "text",
            model=Path(str(self.args.output_dir)).absolute().name,
            base_model=backbone._name_or_path or f"an untrained {backbone.model_type}",
            **{name: getattr(config, name) for name in (*ours, "pooling", "freeze_backbone", "num_labels")},
            dataset=hub_name(self.train_dataset) or "a data set in memory",
            num_train=_rows(self.train_dataset),
            num_validation=_rows(self.eval_dataset) if selected else None,
            num_test=_rows(tested),
            data_rows=f"trained on {_counted(self.train_dataset)}; evaluated on {_counted(tested)}{chosen}",
            labels=tuple((config.id2label or {}).values()),
            metrics=plain_metrics(metrics, "eval_"),
        )

    def _metrics_of_weights(self) -> tuple[dict[str, float], object]:
        """Return the metrics of the weights that the model has now, and the data set they are of."""
        step = self.state.global_step
        if self._evaluation is None or self._evaluation[0] != step:
            logged = any("eval_nll" in log for log in self.state.log_history)
            if not logged:
                return {}, self.eval_dataset
            if self.args.world_size > 1 or self.eval_dataset is None:  # the other processes are not here
                logger.warning("The weights of step %d were not evaluated: the card shows no metrics.", step)
                return {}, self.eval_dataset
            self.evaluate()
        _, metrics, tested = self._evaluation or (step, {}, self.eval_dataset)
        return metrics, tested

    def _all_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return metrics of the logits, means of the terms, the bounds, and whatever the user's function adds."""
        logits, *values = prediction.predictions
        terms = {name: np.asarray(value, dtype=np.float64) for name, value in zip(TERMS, values, strict=True)}
        metrics = {
            **classification_metrics(logits, prediction.label_ids),
            **bound_metrics(terms, check_model(self.model)),
        }
        if self._user_metrics is not None:
            # A new one: it unpacks into what it was made with, whatever is assigned later.
            of_logits = EvalPrediction(
                predictions=logits,
                label_ids=prediction.label_ids,
                inputs=prediction.inputs,
                losses=prediction.losses,
            )
            metrics.update(self._user_metrics(of_logits))
        return metrics


class _OnLogits:
    """Apply a user's ``preprocess_logits_for_metrics`` to the logits, and pass the gathered terms on."""

    def __init__(self, function: LogitsFunction):
        self.function = function

    def __call__(self, outputs: tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, ...]:
        return (self.function(outputs[0], labels), *outputs[1:])


def _latent_size(model: nn.Module) -> int:
    """Return the size of z of a VUB classifier, under whatever wrapper."""
    return next(int(getattr(module, "latent_size")) for module in model.modules() if hasattr(module, "latent_size"))  # noqa: B009


def _rows(dataset: object) -> int | None:
    return len(dataset) if isinstance(dataset, Sized) and not isinstance(dataset, dict) else None


def _counted(dataset: object) -> str:
    rows = _rows(dataset)
    return "no rows" if dataset is None else "a stream" if rows is None else f"{rows:,} rows"


def _first(value: object) -> str:
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return str(first or "")
