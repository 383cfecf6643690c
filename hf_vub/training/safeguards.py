"""Keep a training from going wrong unseen: finite losses, whole checkpoints, known rows, exact resuming."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, Sampler
from transformers import (
    BaseImageProcessor,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import TrainOutput

from ..data.record import TrainingRecord
from ..model.adapters import save_base
from ..model.trust import check_processor
from ..runs.schema import TrainResult
from .checkpoints import check_whole, last_checkpoint
from .rows import record_of

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel
    from typing_extensions import Unpack

_ALSO_CALLED = {"tokenizer": "processing_class", "optimizer": "optimizers", "dataset": "train_dataset"}


class PassedOn(TypedDict, total=False):
    """The keywords of ``Trainer`` that `VUBTrainer` passes on as they are."""

    processing_class: PreTrainedTokenizerBase | BaseImageProcessor | None
    data_collator: "Callable[..., dict[str, object]] | None"
    model_init: "Callable[..., PreTrainedModel] | None"
    compute_loss_func: "Callable[..., Tensor] | None"
    callbacks: "list[TrainerCallback] | None"
    optimizers: "tuple[Optimizer | None, LambdaLR | None]"
    optimizer_cls_and_kwargs: "tuple[type[Optimizer], dict[str, object]] | None"


class TrainerOptions(PassedOn, total=False):
    """The keywords of ``Trainer`` but the model."""

    args: TrainingArguments
    train_dataset: "Dataset[object] | datasets.Dataset | datasets.IterableDataset | None"
    eval_dataset: "Dataset[object] | datasets.Dataset | datasets.IterableDataset | dict[str, object] | None"
    compute_metrics: "Callable[[EvalPrediction], dict[str, float]] | None"
    preprocess_logits_for_metrics: "Callable[..., Tensor | tuple[Tensor, ...]] | None"


class WatchedTrainer(Trainer):
    """Train as ``Trainer`` does, but stop at a loss that is not finite, and save and resume whole checkpoints only.

    A step whose loss is NaN or infinite ends the training before it changes a weight; the error names the step, the
    term of the loss and the rows of the data set. Weights that are not finite are never saved, so the last checkpoint
    is good. Damaged checkpoints are passed over when ``resume_from_checkpoint=True``.

    Every checkpoint gets a record of the rows that it was trained on (``training_rows.safetensors``), if the model has
    one as ``training_record`` or ``train_dataset`` still has its texts or images.

    Raises:
        TypeError: for an unknown keyword.
        ValueError: for a ``processing_class`` that would write or copy files from outside its folder when saved.
        FloatingPointError: from ``train``, for a loss or weights that are not finite.
    """

    model: PreTrainedModel
    terms: dict[str, Tensor] = {}  # noqa: RUF012 - replaced, never filled
    """Per-sample terms of the last loss by name, which subclasses keep here for the diagnosis."""
    result: TrainResult | None = None
    """The content of ``result.json``, where somebody has made it; otherwise the card makes it."""
    _record: TrainingRecord | None = None
    _batches = (-1, 0)  # the last optimizer step, and the batches of it that were computed

    def __init__(self, model: nn.Module | None = None, **kwargs: "Unpack[TrainerOptions]"):
        _check_keywords(type(self).__name__, kwargs)
        check_processor(kwargs.get("processing_class"))
        training = kwargs.get("args")
        if training is not None and training.device.type in ("cpu", "mps"):
            training.dataloader_pin_memory = False  # it pins nothing there, and warns for every loader
        super().__init__(model, **kwargs)
        self.add_callback(_DatasetEpoch())

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
        **kwargs: Any,
    ) -> TrainOutput:
        """Train as ``Trainer`` does; ``resume_from_checkpoint=True`` takes the newest whole checkpoint.

        Raises:
            ValueError: there is no whole checkpoint to resume from.
            FloatingPointError: the loss or the weights are not finite.
        """
        self._begin()
        checkpoint = self._whole_checkpoint(resume_from_checkpoint)
        self._record = getattr(self.model, "training_record", None)
        if self._record is None:
            selected = self.eval_dataset if self.args.load_best_model_at_end else None
            self._record = record_of(self.train_dataset, selected)
        if checkpoint is not None and self.args.max_steps > 0:
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:  # the Trainer would take another step
                self._load_from_checkpoint(str(checkpoint))
                self.state = state
                self._finish()
                return TrainOutput(state.global_step, float("nan"), {})
        try:
            resumed = None if checkpoint is None else str(checkpoint)
            output: TrainOutput = super().train(resumed, trial, ignore_keys_for_eval, **kwargs)
        except UnpicklingError as error:
            raise ValueError(f"{checkpoint} has a file that does not hold tensors only; delete {checkpoint}") from error
        vars(self.model)["training_record"] = self._record
        self._finish()
        return output

    def _begin(self) -> None:
        """Forget what belongs to an earlier training; subclasses add to this."""

    def _finish(self) -> None:
        """Give the model the weights that are the training's result; subclasses add to this."""

    def best_step(self) -> int | None:
        """Return the step of the weights that were kept, where those of the best checkpoint were."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        return int(Path(best).name.rpartition("-")[2]) if best else None

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Compute the loss and the gradients of one batch."""
        step, batches = self._batches
        self._batches = (self.state.global_step, batches + 1 if step == self.state.global_step else 1)
        loss = self.accumulate_gradients(model, inputs, num_items_in_batch)
        if not bool(loss.isfinite()):
            raise FloatingPointError(self._diagnosis(inputs, float(loss)))
        return loss

    def accumulate_gradients(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Run the forward and backward passes of one batch, and return its loss."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def _whole_checkpoint(self, wanted: str | bool | None) -> Path | None:
        """Return the checkpoint to resume from, after a look at its files."""
        if wanted is True:
            newest = last_checkpoint(str(self.args.output_dir))
            if newest is None:
                raise ValueError(f"resume_from_checkpoint is True, but {self.args.output_dir} has no whole checkpoint")
            return newest
        return check_whole(wanted) if wanted else None

    def _get_train_sampler(self, train_dataset: "Dataset[object] | None" = None) -> Sampler[int] | None:
        sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return _EpochLengthGroupedSampler(sampler.batch_size, sampler.lengths, seed)
        return sampler

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if hasattr(self.model, "active_peft_config"):
            save_base(cast("PeftModel", self.model), Path(str(self.args.output_dir)) / "base")
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or str(self.args.output_dir))
        for weights in folder.glob("*.safetensors"):  # safetensors makes files that only their owner can read
            weights.chmod((folder / "training_args.bin").stat().st_mode)
        record = self._record or getattr(self.model, "training_record", None)
        if record is not None:
            record.save(folder)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not bool(parameter.isfinite().all()):
                raise FloatingPointError(
                    f"{name} is not finite after step {self.state.global_step}, though the loss was; it is not saved; "
                    f"{self._last_good()}; try a smaller learning rate, or max_grad_norm"
                )
        super()._save_checkpoint(model, trial)

    def _diagnosis(self, inputs: dict[str, Tensor], loss: float) -> str:
        """Say which term of which rows made the loss what it is, and what to do."""
        rows = self._rows_of_batch(inputs)
        about = f"the loss is {loss} at step {self.state.global_step + 1}"
        for name, values in self.terms.items():
            places = (~values.detach().isfinite()).nonzero().flatten().tolist()
            if places:
                bad = sorted({rows[place % len(rows)] for place in places}) if rows else places
                who = f"{'rows' if rows else 'places'} {_listed(bad)}"
                about += f": {name} is {float(values.detach()[places[0]])} for {who}"
                break
        batch = f"rows {_listed(rows)} of train_dataset" if rows else "unknown rows"
        return f"{about} in a batch of {batch}; {self._last_good()}; try a smaller learning rate or beta, or those rows"

    def _rows_of_batch(self, inputs: dict[str, Tensor]) -> list[int]:
        """Return the numbers in ``train_dataset`` of a batch's rows, found by going through the sampler again.

        It names the one bad row of a large data set, which nobody else would find. Empty for streams, and for samplers
        whose order cannot be repeated.
        """
        loader: Any = self.get_train_dataloader()
        sampler, done = getattr(loader, "batch_sampler", None), self.state.epoch or 0.0
        labels = inputs.get("labels")
        if sampler is None or labels is None or not hasattr(loader.dataset, "__getitem__"):
            return []
        epoch = int(done + 1e-6)
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        number = round((done - epoch) * len(loader)) + self._batches[1] - 1
        rows = [int(row) for row in next(islice(iter(sampler), number, None), [])]
        data = loader.dataset
        chosen = data.__getitems__(rows) if hasattr(data, "__getitems__") else [data[row] for row in rows]
        repeated = loader.collate_fn(chosen)["labels"] if rows else labels[:0]
        return rows if torch.equal(torch.as_tensor(repeated).cpu(), labels.cpu()) else []

    def _last_good(self) -> str:
        checkpoint = last_checkpoint(str(self.args.output_dir))
        return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"


class _EpochLengthGroupedSampler(LengthGroupedSampler):
    """Group rows of like length as transformers does, in an order that depends on the seed and the epoch alone.

    The order of transformers comes from the global random state, which a resumed run has at another point.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Accelerate calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(super().__iter__())


@runtime_checkable
class _DrawnByEpoch(Protocol):
    def set_epoch(self, epoch: int) -> None: ...


class _DatasetEpoch(TrainerCallback):
    """Tell a data set that draws by epoch, such as ``AugmentedImages``, which epoch begins."""

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: object = None,
        **kwargs: object,
    ) -> None:
        dataset = getattr(train_dataloader, "dataset", None)
        if isinstance(dataset, _DrawnByEpoch):
            dataset.set_epoch(int((state.epoch or 0.0) + 1e-6))


def _check_keywords(trainer: str, keywords: Iterable[str]) -> None:
    """Raise TypeError for a keyword that no ``Trainer`` takes, with the one that was probably meant."""
    known = list(inspect.signature(Trainer.__init__).parameters)[1:]
    for name in keywords:
        if name not in known:
            close = [_ALSO_CALLED[name]] if name in _ALSO_CALLED else difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{trainer} got an unexpected keyword argument {name!r}{hint}")


def _listed(numbers: list[int], most: int = 32) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"
