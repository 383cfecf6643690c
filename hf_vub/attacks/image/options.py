"""The keyword arguments that attacks and report cards of images share, with their defaults."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import nn

from ...data.sample import SampleOptions
from ..victim import Victim


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


_DEFAULTS: ImageOptions = {
    "processor": None, "num_examples": 500, "how": "stratified", "seed": 0, "noise": "mean", "redraws": 20,
    "batch_size": 32, "output_dir": None, "split": None, "image_column": None, "label_column": None,
    "match_labels": "name", "column_names": None, "config_name": None, "revision": None,
    "trust_remote_code": False, "device": None, "progress": True,
}  # fmt: skip


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


def read_job(
    model: nn.Module | str | Path, dataset: object, options: ImageOptions, num_examples: int | None = 500
) -> Job:
    """Return the job that keyword arguments describe.

    Args:
        model: the classifier, as for `attack_image`.
        dataset: the data set, as for `attack_image`.
        options: the keyword arguments.
        num_examples: how many images where ``options`` do not say.

    Raises:
        TypeError: for an argument that does not exist.
        ValueError: for a value out of range.
    """
    if unknown := [name for name in options if name not in _DEFAULTS]:
        raise TypeError(f"{unknown[0]!r} is not an argument; the arguments are {', '.join(_DEFAULTS)}")
    given: ImageOptions = {**_DEFAULTS, "num_examples": num_examples, **options}
    if given["batch_size"] is None:
        raise ValueError("batch_size must be a whole number of at least 1, but is None")
    victim = Victim(
        model,
        given["processor"],
        noise=given["noise"],
        redraws=given["redraws"],
        batch_size=given["batch_size"],
        device=given["device"],
        revision=given["revision"],
        trust_remote_code=given["trust_remote_code"],
    )
    rows = SampleOptions(
        dataset,
        given["num_examples"],
        how=given["how"],
        seed=given["seed"],
        split=given["split"],
        column=given["image_column"],
        label_column=given["label_column"],
        match_labels=given["match_labels"],
        column_names=given["column_names"],
        config_name=given["config_name"],
    )
    folder = None if given["output_dir"] is None else Path(given["output_dir"])
    return Job(victim, rows, folder, given["progress"])
