"""What a smoothed classifier is besides its base classifier: the noise, how many copies vote, and the level."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from ..data.noise import Noise, parse_noise
from ..data.sample import check_counts
from ..model.trust import read_config
from ..runs.files import read_json, write_json
from .tally import Tally

FIELD = "smoothing"
"""Field of a checkpoint's configuration: a dictionary of noise, n0, n and alpha."""

_LOOKS = 10  # times at which an example may be given up


@dataclass(frozen=True)
class Smoothing:
    """How votes are drawn and bounded.

    Attributes:
        noise: of the copies.
        n0: copies that choose the class.
        n: further copies that bound its vote.
        alpha: probability of a wrong certificate, at most.

    Raises:
        ValueError: a number is out of range, or too few copies could never give a certificate.
    """

    noise: Noise
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        check_counts(n0=self.n0, n=self.n)
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; it must be above 0 and below 1")
        if self.alpha ** (1 / self.n) <= 0.5:
            raise ValueError(
                f"n is {self.n}; with alpha={self.alpha} not even {self.n} equal votes give a certificate: use more"
            )

    def settings(self) -> dict[str, object]:
        """Return it as JSON holds it, in results and in the configuration of a checkpoint."""
        return {"noise": str(self.noise), "n0": self.n0, "n": self.n, "alpha": self.alpha}

    def tally(self, classes: int) -> Tally:
        """Return a tally without votes."""
        return Tally(classes, self.n0, self.n, self.alpha)

    def blocks(self) -> list[int]:
        """Return how many copies are drawn between two looks at the votes."""
        size = -(-self.n // _LOOKS)
        return [self.n0, *(min(size, self.n - start) for start in range(0, self.n, size))]


def stored_smoothing(
    model: nn.Module | str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> Mapping[str, object]:
    """Return what the configuration of a checkpoint says: any of noise, n0, n and alpha.

    Raises:
        ValueError: the field is no dictionary of these.
        OSError: there is no such checkpoint.
    """
    if isinstance(model, nn.Module):
        stored = getattr(getattr(model, "config", None), FIELD, None)
    else:
        stored = read_config(str(model), revision=revision, trust_remote_code=trust_remote_code).get(FIELD)
    if stored is None:
        return {}
    names = [field.name for field in fields(Smoothing)]
    if not isinstance(stored, Mapping) or not set(stored) <= set(names):
        raise ValueError(f"{FIELD} of the configuration is {stored!r}; it must be a dictionary of {', '.join(names)}")
    return stored


def choose_smoothing(
    stored: Mapping[str, object], noise: str | None, n0: int | None, n: int | None, alpha: float | None
) -> Smoothing:
    """Return the smoothing that was asked for, completed by what the checkpoint stores.

    Raises:
        ValueError: neither says which noise, or a value is out of range.
    """
    asked = {"noise": noise, "n0": n0, "n": n, "alpha": alpha}
    chosen: dict[str, Any] = {**stored, **{name: value for name, value in asked.items() if value is not None}}
    if chosen.get("noise") is None:
        raise ValueError(
            "noise is None, and the checkpoint stores none: give 'delete:0.95', 'mask:0.7' or 'gaussian:0.25'"
        )
    return Smoothing(**{**chosen, "noise": parse_noise(chosen["noise"])})


def store_smoothing(model: str | Path, smoothing: Smoothing) -> None:
    """Write a smoothing into the configuration of a checkpoint, so that it answers as a smoothed classifier.

    Args:
        model: folder of the checkpoint.
        smoothing: what certificates and `smoothed_pipeline` then use.

    Raises:
        OSError: the folder has no ``config.json``.
    """
    path = Path(model) / "config.json"
    write_json(path, {**read_json(path), FIELD: smoothing.settings()})
