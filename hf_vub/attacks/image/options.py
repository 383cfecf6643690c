"""The keyword arguments that attacks and report cards of images share, with their defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from ...data.sample import SampleOptions
from ..victim import Victim, check_counts


class ImageOptions(TypedDict, total=False):
    """What `attack_image` documents of every attack and report card of images."""

    processor: object
    num_examples: int | None
    how: str
    seed: int
    noise: str
    redraws: int
    batch_size: int
    output_dir: str | Path | None
    split: str | None
    image_column: str | None
    label_column: str | None
    match_labels: str
    column_names: str | Sequence[str] | None
    config_name: str | None
    revision: str | None
    trust_remote_code: bool
    device: str | torch.device | None
    progress: bool


_DEFAULTS: dict[str, object] = {
    **{"processor": None, "num_examples": 500, "how": "stratified", "seed": 0, "noise": "mean", "redraws": 20},
    **{"batch_size": 32, "output_dir": None, "split": None, "image_column": None, "label_column": None},
    **{"match_labels": "name", "column_names": None, "config_name": None, "revision": None},
    **{"trust_remote_code": False, "device": None, "progress": True},
}
_VICTIM = ("processor", "noise", "redraws", "batch_size", "device", "revision", "trust_remote_code")
_ROWS = ("num_examples", "how", "seed", "split", "label_column", "match_labels", "column_names", "config_name")


@dataclass(frozen=True)
class Job:
    """What is attacked, on which rows, and where the files go.

    Attributes:
        victim: the classifier; its ``batch_size`` is a number.
        rows: the images.
        folder: of the result; None saves nothing.
        progress: say which rows are attacked.
    """

    victim: Victim
    rows: SampleOptions
    folder: Path | None
    progress: bool


def read_job(model: nn.Module | str | Path, dataset: object, options: Mapping[str, Any], **defaults: object) -> Job:
    """Return the job that keyword arguments describe.

    Args:
        model: the classifier, as for `attack_image`.
        dataset: the data set, as for `attack_image`.
        options: keyword arguments of `ImageOptions`.
        defaults: what to take instead of the defaults of `attack_image`.

    Raises:
        TypeError: for an argument that does not exist.
        ValueError: for a value out of range.
    """
    if unknown := [name for name in options if name not in _DEFAULTS]:
        raise TypeError(f"{unknown[0]!r} is not an argument; the arguments are {', '.join(_DEFAULTS)}")
    given: dict[str, Any] = {**_DEFAULTS, **defaults, **options}
    if given["batch_size"] is None:
        raise ValueError("batch_size must be a whole number of at least 1, but is None")
    check_counts(batch_size=given["batch_size"])
    victim = Victim(model, **{name: given[name] for name in _VICTIM})
    rows = SampleOptions(dataset, column=given["image_column"], **{name: given[name] for name in _ROWS})
    folder = None if given["output_dir"] is None else Path(given["output_dir"])
    return Job(victim, rows, folder, given["progress"])
