"""Progress of a training in lines of text, for terminals and for log files."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_LEFT_OUT = ("epoch", "total_flos", "step")
_LEFT_OUT_ENDINGS = ("_per_second", "_bits", "_runtime", "_memory_reserved")


class ProgressLines(TrainerCallback):
    """Write one line for every logging event and evaluation, and one a minute where nothing else is logged.

    A line reads ``step 120/465, epoch 0.77, 34 s: loss 0.432, learning_rate 4.7e-05, rate 2.13``. Lines go to stderr,
    so that what a script prints to stdout stays clean.

    Args:
        stream: takes the lines; stderr by default.
        clock: seconds, for the seconds in the lines.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self.stream, self.clock = stream, clock
        self.started = self.last_line = clock()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Say how long the training is."""
        self._write(
            state,
            f"training for {state.num_train_epochs} epochs at learning rate {float(args.learning_rate):g}, "
            f"{args.train_batch_size * args.gradient_accumulation_steps * args.world_size} rows a step",
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        """Write what was logged."""
        shown = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in (logs or {}).items()
            if name not in _LEFT_OUT and not name.endswith(_LEFT_OUT_ENDINGS)
        ]
        if shown:
            self._write(state, ", ".join(shown))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Show life where steps are slow or seldom logged."""
        if self.clock() - self.last_line >= 60:
            self._write(state, "training")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Show life during a long evaluation."""
        if self.clock() - self.last_line >= 60:
            self._write(state, "evaluating")

    def _write(self, state: TrainerState, text: str) -> None:
        if not state.is_world_process_zero:
            return
        self.last_line = self.clock()
        place = f"step {state.global_step}/{state.max_steps}, epoch {state.epoch or 0:.2f}, " if state.max_steps else ""
        line = f"{place}{self.last_line - self.started:.0f} s: {text}"
        tqdm.write(line, file=self.stream or sys.stderr)  # clears a bar before the line, and draws it again
        (self.stream or sys.stderr).flush()


class SilentBar(ProgressCallback):
    """Show the bars of transformers without its lines, which would go to stdout."""

    def on_log(self, *args: object, **kwargs: object) -> None:
        """Leave the lines to :class:`ProgressLines`."""
