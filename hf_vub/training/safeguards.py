"""What keeps a training from going wrong unseen: finite losses, whole checkpoints, warnings of a dead bottleneck."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from ..model.trust import check_processor
from ..runs.files import read_json


class WatchedTrainer(Trainer):
    """A ``Trainer`` that stops at a loss that is not a number, and saves and resumes good checkpoints only.

    A step whose loss is NaN or infinite ends the training before it changes a weight, with the step, the term of the
    loss and the rows of the data set. Weights that are not finite are never saved, so the last checkpoint is good. A
    checkpoint that a killed run left unfinished is passed over when ``resume_from_checkpoint=True``.

    Raises:
        ValueError: for a ``processing_class`` that would write or copy files from outside its folder when saved.
        FloatingPointError: from ``train``, for a loss or weights that are not finite.
    """

    model: Any
    terms: dict[str, Tensor] = {}  # noqa: RUF012 - replaced, never filled
    """Per-sample terms of the last loss, by name, which subclasses keep here for the diagnosis."""
    _batches = (-1, 0)  # the last optimizer step, and the batches of it that were computed

    def __init__(self, *args: Any, processing_class: Any = None, **kwargs: Any):
        check_processor(processing_class)
        super().__init__(*args, processing_class=processing_class, **kwargs)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as ``Trainer`` does; ``resume_from_checkpoint=True`` takes the last whole checkpoint."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(f"resume_from_checkpoint is True, but {self.args.output_dir} has no whole checkpoint")
        if isinstance(resume_from_checkpoint, str) and self.args.max_steps > 0:
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:  # the Trainer would do another step
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, float("nan"), {})
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Loss and gradients of one batch."""
        step, batches = self._batches
        self._batches = (self.state.global_step, batches + 1 if step == self.state.global_step else 1)
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not bool(loss.isfinite()):
            raise FloatingPointError(self._diagnosis(inputs, float(loss)))
        return loss

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not bool(parameter.isfinite().all()):
                raise FloatingPointError(
                    f"{name} is not finite after step {self.state.global_step}, though the loss was; it is not saved; "
                    f"{self._last_good()}; try a smaller learning rate, or max_grad_norm"
                )
        super()._save_checkpoint(*args, **kwargs)

    def _diagnosis(self, inputs: dict[str, Any], loss: float) -> str:
        """Which term of which rows made the loss what it is, and what to do."""
        rows = self._rows(inputs)
        about = f"the loss is {loss} at step {self.state.global_step + 1}"
        for name, values in self.terms.items():
            places = (~values.detach().isfinite()).nonzero().flatten().tolist()
            if places:
                who = f"rows {_listed([rows[place] for place in places])}" if rows else f"places {_listed(places)}"
                about += f": {name} is {float(values.detach()[places[0]])} for {who}"
                break
        batch = f"rows {_listed(rows)} of train_dataset" if rows else "unknown rows"
        return f"{about} in a batch of {batch}; {self._last_good()}; try a smaller learning rate or beta, or those rows"

    def _rows(self, inputs: dict[str, Any]) -> list[int]:
        """Numbers in ``train_dataset`` of the batch at hand, found by going through the sampler again.

        None where that cannot tell: for streams, and for samplers whose order cannot be repeated.
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
        found = loader.collate_fn([loader.dataset[row] for row in rows])["labels"] if rows else labels[:0]
        return rows if torch.equal(torch.as_tensor(found).cpu(), labels.cpu()) else []

    def _last_good(self) -> str:
        known = last_checkpoint(str(self.args.output_dir))
        return f"the last good checkpoint is {known}" if known else "there is no checkpoint yet"


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint of a ``Trainer`` in the folder that was written to its end, or None."""
    found = {}
    for path in Path(folder).glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if number.isdecimal() and _is_whole(path):
            found[int(number)] = path
    return str(found[max(found)]) if found else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether the file that a ``Trainer`` writes last is there and whole."""
    try:
        state = read_json(checkpoint / "trainer_state.json")
    except (OSError, ValueError):
        return False
    return f"checkpoint-{state.get('global_step')}" == checkpoint.name


def _listed(numbers: list[int], most: int = 32) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"
