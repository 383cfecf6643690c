"""The keyword arguments that attacks and report cards of texts share, with their defaults."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from torch import nn

from ...data.sample import SampleOptions
from ..victim import Victim
from .guide import GuideModel


class TextOptions(TypedDict, total=False):
    """What `attack_text` documents of every attack and report card of texts."""

    tokenizer: object
    num_examples: int | None
    how: str
    seed: int
    noise: str
    redraws: int
    max_length: int | None
    batch_size: int | None
    max_words: int
    guide: GuideModel | None
    output_dir: str | Path | None
    split: str | None
    text_column: str | Sequence[str] | None
    label_column: str | None
    match_labels: str
    column_names: str | Sequence[str] | None
    config_name: str | None
    revision: str | None
    trust_remote_code: bool
    progress: bool


_DEFAULTS: TextOptions = {
    "tokenizer": None, "num_examples": 200, "how": "stratified", "seed": 0, "noise": "mean", "redraws": 20,
    "max_length": None, "batch_size": None, "max_words": 4000, "guide": None, "output_dir": None, "split": None,
    "text_column": None, "label_column": None, "match_labels": "name", "column_names": None, "config_name": None,
    "revision": None, "trust_remote_code": False, "progress": True,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What is attacked, on which rows, and where the files go.

    Attributes:
        victim: the classifier.
        rows: the texts.
        guide: whose score guides a search; None for none.
        max_words: longer texts are skipped.
        folder: of the result; None saves nothing.
        progress: say which rows are attacked.
    """

    victim: Victim
    rows: SampleOptions
    guide: GuideModel | None
    max_words: int
    folder: Path | None
    progress: bool


def read_job(
    model: nn.Module | str | Path,
    dataset: object,
    options: TextOptions,
    dtype: str | None = None,
    defaults: TextOptions | None = None,
) -> Job:
    """Return the job that keyword arguments describe.

    Args:
        model: the classifier, as for `attack_text`.
        dataset: the data set, as for `attack_text`.
        options: the keyword arguments.
        dtype: of the backbone, as for `attack_text`.
        defaults: those that differ from the ones of `attack_text`.

    Raises:
        TypeError: for an argument that does not exist.
        ValueError: for a value out of range.
    """
    if unknown := [name for name in options if name not in _DEFAULTS]:
        raise TypeError(f"{unknown[0]!r} is not an argument; the arguments are {', '.join(_DEFAULTS)}")
    given: TextOptions = {**_DEFAULTS, **(defaults or {}), **options}
    victim = Victim(
        model,
        given["tokenizer"],
        noise=given["noise"],
        redraws=given["redraws"],
        batch_size=given["batch_size"],
        max_length=given["max_length"],
        dtype=dtype,
        revision=given["revision"],
        trust_remote_code=given["trust_remote_code"],
    )
    rows = SampleOptions(
        dataset,
        given["num_examples"],
        how=given["how"],
        seed=given["seed"],
        split=given["split"],
        column=given["text_column"],
        label_column=given["label_column"],
        match_labels=given["match_labels"],
        column_names=given["column_names"],
        config_name=given["config_name"],
    )
    folder = None if given["output_dir"] is None else Path(given["output_dir"])
    return Job(victim, rows, given["guide"], given["max_words"], folder, given["progress"])
