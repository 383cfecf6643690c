"""The training arguments: those of transformers and what the objective adds."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

BETA_SCHEDULES = ("constant", "linear", "cosine", "cyclic")
LEARNING_RATE_DECAYS = ("transformers", "paper")


@dataclass
class VUBTrainingArguments(TrainingArguments):
    """What ``TrainingArguments`` takes, and how beta and the learning rate go.

    Attributes:
        beta_schedule: how the weight of the rate reaches the model's ``beta``: see :func:`scheduled_beta`.
        beta_warmup: share of the training (of each cycle for "cyclic") in which beta rises, above 0 and at most 1.
        beta_cycles: how often a cyclic schedule starts again.
        lr_decay: "transformers" for ``lr_scheduler_type``; "paper" for a factor of 0.97 every two epochs.
        information_plane: a JSON-lines file in ``output_dir`` with one line per epoch, see :class:`InformationPlane`.
    """

    _argument_group_name = "the training"

    beta_schedule: str = field(
        default="constant", metadata={"help": f"Course of beta during training: {', '.join(BETA_SCHEDULES)}."}
    )
    beta_warmup: float = field(
        default=0.5, metadata={"help": "Share of the training, or of a cycle, in which beta rises."}
    )
    beta_cycles: int = field(default=4, metadata={"help": "Cycles of the cyclic beta schedule."})
    lr_decay: str = field(
        default="transformers",
        metadata={"help": "'transformers' follows lr_scheduler_type; 'paper' multiplies by 0.97 every two epochs."},
    )
    information_plane: bool = field(
        default=True, metadata={"help": "Write information_plane.jsonl, one line per epoch, to output_dir."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        _one_of("lr_decay", self.lr_decay, LEARNING_RATE_DECAYS)
        if not 0 < self.beta_warmup <= 1:
            raise ValueError(f"beta_warmup is {self.beta_warmup}; it is a share above 0 and at most 1")
        if self.beta_cycles < 1:
            raise ValueError(f"beta_cycles is {self.beta_cycles}; it must be at least 1")

    def __getstate__(self) -> dict[str, Any]:
        # training_args.bin is pushed with the model, and must not publish who may push.
        return {**self.__dict__, "hub_token": None}


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
