"""The information plane of a training: how much the bottleneck keeps of the input, and how much of the label."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..model.configuration_vub import VUBConfig
from ..model.information import prior_entropy
from ..runs.files import read_records, write_text
from ..sweep.collapse import collapse_warnings
from .checks import check_model

logger = logging.getLogger(__name__)

# The per-sample outputs of the model that the trainer sums over steps and gathers in evaluation, in this order.
TERMS = ("rate", "cross_entropy", "entropy", "posterior_entropy")


class InformationPlane(TrainerCallback, ExportableState):
    """Average the objective's terms over log windows and epochs, and write one JSON line per epoch.

    A line of ``information_plane.jsonl`` holds ``epoch``, ``step`` and, for the training pass and under ``held_out``
    for the evaluation at the same step: ``rate`` and ``cross_entropy`` in nats, ``information_x`` = H(R) - H(Z|X), the
    paper's estimate of I(Z;X) in nats, and ``information_y`` = 1 / cross-entropy, its analogue of I(Z;Y) (Figure 3).

    The sums are saved in the trainer's checkpoints, so a resumed run writes what an undisturbed one would have written.
    For the same reason, an evaluation or a checkpoint due at the last step of an epoch waits for the epoch's end: in
    between, it would belong to neither epoch. Warns once when the bottleneck collapses, see `collapse_warnings`.

    Args:
        latent_size: size of z.
        reduce: sums a tensor over processes.
    """

    def __init__(self, latent_size: int, reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor):
        self.latent_size = latent_size
        self.reduce = reduce
        self.window: Tensor | None = None
        self.epoch: Tensor | None = None
        self.due: list[str] = []
        self.warned: set[str] = set()

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add one batch of per-sample terms, each of shape (batch,)."""
        stacked = torch.stack([terms[name].detach() for name in TERMS]).double()
        sums = torch.cat([stacked.sum(1), stacked.new_tensor([stacked.shape[1]])])
        self.window = sums if self.window is None else self.window + sums
        self.epoch = sums if self.epoch is None else self.epoch + sums

    def window_means(self) -> dict[str, float]:
        """Return the means of the terms since the last call."""
        sums, self.window = self.window, None
        return self._means(sums)

    def _means(self, sums: Tensor | None) -> dict[str, float]:
        if sums is None:
            return {}
        *totals, count = self.reduce(sums).tolist()
        return {name: total / count for name, total in zip(TERMS, totals, strict=True)}

    def _warn_of_collapse(self, means: dict[str, float], config: VUBConfig) -> None:
        weights = {name: getattr(config, name) for name in ("objective", "beta", "entropy_weight")}
        for problem, advice in collapse_warnings(means, **weights, label_entropy=config.entropy_cap).items():
            if problem not in self.warned:
                self.warned.add(problem)
                logger.warning("%s: %s", problem, advice)

    def _point(self, means: dict[str, float]) -> dict[str, float]:
        return {
            "rate": means["rate"],
            "cross_entropy": means["cross_entropy"],
            "information_x": prior_entropy(self.latent_size) - means["posterior_entropy"],
            "information_y": 1.0 / max(means["cross_entropy"], 1e-12),
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Restore the sums of a resumed run, and drop the lines of epochs that it will repeat."""
        callbacks: Any = state.stateful_callbacks or {}  # transformers calls it a list
        saved = callbacks.get(type(self).__name__, {}).get("attributes", {}) if state.global_step else {}
        self.window, self.epoch = (
            torch.tensor(saved[name], dtype=torch.float64, device=args.device) if saved.get(name) else None
            for name in ("window", "epoch")
        )
        if _wanted(args) and state.is_world_process_zero and self._path(args).exists():
            self._write(args, [line for line in read_records(self._path(args)) if line["step"] <= state.global_step])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Postpone an evaluation or a checkpoint that is due at the last step of an epoch."""
        if float(state.epoch or 0).is_integer():
            self.due = [name for name in ("should_evaluate", "should_save") if getattr(control, name)]
            for name in self.due:
                setattr(control, name, False)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: object,
    ) -> None:
        """Write the line of this epoch, and do what was postponed."""
        for name in self.due:
            setattr(control, name, True)
        means, self.epoch, self.due = self._means(self.epoch), None, []
        if means and model is not None:
            self._warn_of_collapse(means, check_model(model))
        if means and _wanted(args) and state.is_world_process_zero:
            line = {"epoch": round(state.epoch or 0), "step": state.global_step, **self._point(means), "held_out": None}
            self._write(args, [*read_records(self._path(args)), line])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Add the held-out values to the line of this epoch."""
        metrics = metrics or {}
        if not (_wanted(args) and state.is_world_process_zero and self._path(args).exists()):
            return
        lines = list(read_records(self._path(args)))
        held_out = {name: metrics[f"eval_{name}"] for name in TERMS if f"eval_{name}" in metrics}
        if lines and lines[-1]["step"] == state.global_step and len(held_out) == len(TERMS):
            lines[-1]["held_out"] = self._point(held_out)
            self._write(args, lines)

    def state(self) -> dict[str, dict[str, object]]:
        """Return what a checkpoint keeps: the sums of the open window and the open epoch."""
        sums = {"window": self.window, "epoch": self.epoch}
        return {
            "args": {"latent_size": self.latent_size},
            "attributes": {name: None if value is None else value.tolist() for name, value in sums.items()},
        }

    def _path(self, args: TrainingArguments) -> Path:
        return Path(str(args.output_dir)) / "information_plane.jsonl"

    def _write(self, args: TrainingArguments, lines: Sequence[Mapping[str, object]]) -> None:
        write_text(self._path(args), "".join(json.dumps(line) + "\n" for line in lines))


def _wanted(args: TrainingArguments) -> bool:
    """Return whether the file is written: plain training arguments do not say so."""
    return bool(getattr(args, "information_plane", False))
