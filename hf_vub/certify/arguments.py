"""The options of the commands scripts/certify_text.py and scripts/certify_image.py, and what they print."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from ..runs.processes import processes
from ..runs.schema import Certificate
from .certification import certify

_SHOWN = (
    *("model", "dataset", "data_rows", "noise", "n0", "n", "alpha", "rows_seen_in_training", "num_skipped"),
    *("smoothed_accuracy", "num_abstained", "num_wrong", "radius_of_ten_percent", "draws_per_second", "seconds"),
)


@dataclass
class CertifyArguments:
    """What both commands take."""

    model: str = field(metadata={"help": "Folder or Hub id of the base classifier."})
    dataset: str = field(metadata={"help": "Hub name, file or folder of the data set."})
    noise: str | None = field(
        default=None,
        metadata={"help": "delete:P, mask:SHARE or gaussian:SIGMA; by default what the checkpoint stores."},
    )
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the run; nothing is saved without it."})
    n0: int | None = field(default=None, metadata={"help": "Noisy copies that choose the class (100)."})
    n: int | None = field(default=None, metadata={"help": "Further copies that bound its vote (1000)."})
    alpha: float | None = field(
        default=None, metadata={"help": "Probability that a certificate is wrong, at most (0.001)."}
    )
    num_examples: int = field(default=500, metadata={"help": "Rows to certify."})
    how: str = field(default="stratified", metadata={"help": "stratified (seeded, by class) or first."})
    seed: int = field(default=0, metadata={"help": "Seed of the choice of rows and of the noisy copies."})
    batch_size: int | None = field(default=None, metadata={"help": "Noisy copies per forward pass."})
    bf16: bool = field(default=False, metadata={"help": "Run the backbone in bfloat16."})
    split: str | None = field(default=None, metadata={"help": "Split of the data set; its test split by default."})
    label_column: str | None = field(default=None, metadata={"help": "Column of labels, if it has no usual name."})
    column_names: str | None = field(
        default=None, metadata={"help": "Names of the columns of a CSV file without a header, such as 'label,text'."}
    )
    config_name: str | None = field(default=None, metadata={"help": "Configuration of a data set on the Hub."})
    match_labels: str = field(
        default="name", metadata={"help": "Match the classes of data and model by name or by number."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with the model."})


@dataclass
class CertifyTextArguments(CertifyArguments):
    """The options of scripts/certify_text.py."""

    max_length: int | None = field(default=None, metadata={"help": "Tokens per noisy copy."})
    text_column: str | None = field(default=None, metadata={"help": "Column of texts, if it has no usual name."})


@dataclass
class CertifyImageArguments(CertifyArguments):
    """The options of scripts/certify_image.py."""

    image_column: str | None = field(default=None, metadata={"help": "Column of images, if it has no usual name."})


def certify_and_print(arguments: CertifyTextArguments | CertifyImageArguments) -> Certificate:
    """Certify as a command asks, and print the result."""
    options = dict(vars(arguments))
    options["dtype"] = "bfloat16" if options.pop("bf16") else None
    options["column"] = options.pop("text_column", None) or options.pop("image_column", None)
    result = certify(options.pop("model"), options.pop("dataset"), options.pop("noise"), **options)
    if not processes().is_main_process:
        return result
    for name in _SHOWN:
        value = result.get(name)
        print(f"{name:24}{'unknown' if value is None else f'{value:.4g}' if isinstance(value, float) else value}")  # noqa: T201
    for each in result.curve:
        low, high = each.interval
        print(f"{f'certified at {each.radius:g}':24}{each.accuracy:.3f} ({low:.3f} to {high:.3f})")  # noqa: T201
    if arguments.output_dir is None:
        sys.stderr.write("nothing was saved: name an --output_dir to keep the result and its records\n")
    else:
        print(f"{'result':24}{Path(arguments.output_dir) / 'result.json'}")  # noqa: T201
    return result
