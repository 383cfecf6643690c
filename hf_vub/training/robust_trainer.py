"""The part of the trainer that makes classifiers robust: adversaries, their guard, and averaged weights."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from ..data.preprocessing import tokenize
from ..model.modeling_vub import VUBOutput
from .adversary import IMAGE_ADVERSARIES, PixelAdversary, adversary_of, divergence, has_collapsed, symmetric_divergence
from .arguments import VUBTrainingArguments
from .embedding_adversary import EmbeddingAdversary
from .rows import FeatureRows, edited_rows
from .safeguards import TrainerOptions, WatchedTrainer
from .smoothing import noisy_datasets
from .weight_averaging import WeightAverage, save_training_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

ROBUST_ACCURACY = "robust_accuracy"
_SHIFT = "embedding_shift"


class RobustTrainer(WatchedTrainer):
    """Train against the adversary and the edits of the arguments, watch the adversary's success, and average weights.

    Raises:
        ValueError: for an adversary of the other medium, or for edits or one that the data or the model cannot have.
    """

    args: VUBTrainingArguments
    _average: WeightAverage | None = None
    _pixels: PixelAdversary | None = None
    _texts: EmbeddingAdversary | None = None

    def __init__(self, model: nn.Module | None = None, **kwargs: "Unpack[TrainerOptions]"):
        args, train, evaluation = kwargs["args"], kwargs.get("train_dataset"), kwargs.get("eval_dataset")
        if isinstance(args, VUBTrainingArguments) and args.perturb is not None and train is not None:
            edited = edited_rows(train, kwargs.get("processing_class"), args)
            kwargs["train_dataset"] = edited
            if isinstance(evaluation, Dataset) and "text" in evaluation.column_names:
                kwargs["eval_dataset"] = tokenize(evaluation, edited.tokenizer).remove_columns("length")
        if isinstance(args, VUBTrainingArguments) and args.smoothing is not None:
            noisy = partial(noisy_datasets, args=args, network=model, processor=kwargs.get("processing_class"))
            kwargs["train_dataset"], kwargs["eval_dataset"] = noisy(train, training=True), noisy(evaluation)
        if args.gradient_checkpointing and getattr(args, "adversary", None):  # the other kind has no gradient of inputs
            given = args.gradient_checkpointing_kwargs
            args.gradient_checkpointing_kwargs = {"use_reentrant": False, **(given if isinstance(given, dict) else {})}
        super().__init__(model, **kwargs)
        self.adversary = adversary_of(self.args)
        if self.adversary is not None:
            self._check_medium()
        if self.adversary is not None and self.adversary.kind == "freelb":
            self._texts = EmbeddingAdversary(self.adversary)
        if self.args.ema_decay is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema_decay averages whole weights, which FSDP and DeepSpeed split; leave it out")
            self.add_callback(_Averaging(self))
        self._pixel_adversary()

    def _check_medium(self) -> None:
        kind, medium = self.args.adversary, "image" if self.model.main_input_name == "pixel_values" else "text"
        if (kind in IMAGE_ADVERSARIES) != (medium == "image"):
            others = "'freelb'" if medium == "text" else ", ".join(map(repr, IMAGE_ADVERSARIES))
            raise ValueError(f"adversary is {kind!r}, but the model classifies {medium}s; use {others}")
        if isinstance(self.train_dataset, FeatureRows):
            raise ValueError(
                f"adversary is {kind!r}, but train_dataset holds cached features, which cannot be perturbed; "
                f"train on the {medium}s themselves"
            )

    @property
    def reports_robust_accuracy(self) -> bool:
        """Return whether evaluations attack some of their images."""
        image = self.adversary is not None and self.adversary.kind in IMAGE_ADVERSARIES
        return image and self.args.robust_eval_rows > 0

    def _pixel_adversary(self) -> PixelAdversary | None:
        """Return the adversary of the present model: ``model_init`` makes a new one for every training."""
        if self.adversary is None or self.adversary.kind not in IMAGE_ADVERSARIES:
            return None
        if self._pixels is None or self._pixels.model is not self.model:
            self._pixels = PixelAdversary(self.adversary, self.model, self.processing_class)
        return self._pixels

    def training_outputs(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[VUBOutput, Tensor | float]:
        """Return the outputs that the objective is computed of, and what is added to its mean.

        Args:
            model: in training mode, under whatever wrapper.
            inputs: a batch of the data set.
        """
        inputs = dict(inputs)
        pixels = self._pixel_adversary()
        if pixels is not None:
            with self.accelerator.autocast():
                perturbed = {**inputs, "pixel_values": pixels.perturbed(inputs["pixel_values"], inputs["labels"])}
            if pixels.adversary.kind != "trades":
                return model(**perturbed), 0.0
            clean = model(**inputs)
            change = divergence(clean.logits.log_softmax(dim=-1), model(**perturbed).logits)
            return clean, self.args.trades_weight * change.mean()
        shift = inputs.pop(_SHIFT, None)
        if shift is not None:
            inputs["inputs_embeds"] = self.model.get_input_embeddings()(inputs.pop("input_ids")) + shift
        outputs = model(**inputs)
        if self.args.consistency == 0:
            return outputs, 0.0
        clean, edited = outputs.logits.chunk(2)  # the order of EditedTexts, and of rows with two noisy copies
        return outputs, self.args.consistency * symmetric_divergence(clean, edited).mean()

    def accumulate_gradients(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Run the forward and backward passes of one batch: one, or with "freelb" one for each of its steps."""
        if self._texts is None:
            return super().accumulate_gradients(model, inputs, num_items_in_batch)
        inputs = self._prepare_inputs(inputs)
        mask, turns = inputs["attention_mask"], self._texts.adversary.steps
        words = self.model.get_input_embeddings()(inputs["input_ids"][:1, :1])
        shift = self._texts.start(mask, words.shape[-1])
        total = mask.new_zeros((), dtype=torch.float32)
        for turn in range(turns):
            shift.requires_grad_(True)
            with nullcontext() if turn == turns - 1 else self.accelerator.no_sync(model):
                loss = super().accumulate_gradients(model, {**inputs, _SHIFT: shift}, num_items_in_batch)
            assert shift.grad is not None
            total, shift = total + loss, self._texts.climb(shift, shift.grad, mask)
        return total

    @property
    def passes(self) -> int:
        """Return the number of backward passes over which a batch's gradient is averaged."""
        return 1 if self._texts is None else self._texts.adversary.steps

    def evaluation_loop(
        self,
        dataloader: DataLoader[object],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate the averaged weights, where there are any, and attack some images of an adversarial training."""
        with nullcontext() if self._average is None else self._average.applied():
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            if self.reports_robust_accuracy and output.metrics is not None and output.label_ids is not None:
                accuracy = self._robust_accuracy(dataloader)
                if accuracy is not None:
                    output.metrics[f"{metric_key_prefix}_{ROBUST_ACCURACY}"] = accuracy
                    if metric_key_prefix == "eval":
                        self._warn_of_collapse(accuracy)
        return output

    def _robust_accuracy(self, dataloader: DataLoader[object]) -> float | None:
        """Return the accuracy under PGD of rows drawn with the seed; None for a stream, which has no numbers."""
        pixels, dataset = self._pixel_adversary(), dataloader.dataset
        if pixels is None or not hasattr(dataset, "__len__"):
            return None
        order = np.random.default_rng(self.args.seed).permutation(len(dataset))
        rows = sorted(order[: self.args.robust_eval_rows].tolist())
        share = rows[self.args.process_index :: self.args.world_size]
        generator = torch.Generator(self.args.device).manual_seed(self.args.seed)
        counts = torch.tensor([0.0, 0.0], device=self.args.device)
        for first in range(0, len(share), self.args.eval_batch_size):
            chosen = [dataset[row] for row in share[first : first + self.args.eval_batch_size]]
            batch = self._prepare_inputs(dataloader.collate_fn(chosen))
            correct = pixels.correct(batch["pixel_values"], batch["labels"], generator)
            counts += torch.stack([correct.sum().float(), torch.ones_like(correct).sum().float()])
        right, total = self.accelerator.reduce(counts).tolist()
        return float(right / max(1.0, total))

    def _warn_of_collapse(self, accuracy: float) -> None:
        earlier = [log[f"eval_{ROBUST_ACCURACY}"] for log in self.state.log_history if f"eval_{ROBUST_ACCURACY}" in log]
        if has_collapsed(accuracy, max(earlier, default=0.0), self.model.config.num_labels):
            logger.warning(
                "The accuracy under PGD fell from %.2f to %.2f: training has overfitted its own adversary. Use "
                "adversary='pgd', a smaller epsilon or learning rate, and load_best_model_at_end with "
                "metric_for_best_model='%s'.",
                max(earlier),
                accuracy,
                ROBUST_ACCURACY,
            )

    def _begin(self) -> None:
        super()._begin()
        self._average = None

    def _finish(self) -> None:
        """Leave the model with its averaged weights, unless those of the best checkpoint were loaded."""
        if self._average is not None and self.best_step() is None:
            self._average.apply()
        self._average = None
        super()._finish()

    def begin_averaging(self) -> None:
        """Start the average at the model's present weights, unless a checkpoint has given one."""
        if self._average is None and self.args.ema_decay is not None:
            self._average = WeightAverage(self.model, self.args.ema_decay)

    def average_step(self) -> None:
        """Take the weights after an optimizer step into their average."""
        if self._average is not None:
            self._average.update(self.state.global_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.begin_averaging()
        if self._average is not None:
            self._average.resume(Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        if self._average is None:
            super()._save_checkpoint(model, trial)
            return
        with self._average.applied() as trained:
            super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.is_dir():
            save_training_weights(trained, folder)


class _Averaging(TrainerCallback):
    """Average the weights after every step, before an evaluation or a checkpoint of that step."""

    def __init__(self, trainer: RobustTrainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.trainer.begin_averaging()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.trainer.average_step()
