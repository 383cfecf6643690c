"""Schedules of beta and the learning rate: pure functions of the step."""

import math

from .arguments import BETA_SCHEDULES, check_choice


def scheduled_beta(
    schedule: str, beta: float, step: int, total_steps: int, *, warmup: float = 0.5, cycles: int = 4
) -> float:
    """Return beta at a step, a pure function of it.

    Args:
        schedule: "constant"; "linear" or "cosine": from 0 to ``beta`` over the first ``warmup`` of the training, then
            constant; "cyclic": ``cycles`` linear rises, each over the first ``warmup`` of its cycle (Fu et al., 2019).
        beta: the final value.
        step: finished optimizer steps.
        total_steps: optimizer steps of the whole training.
        warmup: a share above 0 and at most 1.
        cycles: at least 1, for "cyclic".

    Example:
        >>> [scheduled_beta("linear", 1.0, step, 8) for step in (0, 2, 4, 8)]
        [0.0, 0.5, 1.0, 1.0]
    """
    check_choice("beta_schedule", schedule, BETA_SCHEDULES)
    if schedule == "constant":
        return beta
    progress = min(1.0, step / max(1, total_steps))
    if schedule == "cyclic" and progress < 1.0:
        progress = (progress * cycles) % 1.0
    share = min(1.0, progress / warmup)
    return beta * (share if schedule != "cosine" else 0.5 - 0.5 * math.cos(math.pi * share))


class PaperDecay:
    """Multiply the learning rate by 0.97 every two epochs; a class, since the trainer saves its scheduler's state.

    Args:
        steps_per_epoch: optimizer steps, at least 1.
    """

    def __init__(self, steps_per_epoch: int):
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: int) -> float:
        """Return the factor of the learning rate at a step."""
        return 0.97 ** (step // self.steps_per_epoch // 2)
