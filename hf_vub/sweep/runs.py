"""The specification of a sweep: one ``HeadRun`` per head, and the ``Settings`` that all of them share."""

import math
from dataclasses import dataclass

from ..model.configuration_vub import Objective


@dataclass(frozen=True)
class HeadRun:
    """One run of a sweep.

    Args:
        objective: "ce", "vib" or "vub".
        beta: weight of the rate, at least 0.
        entropy_weight: weight of the min term of vub, at least 0.
        seed: of the initialisation, the order of the data and the noise, at least 0.

    Raises:
        ValueError: for an unknown objective or a weight or seed out of range.
    """

    objective: str = Objective.VUB.value
    beta: float = 1e-3
    entropy_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", Objective.parse(self.objective).value)
        for name in ("beta", "entropy_weight", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a finite number of at least 0")


@dataclass(frozen=True)
class Settings:
    """Settings that all runs of a sweep share.

    Args:
        num_labels: classes.
        label_entropy: H(Y) in nats, the cap of the min term.
        latent_size: size of z; None is half the feature size.
        batch_size: rows in a step; the last batch of an epoch may be smaller.
        learning_rate: of Adam in the first epoch.
        decay: factor on the learning rate after every ``decay_epochs`` epochs.
        decay_epochs: see ``decay``.

    Raises:
        ValueError: a size below 1, or a rate that is not a positive number.
    """

    num_labels: int
    label_entropy: float
    latent_size: int | None = None
    batch_size: int = 16
    learning_rate: float = 1e-4
    decay: float = 0.97
    decay_epochs: int = 2

    def __post_init__(self) -> None:
        sizes = {"batch_size": self.batch_size, "decay_epochs": self.decay_epochs}
        check_sizes(**sizes, latent_size=1 if self.latent_size is None else self.latent_size)
        for name, value in {"learning_rate": self.learning_rate, "decay": self.decay}.items():
            if not 0 < value <= 100:
                raise ValueError(f"{name} is {value}; it must be above 0 and at most 100")

    def learning_rate_in(self, epoch: int) -> float:
        """Return the learning rate in an epoch, counted from 0."""
        return self.learning_rate * self.decay ** (epoch // self.decay_epochs)


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for a size below 1, naming it."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")
